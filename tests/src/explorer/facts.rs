//! What is true of the two machines, as an outsider who sees everything would say: the invariants
//! speak of nothing else.

use ferry_migration::Status;

use super::record::{Arbiter, Migration, Record};
use super::scenario::GENERATION;
use super::third::Stage;
use super::{Party, Side};

/// The truth about both sides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The source's process.
    pub source: SourceFacts,
    /// The destination's process.
    pub destination: DestinationFacts,
    /// What decides who owns the guest.
    pub record: Record,
    /// The destination's guest has run: the source's memory is old.
    pub ran_at_destination: bool,
    /// A guest ran from memory or state that was not the newest.
    pub stale: Option<Stale>,
    /// A process may have got the guest, stopped, by the source's first migration.
    pub copied: bool,
    /// Whoever began to run after the permit without a record that named it.
    pub unfenced: Option<Side>,
    /// Another process that boots the guest.
    pub third: Stage,
    /// It was told to boot whatever migration the record tells of.
    pub third_takes: bool,
    /// It has run the guest: the disk is newer than what the two sides hold.
    pub forked: bool,
    /// A guest's newest state was given up while it could have run.
    pub given_up: Option<GivenUp>,
}

/// In what way the newest state of a guest was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GivenUp {
    /// A process booted the guest while a living process held its newest state.
    Booted,
    /// A destination that was told to end took the guest with it, which it had neither claimed nor
    /// run.
    Left,
}

/// In what way a run was stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stale {
    /// The source ran again after the destination had run.
    Resume,
    /// A side ran after a third process had booted the guest from its disk.
    Fork,
    /// The destination ran the state of another run of the guest.
    ForeignState,
    /// The destination's guest got pages of another run of the guest.
    ForeignPages,
}

/// The source's guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceGuest {
    /// Its vCPUs run.
    Running,
    /// They do not.
    Stopped,
    /// They do not, and a client was told that the guest stays stopped: its disk was let go of.
    StoppedForGood,
    /// They do not, because the operator stopped them; the disk is held.
    Held,
}

/// The truth about the source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceFacts {
    /// The process lives.
    pub alive: bool,
    /// Its guest.
    pub guest: SourceGuest,
    /// What clients are shown.
    pub shown: Status,
    /// How the migration ended here.
    pub end: Option<End>,
    /// It serves pages to the destination.
    pub serving: bool,
    /// The destination may have been told to run.
    pub permitted: bool,
    /// The guest is another process's for good: no command runs it here.
    pub handed_over: bool,
    /// An operator gave the guest to this side.
    pub resolved: bool,
    /// The generation in which the record names this process, as it knows it.
    pub generation: u8,
    /// The operator wants the guest to run.
    pub wants: bool,
    /// The disk was let go of in a switchover, and has not been taken back: another process may
    /// have run the guest.
    pub let_go: bool,
    /// The record tells of this migration.
    pub announced: bool,
    /// The record is to be settled.
    pub settling: bool,
    /// The record is to name this side, as its operator has decided.
    pub seizing: bool,
    /// The guest runs again that was claimed, and the record is to say so.
    pub claim: Option<Migration>,
    /// The guest has come here, and the record is to name this side.
    pub arriving: bool,
}

/// The destination's guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DestinationGuest {
    /// It has not run.
    Absent,
    /// Its vCPUs run.
    Running,
    /// It ran or was about to, and a client was told that it is lost.
    Lost,
    /// It has ended here, with its process or by itself.
    Ended,
}

/// The truth about the destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DestinationFacts {
    /// The process lives.
    pub alive: bool,
    /// Its guest.
    pub guest: DestinationGuest,
    /// Clients are shown that the postcopy is paused, and it listens for a recover.
    pub paused: bool,
    /// How the attempt ended here.
    pub end: Option<End>,
    /// Every page of the guest is here.
    pub has_all_pages: bool,
    /// Missing pages are asked for.
    pub armed: bool,
    /// What asks for them lives.
    pub faults_alive: bool,
    /// The state that was loaded last is of another run of the guest.
    pub foreign_state: bool,
    /// The process was told to end.
    pub leaving: bool,
    /// It was told so before the record had named it.
    pub left_before_claim: bool,
}

/// How a migration ended, as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The destination has the guest.
    Completed,
    /// The source has it.
    Failed,
    /// The source has it, as an operator wanted.
    Cancelled,
    /// Nobody has it.
    Stranded,
    /// Told without a reason, or told twice.
    Botched,
}

impl Facts {
    /// As it is when a migration begins.
    #[must_use]
    pub fn new(arbiter: Arbiter) -> Self {
        Facts {
            source: SourceFacts {
                alive: true,
                guest: SourceGuest::Running,
                shown: Status::None,
                end: None,
                serving: false,
                permitted: false,
                handed_over: false,
                resolved: false,
                generation: GENERATION as u8,
                wants: true,
                let_go: false,
                announced: false,
                settling: false,
                seizing: false,
                claim: None,
                arriving: false,
            },
            destination: DestinationFacts {
                alive: true,
                guest: DestinationGuest::Absent,
                paused: false,
                end: None,
                has_all_pages: false,
                armed: false,
                faults_alive: true,
                foreign_state: false,
                leaving: false,
                left_before_claim: false,
            },
            record: Record::new(arbiter, GENERATION as u8),
            ran_at_destination: false,
            stale: None,
            copied: false,
            unfenced: None,
            third: Stage::Absent,
            third_takes: false,
            forked: false,
            given_up: None,
        }
    }

