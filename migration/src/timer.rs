//! The timers that the state machines request. The driver has the clock.

/// Names a timer; the driver takes its duration from the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// Connecting and `Hello` took too long.
    Setup,
    /// The peer gave no sign of life in time. Any message from it restarts this.
    PeerSilent,
    /// A heartbeat is due.
    Heartbeat,
    /// The rehearsal took too long.
    Rehearsal,
    /// Stopping or saving took too long.
    Stop,
    /// The last pages and loading on the destination took too long.
    Load,
    /// The destination did not report in time whether it runs.
    Start,
    /// The next attempt to change the ownership record is due.
    RetryRecord,
    /// The other side did not confirm in time that postcopy goes on.
    Recover,
}
