//! The text of an error for people: on one line, with its causes.

use ferry_devices::advice;

/// An error with its causes on one line.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // An error whose text includes its source does not need it twice.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    advice::with_limit(text)
}
