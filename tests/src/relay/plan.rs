//! What a test asks of the relay: a frame, and what it suffers.

use std::time::Duration;

use super::unit::{Link, Side, Spot};

/// What happens to the frame that was chosen, and from then on.
///
/// *Closed* means that both ends hear an end of stream (FIN), as from a process that has ended;
/// who goes on sending is answered with a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// All connections are closed; the frame does not arrive.
    Cut,
    /// The frame arrives, then all connections are closed.
    CutAfter,
    /// All connections are reset (RST), with nothing said before it; the frame does not arrive.
    Reset,
    /// Nothing is forwarded any more, in no direction, and nothing is closed; the frame does not
    /// arrive.
    Stall,
    /// As `Stall`, but the frame itself still arrives.
    StallAfter,
    /// As `Stall`, but only of what this side sends (`None`: both) on this link (`None`: all).
    StallOnly(Option<Side>, Option<Link>),
    /// The frame waits, and with it what follows in its direction of its connection, until the
    /// test says what becomes of it ([`Relay::release`](super::Relay::release),
    /// [`Relay::drop_held`](super::Relay::drop_held)). All else goes on.
    Hold,
    /// As `Hold`, when the first half of the frame's bytes has arrived.
    HoldHalf,
    /// As `Hold`, but the frame itself still arrives.
    HoldAfter,
    /// The frame, and what follows in its direction of its connection, arrives this much later
    /// than it was sent.
    Delay(Duration),
    /// From this frame on, what is sent in its direction of its connection arrives byte by byte,
    /// so many bytes long ([`TRICKLED`]).
    Trickle,
    /// Only the first so many bytes of the frame arrive, then its connection is closed.
    Truncate(usize),
    /// These bytes arrive before the frame: a stranger's, or those of another migration
    /// ([`Relay::recorded`](super::Relay::recorded)).
    Insert(Vec<u8>),
    /// A bit of this byte of the frame is flipped.
    Corrupt(usize),
    /// These bytes of the frame are replaced, from this place on.
    Replace(usize, &'static [u8]),
    /// The frame arrives twice.
    Repeat,
    /// The frame does not arrive; later ones do.
    Lose,
    /// Of a package: the state of the section of this number, from 0, becomes nonsense, behind
    /// checksums that fit ([`Relay::spoiled`](super::Relay::spoiled)).
    Spoil(usize),
    /// Nothing: the test only wants to know when the frame passes
    /// ([`Relay::wait_fired`](super::Relay::wait_fired)).
    Note,
}

/// Bytes that [`Fault::Trickle`] sends one by one: one or some hundred milliseconds, as busy as
/// the machine is.
pub const TRICKLED: usize = 64 << 10;

impl Fault {
    /// What became of the frame, for the frame log.
    pub(super) fn fate(&self) -> String {
        match self {
            Fault::Cut => "cut".to_owned(),
            Fault::CutAfter => "arrived, then all was cut".to_owned(),
            Fault::Reset => "reset".to_owned(),
            Fault::Stall | Fault::StallOnly(..) => "stalled".to_owned(),
            Fault::StallAfter => "arrived, then all stalled".to_owned(),
            Fault::Hold => "held".to_owned(),
            Fault::HoldHalf => "held, half of it".to_owned(),
            Fault::HoldAfter => "arrived, what follows held".to_owned(),
            Fault::Delay(by) => format!("late by {} ms, with what follows", by.as_millis()),
            Fault::Trickle => "trickled".to_owned(),
            Fault::Truncate(bytes) => format!("cut behind {bytes} bytes"),
            Fault::Insert(bytes) => format!("behind {} inserted bytes", bytes.len()),
            Fault::Corrupt(at) => format!("a bit of byte {at} flipped"),
            Fault::Replace(at, with) => format!("{} bytes from byte {at} on replaced", with.len()),
            Fault::Repeat => "arrived twice".to_owned(),
            Fault::Lose => "lost".to_owned(),
            Fault::Spoil(section) => format!("section {section} spoiled"),
            Fault::Note => "noted".to_owned(),
        }
    }
}

/// Which frame, and what happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The frame.
    pub at: Spot,
    /// What happens.
    pub fault: Fault,
}
