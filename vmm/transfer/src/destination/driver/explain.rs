//! The destination's message to its client about a paused postcopy: the reason and the remedy.

use ferry_migration::Timer;
use ferry_migration::destination::{Input, Output};
use ferry_migration::message::ToSource;

use super::Driver;

/// The reason, if `input` leads to a pause.
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
    /// Sends the reason of a pause to the source, which may have gone: only this side knows which
    /// link is silent. The links end whether or not it arrives.
    pub(super) fn take_leave(&mut self, outputs: &[Output], trouble: String) {
        let pauses = outputs.iter().any(|output| matches!(output, Output::Paused));
        if let Some(control) = self.links.control.as_mut().filter(|_| pauses) {
            control.send_last(&ToSource::Refused { reason: trouble });
        }
    }

    /// Notifies the source, which may have gone, that the guest no longer needs it. The links end
    /// whether or not this arrives.
    pub(super) fn say_lost(&mut self, reason: &str) {
        if let Some(control) = &mut self.links.control {
            control.send_last(&ToSource::Refused { reason: format!("the guest is lost: {reason}") });
        }
    }

    /// Sets the error ahead of the status that it explains. A recovery that fails is the same pause
    /// for another reason.
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
