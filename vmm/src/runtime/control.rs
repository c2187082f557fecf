//! The control link: whole messages over a [`Stream`], and the thread that reads them.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use ferry_migration::wire::control::{self, HEADER_LEN};
use ferry_migration::wire::{Message, WireError};

use crate::runtime::passing;
use crate::runtime::stream::Stream;

/// Why nothing more comes from, or goes to, the peer.
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
        /// What the socket said.
        source: io::Error,
    },
    /// The peer sent what is no frame of this migration.
    #[error("on the {link} link: {source}")]
    Wire {
        /// Which link.
        link: &'static str,
        /// What is wrong with it.
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
    stream: Stream,
    session: u32,
    sequence: u32,
}

impl Sender {
    /// For the migration whose frames carry `session`.
    #[must_use]
    pub fn new(stream: Stream, session: u32) -> Self {
        Sender { stream, session, sequence: 0 }
    }

    /// Sends one message with its attachment.
    ///
    /// # Errors
    /// The link failed, or did not take the message within its write timeout.
    pub fn send<M: Message>(&mut self, message: &M, attachment: &[u8]) -> Result<(), LinkError> {
        self.send_with(message, attachment, None)
    }

    /// As [`Sender::send`], and with the frame's first byte a descriptor, which only a Unix socket takes.
    ///
    /// # Errors
    /// As there.
    pub fn send_with<M: Message>(
        &mut self,
        message: &M,
        attachment: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), LinkError> {
        let head =
            control::encode(message, attachment, self.session, self.sequence).map_err(LinkError::wire("control"))?;
        self.sequence = self.sequence.wrapping_add(1);
        let mut slices = [io::IoSlice::new(&head), io::IoSlice::new(attachment)];
        // Noted before: the peer may have it before this thread goes on, and what may have been sent counts as sent.
        crate::trace::sent(message, head.len() + attachment.len());
        match descriptor {
            Some(descriptor) => passing::write_all_with(&self.stream, descriptor, &mut slices),
            None => self.stream.write_all_vectored(&mut slices),
        }
        .map_err(LinkError::io("control"))
    }

    /// The link under it.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    stream: Stream,
    session: u32,
    sequence: u32,
}

impl Receiver {
    /// For the migration whose frames carry `session`.
    #[must_use]
    pub fn new(stream: Stream, session: u32) -> Self {
        Receiver { stream, session, sequence: 0 }
    }

    /// Waits for the next message and its attachment.
    ///
    /// # Errors
    /// The link ended, or carried something else than the next frame of this migration.
    pub fn receive<M: Message>(&mut self) -> Result<(M, Vec<u8>), LinkError> {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head).map_err(LinkError::io("control"))?;
        self.rest_of(&head)
    }

    /// As [`Receiver::receive`], with the descriptors that came with the frame's header.
    ///
    /// # Errors
    /// As there.
    pub fn receive_with<M: Message>(&mut self) -> Result<(M, Vec<u8>, Vec<OwnedFd>), LinkError> {
        let mut head = [0; HEADER_LEN];
        let descriptors = passing::read_exact_with(&self.stream, &mut head).map_err(LinkError::io("control"))?;
        self.rest_of(&head).map(|(message, attachment)| (message, attachment, descriptors))
    }

    fn rest_of<M: Message>(&mut self, head: &[u8; HEADER_LEN]) -> Result<(M, Vec<u8>), LinkError> {
        let header =
            control::decode_header::<M>(head, self.session, self.sequence).map_err(LinkError::wire("control"))?;
        self.sequence = self.sequence.wrapping_add(1);
        let mut body = vec![0; header.body_len];
        self.stream.read_exact(&mut body).map_err(LinkError::io("control"))?;
        let mut attachment = vec![0; header.attachment_len];
        self.stream.read_exact(&mut attachment).map_err(LinkError::io("control"))?;
        let message: M = control::decode_body(&header, &body, &attachment).map_err(LinkError::wire("control"))?;
        crate::trace::received(&message, HEADER_LEN + body.len() + attachment.len());
        Ok((message, attachment))
    }
}
