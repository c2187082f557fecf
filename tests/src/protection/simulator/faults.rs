//! What goes wrong in a simulation.

use ferry_migration::protection::{primary, secondary};

use super::process::Role;
use super::sim::{Event, Sim};

/// Faults that wait for their moment.
#[derive(Debug, Default)]
pub(super) struct Planned {
    /// Nothing goes wrong any more.
    pub(super) mended: bool,
    /// The next capture fails.
    pub(super) capture_fails: bool,
    /// The next verification fails.
    pub(super) verify_fails: bool,
    /// The next trial of a takeover fails.
    pub(super) trial_fails: bool,
    /// How the record answers the next change.
    pub(super) next_reply: Option<Reply>,
}

/// How the record answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    /// The change is made and answered.
    Whole,
    /// The change is made, and the answer is lost.
    Lost,
    /// There is no answer, and the change is made later.
    Late,
}

impl Planned {
    /// How the record answers now.
    pub(super) fn record(&mut self) -> Reply {
        self.next_reply.take().unwrap_or(Reply::Whole)
    }
}

impl Sim {
    /// Something goes wrong, until everything is mended.
    pub(super) fn fault(&mut self) {
        if self.planned.mended {
            self.planned = super::faults::Planned { mended: true, ..Planned::default() };
            for process in &mut self.processes {
                process.cut_off_until = 0;
            }
            return;
        }
        let after = self.rng.within(5_000, 120_000);
        self.at(after, Event::Fault);
        let Some((primary, secondary, link)) = self.present() else { return };
        match self.rng.below(16) {
            0 | 1 => {
                self.note(|| "the link breaks".to_owned());
                for at in [primary, secondary] {
                    let after = self.rng.within(10, 3_000);
                    self.at(after, Event::Closed { to: at, link });
                }
            }
            2 => {
                self.note(|| "the link falls silent".to_owned());
                self.links[link].is_silent = true;
            }
            3 | 4 => self.freeze(primary),
            5 => self.freeze(secondary),
            6 | 7 if self.may_lose_primary(primary, secondary) => self.kill(primary),
            8 => self.kill_secondary(primary, secondary),
            9 => self.cut_off(primary),
            10 => self.cut_off(secondary),
            11 => {
                let reply = if self.rng.percent(50) { Reply::Lost } else { Reply::Late };
                self.planned.next_reply = Some(reply);
            }
            12 => self.planned.verify_fails = true,
            13 => self.planned.capture_fails = true,
            14 => self.planned.trial_fails = true,
            _ => self.operator(primary, secondary),
        }
    }

    /// The primary and the secondary of the latest protection, while it goes on.
    fn present(&self) -> Option<(usize, usize, usize)> {
        let link = self.links.len().checked_sub(1)?;
        let [primary, secondary] = self.links[link].ends;
        let protects = matches!(&self.processes[primary].role, Role::Primary(host) if host.core.outcome().is_none());
        let has_partner = matches!(&self.processes[secondary].role, Role::Secondary(_));
        let live = self.processes[primary].alive && self.processes[secondary].alive;
        (protects && has_partner && live).then_some((primary, secondary, link))
    }

    fn freeze(&mut self, at: usize) {
        // What waits for a frozen process keeps its order only if it is not frozen again
        // meanwhile.
        if self.processes[at].frozen_until > self.now {
            return;
        }
        let until = self.now + self.rng.within(1_000, 3_000_000);
        self.note(|| format!("{at} is frozen until {until}"));
        self.processes[at].frozen_until = until;
    }

    /// Whether the guest survives the primary's death: the record names the partner, which lives,
    /// and no change is under way that would remove it.
    fn may_lose_primary(&mut self, primary: usize, secondary: usize) -> bool {
        let named = self.record.partner == Some(super::calls::owner(secondary));
        let parts = match &self.processes[primary].role {
            Role::Primary(host) => host.core.parts(),
            _ => true,
        };
        named && !parts && self.secondary(secondary).is_some_and(|host| host.core.outcome().is_none())
    }

    fn kill(&mut self, at: usize) {
        self.note(|| format!("{at} is killed"));
        self.close(at);
        self.processes[at].alive = false;
        self.processes[at].role = Role::Gone;
    }

    /// A primary that is frozen now might have lost the record already.
    fn kill_secondary(&mut self, primary: usize, secondary: usize) {
        let takes_over = self.record.owner == super::calls::owner(secondary);
        if !takes_over && self.processes[primary].frozen_until <= self.now && !self.secondary_claims(secondary) {
            self.kill(secondary);
        }
    }

    fn secondary_claims(&mut self, at: usize) -> bool {
        self.secondary(at).is_some_and(|host| host.core.takes_over())
    }

    fn cut_off(&mut self, at: usize) {
        let until = self.now + self.rng.within(10_000, 1_500_000);
        self.note(|| format!("{at} does not reach the record until {until}"));
        self.processes[at].cut_off_until = until;
    }

    fn operator(&mut self, primary: usize, secondary: usize) {
        match self.rng.below(4) {
            0 => self.step_primary(primary, primary::Input::Unprotect),
            1 => self.step_primary(primary, primary::Input::LostHeartbeat),
            2 => self.step_secondary(secondary, secondary::Input::LostHeartbeat),
            _ => self.step_primary(primary, primary::Input::Failover),
        }
    }
}
