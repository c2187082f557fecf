//! What a trace says: one JSON object a line, each with the time and one thing that happened.

use ferry_migration::info::{MigrationInfo, PostcopyStats};
use ferry_migration::pages::PAGE_SIZE;
use ferry_migration::{Handshake, Status};
use serde::{Deserialize, Serialize};

/// The format that the first line names.
pub const FORMAT: &str = "ferry-trace/1";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Microseconds since 1970, by the host's clock.
    pub at_us: u64,
    /// What happened then.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The process begins to write.
    Start(Start),
    /// A migration begins: all entries up to the next one belong to it.
    Migration {
        /// Which side of it this process is.
        side: Side,
        /// The migration's id, in hexadecimal: the same on both sides.
        id: String,
        /// The other side's address, where this side knows it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// A control link is open: messages that follow travel on it.
    Connection {
        /// As the source counts connections, from 0.
        number: u32,
    },
    /// The migration's status has changed.
    Status {
        /// To this.
        status: Status,
    },
    /// An event was published to clients.
    Event {
        /// As QMP names it.
        name: String,
    },
    /// Why the migration fails, pauses or is uncertain.
    Error {
        /// As `error-desc` has it.
        text: String,
    },
    /// A message left on the control link.
    Sent(Message),
    /// A message arrived on the control link.
    Received(Message),
    /// An output of the state machine.
    Step {
        /// The output's name.
        name: String,
        /// The output with what it holds.
        detail: String,
    },
    /// An input of the state machine: a job's end, a timer, a link's loss, an answer of the
    /// ownership record.
    Input {
        /// The input with what it holds.
        detail: String,
    },
    /// A change of the ownership record was tried.
    Record {
        /// The change.
        call: String,
        /// The result.
        answer: String,
    },
    /// A precopy round has been sent, or the last pages.
    Round(Round),
    /// The guest is stopped for the switchover: what it has put out by then, in full.
    Outputs {
        /// Each device with an output stream.
        outputs: Vec<OutputPosition>,
    },
    /// The progress of the migration.
    Sample(Sample),
    /// What a client reads at the migration's end.
    Summary(Box<MigrationInfo>),
    /// The writer could not keep up.
    Lost {
        /// The number of entries missing here.
        entries: u64,
    },
}

/// The process that writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// [`FORMAT`].
    pub format: String,
    /// Ferry's version.
    pub ferry: String,
    /// The guest's name.
    pub vm: String,
    /// Whether the process waits for a guest.
    pub incoming: bool,
    /// The process's host.
    pub host: String,
    /// The process's id.
    pub pid: u32,
    /// Bytes of guest memory.
    pub memory: u64,
    /// What backs it: `memfd` or `anon`.
    pub backing: String,
    /// vCPUs.
    pub cpus: u32,
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The guest leaves.
    Source,
    /// The guest arrives.
    Destination,
}

/// A message of the control link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its name.
    pub message: String,
    /// Bytes of its frame, with its attachment.
    pub bytes: u64,
    /// The connection that it travelled on.
    pub connection: u32,
}

/// How much the guest has put out through a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPosition {
    /// The device, for example `serial/0`.
    pub device: String,
    /// Since this process created the device (a serial port: in bytes).
    pub position: u64,
}

/// What a round sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// Counts from 1; `None` for the last pages, which are sent while the guest is stopped.
    pub number: Option<u64>,
    /// Pages as data.
    pub pages: u64,
    /// Pages as zero bits.
    pub zero_pages: u64,
    /// Bytes on the link.
    pub bytes: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// Pages that the guest dirtied meanwhile; unknown for the last pages, and for a round that was
    /// ended early.
    pub dirty_pages: Option<u64>,
    /// Percentage of their time that vCPUs were kept from running meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_throttle: Option<u64>,
}

/// The progress of a migration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Bytes transferred.
    pub transferred: u64,
    /// Pages left in this round, or in postcopy.
    pub remaining_pages: u64,
    /// Pages a second that the guest dirtied in the last round.
    pub dirty_rate: u64,
    /// Bytes a second in the last round.
    pub bandwidth: u64,
    /// The handshake in force.
    pub handshake: Option<Handshake>,
    /// The progress of postcopy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postcopy: Option<PostcopyStats>,
}

impl Sample {
    /// Takes the sample from the data of `query-migrate`.
    #[must_use]
    pub fn of(info: MigrationInfo) -> Self {
        let ram = info.ram.unwrap_or_default();
        Sample {
            transferred: ram.transferred,
            remaining_pages: ram.remaining / PAGE_SIZE,
            dirty_rate: ram.dirty_pages_rate,
            bandwidth: (ram.mbps * 1e6 / 8.0) as u64,
            handshake: info.x_ferry_handshake,
            postcopy: info.x_ferry_postcopy,
        }
    }
}
