//! What the destination tells its client about a postcopy that is paused: what happened, and what
//! can be done.

use ferry_migration::Timer;
use ferry_migration::destination::{Input, Output};
use ferry_migration::message::ToSource;

use super::Driver;

/// What went wrong, if `input` leads to a pause.
pub(super) fn trouble(input: &Input) -> String {
    match input {
        Input::LinkLost(reason) => reason.clone(),
        Input::Timer(Timer::Recover) => "the source connected and did not ask to recover in time".to_owned(),
        Input::Timer(_) => "the source gave no sign of life in time".to_owned(),
        Input::Pause => "paused by the operator".to_owned(),
        Input::Message(message) => format!("the source sent {}, which does not belong here", message.name()),
        _ => "the link was lost while the guest was started".to_owned(),
    }
}

impl Driver {
    /// Says to a source that may be there why its postcopy is paused: only this side knows which
    /// link is silent. It has this word or not, and the links end.
    pub(super) fn take_leave(&mut self, outputs: &[Output], trouble: String) {
        let pauses = outputs.iter().any(|output| matches!(output, Output::Paused));
        if let Some(control) = self.links.control.as_mut().filter(|_| pauses) {
            control.send_last(&ToSource::Refused { reason: trouble });
        }
    }

    /// Says to a source that may be there that the guest needs it no more. It has this word or
    /// not, and the links end.
    pub(super) fn say_lost(&mut self, reason: &str) {
        if let Some(control) = &mut self.links.control {
            control.send_last(&ToSource::Refused { reason: format!("the guest is lost: {reason}") });
        }
    }

    /// Ahead of the status that it explains. A recovery that fails is the same pause for another
    /// reason.
    pub(super) fn explain(&self, outputs: &[Output], trouble: &str) {
        let pauses = |output: &Output| matches!(output, Output::Paused);
        let recovery_fails = self.paused && matches!(outputs, [Output::CloseLinks]);
        if recovery_fails || outputs.iter().any(pauses) {
            self.progress.set_error(format!(
                "{trouble}; the guest runs on here until it needs a page that is missing: reconnect from the source with \
                 migrate, resume set; migrate-recover gives this side another address"
            ));
        }
    }
}
