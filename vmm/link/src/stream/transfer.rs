//! Bytes over a [`Stream`]: how long they may take, and when a link that is open counts as lost
//! all the same.
//!
//! Two rules, one for each kind of link. On a link that carries pages, *something moves*: a
//! transfer that has begun may take as long as it likes, but not a
//! [patience](Stream::set_patience) without a byte. A control message has an [`Allowance`] for the
//! whole of it, however it trickles.
//!
//! Waiting is counted in looks, and a look counts for [`LOOK`] at most: time in which this process
//! itself stood still (SIGSTOP, a debugger, a host without a free core) is not the peer's.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use ferry_memory::vectors::{Incoming, Outgoing, Vectors};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, sendmsg, sockopt};

use super::Stream;

/// Longest that a transfer waits before it looks at why.
pub const LOOK: Duration = Duration::from_millis(200);
/// So many looks make a patience that is short.
const LOOKS_PER_PATIENCE: u32 = 8;
/// Time for a control message that is short.
const MESSAGE: Duration = Duration::from_secs(5);
/// A second more is allowed for so many bytes of it: a link that carries less is of no use to a
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

    /// This long.
    #[must_use]
    pub fn of(time: Duration) -> Self {
        Allowance(time)
    }

    /// Waits until `stream` is ready, for one look at most.
    ///
    /// # Errors
    /// `TimedOut` when the allowance is used up.
    pub fn wait(&mut self, stream: &Stream, flags: PollFlags) -> io::Result<()> {
        if self.0.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "a message took too long"));
        }
        let (look, began) = (self.0.min(LOOK), Instant::now());
        is_ready(stream, flags, Some(look))?;
        self.0 -= began.elapsed().min(look);
        Ok(())
    }
}

/// Bytes that were written and that the peer's kernel has not confirmed, as they change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unconfirmed {
    bytes: u64,
    quiet: Duration,
}

impl Unconfirmed {
    /// Looks again, after `waited`. Returns for how long nothing has changed while there was
    /// something to confirm.
    pub fn look(&mut self, stream: &Stream, waited: Duration) -> Duration {
        let bytes = stream.unconfirmed();
        if bytes == 0 || bytes != self.bytes {
            *self = Unconfirmed { bytes, quiet: Duration::ZERO };
        } else {
            self.quiet += waited;
        }
        self.quiet
    }
}

