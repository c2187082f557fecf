//! Measures the parts of the downtime, from what passes through the source's state machine.

use std::time::Instant;

use ferry_migration::info::Downtime;
use ferry_migration::message::{ToDestination, ToSource};
use ferry_migration::source::{Input, Output};

/// When each step of the switchover began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopwatch {
    stop: Option<Instant>,
    save: Option<Instant>,
    last_pages: Option<Instant>,
    package: Option<Instant>,
    permit: Option<Instant>,
    started: Option<Instant>,
    load_us: u64,
    pages_us: u64,
    start_us: u64,
}

impl Stopwatch {
    /// Looks at what the driver is about to do.
    pub fn note_output(&mut self, output: &Output) {
        let mark = match output {
            Output::StopGuest => &mut self.stop,
            Output::Save => &mut self.save,
            Output::SendLastPages { .. } => &mut self.last_pages,
            Output::Send(ToDestination::Package { .. }) => &mut self.package,
            Output::Send(ToDestination::Permit { .. }) => &mut self.permit,
            _ => return,
        };
        *mark = Some(Instant::now());
    }

    /// Looks at what has happened.
    pub fn note_input(&mut self, input: &Input) {
        match input {
            Input::Message(ToSource::Ready { load_us, pages_us }) => {
                (self.load_us, self.pages_us) = (*load_us, *pages_us);
            }
            Input::Message(ToSource::Started { start_us }) => {
                (self.started, self.start_us) = (Some(Instant::now()), *start_us);
            }
            _ => {}
        }
    }

    /// The parts, once the destination has started.
    #[must_use]
    pub fn downtime(&self) -> Downtime {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from).as_micros() as u64,
            _ => 0,
        };
        let load_us = self.load_us.saturating_sub(self.pages_us);
        // What passed between the two messages beyond the destination's own work was a round trip; only its first half was
        // downtime, and the guest ran during the second.
        let round_trip_us = between(self.permit, self.started).saturating_sub(self.start_us);
        Downtime {
            stop_us: between(self.stop, self.save),
            last_pages_us: between(self.last_pages, self.package),
            device_save_us: between(self.save, self.last_pages),
            package_transfer_us: between(self.package, self.permit).saturating_sub(load_us),
            load_us,
            permit_us: round_trip_us / 2,
            start_us: self.start_us,
        }
    }
}
