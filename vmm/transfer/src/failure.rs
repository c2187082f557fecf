//! Failures of one side, in the form that is sent to the other.

use ferry_machine::DeviceFailure;
use ferry_migration::message::Failure;

/// The answer for a job that has panicked: every job is answered, or the driver would wait
/// indefinitely.
pub(crate) fn panicked() -> Failure {
    Failure { device: "machine".to_owned(), reason: "ended unexpectedly; see the log".to_owned() }
}

/// A device's failure, as it is sent.
pub(crate) fn failure(error: DeviceFailure) -> Failure {
    Failure { device: error.device, reason: error.reason }
}

/// A failure of the machine as a whole, as it is sent.
pub(crate) fn machine_failure(error: &dyn std::error::Error) -> Failure {
    Failure { device: "machine".to_owned(), reason: ferry_observe::causes(error) }
}
