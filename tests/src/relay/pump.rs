//! The relay's threads: one accepts, and two for each connection forwards, frame by frame.

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use super::unit::{Reader, Side};
use super::{Connection, Shared};

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
        for (from, to, side) in [(clone(&near), clone(&far), Side::Source), (far, near, Side::Destination)] {
            let (shared, link) = (shared.clone(), Arc::clone(&link));
            pumps.push(std::thread::spawn(move || pump(&mut Reader::new(from, side, link), to, (&shared, number))));
        }
    }
    for pump in pumps {
        // A pump that panicked has said so.
        let _ = pump.join();
    }
}

fn pump(from: &mut Reader, mut to: TcpStream, (shared, number): (&Shared, u64)) {
    let side = from.side();
    while let Ok(Some(unit)) = from.next() {
        let Some((bytes, behind)) = shared.judge(unit, side, number) else { break };
        if to.write_all(&bytes).is_err() {
            // A connection that is gone at one end is reset at the other.
            from.close();
            break;
        }
        if let Some(fault) = behind {
            shared.after(fault);
        }
    }
    // An end is forwarded as an end, once everything before it was.
    let (_state, goes_on) = shared.pass(shared.lock(), side);
    if goes_on {
        let _ = to.shutdown(Shutdown::Write);
    }
}
