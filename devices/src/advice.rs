//! What an operator can do about an error of the host, by its errno.

use std::io;

/// The process has reached its limit of open files (`EMFILE`).
const FILES_OF_PROCESS: &str = "raise this process's limit of open files (ulimit -n)";
/// The host has reached its limit of open files (`ENFILE`).
const FILES_OF_HOST: &str = "raise the host's limit of open files (sysctl fs.file-max)";
/// The file has reached the process's limit of file sizes (`EFBIG`).
const FILE_SIZE: &str = "raise this process's limit of file sizes (ulimit -f)";

/// Advice for an error that means that a limit was reached.
#[must_use]
pub fn limit(error: &io::Error) -> Option<&'static str> {
    limit_of_errno(error.raw_os_error()?)
}

/// As [`limit`], for an errno.
#[must_use]
pub fn limit_of_errno(errno: i32) -> Option<&'static str> {
    match errno {
        libc::EMFILE => Some(FILES_OF_PROCESS),
        libc::ENFILE => Some(FILES_OF_HOST),
        libc::EFBIG => Some(FILE_SIZE),
        _ => None,
    }
}

/// Advice for a file that the operator has named and that cannot be opened.
#[must_use]
pub fn opening(error: &io::Error) -> &'static str {
    limit(error).unwrap_or("check the path and its permissions")
}

/// Adds the advice for a limit to a message that contains the system's error as [`io::Error`]
/// formats it, unless the message contains the advice already.
#[must_use]
pub fn with_limit(text: String) -> String {
    let numbers = [libc::EMFILE, libc::ENFILE, libc::EFBIG];
    let said = numbers.into_iter().find(|errno| text.contains(&format!("(os error {errno})")));
    match said.and_then(limit_of_errno) {
        Some(advice) if !text.contains(advice) => format!("{text}; {advice}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_wherever_its_error_stands() {
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        assert_eq!(opening(&error), FILES_OF_PROCESS);
        let text = with_limit(format!("cannot make an eventfd: {error}"));
        assert!(text.ends_with("(os error 24); raise this process's limit of open files (ulimit -n)"), "{text}");
        assert_eq!(with_limit(text.clone()), text, "it is said once");
        let other = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(opening(&other), "check the path and its permissions");
        assert_eq!(with_limit(other.to_string()), other.to_string());
    }
}
