//! The relay's threads: one accepts, and two for each connection forward, frame by frame.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::direction::Direction;
use super::log::Place;
use super::state::Shared;
use super::unit::{Link, Reader, Side};

/// Longest that the end of a connection waits for what was sent before it and is not held back.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Longest that the target may take to let a connection in.
const CONNECT: Duration = Duration::from_secs(5);
/// Between two looks at what is still on its way.
const POLL: Duration = Duration::from_millis(1);

/// Accepts until the relay ends, then waits for the pumps.
pub(super) fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    while let Ok((near, _)) = listener.accept() {
        let (ending, refusing) = {
            let state = shared.lock();
            (state.ending, state.refusing)
        };
        if ending {
            break;
        }
        if refusing {
            continue;
        }
        let Ok(far) = TcpStream::connect_timeout(&shared.target, CONNECT) else { continue };
        // Small messages must not wait for one another: the relay is not the subject of the test.
        let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
        pumps.retain(|pump| !pump.is_finished());
        pumps.extend(open(shared, [Arc::new(near), Arc::new(far)]).into_iter().flatten());
    }
    for pump in pumps {
        // A pump that panicked has said so.
        let _ = pump.join();
    }
}

/// Takes a connection in and starts its pumps, unless the relay is ending.
fn open(shared: &Arc<Shared>, ends: [Arc<TcpStream>; 2]) -> Option<[JoinHandle<()>; 2]> {
    let link = Arc::default();
    let number = shared.lock().open(Arc::clone(&link), ends.clone())?;
    let [near, far] = ends;
    let in_hand = [Arc::<AtomicUsize>::default(), Arc::default()];
    let other_way = [in_hand[1].clone(), in_hand[0].clone()];
    Some([(&near, &far, Side::Source), (&far, &near, Side::Destination)].map(|(from, to, side)| {
        let reader = Reader::new(from.clone(), side, Arc::clone(&link));
        let direction = Direction::new(shared.clone(), to.clone(), in_hand[side as usize].clone());
        let (shared, theirs) = (shared.clone(), other_way[side as usize].clone());
        std::thread::spawn(move || {
            pump(reader, direction, &shared, (number, &theirs));
            shared.lock().leave(number);
        })
    }))
}

/// `theirs` counts what the other side has sent on this connection and is still on its way.
fn pump(mut from: Reader, mut to: Direction, shared: &Shared, (number, theirs): (u64, &AtomicUsize)) {
    let side = from.side();
    let place = |link: Option<Link>, side| Place { connection: number, side, link: link.unwrap_or(Link::Foreign) };
    let end = loop {
        let unit = match from.next() {
            Ok(Some(unit)) => unit,
            Ok(None) => break "end",
            Err(_) => break "broken",
        };
        if to.take(unit, place(from.link(), side)).is_err() {
            // A connection that is gone at one end is reset at the other, behind what that end had
            // sent before.
            let mut until = Instant::now() + LAST_WORDS;
            let back = place(from.link(), side.other());
            while theirs.load(SeqCst) > 0 && Instant::now() < until {
                // What is released has yet to be written.
                if shared.lock().holds_back(back) {
                    until = Instant::now() + LAST_WORDS;
                }
                std::thread::sleep(POLL);
            }
            from.close();
            return;
        }
    };
    let place = place(from.link(), side);
    shared.lock().ended(end, place);
    to.finish(place);
}
