//! The clocks of a link: how long a message may take, and for how long nothing has moved.

use std::io;
use std::time::{Duration, Instant};

use super::Link;
use crate::wire::Ready;

/// Longest that a transfer waits before it checks the link.
pub const LOOK: Duration = Duration::from_millis(200);
/// Time limit for a short control message.
const MESSAGE: Duration = Duration::from_secs(5);
/// Bytes of a message that extend the limit by one second: a slower link is of no use to a
/// migration.
const BYTES_A_SECOND: u64 = 64 << 10;

/// How long a message may take as a whole, from its first byte on.
#[derive(Clone, Copy, Debug)]
pub struct Allowance(Duration);

impl Allowance {
    /// For a message of `bytes`.
    #[must_use]
    pub fn of_message(bytes: usize) -> Self {
        Allowance(MESSAGE + Duration::from_millis(bytes as u64 * 1000 / BYTES_A_SECOND))
    }

    /// An allowance of `time`.
    #[must_use]
    pub fn of(time: Duration) -> Self {
        Allowance(time)
    }

    /// Waits until `link` is ready, for one look at most.
    ///
    /// # Errors
    /// `TimedOut` when the allowance is used up.
    pub(crate) fn wait(&mut self, link: &Link, to: Ready) -> io::Result<()> {
        if self.0.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a message took too long"));
        }
        let (look, began) = (self.0.min(LOOK), Instant::now());
        link.wait_ready(to, Some(look))?;
        self.0 -= began.elapsed().min(look);
        Ok(())
    }
}

/// Watches the bytes that were written and that the peer's kernel has not confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unconfirmed {
    bytes: u64,
    quiet: Duration,
}

impl Unconfirmed {
    /// Looks again, after `waited`. Returns for how long the number has not changed while it was
    /// not 0.
    pub fn look(&mut self, link: &Link, waited: Duration) -> Duration {
        let bytes = link.unconfirmed();
        if bytes == 0 || bytes != self.bytes {
            *self = Unconfirmed { bytes, quiet: Duration::ZERO };
        } else {
            self.quiet += waited;
        }
        self.quiet
    }
}

/// The error of a link on which nothing has moved for `patience`.
#[must_use]
pub fn silent(patience: Duration) -> io::Error {
    let text = format!("nothing has moved on it for {} ms (x-ferry-heartbeat-timeout-ms)", patience.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, text)
}
