//! One direction of a control link, in bytes: frames are encoded here, spoilt on the way, and
//! decoded at the other end.

use std::collections::VecDeque;

use ferry_migration::wire::control::{self, HEADER_LEN};
use ferry_migration::wire::{Message, WireError};

use super::rng::Rng;

/// The session that all frames of a simulated connection carry.
const SESSION: u32 = 0x5eed;

/// What becomes of a frame on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// Nothing.
    Nothing,
    /// One bit is flipped.
    Flip,
    /// It comes twice.
    Twice,
    /// It ends somewhere inside, and the connection with it.
    Cut,
}

/// One direction.
#[derive(Debug)]
pub struct Pipe<M> {
    sent: u32,
    received: u32,
    arrived: Vec<u8>,
    /// What was sent and has not been read, to compare.
    intended: VecDeque<M>,
    /// The reader has given up.
    pub deaf: bool,
}

/// What the reader made of the bytes so far.
#[derive(Debug)]
pub enum Read<M> {
    /// A whole message.
    Message(M),
    /// More bytes are needed.
    More,
    /// Not the next frame of this connection.
    Refused(WireError),
    /// A message was believed that nobody sent.
    Forged,
}

impl<M> Default for Pipe<M> {
    fn default() -> Self {
        Pipe { sent: 0, received: 0, arrived: Vec::new(), intended: VecDeque::new(), deaf: false }
    }
}

impl<M: Message + Clone + PartialEq> Pipe<M> {
    /// The bytes of the next frame, with an attachment of `attached` bytes, as they arrive.
    ///
    /// # Panics
    /// When a message is above its caps.
    pub fn send(&mut self, message: &M, attached: usize, spoil: Spoil, rng: &mut Rng) -> Vec<u8> {
        let attachment: Vec<u8> = (0..attached).map(|_| rng.number() as u8).collect();
        let mut bytes =
            control::encode(message, &attachment, SESSION, self.sent).expect("messages are within their caps");
        bytes.extend_from_slice(&attachment);
        self.sent = self.sent.wrapping_add(1);
        self.intended.push_back(message.clone());
        match spoil {
            Spoil::Nothing => {}
            Spoil::Flip => {
                let bit = rng.below(bytes.len() as u64 * 8) as usize;
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Spoil::Twice => bytes.extend_from_within(..),
            Spoil::Cut => bytes.truncate(rng.below(bytes.len() as u64) as usize),
        }
        bytes
    }

    /// Adds bytes that arrived.
    pub fn arrive(&mut self, bytes: &[u8]) {
        if !self.deaf {
            self.arrived.extend_from_slice(bytes);
        }
    }

    /// The next message, if it is whole.
    pub fn read(&mut self) -> Read<M> {
        if self.deaf || self.arrived.len() < HEADER_LEN {
            return Read::More;
        }
        let head = self.arrived[..HEADER_LEN].try_into().expect("it has this length");
        let header = match control::decode_header::<M>(head, SESSION, self.received) {
            Ok(header) => header,
            Err(error) => return self.refuse(error),
        };
        let body_end = HEADER_LEN + header.body_len;
        let end = body_end + header.attachment_len;
        if self.arrived.len() < end {
            return Read::More;
        }
        match control::decode_body::<M>(&header, &self.arrived[HEADER_LEN..body_end], &self.arrived[body_end..end]) {
            Ok(message) => {
                self.received = self.received.wrapping_add(1);
                self.arrived.drain(..end);
                if self.intended.pop_front().as_ref() == Some(&message) { Read::Message(message) } else { Read::Forged }
            }
            Err(error) => self.refuse(error),
        }
    }

    fn refuse(&mut self, error: WireError) -> Read<M> {
        self.deaf = true;
        Read::Refused(error)
    }
}
