//! The control link: whole messages over a [`Link`], each with a deadline for all of it.
//!
//! Sending blocks a driver for a moment at most: a thread sends the rest ([`Outbox`]). Receiving
//! waits without limit for a message to begin, and only briefly for the rest of it. [`Unread`]
//! shows whether bytes that have arrived are still to be delivered, which a driver checks before it
//! acts on a timer.

use std::io::{self, IoSlice};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use ferry_migration::wire::control::{self, HEADER_LEN};
use ferry_migration::wire::{Message, WireError};

use crate::link::{Allowance, Link};
use crate::outbox::Outbox;

/// Why a link no longer carries messages.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer closed the connection.
    #[error("the peer closed the {link} link")]
    Closed {
        /// Which link.
        link: &'static str,
    },
    /// The connection failed.
    #[error("the {link} link failed: {source}")]
    Io {
        /// Which link.
        link: &'static str,
        /// The socket's error.
        source: io::Error,
    },
    /// The peer sent something that is no frame of this migration.
    #[error("on the {link} link: {source}")]
    Wire {
        /// Which link.
        link: &'static str,
        /// The error in the frame.
        source: WireError,
    },
}

impl LinkError {
    /// Names the link in an I/O error.
    pub fn io(link: &'static str) -> impl Fn(io::Error) -> LinkError {
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => LinkError::Closed { link },
            _ => LinkError::Io { link, source },
        }
    }

    /// Names the link in a wire error.
    pub fn wire(link: &'static str) -> impl Fn(WireError) -> LinkError {
        move |source| LinkError::Wire { link, source }
    }
}

/// The sending half.
#[derive(Debug)]
pub struct Sender {
    outbox: Arc<Outbox>,
    session: u32,
    sequence: u32,
}

impl Sender {
    /// For the migration whose frames carry `session`. A message that fails after [`Sender::send`]
    /// has returned ends the link.
    #[must_use]
    pub fn new(link: Link, session: u32) -> Self {
        Self::reporting(link, session, |_| {})
    }

    /// The same; a message that fails after [`Sender::send`] has returned is reported to `failed`,
    /// too.
    #[must_use]
    pub fn reporting(link: Link, session: u32, failed: impl Fn(LinkError) + Send + Sync + 'static) -> Self {
        let failed = move |error| failed(LinkError::io("control")(error));
        Sender { outbox: Outbox::new(link, failed), session, sequence: 0 }
    }

    /// Sends one message with its attachment, or at least begins to: it waits for the peer for a
    /// moment at most.
    ///
    /// # Errors
    /// The link has failed, or its outbox is full.
    pub fn send<M: Message>(&mut self, message: &M, attachment: &[u8]) -> Result<(), LinkError> {
        self.send_with(message, attachment, None)
    }

    /// As [`Sender::send`], with a descriptor at the frame's first byte, which only a Unix socket
    /// can carry.
    ///
    /// # Errors
    /// As there.
    pub fn send_with<M: Message>(
        &mut self,
        message: &M,
        attachment: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), LinkError> {
        let head = self.head(message, attachment)?;
        self.outbox.send(&[&head, attachment], descriptor).map_err(LinkError::io("control"))
    }

    /// Sends a last message if the socket takes it at once: the link ends now, with it or without
    /// it.
    pub fn send_last<M: Message>(&mut self, message: &M) {
        let sent = self
            .head(message, &[])
            .and_then(|head| self.outbox.send_at_once(&mut [IoSlice::new(&head)]).map_err(LinkError::io("control")));
        if let Err(error) = sent {
            tracing::debug!(%error, message = message.kind(), "the last word was not sent");
        }
    }

    fn head<M: Message>(&mut self, message: &M, attachment: &[u8]) -> Result<Vec<u8>, LinkError> {
        let head =
            control::encode(message, attachment, self.session, self.sequence).map_err(LinkError::wire("control"))?;
        self.sequence = self.sequence.wrapping_add(1);
        // Traced before: the peer may have it before this thread goes on, and a message that may
        // have been sent counts as sent.
        ferry_observe::trace::sent(message, head.len() + attachment.len());
        Ok(head)
    }

    /// Ends the sending direction; the peer still receives everything sent before.
    pub fn finish_sending(&self) {
        self.outbox.finish();
    }

    /// The link under it.
    #[must_use]
    pub fn link(&self) -> &Link {
        self.outbox.link()
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    link: Link,
    session: u32,
    sequence: u32,
    state: Arc<AtomicU8>,
}

/// The receiver waits, and has delivered everything that it has read.
const IDLE: u8 = 0;
/// It has begun to read something, or has not delivered it yet.
const READING: u8 = 1;
/// It reads no more.
const ENDED: u8 = 2;

/// Shows whether a [`Receiver`] will deliver more without a further byte from the peer.
#[derive(Clone, Debug)]
pub struct Unread {
    link: Link,
    state: Arc<AtomicU8>,
}

impl Unread {
    /// Whether it will. After `false`, everything that the receiver had read has been delivered.
    #[must_use]
    pub fn is_there(&self) -> bool {
        // In this order: a receiver stores `READING` before it takes anything out of the socket.
        let waits = self.link.is_readable();
        match self.state.load(SeqCst) {
            IDLE => waits,
            READING => true,
            _ => false,
        }
    }
}

impl Receiver {
    /// For the migration whose frames carry `session`.
    #[must_use]
    pub fn new(link: Link, session: u32) -> Self {
        Receiver { link, session, sequence: 0, state: Arc::default() }
    }

