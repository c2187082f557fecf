//! The truth about both processes, which the state machines do not see.

use ferry_migration::protection::Timer;

use super::Contents;
use super::record::Operation;
use crate::explorer::set::{Member, Set};

/// The pages and disk writes of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Delta {
    /// At the end of which epoch.
    pub epoch: u8,
    /// Which pages it holds.
    pub pages: [bool; 2],
}

/// How far held output may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Upto {
    /// Up to the end of this epoch.
    Epoch(u8),
    /// Without a limit.
    All,
}

/// The primary's process and its guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrimaryFacts {
    /// The process lives.
    pub alive: bool,
    /// The guest runs.
    pub runs: bool,
    /// The guest has shut down, and clients do not see it yet or do.
    pub ended: bool,
    /// The epoch that the guest is in.
    pub epoch: u8,
    /// Pages that are dirty and belong to no checkpoint.
    pub dirty: [bool; 2],
    /// The pages of the checkpoint that is not committed.
    pub captured: Option<Delta>,
    /// How far output leaves.
    pub gate: Upto,
    /// Output of epochs up to this one was seen outside.
    pub shown: u8,
    /// Disk writes of epochs up to this one are in the image.
    pub written: u8,
    /// Output and disk writes are about to be let out.
    pub release: Option<Upto>,
    /// A capture is under way; the flags are whether it closes the gate and leaves the guest
    /// stopped.
    pub capture: Option<(bool, bool)>,
    /// The guest is being stopped.
    pub stopping: bool,
    /// The guest was given away.
    pub handed_over: bool,
    /// It holds the disk's lock.
    pub has_disk: bool,
    /// The disk is being released.
    pub releases_disk: bool,
    /// The disk is being taken again.
    pub takes_disk: bool,
    /// A change of the record is being asked for.
    pub asks: Option<Operation>,
    /// Changes that were given up as unanswered and may still happen.
    pub straggler: [Option<Operation>; 2],
    /// Timers that run.
    pub timers: Set<Timer>,
    /// The operator has been answered that the guest is protected.
    pub protected: bool,
}

impl PrimaryFacts {
    /// A guest in its first epoch; the first copy has converged.
    #[must_use]
    pub fn new() -> Self {
        PrimaryFacts {
            alive: true,
            runs: true,
            ended: false,
            epoch: 1,
            dirty: [true; 2],
            captured: None,
            gate: Upto::All,
            shown: 1,
            written: 1,
            release: None,
            capture: None,
            stopping: false,
            handed_over: false,
            has_disk: true,
            releases_disk: false,
            takes_disk: false,
            asks: None,
            straggler: [None; 2],
            timers: Set::new(),
            protected: false,
        }
    }

    /// Whether what the guest does is seen outside at once.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        self.alive && self.runs && self.gate == Upto::All
    }
}

impl Default for PrimaryFacts {
    fn default() -> Self {
        Self::new()
    }
}

/// The secondary's process and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecondaryFacts {
    /// The process lives.
    pub alive: bool,
    /// Guest memory.
    pub memory: Contents,
    /// The device state that was loaded last; 0 is none, or a torn one.
    pub devices: u8,
    /// The checkpoint in the staging area, if it is there in full.
    pub staged: Option<Delta>,
    /// The checkpoint whose announcement was read.
    pub announced: Option<u8>,
    /// The committed checkpoint that is being written into memory, and which page comes next.
    pub applying: Option<(Delta, u8)>,
    /// The journal has the disk writes of later epochs than this one.
    pub journal_from: u8,
    /// The verification of this checkpoint is under way.
    pub verifies: Option<u8>,
    /// The state of this checkpoint is being loaded again.
    pub reloads: Option<u8>,
    /// The record is being read.
    pub reads: bool,
    /// The disk is being taken.
    pub takes_disk: bool,
    /// It holds the disk's lock.
    pub has_disk: bool,
    /// The trial from this checkpoint is under way.
    pub tries: Option<u8>,
    /// The guest was entered from this checkpoint.
    pub entered: Option<u8>,
    /// Memory as it was before a trial that has failed.
    pub before_trial: Option<Contents>,
    /// A change of the record is being asked for.
    pub asks: Option<Operation>,
    /// Changes that were given up as unanswered and may still happen.
    pub straggler: [Option<Operation>; 2],
    /// Timers that run.
    pub timers: Set<Timer>,
    /// The guest is seen outside, from this checkpoint on.
    pub live: Option<u8>,
    /// Memory, devices and disk were of one checkpoint when it went live.
    pub was_whole: bool,
    /// The last commit could not be loaded again, by a fault.
    pub lost_its_state: bool,
}

impl SecondaryFacts {
    /// As the first copy leaves it: memory is there, and outdated.
    #[must_use]
    pub fn new() -> Self {
        SecondaryFacts {
            alive: true,
            memory: Contents::of(0),
            devices: 0,
            staged: None,
            announced: None,
            applying: None,
            journal_from: 1,
            verifies: None,
            reloads: None,
            reads: false,
            takes_disk: false,
            has_disk: false,
            tries: None,
            entered: None,
            before_trial: None,
            asks: None,
            straggler: [None; 2],
            timers: Set::new(),
            live: None,
            was_whole: true,
            lost_its_state: false,
        }
    }
}

impl Default for SecondaryFacts {
    fn default() -> Self {
        Self::new()
    }
}

impl Member for Timer {
    const ALL: &'static [Timer] = &[
        Timer::Heartbeat,
        Timer::PeerSilent,
        Timer::Epoch,
        Timer::Capture,
        Timer::RetryDisk,
        Timer::Work,
        Timer::Commit,
        Timer::Start,
        Timer::HeadStart,
        Timer::RetryRecord,
        Timer::RetryTrial,
        Timer::KeepStale,
    ];
}
