//! The source's message to its client about a status that is no end: the reason and the remedy.

use ferry_migration::message::ToSource;
use ferry_migration::source::{Input, Output};
use ferry_migration::{Handshake, Status, Timer};

use super::Driver;

/// The reason, if `input` leads to a status that needs one; `before`: an earlier reason.
pub(super) fn trouble(input: &Input, before: Option<&str>) -> String {
    match input {
        Input::LinkLost(reason) => reason.clone(),
        Input::Timer(Timer::PeerSilent) => "the destination gave no sign of life in time".to_owned(),
        Input::Timer(Timer::Recover) => "the destination did not recover in time".to_owned(),
        Input::Pause => "paused by the operator".to_owned(),
        Input::Message(ToSource::RecoverRefused { reason } | ToSource::Refused { reason }) => {
            format!("the destination refused to recover: {reason}")
        }
        Input::Message(ToSource::Started { .. }) => "a page link was lost while the guest was being started".to_owned(),
        Input::TookBack(_) => {
            let lost = before.unwrap_or("the link was lost");
            format!("{lost} (after the permit, and the record names the destination)")
        }
        Input::Resolve(_) => "the operator gave the guest to the destination".to_owned(),
        Input::Message(message) => format!("the destination sent {}, which does not belong here", message.name()),
        _ => "the destination did not answer in time".to_owned(),
    }
}

impl Driver {
    /// Sets the error ahead of the status that it explains.
    pub(super) fn explain(&self, outputs: &[Output], trouble: &str) {
        let what_next = match self.core.handshake() {
            Handshake::Owned => {
                "the ownership record decides, and is asked until it answers; if the destination has died over it, end it for \
                 good and say who owns the guest (x-ferry-resolve)"
            }
            _ => "look there, end one of the two, and say which (x-ferry-resolve)",
        };
        for output in outputs {
            match output {
                Output::Status(Status::Uncertain) => self.progress.set_error(format!(
                    "{}, after the permit was sent: the destination may run the guest. This side keeps it stopped; {what_next}",
                    self.core.uncertainty().unwrap_or(trouble)
                )),
                Output::Status(Status::PostcopyPaused) => self.progress.set_error(format!(
                    "{trouble}; unless it is lost, the guest runs on at the destination until it needs a page from here: reconnect with migrate, \
                     resume set, or, if the destination needs nothing more or is lost, end this with x-ferry-resolve, owner \
                     destination, drop-pages true"
                )),
                Output::Status(Status::PostcopyActive | Status::Completed) => self.progress.clear_error(),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ferry_migration::source::TakeBack;

    use super::*;

    #[test]
    fn a_record_that_names_the_destination_does_not_hide_which_link_was_lost() {
        let lost = "the destination gave no sign of life in time";
        let told = trouble(&Input::TookBack(TakeBack::Lost), Some(lost));
        assert!(told.starts_with(lost) && told.contains("the record names the destination"), "{told}");
    }
}
