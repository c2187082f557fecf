//! The timers that the machines of a protection request. The driver has the clock.

/// Names a timer; the driver takes its duration from the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// A heartbeat is due.
    Heartbeat,
    /// The peer gave no sign of life in time (`x-ferry-protect-timeout-ms`). Any message from it
    /// restarts this.
    PeerSilent,
    /// Primary: the epoch has lasted long enough (`x-checkpoint-delay`).
    Epoch,
    /// Primary: the capture takes too long.
    Capture,
    /// Primary: the next attempt to take the disk again is due.
    RetryDisk,
    /// Primary: the checkpoint in flight was not answered in time.
    Commit,
    /// Primary: the secondary did not report in time whether a planned failover has happened.
    Start,
    /// Secondary: a verification, a load, the disk or a trial takes too long.
    Work,
    /// Secondary: a living primary has had time to win the record.
    HeadStart,
    /// The next question to the ownership record is due.
    RetryRecord,
    /// Secondary: the next attempt to take over is due.
    RetryTrial,
    /// Secondary: a checkpoint of a primary that has not enrolled it is kept no longer
    /// (`x-ferry-keep-stale-ms`).
    KeepStale,
}
