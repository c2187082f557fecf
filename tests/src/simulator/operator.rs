//! What breaks on its own, and the operator who looks at both sides now and then and does what
//! their states ask for.

use ferry_migration::source::{Output, Owner, Resolution};
use ferry_migration::{Status, destination, source};

use super::sim::Sim;
use super::timeline::{Fault, Happening, Micros};
use crate::explorer::Side;
use crate::explorer::facts::{DestinationGuest, End};

/// How often the operator looks.
const LOOKS_EVERY: Micros = 170_000;

impl Sim {
    /// Something breaks.
    pub fn fault(&mut self, fault: Fault) {
        if !self.faults_on {
            return;
        }
        self.note(|| format!("fault        {fault:?}"));
        match fault {
            Fault::Break => self.break_connection(false),
            Fault::Silence => self.break_connection(true),
            Fault::Crash(side) => {
                self.facts.crash(side);
                self.close(side);
            }
            Fault::Reach(side, sees) => {
                self.facts.record.set_seen_by(side, sees);
                if !sees {
                    let takes = self.rng.within(1_000, 1_000_000);
                    self.time.after(takes, Happening::Fault(Fault::Reach(side, true)));
                }
            }
            Fault::FaultsDie => {
                let destination = &self.facts.destination;
                if destination.armed && destination.guest != DestinationGuest::Lost {
                    self.facts.destination.faults_alive = false;
                    self.feed_destination(destination::Input::FaultsDied("its thread ended".to_owned()));
                }
            }
            Fault::Cancel(Side::Source) => self.feed_source(source::Input::Cancel),
            Fault::Cancel(Side::Destination) if self.arrived => {
                self.facts.destination.leaving = true;
                if self.facts.destination.guest == DestinationGuest::Running {
                    self.facts.destination.guest = DestinationGuest::Ended;
                }
                self.feed_destination(destination::Input::Ends("told to end".to_owned()));
            }
            Fault::Cancel(Side::Destination) => {}
            Fault::Pause(Side::Source) => self.feed_source(source::Input::Pause),
            Fault::Pause(Side::Destination) => self.feed_destination(destination::Input::Pause),
            Fault::StartPostcopy => self.feed_source(source::Input::StartPostcopy),
        }
    }

    fn resolve(&mut self, resolution: Resolution) {
        self.wish_is_source = resolution.owner == Owner::Source;
        let input = source::Input::Resolve(resolution);
        let waits = self.source.clone().step(input.clone()).contains(&Output::TakeBack);
        self.facts.source.resolved |= self.wish_is_source && !waits;
        self.feed_source(input);
    }

    /// The operator looks, and acts truthfully.
    pub fn operator_looks(&mut self) {
        self.time.after(LOOKS_EVERY, Happening::Operator);
        if !self.facts.source.alive {
            return;
        }
        let destination = &self.facts.destination;
        let fenced = !destination.alive || destination.end.is_some_and(|end| end != End::Completed);
        let needs_nothing = fenced || destination.end == Some(End::Completed);
        let ran = self.facts.ran_at_destination;
        if self.source.is_resolving() {
            return;
        }
        if self.source.uncertainty().is_some() {
            if fenced && !ran {
                self.resolve(Resolution { owner: Owner::Source, never_ran: true });
            } else if ran {
                self.resolve(Resolution::to(Owner::Destination));
            }
        } else if self.facts.source.shown == Status::PostcopyPaused {
            if needs_nothing {
                self.resolve(Resolution::to(Owner::Destination));
            } else {
                self.feed_source(source::Input::Recover);
            }
        }
    }
}
