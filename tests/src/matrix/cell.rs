//! A cell of the fault matrix: when, what, where, in which mode. Plain data with a name that says
//! it all and can be read back from the list of cells.

use std::fmt;

use ferry_migration::Handshake;

use crate::relay::{Lane, Spot};

/// One experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// How memory moves.
    pub mode: Mode,
    /// What ends the switchover.
    pub handshake: Handshake,
    /// vCPUs of the guest.
    pub cpus: u32,
    /// The moment.
    pub when: When,
    /// What is done then.
    pub what: What,
}

/// How memory moves, and where in that the moment is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All memory before the switchover.
    Precopy,
    /// Most memory after it.
    Postcopy,
    /// A postcopy that was cut while the guest ran at the destination: the moment is in the
    /// recovery, or after it.
    Recovered,
}

/// A moment of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// This frame is on its way: it has left its sender, and the relay has it.
    Frame(Spot),
    /// Half of the package has arrived.
    HalfPackage,
    /// A side is about to carry out this output of the protocol's core (`Output::NAMES`).
    Step(Side, &'static str),
    /// From before the migration begins; the fault itself waits for its moment.
    Throughout,
}

/// One of the two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Has the guest at first.
    Source,
    /// Is to get it.
    Destination,
}

/// Where something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To the source's process.
    Source,
    /// To the destination's process.
    Destination,
    /// Between the two.
    Link,
    /// To the ownership record.
    Record,
    /// To the disk image.
    Disk,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The process ends by SIGKILL.
    Kill(Side),
    /// The process is stopped by a signal for ten seconds, then goes on.
    Freeze(Side),
    /// Every connection is reset.
    Reset,
    /// Every connection is closed.
    Close,
    /// Nothing passes any more, in no direction or not from this side, and nothing is closed.
    BlackHole(Option<Side>),
    /// What this side sends on this one link passes no more; the link stays open, and the others
    /// go on.
    Stall(Lane, Side),
    /// The frame and what follows it come later than every deadline.
    Delay,
    /// The bytes of the frame arrive one by one.
    Trickle,
    /// A bit of the frame is flipped.
    FlipBit,
    /// Only a part of the frame arrives, then the connection ends.
    Truncate,
    /// The frame arrives twice.
    Duplicate,
    /// The frame does not arrive; what follows does.
    Lose,
    /// The same frame of an earlier migration arrives before it.
    Replay,
    /// A stranger connects to the destination.
    Stranger,
    /// The operator cancels the migration.
    Cancel,
    /// The operator stops the guest.
    Stop,
    /// The operator stops the guest and lets it go on.
    StopCont,
    /// The operator lets the guest run, wherever it is: `cont` to both sides.
    Cont,
    /// The operator ends the process.
    Quit(Side),
    /// The operator resets the guest.
    SystemReset,
    /// The operator asks for a second migration.
    SecondMigration,
    /// The guest reboots.
    GuestReboots,
    /// The guest shuts down.
    GuestShutsDown,
    /// A plain `ferry run` of the same guest on the same disk.
    PlainRun,
    /// The same, one after the other for as long as the migration goes on.
    PlainRuns,
    /// A `ferry run` of the guest past its record: by a hard link of the image, which has a record
    /// of its own, and with `--ownership none`.
    PastRecord,
    /// A third process takes the disk's lock when the source lets go of it, and keeps it for a
    /// while.
    DiskLocked,
    /// The same, and every connection is reset: the source has the guest and cannot take its disk
    /// back.
    LockedOut,
    /// The disk image is made larger.
    ImageGrows,
    /// Another file takes the place of the disk image: its path names a copy.
    ImageReplaced,
    /// The destination's disk is another file of the same size.
    ImageOther,
    /// The ownership record is as a crash in the middle of a write would leave it.
    RecordTorn,
    /// A third process holds the record's lock for a while.
    RecordLocked,
    /// A rule of the process's fault points: what DESIGN calls the fault device.
    Rule(Side, Rule),
}

/// A rule for `x-ferry-fault-set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where: `at=`.
    pub at: &'static str,
    /// What: `do=`.
    pub action: &'static str,
    /// Of which part: `of=`.
    pub of: Option<&'static str>,
    /// Whose matter it is.
    pub place: Place,
    /// What must come of it.
    pub outcome: Outcome,
}

/// What must come of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The migration fails; the guest stays.
    Fails,
    /// The migration completes all the same.
    Completes,
    /// The permit may be out: what is right depends on what was said to whom.
    Either,
}

