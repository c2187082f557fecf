//! Waiting for conditions. Every test and every helper waits here, so that no wait is without a
//! deadline and a name.

use std::time::{Duration, Instant};

/// For what a process does at once, on a machine that may be very busy.
pub const SOON: Duration = Duration::from_secs(20);
/// For what takes a while: a migration under load, a boot of many vCPUs.
pub const LONG: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// Looks again and again until `condition` has a value, and returns it; `None` at the deadline.
pub fn poll<T>(within: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        // The time is taken first: after a long pause of this process, the condition gets one more
        // look.
        let late = Instant::now() >= deadline;
        if let Some(value) = condition() {
            return Some(value);
        }
        if late {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// As [`poll`], for what must happen.
///
/// # Panics
/// At the deadline, naming `what` was awaited.
pub fn wait_until<T>(what: &str, within: Duration, condition: impl FnMut() -> Option<T>) -> T {
    poll(within, condition).unwrap_or_else(|| panic!("waited {} ms in vain for {what}", within.as_millis()))
}

/// As [`wait_until`], for a condition that is true or false.
///
/// # Panics
/// At the deadline, naming `what` was awaited.
pub fn wait_for(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    wait_until(what, within, || condition().then_some(()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let value = wait_until("the third look", SOON, || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "waited 10 ms in vain for the impossible")]
    fn a_condition_that_stays_false_is_named() {
        wait_for("the impossible", Duration::from_millis(10), || false);
    }
}
