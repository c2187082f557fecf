//! The timers that the state machines ask for. Time itself belongs to their driver.

/// Names a timer; how long each runs is the driver's matter, from the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// Connecting and `Hello` took too long.
    Setup,
    /// The peer gave no sign of life. Any message from it starts this anew.
    PeerSilent,
    /// It is time to give a sign of life.
    Heartbeat,
    /// The rehearsal took too long.
    Rehearsal,
    /// Stopping or saving took too long.
    Stop,
    /// The last pages and loading on the destination took too long.
    Load,
    /// The destination did not say in time whether it runs.
    Start,
    /// It is time to try the ownership record again.
    RetryRecord,
    /// The other side did not confirm in time that postcopy goes on.
    Recover,
}
