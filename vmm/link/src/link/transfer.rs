//! Bytes over a [`Link`]: how long they may take, and when a link that is open counts as lost
//! all the same.
//!
//! Two rules, one for each kind of link. On a link that carries pages, *something moves*: a
//! transfer that has begun may take any time, but not a [patience](Link::set_patience) without a
//! byte. A control message has one [`Allowance`] for the whole of it.
//!
//! Waiting is counted in looks, and a look counts for [`LOOK`] at most: time for which this process
//! itself was stopped (SIGSTOP, a debugger, a host without a free core) does not count against the
//! peer.

use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ferry_memory::vectors::{Incoming, Outgoing};

use super::Link;
use super::allowance::{Allowance, LOOK, silent};
use crate::wire::Ready;

/// Looks per patience, when the patience is short.
const LOOKS_PER_PATIENCE: u32 = 8;

impl Link {
    /// Bytes received so far: if two looks find the same number, the peer was silent in between.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.received.load(Relaxed)
    }

    /// Whether the other is a clone of this one.
    #[must_use]
    pub fn is_same(&self, other: &Link) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// From now on a transfer that has begun fails once nothing has moved for `patience`, and
    /// checks the link much more often.
    ///
    /// # Errors
    /// When the host refuses it.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        let look = (patience / LOOKS_PER_PATIENCE).clamp(Duration::from_millis(10), LOOK);
        self.0.patience_ms.store(patience.as_millis() as u64, Relaxed);
        self.0.look_ms.store(look.as_millis() as u64, Relaxed);
        self.wire().set_receive_wait(Some(look))?;
        self.wire().set_send_wait(Some(look))
    }

    /// How long a call waits before the link is checked.
    #[must_use]
    pub fn look(&self) -> Duration {
        Duration::from_millis(self.0.look_ms.load(Relaxed))
    }

    /// Bytes that were written and that the peer's kernel has not taken; on a Unix socket, that
    /// the peer has not read.
    #[must_use]
    pub fn unconfirmed(&self) -> u64 {
        self.wire().unconfirmed()
    }

    /// An interruption counts as ready: the call that follows then finds nothing.
    pub(super) fn wait_ready(&self, to: Ready, within: Option<Duration>) -> io::Result<bool> {
        match self.wire().wait_ready(to, within) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            ready => ready,
        }
    }

    /// Waits until a read would not block, which includes the end of the connection.
    ///
    /// # Errors
    /// When the kernel does not report it.
    pub fn wait_readable(&self) -> io::Result<()> {
        while !self.wait_ready(Ready::ToReceive, None)? {}
        Ok(())
    }

    /// Whether a read would not block.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.wait_ready(Ready::ToReceive, Some(Duration::ZERO)).unwrap_or(false)
    }

    /// A call timed out: it is repeated, unless the patience is used up, or there is none.
    fn stalled(&self, quiet: &mut Duration) -> io::Result<()> {
        let patience = Duration::from_millis(self.0.patience_ms.load(Relaxed));
        if patience.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        *quiet += self.look();
        if *quiet >= patience { Err(silent(patience)) } else { Ok(()) }
    }

    /// Counts received bytes.
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

    /// As [`Link::read_exact`], but waits without limit for the first byte. `idle` is called at
    /// every look until then.
    ///
    /// # Errors
    /// As there, and what `idle` returns.
    pub fn read_next(&self, buffer: &mut [u8], mut idle: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        loop {
            match self.wire().receive(buffer, true) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(taken) => {
                    self.note(taken);
                    return self.read_on(buffer, taken);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => idle()?,
                Err(error) => retry(error)?,
            }
        }
    }

    fn read_on(&self, buffer: &mut [u8], already: usize) -> io::Result<()> {
        let mut buffer = &mut buffer[already..];
        let mut quiet = Duration::ZERO;
        while !buffer.is_empty() {
            match self.wire().receive(buffer, true) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(taken) => {
                    self.note(taken);
                    quiet = Duration::ZERO;
                    buffer = &mut buffer[taken..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stalled(&mut quiet)?,
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// Fills guest memory, in as few calls as the socket allows.
    ///
    /// # Errors
    /// As [`Link::read_exact`].
    pub fn read_into(&self, memory: &mut Incoming<'_>) -> io::Result<()> {
        let mut quiet = Duration::ZERO;
        while !memory.pieces().is_empty() {
            match self.wire().fill(memory) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => {
                    memory.advance(bytes);
                    self.note(bytes);
                    quiet = Duration::ZERO;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stalled(&mut quiet)?,
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// Fills `buffer` within what is left of `allowance`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer closed before; `TimedOut` past the allowance.
    pub fn read_within(&self, buffer: &mut [u8], allowance: &mut Allowance) -> io::Result<()> {
        self.fill_within(buffer, allowance, |buffer| self.wire().receive(buffer, false))
    }

    /// Fills `buffer` by calls of `receive`, none of which waits.
    fn fill_within(
        &self,
        mut buffer: &mut [u8],
        allowance: &mut Allowance,
        mut receive: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        while !buffer.is_empty() {
            match receive(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(taken) => {
                    self.note(taken);
                    buffer = &mut buffer[taken..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => allowance.wait(self, Ready::ToReceive)?,
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// The socket's error; `TimedOut` past the patience, or, without one, past the write timeout.
    pub fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut quiet = Duration::ZERO;
        while !bytes.is_empty() {
            match self.wire().send(&[IoSlice::new(bytes)], true) {
                Ok(sent) => {
                    quiet = Duration::ZERO;
                    bytes = &bytes[sent..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stalled(&mut quiet)?,
                Err(error) => retry(error)?,
            }
        }
        Ok(())
    }

    /// Sends what the socket takes without waiting. Returns how many bytes that was.
    ///
    /// # Errors
    /// The socket's error.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.wire().send(&[IoSlice::new(bytes)], false);
        sent.or_else(|error| if is_nothing(&error) { Ok(0) } else { Err(error) })
    }

    /// Sends as much of the slices as goes within what is left of `allowance`. Returns how many
    /// bytes that was.
    ///
    /// # Errors
    /// The socket's error; how much was sent by then is not known.
    pub fn write_within(&self, mut slices: &mut [IoSlice<'_>], allowance: &mut Allowance) -> io::Result<usize> {
        let mut all = 0;
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.wire().send(slices, false) {
                Ok(sent) => {
                    all += sent;
                    IoSlice::advance_slices(&mut slices, sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match allowance.wait(self, Ready::ToSend) {
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
                    result => result?,
                },
                Err(error) => retry(error)?,
            }
        }
        Ok(all)
    }

    /// Sends bytes and guest memory on a link on which the peer sends nothing, or only requests. It
    /// checks also while a write waits whether the peer has closed: with a full window the write
    /// itself need not fail. `judge` receives at every look the time for which nothing has moved.
    ///
    /// # Errors
    /// The socket's error; `UnexpectedEof` when the peer has closed; what `judge` returns.
    pub fn write_all_while_open(
        &self,
        memory: &mut Outgoing<'_>,
        judge: impl Fn(Duration) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut quiet = Duration::ZERO;
        while !memory.pieces().is_empty() {
            match self.wire().drain(memory) {
                Ok(bytes) => {
                    memory.advance(bytes);
                    quiet = Duration::ZERO;
                    if memory.pieces().is_empty() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.is_closed_by_peer()? {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    quiet += self.look();
                }
                Err(error) => {
                    retry(error)?;
                    continue;
                }
            }
            judge(quiet)?;
        }
        Ok(())
    }

    /// Reads without waiting: `None` if there is nothing, 0 bytes at the peer's end.
    ///
    /// # Errors
    /// The wire's error.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.wire().receive(buffer, false) {
            Ok(taken) => {
                self.note(taken);
                Ok(Some(taken))
            }
            Err(error) if is_nothing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Link::write_within`], with `descriptor` at the first byte. The kernel closes a
    /// descriptor that comes with any other byte, because the read of that byte requests none.
    ///
    /// # Errors
    /// As there; `TimedOut` when not even the first byte was sent; `Unsupported` where descriptors
    /// cannot be passed.
    pub(crate) fn write_within_with(
        &self,
        descriptor: BorrowedFd<'_>,
        mut slices: &mut [IoSlice<'_>],
        allowance: &mut Allowance,
    ) -> io::Result<usize> {
        let sent = loop {
            match self.wire().send_with(slices, descriptor) {
                Ok(sent) => break sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => allowance.wait(self, Ready::ToSend)?,
                Err(error) => retry(error)?,
            }
        };
        IoSlice::advance_slices(&mut slices, sent);
        Ok(sent + self.write_within(slices, allowance)?)
    }

    /// As [`Link::read_within`]; returns the first descriptors that came with the bytes.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn read_within_with(&self, buffer: &mut [u8], allowance: &mut Allowance) -> io::Result<Vec<OwnedFd>> {
        let mut kept = Vec::new();
        self.fill_within(buffer, allowance, |buffer| self.wire().receive_with(buffer, &mut kept))?;
        Ok(kept)
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Whether a failed call is repeated (`Ok`), or its error is returned.
fn retry(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod passing_tests;
#[cfg(test)]
mod tests;
