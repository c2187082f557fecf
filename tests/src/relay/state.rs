//! What the relay's threads and the test share: the plan, what is stalled or held, the
//! connections, the log.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use super::log::{Log, Place};
use super::package::Spoiled;
use super::plan::{Fault, Plan};
use super::unit::{Lane, Link, Side, Spot, Unit};

#[derive(Debug)]
pub(super) struct Shared {
    pub target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub plan: Option<Plan>,
    /// The plan's frame has come.
    taken: bool,
    /// When the plan had been carried out.
    pub fired: Option<SystemTime>,
    /// The first connection that the plan is for.
    from: u64,
    pub spoiled: Option<Spoiled>,
    /// Connections so far.
    pub accepted: u64,
    pub stalled: Stalled,
    held: Vec<(u64, Side)>,
    /// How often the test has said what becomes of what is held, and what it said last.
    words: u64,
    word: Word,
    pub refusing: bool,
    pub ending: bool,
    connections: Vec<Connection>,
    /// Which bulk link a connection is, by the connection's number.
    bulk_links: HashMap<u64, u8>,
    pub log: Log,
}

/// What is not forwarded: what this side sends on this link, or on this bulk link of several.
#[derive(Clone, Debug, Default)]
pub(super) struct Stalled {
    links: HashSet<(Side, Link)>,
    bulk: HashSet<(Side, u8)>,
}

/// What becomes of what was held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Word {
    #[default]
    Release,
    Drop,
}

/// How the relay ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Cut,
    Reset,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub number: u64,
    pub link: Arc<OnceLock<Link>>,
    /// The source's end and the destination's.
    ends: [Arc<TcpStream>; 2],
    /// Directions that have not ended.
    directions: u8,
}

impl Connection {
    fn end(&self, how: Ending) {
        for end in &self.ends {
            match how {
                // A peer that has gone already is what is wanted.
                Ending::Cut => drop(end.shutdown(Shutdown::Both)),
                // Unlike a lingering close, it needs no last owner: it ends what others wait for,
                // and sends the reset now.
                Ending::Reset => {
                    rustix::net::connect_unspec(end)
                        .expect("Linux 6.6 and later disconnect a socket that is being read");
                }
            }
        }
    }
}

/// The error of what cannot go on because its connection has ended.
pub(super) fn gone() -> io::Error {
    ErrorKind::ConnectionAborted.into()
}

