//! Why a command about a migration was refused.

use ferry_link::endpoint::Endpoint;
use ferry_link::listener::BindError;
use ferry_migration::parameters::ParameterError;
use ferry_record::RecordError;

use crate::adoption::LocalError;
use crate::request::Unanswered;

/// Why a command about a migration was refused, or an incoming migration failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// One at a time.
    #[error("a migration is going on already: wait for its end, or cancel it")]
    Busy,
    /// One at a time, and this one is paused.
    #[error("a postcopy is going on and is paused: set resume to reconnect it, or end it with x-ferry-resolve")]
    Paused,
    /// Memory of which pages are missing cannot be migrated.
    #[error("the guest's memory is still arriving by postcopy: wait for the end of that, and migrate then")]
    Arriving,
    /// A destination has no guest to migrate.
    #[error("this process waits for an incoming migration and has no guest to migrate")]
    NoGuest,
    /// A destination has no memory to hash.
    #[error("no guest has arrived here: ask again when query-migrate says that the migration to here is completed")]
    NotArrived,
    /// Pages are missing.
    #[error("pages of the guest's memory are missing here: ask again when query-migrate says completed")]
    PagesMissing,
    /// Pages are missing, and no source will send them.
    #[error("pages of the guest's memory were lost with its source: this process never has all of them")]
    PagesLost,
    /// The memory is another process's as well.
    #[error("the guest's memory was handed over as a whole and is in use at the destination: ask there")]
    MemoryHandedOver,
    /// The guest went to another process.
    #[error("the guest was handed over: this process has no guest any more; end it with quit")]
    HandedOver,
    /// Only a process started with `--incoming` accepts a guest.
    #[error("this process was not started with --incoming: it has a guest of its own")]
    NotIncoming,
    /// The process ends.
    #[error("this process is about to end: start another one for the guest to come to")]
    Ending,
    /// An incoming migration has been given an address already.
    #[error("this process listens for a migration already, at {0}")]
    Listening(Endpoint),
    /// It comes too late, or does not fit the state of the migration.
    #[error("{0}")]
    TooLate(&'static str),
    /// The migration's driver is busy with something else.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// The address could not be listened at.
    #[error("cannot listen at {at}: {source}")]
    Listen {
        /// The address.
        at: Endpoint,
        /// Its error.
        source: BindError,
    },
    /// Neither could the previous address, which had to be released for it.
    #[error(
        "cannot listen at {at}: {source}; nor again where the source was awaited before: {before}. The source is awaited \
         nowhere: give another address with migrate-recover"
    )]
    Nowhere {
        /// The address.
        at: Endpoint,
        /// Its error.
        source: BindError,
        /// The error of the previous address.
        before: BindError,
    },
    /// The host did not give a thread or a descriptor.
    #[error("the migration could not be started: {0}")]
    Host(#[source] std::io::Error),
    /// A parameter is out of its range.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The ownership record cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The handshake needs a record.
    #[error(
        "the handshake owned needs an ownership record, and this process has none: start the guest with --ownership \
         file:PATH, or leave x-ferry-handshake at auto"
    )]
    NoRecord,
    /// The guest has arrived without its record, which may still come to name this process.
    #[error(
        "the handshake owned needs an ownership record that names this process, and {0} does not: the guest has arrived without \
         it. See x-ferry-query-ownership; try again once it is owned here, or set x-ferry-handshake to auto"
    )]
    NotNamed(String),
    /// The command needs an active migration.
    #[error("no migration is going on")]
    NoMigration,
    /// The memory cannot be handed over as a whole.
    #[error("{0}; for a migration that copies the memory, set x-ferry-local to false")]
    Local(#[from] LocalError),
    /// The incoming migration failed.
    #[error("incoming migration failed: {0}")]
    Incoming(String),
}
