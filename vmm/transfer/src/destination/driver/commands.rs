//! Clients' commands to an incoming migration, and the answers.

use std::sync::mpsc::Sender;

use ferry_migration::destination::Input;

use super::Driver;
use crate::destination::events::{Answer, Command, Refusal};

const NOT_ACTIVE: &str = "only a postcopy that is active can be paused";
const NOT_LISTENING: &str = "the source is awaited nowhere: give an address with migrate-recover";

impl Driver {
    pub(super) fn command(&mut self, command: Command, answer: &Sender<Answer>) {
        let result = match command {
            Command::Pause if self.paused || !self.core.is_in_postcopy() => Err(Refusal::Unfit(NOT_ACTIVE)),
            Command::Pause => {
                self.input(Input::Pause);
                Ok(())
            }
            Command::Recover(listener) => self.listen_again(listener),
            Command::Listens if self.links.listening.is_live() => Ok(()),
            Command::Listens => Err(Refusal::Unfit(NOT_LISTENING)),
            Command::RecoverInPlace(wanted) => self.listen_in_place(&wanted),
        };
        // The client may have gone.
        let _ = answer.send(result);
    }
}