    /// Shows whether it has more to deliver.
    #[must_use]
    pub fn unread(&self) -> Unread {
        Unread { link: self.link.clone(), state: self.state.clone() }
    }

    /// Waits for the next message and its attachment. The caller has delivered the previous one by
    /// the time of this call.
    ///
    /// # Errors
    /// The link ended, carried something other than the next frame of this migration, or only a
    /// part of it in time.
    pub fn receive<M: Message>(&mut self) -> Result<(M, Vec<u8>), LinkError> {
        self.await_frame()?;
        let mut head = [0; HEADER_LEN];
        let mut allowance = Allowance::of_message(HEADER_LEN);
        self.link.read_within(&mut head, &mut allowance).map_err(LinkError::io("control"))?;
        self.rest_of(&head)
    }

    /// As [`Receiver::receive`], with the descriptors that came with the frame's header.
    ///
    /// # Errors
    /// As there.
    pub fn receive_with<M: Message>(&mut self) -> Result<(M, Vec<u8>, Vec<OwnedFd>), LinkError> {
        self.await_frame()?;
        let mut head = [0; HEADER_LEN];
        let mut allowance = Allowance::of_message(HEADER_LEN);
        let descriptors = self.link.read_within_with(&mut head, &mut allowance);
        let descriptors = descriptors.map_err(LinkError::io("control"))?;
        self.rest_of(&head).map(|(message, attachment)| (message, attachment, descriptors))
    }

    fn await_frame(&self) -> Result<(), LinkError> {
        self.state.store(IDLE, SeqCst);
        self.link.wait_readable().map_err(LinkError::io("control"))?;
        self.state.store(READING, SeqCst);
        Ok(())
    }

    fn rest_of<M: Message>(&mut self, head: &[u8; HEADER_LEN]) -> Result<(M, Vec<u8>), LinkError> {
        let header =
            control::decode_header::<M>(head, self.session, self.sequence).map_err(LinkError::wire("control"))?;
        self.sequence = self.sequence.wrapping_add(1);
        let mut allowance = Allowance::of_message(header.body_len + header.attachment_len);
        let mut body = vec![0; header.body_len];
        self.link.read_within(&mut body, &mut allowance).map_err(LinkError::io("control"))?;
        let mut attachment = vec![0; header.attachment_len];
        self.link.read_within(&mut attachment, &mut allowance).map_err(LinkError::io("control"))?;
        let message: M = control::decode_body(&header, &body, &attachment).map_err(LinkError::wire("control"))?;
        ferry_observe::trace::received(&message, HEADER_LEN + body.len() + attachment.len());
        Ok((message, attachment))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.state.store(ENDED, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_migration::ToDestination;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    fn pair() -> (Link, Link) {
        let (near, far) = UnixStream::pair().unwrap();
        (Link::new(near.into()).unwrap(), Link::new(far.into()).unwrap())
    }

    #[test]
    fn what_has_arrived_is_unread_until_it_has_been_delivered() {
        let (near, far) = pair();
        let mut sender = Sender::new(near, 7);
        let mut receiver = Receiver::new(far, 7);
        let unread = receiver.unread();
        assert!(!unread.is_there());
        sender.send(&ToDestination::Heartbeat, &[]).unwrap();
        assert!(unread.is_there(), "in the socket");
        receiver.receive::<ToDestination>().unwrap();
        assert!(unread.is_there(), "read, and not delivered");
        drop(sender);
        assert!(receiver.receive::<ToDestination>().is_err());
        assert!(unread.is_there(), "the end of the link is news, too");
        drop(receiver);
        assert!(!unread.is_there(), "nothing reads any more");
    }

    #[test]
    fn a_message_that_a_peer_reads_slowly_holds_up_nobody_and_arrives() {
        let (near, far) = pair();
        let mut sender = Sender::new(near, 7);
        let state = vec![9; 8 << 20];
        let began = Instant::now();
        sender.send(&ToDestination::Rehearse, &state).unwrap();
        // Longer than a moment, as the machine may be busy, and much shorter than the message's
        // own deadline.
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        sender.send(&ToDestination::Heartbeat, &[]).unwrap();
        sender.finish_sending();
        let mut receiver = Receiver::new(far, 7);
        let (message, attachment) = receiver.receive::<ToDestination>().unwrap();
        assert!(message == ToDestination::Rehearse && attachment == state);
        assert_eq!(receiver.receive::<ToDestination>().unwrap().0, ToDestination::Heartbeat);
        assert!(matches!(receiver.receive::<ToDestination>(), Err(LinkError::Closed { .. })));
    }
}
