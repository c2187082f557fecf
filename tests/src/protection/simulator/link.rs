//! Links between two processes: encoded control frames with a latency, in order.

use ferry_migration::wire::control::{self, HEADER_LEN};
use ferry_migration::wire::{Message, WireError};

use super::Micros;
use crate::simulator::rng::Rng;

/// A link.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// The processes at its ends, the primary first.
    pub(super) ends: [usize; 2],
    /// Which ends are open.
    pub(super) open: [bool; 2],
    /// Nothing that is sent arrives.
    pub(super) is_silent: bool,
    session: u32,
    sent: [u32; 2],
    received: [u32; 2],
    last_arrival: [Micros; 2],
}

impl Link {
    /// A link from a primary to a secondary.
    pub(super) fn new(ends: [usize; 2], session: u32) -> Self {
        let (sent, received) = ([0; 2], [0; 2]);
        Link { ends, open: [true; 2], is_silent: false, session, sent, received, last_arrival: [0; 2] }
    }

    /// The end of a process.
    pub(super) fn end_of(&self, process: usize) -> usize {
        usize::from(self.ends[1] == process)
    }

    /// Encodes a frame from end `from`; when it arrives, and its bytes. `None` if it never does.
    pub(super) fn send<M: Message>(
        &mut self,
        from: usize,
        (message, attachment): (&M, &[u8]),
        now: Micros,
        rng: &mut Rng,
    ) -> Option<(Micros, Vec<u8>)> {
        if self.is_silent || self.open != [true; 2] {
            return None;
        }
        let mut bytes = control::encode(message, attachment, self.session, self.sent[from]).expect("within the caps");
        bytes.extend_from_slice(attachment);
        self.sent[from] += 1;
        Some((self.arrives(from, now, rng), bytes))
    }

    /// When something that end `from` does now is noticed at the other end: after all before it.
    pub(super) fn arrives(&mut self, from: usize, now: Micros, rng: &mut Rng) -> Micros {
        let arrival = (now + rng.within(100, 2_000)).max(self.last_arrival[from] + 1);
        self.last_arrival[from] = arrival;
        arrival
    }

    /// Decodes a frame at end `to`.
    pub(super) fn receive<M: Message>(&mut self, to: usize, bytes: &[u8]) -> Result<(M, Vec<u8>), WireError> {
        let header = bytes.first_chunk::<HEADER_LEN>().expect("a frame arrives whole");
        let header = control::decode_header::<M>(header, self.session, self.received[to])?;
        let (body, attachment) = bytes[HEADER_LEN..].split_at(header.body_len);
        let message = control::decode_body::<M>(&header, body, attachment)?;
        self.received[to] += 1;
        Ok((message, attachment.to_vec()))
    }
}
