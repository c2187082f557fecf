//! Links over real sockets: deadlines of what must move, and what may wait.

use super::*;
use crate::Unconfirmed;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;

const PATIENCE: Duration = Duration::from_millis(200);

fn tcp() -> (Link, Link) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    (Link::new(near.into()).unwrap(), Link::new(far.into()).unwrap())
}

fn unix() -> (Link, Link) {
    let (near, far) = UnixStream::pair().unwrap();
    (Link::new(near.into()).unwrap(), Link::new(far.into()).unwrap())
}

fn limit(patience: Duration) -> impl Fn(Duration) -> io::Result<()> {
    move |quiet| if quiet >= patience { Err(silent(patience)) } else { Ok(()) }
}

/// What ends a flood of bytes at a peer that does not read.
fn flood(link: &Link) -> io::Error {
    let bytes = vec![0; 1 << 20];
    loop {
        if let Err(error) = link.write_all_while_open(&mut Outgoing::new(&bytes), limit(PATIENCE)) {
            return error;
        }
    }
}

#[test]
fn a_peer_that_takes_nothing_ends_a_write_on_either_family() {
    for (near, far) in [tcp(), unix()] {
        near.set_patience(PATIENCE).unwrap();
        let error = flood(&near);
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("for 200 ms"), "{error}");
        assert!(near.unconfirmed() > 0 || far.is_readable(), "the bytes wait at one of the ends");
    }
}

#[test]
fn a_frame_that_has_begun_must_go_on_and_one_that_has_not_may_wait() {
    for (near, far) in [tcp(), unix()] {
        far.set_patience(PATIENCE).unwrap();
        let mut looks = 0;
        let error = far.read_next(&mut [0; 8], || {
            looks += 1;
            // Many times the patience, and no byte yet.
            if looks == 20 {
                near.write_all(b"half").unwrap();
            }
            Ok(())
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!((looks, far.received()), (20, 4));
    }
}

#[test]
fn a_slow_link_that_moves_is_not_lost() {
    let (near, far) = unix();
    far.set_patience(PATIENCE).unwrap();
    // Each byte comes long before the patience ends, and all of them together take many times
    // as long.
    let writer = std::thread::spawn(move || {
        for _ in 0..40 {
            std::thread::park_timeout(Duration::from_millis(20));
            near.write_all(&[1]).unwrap();
        }
        near
    });
    let began = Instant::now();
    let mut bytes = [0; 40];
    far.read_exact(&mut bytes).unwrap();
    assert!(began.elapsed() > PATIENCE * 2, "{:?}", began.elapsed());
    assert_eq!(far.received(), 40);
    drop(writer.join().unwrap());
}

#[test]
fn a_message_that_trickles_has_one_deadline() {
    let (near, far) = unix();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) && near.write_all(&[1]).is_ok() {
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        // A byte is always there soon, and the message never is.
        let mut allowance = Allowance::of(Duration::from_millis(100));
        let error = far.read_within(&mut vec![0; 1 << 20], &mut allowance).unwrap_err();
        done.store(true, SeqCst);
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    });
}

#[test]
fn what_the_peer_has_not_taken_is_seen_to_stand_still() {
    let (near, far) = unix();
    let mut unconfirmed = Unconfirmed::default();
    assert_eq!(unconfirmed.look(&near, PATIENCE), Duration::ZERO, "nothing is under way");
    near.write_all(&[0; 4096]).unwrap();
    assert_eq!(unconfirmed.look(&near, PATIENCE), Duration::ZERO, "it has just changed");
    assert_eq!(unconfirmed.look(&near, PATIENCE), PATIENCE);
    far.read_exact(&mut [0; 4096]).unwrap();
    assert_eq!(unconfirmed.look(&near, PATIENCE), Duration::ZERO);
}

#[test]
fn what_does_not_go_at_once_is_counted() {
    let (near, far) = unix();
    let bytes = vec![7; 4 << 20];
    let mut allowance = Allowance::of(Duration::from_millis(1));
    let sent = near.write_within(&mut [IoSlice::new(&bytes[..100]), IoSlice::new(&bytes)], &mut allowance).unwrap();
    assert!((100..bytes.len()).contains(&sent), "{sent}");
    let mut read = vec![0; sent];
    far.read_exact(&mut read).unwrap();
    assert!(read.iter().all(|byte| *byte == 7));
    assert_eq!((near.received(), far.received()), (0, sent as u64));
}