    /// Whether the guest runs at the source.
    #[must_use]
    pub fn runs_at_source(&self) -> bool {
        self.source.alive && self.source.guest == SourceGuest::Running
    }

    /// Whether the guest runs at the destination.
    #[must_use]
    pub fn runs_at_destination(&self) -> bool {
        self.destination.alive && self.destination.guest == DestinationGuest::Running
    }

    /// Whether the process that boots the guest runs it.
    #[must_use]
    pub fn runs_at_third(&self) -> bool {
        self.third == Stage::Runs
    }

    /// How many run the guest.
    #[must_use]
    pub fn runners(&self) -> usize {
        let runners = [self.runs_at_source(), self.runs_at_destination(), self.runs_at_third()];
        runners.into_iter().filter(|runs| *runs).count()
    }

    /// The process that boots the guest runs it, from its disk. What a living process holds is
    /// lost by that, unless its operator has said that it may be.
    pub fn third_runs(&mut self) {
        self.forked = true;
        let at_source = self.source.alive && !self.ran_at_destination && self.source.end != Some(End::Completed);
        let at_destination = self.destination.alive && self.destination.guest == DestinationGuest::Running;
        if (at_source || at_destination) && !self.third_takes {
            self.given_up = Some(GivenUp::Booted);
        }
    }

    /// The source's vCPUs run again after its operator's `cont`.
    pub fn source_goes_on(&mut self) {
        self.source.wants = true;
        self.source.guest = SourceGuest::Running;
        self.note_stale_source();
    }

    /// The source's guest stays stopped, although it is the source's: its disk is not to be had.
    pub fn source_stays_stopped(&mut self) {
        self.source.guest = SourceGuest::StoppedForGood;
        (self.source.let_go, self.source.wants) = (true, false);
    }

    fn note_stale_source(&mut self) {
        if self.ran_at_destination {
            self.stale = Some(Stale::Resume);
        }
        if self.forked {
            self.stale = Some(Stale::Fork);
        }
    }

    /// The source's vCPUs run again, if its operator wants them to. `by_record`: the record
    /// decides in this migration.
    pub fn source_runs(&mut self, by_record: bool) {
        if !self.source.wants {
            self.source.guest = SourceGuest::Held;
            return;
        }
        self.source.guest = SourceGuest::Running;
        self.note_stale_source();
        let by_record = by_record && self.record.arbiter == Arbiter::Record;
        let owns = self.record.owner == Party::Source && self.record.has_changed();
        if by_record && self.source.permitted && !self.source.resolved && !owns {
            self.unfenced = Some(Side::Source);
        }
    }

    /// The destination's vCPUs run.
    pub fn destination_runs(&mut self, by_record: bool) {
        if matches!(self.destination.guest, DestinationGuest::Lost | DestinationGuest::Ended) {
            return;
        }
        if self.destination.leaving {
            // The process is about to end, and its guest with it.
            self.destination.guest = DestinationGuest::Ended;
            self.ran_at_destination = true;
            if self.destination.left_before_claim && by_record {
                self.given_up = Some(GivenUp::Left);
            }
            return;
        }
        if self.forked {
            self.stale = Some(Stale::Fork);
        }
        self.destination.guest = DestinationGuest::Running;
        self.ran_at_destination = true;
        if self.destination.foreign_state {
            self.stale = Some(Stale::ForeignState);
        }
        if by_record && self.record.arbiter == Arbiter::Record && self.record.owner != Party::Destination {
            self.unfenced = Some(Side::Destination);
        }
    }

    /// `party` lets go of the disk's lock, if it has it.
    pub fn let_disk_go(&mut self, party: Party) {
        if self.record.lock == Some(party) {
            self.record.lock = None;
        }
    }

    /// The process of `side` dies, and frees the disk's lock.
    pub fn crash(&mut self, side: Side) {
        match side {
            Side::Source => {
                self.source.alive = false;
                (self.source.serving, self.source.announced) = (false, false);
            }
            Side::Destination => self.destination.alive = false,
        }
        self.let_disk_go(side.into());
    }

    /// Who runs the guest, for a trace.
    #[must_use]
    pub fn who_runs(&self) -> &'static str {
        match (self.runs_at_source(), self.runs_at_destination(), self.runs_at_third()) {
            (true, false, false) => "source",
            (false, true, false) => "destination",
            (false, false, true) => "another",
            (false, false, false) => "-",
            _ if self.runs_at_third() => "TWO",
            _ => "BOTH",
        }
    }
}
