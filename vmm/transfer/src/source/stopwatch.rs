//! Measures the parts of the downtime, from the inputs and outputs of the source's state machine.

use std::time::Instant;

use ferry_migration::info::Downtime;
use ferry_migration::message::{ToDestination, ToSource};
use ferry_migration::source::{Input, Output};

/// When each step of the switchover began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stopwatch {
    stop: Option<Instant>,
    save: Option<Instant>,
    last_pages: Option<Instant>,
    package: Option<Instant>,
    ready: Option<Instant>,
    permit: Option<Instant>,
    load_us: u64,
    pages_us: u64,
    permit_us: u64,
    start_us: u64,
}

impl Stopwatch {
    /// Notes the time of an output that the driver is about to carry out.
    pub(super) fn note_output(&mut self, output: &Output) {
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

    /// Notes the times in an input.
    pub(super) fn note_input(&mut self, input: &Input) {
        match input {
            Input::Message(ToSource::Ready { load_us, pages_us }) => {
                (self.ready, self.load_us, self.pages_us) = (Some(Instant::now()), *load_us, *pages_us);
            }
            Input::Message(ToSource::Started { start_us, permit_us }) => {
                (self.start_us, self.permit_us) = (*start_us, *permit_us);
            }
            _ => {}
        }
    }

    /// The parts, once the destination has started.
    #[must_use]
    pub(super) fn downtime(&self) -> Downtime {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from).as_micros() as u64,
            _ => 0,
        };
        let load_us = self.load_us.saturating_sub(self.pages_us);
        // The destination measured the one-way latency of `Ready`, which is part of the package's
        // time, this side's own time, and the one-way latency of the permit. No vCPU ran in
        // between, so the two latencies are taken as equal; for `Started` they are not, since the
        // guest may run by then.
        let ways_us = self.permit_us.saturating_sub(between(self.ready, self.permit));
        Downtime {
            stop_us: between(self.stop, self.save),
            last_pages_us: between(self.last_pages, self.package),
            device_save_us: between(self.save, self.last_pages),
            package_transfer_us: between(self.package, self.permit).saturating_sub(load_us),
            load_us,
            permit_us: ways_us / 2,
            start_us: self.start_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_way_of_the_permit_is_half_of_what_the_destination_waited_beyond_this_sides_own_time() {
        let ready = Instant::now();
        let mut watch =
            Stopwatch { ready: Some(ready), permit: Some(ready + Duration::from_micros(300)), ..Stopwatch::default() };
        for (permit_us, expected) in [(500, 100), (300, 0), (200, 0), (0, 0)] {
            watch.note_input(&Input::Message(ToSource::Started { start_us: 70, permit_us }));
            let parts = watch.downtime();
            assert_eq!((parts.permit_us, parts.start_us), (expected, 70));
        }
    }
}
