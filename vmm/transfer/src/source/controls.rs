//! State that a source's driver and its page threads share, and why pages cannot be sent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use ferry_link::control::LinkError;

use crate::progress::Progress;
use crate::source::patience::Patience;

/// Interval at which a waiting sender checks its link.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// Why pages could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PagesError {
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// KVM's dirty log could not be read.
    #[error("the dirty log could not be {0}: {1}")]
    DirtyLog(&'static str, std::io::Error),
    /// The host did not report which pages it has allocated.
    #[error("the host's page map could not be read: {0}")]
    PageMap(std::io::Error),
    /// The destination did not confirm a round.
    #[error(
        "the bulk links have brought nothing of a round's end to the destination for {} ms (x-ferry-heartbeat-timeout-ms)",
        .0.as_millis()
    )]
    NotArrived(Duration),
    /// The operator's limit was reached in the middle of a round.
    #[error(
        "precopy has not ended within its limit (x-ferry-max-precopy-ms), {0} pages of a round were still to be sent; raise the \
         limit, slow the guest, or set x-ferry-on-limit to switch"
    )]
    Limit(u64),
    /// The host gave no thread.
    #[error("no thread can be started: {0}")]
    Thread(std::io::Error),
    /// The attempt was given up.
    #[error("sending pages was interrupted")]
    Interrupted,
}

/// State that the sender shares with the driver and with QMP.
#[derive(Clone, Debug)]
pub(crate) struct Controls {
    /// Set to end everything at once.
    pub stop: Arc<AtomicBool>,
    /// Set to end a round early and in order: unsent pages stay pending.
    pub end_round: Arc<AtomicBool>,
    /// Cap in bytes a second; 0 is none.
    pub max_bandwidth: Arc<AtomicU64>,
    /// Where pages are counted.
    pub progress: Arc<Progress>,
    /// The newest marker that the destination has reached.
    pub arrived: Arc<Arrived>,
    /// How long links may be silent, and when precopy must end.
    pub patience: Arc<Patience>,
}

impl Controls {
    /// Whether the present round is to end early and in order: by a command, or by the operator's
    /// limit.
    #[must_use]
    pub(crate) fn round_ends(&self) -> bool {
        self.end_round.load(Relaxed) || self.patience.over().is_some()
    }
}

/// The newest marker that the destination has reached, set by the driver and awaited by the page
/// thread.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    marker: Mutex<u32>,
    changed: Condvar,
}

impl Arrived {
    /// The destination has reached `marker`.
    pub(crate) fn tell(&self, marker: u32) {
        let mut newest = self.marker.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = marker.max(*newest);
        self.changed.notify_all();
    }

    /// Wakes the page thread if it waits, to look at its stop flag.
    pub(crate) fn wake(&self) {
        let _held = self.marker.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
    }

    /// Waits until the destination has reached `marker`, or `give_up` is true, for [`LOOK`] at
    /// most. Returns whether the wait is over.
    pub(super) fn wait(&self, marker: u32, give_up: impl Fn() -> bool) -> bool {
        let newest = self.marker.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |newest: &mut u32| *newest < marker && !give_up();
        let (newest, _) =
            self.changed.wait_timeout_while(newest, LOOK, waiting).unwrap_or_else(PoisonError::into_inner);
        *newest >= marker || give_up()
    }
}
