//! What is true of the two machines, as an outsider who sees everything would say: the invariants speak of nothing else.

use ferry_migration::Status;

use super::Side;
use super::record::{Arbiter, Record};

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
    /// Whoever began to run after the permit without a record that named it.
    pub unfenced: Option<Side>,
}

/// In what way a run was stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stale {
    /// The source ran again after the destination had run.
    Resume,
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
    /// They do not, and a client was told that the guest stays stopped.
    StoppedForGood,
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
    /// An operator gave the guest to this side.
    pub resolved: bool,
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
                resolved: false,
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
            },
            record: Record::new(arbiter),
            ran_at_destination: false,
            stale: None,
            unfenced: None,
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

    /// The source's vCPUs run again. `by_record`: the record decides in this migration.
    pub fn source_runs(&mut self, by_record: bool) {
        self.source.guest = SourceGuest::Running;
        if self.ran_at_destination {
            self.stale = Some(Stale::Resume);
        }
        let by_record = by_record && self.record.arbiter == Arbiter::Record;
        let owns = self.record.owner == Side::Source && self.record.changes > 0;
        if by_record && self.source.permitted && !self.source.resolved && !owns {
            self.unfenced = Some(Side::Source);
        }
    }

    /// The destination's vCPUs run.
    pub fn destination_runs(&mut self, by_record: bool) {
        if self.destination.guest == DestinationGuest::Lost {
            return;
        }
        self.destination.guest = DestinationGuest::Running;
        self.ran_at_destination = true;
        if self.destination.foreign_state {
            self.stale = Some(Stale::ForeignState);
        }
        if by_record && self.record.arbiter == Arbiter::Record && self.record.owner != Side::Destination {
            self.unfenced = Some(Side::Destination);
        }
    }

    /// The process of `side` dies, and frees the disk's lock.
    pub fn crash(&mut self, side: Side) {
        match side {
            Side::Source => {
                self.source.alive = false;
                self.source.serving = false;
            }
            Side::Destination => self.destination.alive = false,
        }
        if self.record.lock == Some(side) {
            self.record.lock = None;
        }
    }

    /// Who runs the guest, for a trace.
    #[must_use]
    pub fn who_runs(&self) -> &'static str {
        match (self.runs_at_source(), self.runs_at_destination()) {
            (true, true) => "BOTH",
            (true, false) => "source",
            (false, true) => "destination",
            (false, false) => "-",
        }
    }
}