impl Cell {
    /// Where the fault is.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.what {
            What::Kill(side) | What::Freeze(side) | What::Quit(side) => side.into(),
            What::Rule(_, rule) => rule.place,
            What::DiskLocked
            | What::LockedOut
            | What::PlainRun
            | What::PlainRuns
            | What::PastRecord
            | What::ImageGrows
            | What::ImageReplaced
            | What::ImageOther => Place::Disk,
            What::RecordTorn | What::RecordLocked => Place::Record,
            What::Stranger => Place::Destination,
            What::Cancel | What::SecondMigration => Place::Source,
            What::Stop
            | What::StopCont
            | What::Cont
            | What::SystemReset
            | What::GuestReboots
            | What::GuestShutsDown => Place::Source,
            _ => Place::Link,
        }
    }

    /// Whether the guest has an ownership record: with `owned`, and where the cell is about a
    /// third process, which the record keeps out with either handshake.
    #[must_use]
    pub fn has_record(&self) -> bool {
        let third = matches!(self.what, What::PlainRun | What::PlainRuns | What::PastRecord | What::LockedOut);
        self.handshake == Handshake::Owned || third
    }

    /// Whether the guest is told on its serial port to end.
    #[must_use]
    pub fn guest_ends(&self) -> bool {
        matches!(self.what, What::GuestReboots | What::GuestShutsDown)
    }

    /// The cell's name: unique, and without a space.
    #[must_use]
    pub fn name(&self) -> String {
        let Cell { mode, handshake, cpus, when, what } = self;
        format!("{mode}/{}/{cpus}cpu/{when}/{what}", handshake.as_str())
    }
}

impl From<Side> for Place {
    fn from(side: Side) -> Self {
        match side {
            Side::Source => Place::Source,
            Side::Destination => Place::Destination,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Precopy => "precopy",
            Mode::Postcopy => "postcopy",
            Mode::Recovered => "recovered",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Destination => "destination",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Source => "source",
            Place::Destination => "destination",
            Place::Link => "link",
            Place::Record => "record",
            Place::Disk => "disk",
        })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Frame(Spot::Message(name)) => f.write_str(name),
            When::Frame(Spot::ControlPreamble) => f.write_str("connect"),
            When::Frame(Spot::BulkPreamble) => f.write_str("bulk-connect"),
            When::Frame(Spot::UrgentPreamble) => f.write_str("urgent-connect"),
            When::Frame(Spot::Pages(0)) => f.write_str("first-pages"),
            When::Frame(Spot::Pages(number)) => write!(f, "pages-{number}"),
            When::Frame(Spot::Marker) => f.write_str("round-end"),
            When::Frame(Spot::Request(_)) => f.write_str("page-request"),
            When::Frame(Spot::UrgentPages(_)) => f.write_str("urgent-page"),
            When::Frame(Spot::Foreign) => f.write_str("foreign"),
            When::HalfPackage => f.write_str("half-Package"),
            When::Step(side, name) => write!(f, "{side}:{name}"),
            When::Throughout => f.write_str("throughout"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Kill(side) => write!(f, "kill-{side}"),
            What::Freeze(side) => write!(f, "freeze-{side}"),
            What::Reset => f.write_str("reset"),
            What::Close => f.write_str("close"),
            What::BlackHole(None) => f.write_str("black-hole"),
            What::BlackHole(Some(side)) => write!(f, "black-hole-from-{side}"),
            What::Stall(Lane::Control, side) => write!(f, "stall-control-from-{side}"),
            What::Stall(Lane::Urgent, side) => write!(f, "stall-urgent-from-{side}"),
            What::Stall(Lane::Bulk(number), side) => write!(f, "stall-bulk-{number}-from-{side}"),
            What::Delay => f.write_str("delay"),
            What::Trickle => f.write_str("trickle"),
            What::FlipBit => f.write_str("flip-bit"),
            What::Truncate => f.write_str("truncate"),
            What::Duplicate => f.write_str("duplicate"),
            What::Lose => f.write_str("lose"),
            What::Replay => f.write_str("replay"),
            What::Stranger => f.write_str("stranger"),
            What::Cancel => f.write_str("cancel"),
            What::Stop => f.write_str("stop"),
            What::StopCont => f.write_str("stop-cont"),
            What::Cont => f.write_str("cont"),
            What::Quit(side) => write!(f, "quit-{side}"),
            What::SystemReset => f.write_str("system-reset"),
            What::SecondMigration => f.write_str("second-migration"),
            What::GuestReboots => f.write_str("guest-reboots"),
            What::GuestShutsDown => f.write_str("guest-shuts-down"),
            What::PlainRun => f.write_str("plain-run"),
            What::PlainRuns => f.write_str("plain-runs"),
            What::PastRecord => f.write_str("past-record"),
            What::DiskLocked => f.write_str("disk-locked"),
            What::LockedOut => f.write_str("locked-out"),
            What::ImageGrows => f.write_str("image-grows"),
            What::ImageReplaced => f.write_str("image-replaced"),
            What::ImageOther => f.write_str("image-other"),
            What::RecordTorn => f.write_str("record-torn"),
            What::RecordLocked => f.write_str("record-locked"),
            What::Rule(side, rule) => {
                write!(f, "{side}:{}:{}", rule.at, rule.action)?;
                rule.of.map_or(Ok(()), |of| write!(f, ":{}", of.replace('/', "-")))
            }
        }
    }
}
