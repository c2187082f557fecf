//! Frames that are held until the test says what becomes of them.

use super::*;
use crate::wait::wait_until;

/// The control link's bytes have been sent, and its permit suffers this.
fn held(fault: Fault) -> (TcpStream, TcpStream, Relay) {
    let (mut near, far, relay) = through(Some(Plan { at: Spot::Message("Permit"), fault }));
    near.write_all(&control_link()).unwrap();
    relay.wait_fired();
    (near, far, relay)
}

/// What follows the permit.
fn heartbeat() -> Vec<u8> {
    control::encode(&ToDestination::Heartbeat, &[], 7, 2).unwrap()
}

fn fate_of_the_permit(relay: &Relay) -> Option<String> {
    relay.frames().into_iter().find(|frame| frame.name == "Permit").unwrap().fate
}

#[test]
fn a_held_frame_and_what_follows_it_pass_when_it_is_released() {
    let (mut near, mut far, relay) = held(Fault::Hold);
    near.write_all(&heartbeat()).unwrap();
    arrives(&mut far, &control_link()[..permit()]);
    let answer = control::encode(&ferry_migration::ToSource::Heartbeat, &[], 7, 0).unwrap();
    far.write_all(&answer).unwrap();
    arrives(&mut near, &answer);
    assert_eq!(fate_of_the_permit(&relay).as_deref(), Some("held"));
    relay.release();
    arrives(&mut far, &[&control_link()[permit()..], &heartbeat()].concat());
    assert_eq!(fate_of_the_permit(&relay).as_deref(), Some("held, then released"));
}

#[test]
fn other_connections_go_on_while_a_frame_is_held() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plan = Plan { at: Spot::Message("Permit"), fault: Fault::Hold };
    let relay = Relay::new(&format!("tcp:{}", listener.local_addr().unwrap()), Some(plan));
    let (mut near, mut far) = speaking(&relay, &listener, &control_link()[..permit()]);
    near.write_all(&control_link()[permit()..]).unwrap();
    relay.wait_fired();
    let _bulk = speaking(&relay, &listener, &bulk_link());
    relay.cut_link(crate::relay::Link::Bulk);
    arrives(&mut far, &[]);
    relay.release();
    arrives(&mut far, &control_link()[permit()..]);
}

#[test]
fn a_held_frame_can_be_dropped_and_what_follows_passes() {
    let (mut near, mut far, relay) = held(Fault::Hold);
    near.write_all(&heartbeat()).unwrap();
    relay.drop_held();
    arrives(&mut far, &[&control_link()[..permit()], &heartbeat()].concat());
    assert_eq!(fate_of_the_permit(&relay).as_deref(), Some("held, then dropped"));
}

#[test]
fn half_of_a_frame_can_be_there() {
    let half = permit() + (control::HEADER_LEN + 2) / 2;
    for drops in [false, true] {
        let (mut near, mut far, relay) = held(Fault::HoldHalf);
        near.write_all(&heartbeat()).unwrap();
        arrives(&mut far, &control_link()[..half]);
        match drops {
            true => {
                relay.drop_held();
                arrives(&mut far, &heartbeat());
            }
            false => {
                relay.release();
                arrives(&mut far, &[&control_link()[half..], &heartbeat()].concat());
            }
        }
    }
}

#[test]
fn what_follows_a_frame_can_be_held_alone() {
    let (mut near, mut far, relay) = held(Fault::HoldAfter);
    near.write_all(&heartbeat()).unwrap();
    arrives(&mut far, &control_link());
    relay.release();
    arrives(&mut far, &heartbeat());
}

#[test]
fn a_held_frame_arrives_though_its_sender_has_died() {
    let (near, mut far, relay) = held(Fault::Hold);
    drop(near);
    // The receiver goes on talking to a sender that is gone.
    for sequence in 0..3 {
        let heartbeat = control::encode(&ferry_migration::ToSource::Heartbeat, &[], 7, sequence).unwrap();
        far.write_all(&heartbeat).unwrap();
    }
    let mut arrived = vec![0; permit()];
    far.read_exact(&mut arrived).unwrap();
    // Longer than an end waits for last words that nobody holds.
    far.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    assert_eq!(far.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "the end comes behind what is held");
    relay.release();
    far.read_to_end(&mut arrived).unwrap();
    assert_eq!(arrived, control_link());
}

#[test]
fn a_relay_ends_while_it_holds_a_frame() {
    for fault in [Fault::Hold, Fault::HoldHalf, Fault::HoldAfter, Fault::Stall, Fault::Delay(2 * SOON)] {
        let (_near, mut far, relay) = held(fault);
        let shared = std::sync::Arc::downgrade(&relay.shared);
        let begun = std::time::Instant::now();
        drop(relay);
        assert!(begun.elapsed() < SOON, "it waits for nothing");
        // Whoever uses a descriptor of the relay's is one of its threads, and owns a part of this.
        assert!(shared.upgrade().is_none(), "no thread is left");
        let _ = far.read_to_end(&mut vec![]).unwrap();
    }
}

#[test]
fn a_cut_ends_what_is_held() {
    let (_near, mut far, relay) = held(Fault::Hold);
    relay.cut_all();
    let mut arrived = vec![];
    far.read_to_end(&mut arrived).unwrap();
    assert_eq!(arrived, control_link()[..permit()]);
    wait_until("the frame to be given up", SOON, || {
        (fate_of_the_permit(&relay).as_deref() == Some("held, then cut")).then_some(())
    });
}