impl Shared {
    pub(super) fn new(target: SocketAddr, plan: Option<Plan>) -> Self {
        Shared { target, state: Mutex::new(State { plan, ..State::default() }), changed: Condvar::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something that a thread may be waiting for.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Notes a frame that has come; returns what it is to suffer, and its entry in the log.
    pub(super) fn arrive(&self, unit: &Unit, place: Place) -> Option<(Fault, usize)> {
        let state = &mut *self.lock();
        let fault = state.take(unit, place);
        if let (Spot::BulkPreamble, Some(number)) = (unit.spot, unit.bulk_link()) {
            state.bulk_links.insert(place.connection, number);
        }
        let stalled = || state.is_stalled(place).then(|| "stalled".to_owned());
        let fate = fault.as_ref().map(Fault::fate).or_else(stalled);
        let entry = state.log.frame(unit.spot, &unit.bytes, place, fate);
        fault.map(|fault| (fault, entry))
    }

    /// Waits while what comes from this place is stalled; an error when its connection has ended.
    pub(super) fn pass(&self, place: Place) -> io::Result<()> {
        let mut state = self.lock();
        while state.is_stalled(place) && state.carries(place.connection) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.carries(place.connection).then_some(()).ok_or_else(gone)
    }

    /// Holds a frame, which carries the plan out, until the test says what becomes of it; an error
    /// when its connection has ended.
    pub(super) fn hold(&self, place: Place, entry: usize) -> io::Result<Word> {
        let mut state = self.lock();
        let (words, held) = (state.words, (place.connection, place.side));
        state.held.push(held);
        state.fire();
        while state.words == words && state.carries(place.connection) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.held.retain(|other| *other != held);
        let word = state.carries(place.connection).then_some(state.word);
        let fate = match word {
            Some(Word::Release) if state.is_stalled(place) => "stalled",
            Some(Word::Release) => "released",
            Some(Word::Drop) => "dropped",
            None => "cut",
        };
        state.log.add_fate(entry, fate);
        word.ok_or_else(gone)
    }

    /// Waits until a moment; an error when the connection ends before.
    pub(super) fn wait_due(&self, due: Instant, connection: u64) -> io::Result<()> {
        let mut state = self.lock();
        while state.carries(connection) {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Err(gone())
    }

    /// Ends the connections that are wanted, and tells how many.
    pub(super) fn end(&self, how: Ending, wanted: impl Fn(&Connection) -> bool) -> usize {
        self.change(|state| state.end(how, wanted))
    }

    /// Ends all connections.
    pub(super) fn end_all(&self, how: Ending) {
        self.end(how, |_| true);
    }

    /// Stalls what this side sends (`None`: both) on this link (`None`: all).
    pub(super) fn stall(&self, side: Option<Side>, link: Option<Link>) {
        let sides = side.map_or(vec![Side::Source, Side::Destination], |side| vec![side]);
        let links = link.map_or(Link::ALL.to_vec(), |link| vec![link]);
        let places = sides.iter().flat_map(|side| links.iter().map(|link| (*side, *link)));
        self.lock().stalled.links.extend(places);
    }

    /// Stalls what this side sends on one link.
    pub(super) fn stall_lane(&self, side: Side, lane: Lane) {
        let mut state = self.lock();
        match lane {
            Lane::Control => drop(state.stalled.links.insert((side, Link::Control))),
            Lane::Urgent => drop(state.stalled.links.insert((side, Link::Urgent))),
            Lane::Bulk(number) => drop(state.stalled.bulk.insert((side, number))),
        }
    }
}

impl State {
    pub(super) fn begin(&mut self, plan: Plan, from: u64) {
        (self.plan, self.taken, self.fired, self.from) = (Some(plan), false, None, from);
    }

    /// The plan has been carried out.
    pub(super) fn fire(&mut self) {
        self.fired = Some(SystemTime::now());
    }

    pub(super) fn heal(&mut self) {
        self.stalled = Stalled::default();
    }

    fn is_stalled(&self, place: Place) -> bool {
        let Place { connection, side, link } = place;
        let bulk_link = self.bulk_links.get(&connection);
        self.stalled.links.contains(&(side, link))
            || bulk_link.is_some_and(|number| self.stalled.bulk.contains(&(side, *number)))
    }

    pub(super) fn say(&mut self, word: Word) {
        (self.word, self.words) = (word, self.words + 1);
    }

    /// The fault that the plan has for this frame; the next such frame passes.
    fn take(&mut self, unit: &Unit, place: Place) -> Option<Fault> {
        let due = !self.taken && place.connection >= self.from;
        let plan = self.plan.as_ref().filter(|plan| due && plan.at == unit.spot)?;
        self.taken = true;
        Some(plan.fault.clone())
    }

    /// Whether a connection that is this link is open.
    pub(super) fn is_open(&self, link: Link) -> bool {
        self.connections.iter().any(|connection| connection.link.get() == Some(&link))
    }

    fn carries(&self, connection: u64) -> bool {
        self.connections.iter().any(|other| other.number == connection)
    }

    /// Whether a direction waits for a word of the test's.
    pub(super) fn holds_back(&self, place: Place) -> bool {
        let waits = self.is_stalled(place) || self.held.contains(&(place.connection, place.side));
        waits && self.carries(place.connection)
    }

    /// Takes a connection in and returns its number, unless the relay is ending.
    pub(super) fn open(&mut self, link: Arc<OnceLock<Link>>, ends: [Arc<TcpStream>; 2]) -> Option<u64> {
        if self.ending {
            return None;
        }
        let number = self.accepted;
        self.accepted += 1;
        let place = Place { connection: number, side: Side::Source, link: Link::Foreign };
        self.log.event("opened", 0, place, None);
        self.connections.push(Connection { number, link, ends, directions: 2 });
        Some(number)
    }

    /// A side has ended its direction of a connection; nothing when the relay has done so.
    pub(super) fn ended(&mut self, name: &str, place: Place) {
        if self.carries(place.connection) {
            self.log.event(name, 0, place, None);
        }
    }

    /// Nothing comes in a direction of a connection any more.
    pub(super) fn leave(&mut self, connection: u64) {
        let Some(at) = self.connections.iter().position(|other| other.number == connection) else { return };
        self.connections[at].directions -= 1;
        if self.connections[at].directions == 0 {
            self.connections.swap_remove(at);
        }
    }

    pub(super) fn end(&mut self, how: Ending, wanted: impl Fn(&Connection) -> bool) -> usize {
        let ended: Vec<_> = self.connections.extract_if(.., |connection| wanted(connection)).collect();
        for connection in &ended {
            connection.end(how);
            let link = connection.link.get().copied().unwrap_or(Link::Foreign);
            let place = Place { connection: connection.number, side: Side::Source, link };
            let fate = if how == Ending::Cut { "cut" } else { "reset" };
            self.log.event("closed", 0, place, Some(fate.to_owned()));
        }
        ended.len()
    }
}
