//! The relay's threads: one accepts, and two for each connection forwards, frame by frame.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::unit::{Reader, Side};
use super::{Connection, Shared};

/// Longest that the end of a connection waits for what was sent before it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Accepts until the relay ends, then waits for the pumps.
pub fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut pumps = Vec::new();
    while let Ok((near, _)) = listener.accept() {
        if shared.lock().ending {
            break;
        }
        if shared.lock().refusing {
            continue;
        }
        let Ok(far) = TcpStream::connect(shared.target) else { continue };
        let clone = |stream: &TcpStream| stream.try_clone().expect("the test has descriptors left");
        // Small messages must not wait for one another: the relay is not the subject of the test.
        let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
        let link = Arc::default();
        let connection = Connection { link: Arc::clone(&link), ends: [clone(&near), clone(&far)] };
        let number = {
            let mut state = shared.lock();
            state.connections.push(connection);
            state.accepted += 1;
            state.accepted - 1
        };
        let in_hand = Arc::<[AtomicBool; 2]>::default();
        for (from, to, side) in [(clone(&near), clone(&far), Side::Source), (far, near, Side::Destination)] {
            let (shared, link, in_hand) = (shared.clone(), Arc::clone(&link), in_hand.clone());
            pumps.push(std::thread::spawn(move || {
                pump(&mut Reader::new(from, side, link), to, (&shared, number, &in_hand));
            }));
        }
    }
    for pump in pumps {
        // A pump that panicked has said so.
        let _ = pump.join();
    }
}

/// `in_hand` tells of each side whether something that it sent has been read and not been forwarded yet.
fn pump(from: &mut Reader, mut to: TcpStream, (shared, number, in_hand): (&Shared, u64, &[AtomicBool; 2])) {
    let side = from.side();
    let [ours, theirs] = if side == Side::Source { [0, 1] } else { [1, 0] };
    while let Ok(Some(unit)) = from.next() {
        in_hand[ours].store(true, SeqCst);
        let Some((bytes, behind)) = shared.judge(unit, side, number) else { break };
        let written = to.write_all(&bytes);
        in_hand[ours].store(false, SeqCst);
        if written.is_err() {
            // A connection that is gone at one end is reset at the other, behind what that end had sent before.
            let until = Instant::now() + LAST_WORDS;
            while in_hand[theirs].load(SeqCst) && Instant::now() < until {
                std::thread::yield_now();
            }
            from.close();
            break;
        }
        if let Some(fault) = behind {
            shared.after(fault);
        }
    }
    in_hand[ours].store(false, SeqCst);
    // An end is forwarded as an end, once everything before it was.
    let (_state, goes_on) = shared.pass(shared.lock(), side);
    if goes_on {
        let _ = to.shutdown(Shutdown::Write);
    }
}
