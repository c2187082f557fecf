//! What can happen next in a world, and why.

use ferry_migration::protection::Timer;

use super::event::{Class, Event};
use super::link::Health;
use super::record::Operation;
use super::{Fault, Side, World};

/// What a list of events grows by.
type Events = Vec<(Class, Event)>;

impl World {
    /// Everything that can happen next.
    #[must_use]
    pub fn events(&self) -> Events {
        let mut events = Vec::new();
        self.work(&mut events);
        self.record_events(&mut events);
        self.timers(&mut events);
        self.faults(&mut events);
        events
    }

    fn work(&self, events: &mut Events) {
        let mut progress = |event| events.push((Class::Progress, event));
        for side in Side::ALL {
            let waiting = match side {
                Side::Primary => self.link.to_primary.is_empty(),
                Side::Secondary => self.link.to_secondary.is_empty(),
            };
            if !self.is_alive(side) {
                continue;
            }
            if !waiting && self.link.open[side as usize] {
                progress(Event::Deliver(side));
            }
            if self.link.tells(side) {
                progress(Event::Notice(side));
            }
        }
        let secondary = &self.at_secondary;
        let arrives = |epoch: u8| secondary.announced == Some(epoch);
        if secondary.alive && self.link.open[1] && self.link.delta.is_some_and(|delta| arrives(delta.epoch)) {
            progress(Event::Whole);
        }
        let work = [
            (self.at_primary.capture.is_some(), Event::Captures(true)),
            (self.at_primary.release.is_some(), Event::Releases),
            (self.at_primary.stopping && self.at_primary.capture.is_none(), Event::Stops),
            (self.at_primary.releases_disk && self.at_primary.release.is_none(), Event::ReleasesDisk),
            (self.at_primary.takes_disk, Event::TakesDiskAgain),
            (secondary.verifies.is_some(), Event::Verifies(true)),
            (secondary.applying.is_some(), Event::Applies),
            (secondary.reloads.is_some(), Event::Reloads(true)),
            (secondary.takes_disk, Event::TakesDisk),
            (secondary.tries.is_some(), Event::Tries(true)),
        ];
        work.into_iter().filter(|(possible, _)| *possible).for_each(|(_, event)| progress(event));
    }

    fn record_events(&self, events: &mut Events) {
        for side in Side::ALL {
            let asks = self.asks(side).is_some();
            if asks || (side == Side::Secondary && self.at_secondary.reads) {
                let event = match self.record.is_seen_by(side) {
                    true => Event::RecordAnswers(side),
                    false => Event::RecordFails(side),
                };
                events.push((Class::Progress, event));
            }
            if asks && self.record.is_seen_by(side) && self.budget.allows(Fault::LostReply) {
                events.push((Class::Fault(Fault::LostReply), Event::ReplyIsLost(side)));
                if self.straggler_of(side).contains(&None) {
                    events.push((Class::Fault(Fault::LostReply), Event::RecordStalls(side)));
                }
            }
            for which in 0..2 {
                if self.straggler_of(side)[which].is_some() {
                    events.push((Class::Progress, Event::Straggler(side, which)));
                }
            }
            if !self.record.is_seen_by(side) {
                events.push((Class::Help, Event::Reach(side, true)));
            } else if self.is_alive(side) && self.budget.allows(Fault::Outage) {
                events.push((Class::Fault(Fault::Outage), Event::Reach(side, false)));
            }
        }
    }

    fn straggler_of(&self, side: Side) -> [Option<Operation>; 2] {
        match side {
            Side::Primary => self.at_primary.straggler,
            Side::Secondary => self.at_secondary.straggler,
        }
    }

    fn timers(&self, events: &mut Events) {
        let quiet = !events.iter().any(|(class, _)| *class == Class::Progress);
        for side in Side::ALL.into_iter().filter(|side| self.is_alive(*side)) {
            let timers = match side {
                Side::Primary => self.at_primary.timers,
                Side::Secondary => self.at_secondary.timers,
            };
            for timer in timers.iter() {
                let class = match timer {
                    // Work does not hang here.
                    Timer::Heartbeat | Timer::Capture | Timer::Work => continue,
                    Timer::Epoch if self.at_primary.epoch > self.epochs => continue,
                    Timer::Epoch | Timer::HeadStart | Timer::RetryRecord | Timer::RetryTrial | Timer::RetryDisk => {
                        Class::Progress
                    }
                    // It is much longer than all others: a primary has parted by then, or is dead.
                    Timer::KeepStale if quiet && !self.primary_may_notice() => Class::Wait,
                    Timer::KeepStale => continue,
                    Timer::PeerSilent if !self.hears(side) && !self.arrives(side) => Class::Progress,
                    Timer::PeerSilent | Timer::Commit | Timer::Start => {
                        if quiet && timer != Timer::PeerSilent {
                            Class::Wait
                        } else if self.budget.allows(Fault::FalseTimeout) {
                            Class::Fault(Fault::FalseTimeout)
                        } else {
                            continue;
                        }
                    }
                };
                events.push((class, Event::Fires(side, timer)));
            }
        }
    }

    /// Whether something that was sent, or the news of a break, still arrives at `side`.
    fn arrives(&self, side: Side) -> bool {
        let queued = match side {
            Side::Primary => !self.link.to_primary.is_empty(),
            Side::Secondary => !self.link.to_secondary.is_empty(),
        };
        self.link.open[side as usize] && (queued || self.link.tells(side))
    }

    /// The primary lives, and has yet to notice that its secondary is silent.
    fn primary_may_notice(&self) -> bool {
        self.at_primary.alive && self.at_primary.timers.has(Timer::PeerSilent)
    }

    fn faults(&self, events: &mut Events) {
        let (primary, secondary) = (&self.at_primary, &self.at_secondary);
        let up = self.link.health == Health::Up && self.link.open == [true; 2];
        let protects = primary.alive && self.primary.outcome().is_none();
        let possible = [
            (Fault::Break, up, Event::Break { silently: false }),
            (Fault::Silence, up, Event::Break { silently: true }),
            (Fault::PrimaryDeath, primary.alive, Event::Death(Side::Primary)),
            (Fault::SecondaryDeath, secondary.alive, Event::Death(Side::Secondary)),
            (Fault::CaptureFailure, primary.capture.is_some(), Event::Captures(false)),
            (Fault::VerifyFailure, secondary.verifies.is_some(), Event::Verifies(false)),
            (Fault::ReloadFailure, secondary.reloads.is_some(), Event::Reloads(false)),
            (Fault::TrialFailure, secondary.tries.is_some(), Event::Tries(false)),
            (Fault::Unprotect, protects, Event::Unprotect),
            (Fault::LostHeartbeat, protects, Event::LostHeartbeat(Side::Primary)),
            (Fault::LostHeartbeat, secondary.alive, Event::LostHeartbeat(Side::Secondary)),
            (Fault::Failover, protects, Event::Failover),
            (Fault::Shutdown, protects && primary.runs && primary.capture.is_none(), Event::Shutdown),
            (Fault::Boot, self.shared_disk && self.disk_is_free(), Event::Boots),
        ];
        for (fault, is_possible, event) in possible {
            if is_possible && self.budget.allows(fault) {
                events.push((Class::Fault(fault), event));
            }
        }
    }
}
