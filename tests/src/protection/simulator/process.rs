//! A process: what it does in a protection, and what is done to it.

use std::collections::{BTreeMap, VecDeque};

use ferry_migration::ownership::Partnership;
use ferry_migration::protection::{Primary, Secondary, Timer};
use serde::{Deserialize, Serialize};

use super::Micros;
use super::guest::{Emission, Guest, PAGES};

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    /// It was not killed.
    pub(super) alive: bool,
    /// It does nothing before this time.
    pub(super) frozen_until: Micros,
    /// It cannot reach the record before this time.
    pub(super) cut_off_until: Micros,
    /// Timers that run, and which start of theirs counts.
    pub(super) timers: BTreeMap<Timer, u64>,
    /// The link of its protection.
    pub(super) link: Option<usize>,
    /// What it is.
    pub(super) role: Role,
}

/// What a process is.
#[derive(Debug)]
pub(super) enum Role {
    /// It runs a guest that is not protected.
    Runner(Box<Guest>),
    /// It runs a protected guest.
    Primary(Box<PrimaryHost>),
    /// It holds checkpoints.
    Secondary(Box<SecondaryHost>),
    /// Its part has ended.
    Gone,
}

impl Process {
    /// A process in this role.
    pub(super) fn new(role: Role) -> Self {
        Process { alive: true, frozen_until: 0, cut_off_until: 0, timers: BTreeMap::new(), link: None, role }
    }
}

/// A primary's driver.
#[derive(Debug)]
pub(super) struct PrimaryHost {
    pub(super) core: Primary,
    pub(super) link: usize,
    pub(super) partnership: Partnership,
    pub(super) guest: Guest,
    pub(super) runs: bool,
    /// Positions up to which output leaves; `None` is without a limit.
    pub(super) gate: Option<u64>,
    pub(super) held: VecDeque<Emission>,
    /// The checkpoint that is not committed, and the position at the end of each recent epoch.
    pub(super) captured: Option<(u64, Delta)>,
    pub(super) positions: VecDeque<(u64, u64)>,
}

/// A secondary's driver.
#[derive(Debug)]
pub(super) struct SecondaryHost {
    pub(super) core: Secondary,
    pub(super) link: usize,
    pub(super) partnership: Partnership,
    pub(super) pages: [u64; PAGES],
    pub(super) staged: Option<Delta>,
    pub(super) applying: Option<Delta>,
    /// The state and the held outputs of the last commit.
    pub(super) committed: Option<Delta>,
}

/// A checkpoint as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Delta {
    /// Which pages it holds, a bit each.
    pub(super) pages: u64,
    /// What they hold, in order.
    pub(super) values: Vec<u64>,
    /// The guest's last output.
    pub(super) last: Emission,
    /// Outputs that may not have left the primary.
    pub(super) held: Vec<Emission>,
}

impl Delta {
    /// Writes its pages.
    pub(super) fn apply(&self, pages: &mut [u64; PAGES]) {
        let which = (0..PAGES).filter(|page| self.pages & 1 << page != 0);
        for (page, value) in which.zip(&self.values) {
            pages[page] = *value;
        }
    }
}