/// What is said of a link on which nothing has moved for so long.
#[must_use]
pub fn silent(patience: Duration) -> io::Error {
    let text = format!("nothing has moved on it for {} ms (x-ferry-heartbeat-timeout-ms)", patience.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

fn is_ready(stream: &Stream, flags: PollFlags, within: Option<Duration>) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream, flags)];
    let timeout = within.and_then(|within| Timespec::try_from(within).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

impl Stream {
    /// Bytes that have come on it so far: two looks that find the same have found a peer that was
    /// silent.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.received.load(Relaxed)
    }

    /// Whether the other is a clone of this one.
    #[must_use]
    pub fn is_same(&self, other: &Stream) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// From now on a transfer that has begun fails once nothing has moved for so long, and looks
    /// at why it waits much more often.
    ///
    /// # Errors
    /// When the socket refuses it.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let look = (patience / LOOKS_PER_PATIENCE).clamp(Duration::from_millis(10), LOOK);
        self.0.patience_ms.store(patience.as_millis() as u64, Relaxed);
        self.0.look_ms.store(look.as_millis() as u64, Relaxed);
        sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Recv, Some(look))?;
        sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Send, Some(look))?;
        Ok(())
    }

    /// How long a call waits before it looks.
    #[must_use]
    pub fn look(&self) -> Duration {
        Duration::from_millis(self.0.look_ms.load(Relaxed))
    }

    /// Bytes that were written and that the peer's kernel has not taken; on a Unix socket, that
    /// the peer has not read.
    #[must_use]
    pub fn unconfirmed(&self) -> u64 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open for as long as `self` is borrowed, and TIOCOUTQ writes
        // one int.
        let done = unsafe { libc::ioctl(self.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        // A kernel that does not say leaves it to the other means.
        if done == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    /// Waits until a read would not wait, which the end of the connection does not either.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn wait_readable(&self) -> io::Result<()> {
        while !is_ready(self, PollFlags::IN, None)? {}
        Ok(())
    }

    /// Whether a read would not wait.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        is_ready(self, PollFlags::IN, Some(Duration::ZERO)).unwrap_or(false)
    }

    /// A call came back with nothing: the next one is made, unless the patience is at its end, or
    /// there is none.
    fn stalled(&self, quiet: &mut Duration) -> io::Result<()> {
        let patience = Duration::from_millis(self.0.patience_ms.load(Relaxed));
        if patience.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        *quiet += self.look();
        if *quiet >= patience { Err(silent(patience)) } else { Ok(()) }
    }

    /// So many bytes have come.
    pub(crate) fn note(&self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Relaxed);
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer closed before; `TimedOut` past the patience, or, without one,
    /// past the read timeout.
    pub fn read_exact(&self, buffer: &mut [u8]) -> io::Result<()> {
        self.read_on(buffer, 0)
    }

    /// As [`Stream::read_exact`], of what need not come: only what has begun must end. `idle` is
    /// asked at every look until then.
    ///
    /// # Errors
    /// As there, and what `idle` returns.
    pub fn read_next(&self, buffer: &mut [u8], mut idle: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        loop {
            match rustix::net::recv(&self.0, &mut *buffer, RecvFlags::WAITALL) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((taken, _)) => {
                    self.note(taken);
                    return self.read_on(buffer, taken);
                }
                Err(Errno::AGAIN) => idle()?,
                Err(error) => retry(error)?,
            }
        }
    }

    fn read_on(&self, buffer: &mut [u8], already: usize) -> io::Result<()> {
        let mut buffer = &mut buffer[already..];
        let mut quiet = Duration::ZERO;
        while !buffer.is_empty() {
            match rustix::net::recv(&self.0, &mut *buffer, RecvFlags::WAITALL) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((taken, _)) => {
                    self.note(taken);
                    quiet = Duration::ZERO;
                    buffer = &mut buffer[taken..];
                }
                Err(Errno::AGAIN) => self.stalled(&mut quiet)?,
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// Fills guest memory, in as few calls as the socket gives it.
    ///
    /// # Errors
    /// As [`Stream::read_exact`].
    pub fn read_into(&self, memory: &mut Incoming<'_>) -> io::Result<()> {
        let mut quiet = Duration::ZERO;
        self.transfer(memory, |moved| match moved {
            Moved::Bytes { bytes: 0, .. } => Err(io::ErrorKind::UnexpectedEof.into()),
            Moved::Bytes { bytes, .. } => {
                self.note(bytes);
                quiet = Duration::ZERO;
                Ok(())
            }
            Moved::Nothing => self.stalled(&mut quiet),
        })
    }

    /// Fills `buffer` within what is left of `allowance`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer closed before; `TimedOut` past the allowance.
    pub fn read_within(&self, mut buffer: &mut [u8], allowance: &mut Allowance) -> io::Result<()> {
        while !buffer.is_empty() {
            match rustix::net::recv(&self.0, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((taken, _)) => {
                    self.note(taken);
                    buffer = &mut buffer[taken..];
                }
                Err(Errno::AGAIN) => allowance.wait(self, PollFlags::IN)?,
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// As the socket says; `TimedOut` past the patience, or, without one, past the write timeout.
    pub fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut quiet = Duration::ZERO;
        while !bytes.is_empty() {
            match rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    quiet = Duration::ZERO;
                    bytes = &bytes[sent..];
                }
                Err(Errno::AGAIN) => self.stalled(&mut quiet)?,
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// Sends what the socket takes without waiting. Returns how much that was.
    ///
    /// # Errors
    /// As the socket says.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends as much of the slices as goes within what is left of `allowance`. Returns how many
    /// bytes that was.
    ///
    /// # Errors
    /// As the socket says; what was sent by then is not known.
    pub fn write_within(&self, mut slices: &mut [IoSlice<'_>], allowance: &mut Allowance) -> io::Result<usize> {
        let mut all = 0;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match sendmsg(&self.0, slices, &mut SendAncillaryBuffer::default(), flags) {
                Ok(sent) => {
                    all += sent;
                    IoSlice::advance_slices(&mut slices, sent);
                }
                Err(Errno::AGAIN) => match allowance.wait(self, PollFlags::OUT) {
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                    result => result?,
                },
                Err(error) => retry(error)?,
            }
        }
        Ok(all)
    }

    /// Sends bytes and guest memory on a link on which the peer sends nothing, or only requests:
    /// the peer's end of the connection is noticed also while a write waits. A peer that has closed
    /// with a full window need not say so to a writer. `judge` is told at every look for how long
    /// nothing has moved.
    ///
    /// # Errors
    /// As the socket says; `UnexpectedEof` when the peer has closed; what `judge` returns.
    pub fn write_all_while_open(
        &self,
        memory: &mut Outgoing<'_>,
        judge: impl Fn(Duration) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut quiet = Duration::ZERO;
        self.transfer(memory, |moved| {
            match moved {
                Moved::Bytes { last: true, .. } => return Ok(()),
                Moved::Bytes { .. } => quiet = Duration::ZERO,
                Moved::Nothing if self.is_closed_by_peer()? => return Err(io::ErrorKind::UnexpectedEof.into()),
                Moved::Nothing => quiet += self.look(),
            }
            judge(quiet)
        })
    }

    /// Moves all of it, in one direction or the other; `look` is told what each call has moved.
    fn transfer<const FILL: bool>(
        &self,
        memory: &mut Vectors<'_, FILL>,
        mut look: impl FnMut(Moved) -> io::Result<()>,
    ) -> io::Result<()> {
        let call = if FILL { libc::readv } else { libc::writev };
        while let pieces @ [_, ..] = memory.pieces() {
            // SAFETY: the descriptor is open for as long as `self` is borrowed, and the pieces are
            // mapped for as long as `memory` lives. The kernel fills guest memory only, to which no
            // reference exists, and fails where it may not be written.
            let moved = unsafe { call(self.as_fd().as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) };
            match usize::try_from(moved) {
                Ok(bytes) => {
                    memory.advance(bytes);
                    look(Moved::Bytes { bytes, last: memory.pieces().is_empty() })?;
                }
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.kind() == io::ErrorKind::WouldBlock => look(Moved::Nothing)?,
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }
}

/// What a call has moved.
#[derive(Clone, Copy, Debug)]
enum Moved {
    Bytes {
        bytes: usize,
        /// Nothing is left to move.
        last: bool,
    },
    /// It waited for [`Stream::look`] in vain.
    Nothing,
}

/// What becomes of a call that has failed: it is made again, or its error is told.
pub(crate) fn retry(error: Errno) -> io::Result<()> {
    match error {
        Errno::INTR => Ok(()),
        Errno::AGAIN => Err(io::ErrorKind::TimedOut.into()),
        other => Err(other.into()),
    }
}

#[cfg(test)]
mod tests;
