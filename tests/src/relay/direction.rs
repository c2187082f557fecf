//! One direction of a connection behind its reader: what comes is forwarded, and the frame that
//! was chosen suffers.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::log::Place;
use super::package;
use super::plan::{Fault, TRICKLED};
use super::state::{Connection, Ending, Shared, Stalled, Word, gone};
use super::unit::Unit;

/// Forwards what one side sends on one connection.
pub(super) struct Direction {
    shared: Arc<Shared>,
    to: Arc<TcpStream>,
    /// How many frames have been read and not been forwarded yet.
    in_hand: Arc<AtomicUsize>,
    /// How many bytes are still to go one by one.
    trickle: usize,
    late: Option<Late>,
}

impl Direction {
    pub(super) fn new(shared: Arc<Shared>, to: Arc<TcpStream>, in_hand: Arc<AtomicUsize>) -> Self {
        Direction { shared, to, in_hand, trickle: 0, late: None }
    }

    /// Forwards a frame, or lets it suffer what was planned. Blocks while it is stalled or held.
    ///
    /// # Errors
    /// The connection has ended.
    pub(super) fn take(&mut self, unit: Unit, place: Place) -> io::Result<()> {
        self.in_hand.fetch_add(1, SeqCst);
        let taken = match self.shared.arrive(&unit, place) {
            None => self.forward(unit.bytes, place),
            Some((fault, entry)) => self.suffer(fault, unit.bytes, place, entry),
        };
        self.in_hand.fetch_sub(1, SeqCst);
        taken
    }

    /// An end is forwarded as an end, once everything before it was.
    pub(super) fn finish(self, place: Place) {
        if self.shared.pass(place).is_err() {
            return;
        }
        // What is late comes before the end.
        drop(self.late);
        let _ = self.to.shutdown(Shutdown::Write);
    }

    fn suffer(&mut self, fault: Fault, mut bytes: Vec<u8>, place: Place, entry: usize) -> io::Result<()> {
        let this = |connection: &Connection| connection.number == place.connection;
        match fault {
            Fault::Hold => return self.hold(bytes, place, entry),
            Fault::HoldHalf => {
                let rest = bytes.split_off(bytes.len() / 2);
                self.forward(bytes, place)?;
                return self.hold(rest, place, entry);
            }
            Fault::HoldAfter => {
                self.forward(bytes, place)?;
                return self.hold(vec![], place, entry);
            }
            Fault::CutAfter => return self.cut_behind(bytes, place, |_| true),
            Fault::StallAfter => return self.stall_behind(bytes, place).map(drop),
            Fault::Truncate(len) => {
                bytes.truncate(len);
                return self.cut_behind(bytes, place, this);
            }
            Fault::Cut => self.shared.end_all(Ending::Cut),
            Fault::Reset => self.shared.end_all(Ending::Reset),
            Fault::Stall => self.shared.stall(None, None),
            Fault::StallOnly(side, link) => self.shared.stall(side, link),
            Fault::Delay(by) => self.late = Some(Late::new(self, by, place)),
            Fault::Trickle => self.trickle = TRICKLED,
            Fault::Insert(before) => drop(bytes.splice(..0, before)),
            Fault::Corrupt(at) => bytes[at] ^= 1,
            Fault::Replace(at, with) => bytes[at..at + with.len()].copy_from_slice(with),
            Fault::Spoil(section) => self.shared.lock().spoiled = package::spoil(&mut bytes, section),
            Fault::Repeat => bytes.extend_from_within(..),
            Fault::Lose => bytes.clear(),
            Fault::Note => {}
        }
        self.shared.lock().fire();
        self.forward(bytes, place)
    }

    /// Forwards a frame when the test lets it go.
    fn hold(&mut self, bytes: Vec<u8>, place: Place, entry: usize) -> io::Result<()> {
        match self.shared.hold(place, entry)? {
            Word::Release => self.forward(bytes, place),
            Word::Drop => Ok(()),
        }
    }

    /// Forwards a frame and then ends connections.
    fn cut_behind(&mut self, bytes: Vec<u8>, place: Place, which: impl Fn(&Connection) -> bool) -> io::Result<()> {
        let before = self.stall_behind(bytes, place)?;
        self.shared.end(Ending::Cut, which);
        self.shared.change(|state| state.stalled = before);
        Ok(())
    }

    /// Forwards a frame, and nothing else from before it on: an answer could be quicker than what
    /// comes behind the frame. Returns what was stalled before.
    fn stall_behind(&mut self, bytes: Vec<u8>, place: Place) -> io::Result<Stalled> {
        self.shared.pass(place)?;
        let before = self.shared.lock().stalled.clone();
        self.shared.stall(None, None);
        let written = self.write(bytes);
        self.shared.lock().fire();
        written.map(|()| before)
    }

    fn forward(&mut self, bytes: Vec<u8>, place: Place) -> io::Result<()> {
        self.shared.pass(place)?;
        self.write(bytes)
    }

    fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        if let Some(late) = &self.late {
            return late.send(bytes, &self.in_hand);
        }
        let (single, rest) = bytes.split_at(self.trickle.min(bytes.len()));
        self.trickle -= single.len();
        for byte in single.chunks(1) {
            (&*self.to).write_all(byte)?;
        }
        (&*self.to).write_all(rest)
    }
}

/// Writes what it is given a while later, in a thread of its own, so that what follows is late by
/// as much and no more.
struct Late {
    by: Duration,
    queue: Option<Sender<(Instant, Vec<u8>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Late {
    fn new(direction: &Direction, by: Duration, place: Place) -> Self {
        let (queue, late) = mpsc::channel::<(Instant, Vec<u8>)>();
        let (shared, to, in_hand) = (direction.shared.clone(), direction.to.clone(), direction.in_hand.clone());
        let thread = std::thread::spawn(move || {
            for (due, bytes) in late {
                let written = shared.wait_due(due, place.connection).and_then(|()| (&*to).write_all(&bytes));
                in_hand.fetch_sub(1, SeqCst);
                if written.is_err() {
                    break;
                }
            }
        });
        Late { by, queue: Some(queue), thread: Some(thread) }
    }

    fn send(&self, bytes: Vec<u8>, in_hand: &AtomicUsize) -> io::Result<()> {
        let queue = self.queue.as_ref().expect("it is there until the end");
        in_hand.fetch_add(1, SeqCst);
        queue.send((Instant::now() + self.by, bytes)).map_err(|_| gone())
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing that could fail.
            let _ = thread.join();
        }
    }
}
