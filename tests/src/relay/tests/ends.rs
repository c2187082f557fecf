//! Connections that the relay ends or stalls: which, and how.

use super::*;
use crate::relay::Link;

#[test]
fn one_direction_can_be_stalled_alone() {
    let (mut near, mut far, relay) = through(None);
    relay.stall_from(Side::Destination);
    near.write_all(&urgent_link()).unwrap();
    arrives(&mut far, &urgent_link());
    far.write_all(&request::encode(5, 7)).unwrap();
    arrives(&mut near, &[]);
    relay.heal();
    arrives(&mut near, &request::encode(5, 7));
}

#[test]
fn one_link_can_be_stalled_alone_by_hand_or_by_plan() {
    for by_plan in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::new(&format!("tcp:{}", listener.local_addr().unwrap()), None);
        let (mut bulk, mut urgent) =
            (speaking(&relay, &listener, &bulk_link()), speaking(&relay, &listener, &urgent_link()));
        let marker = bulk::encode(&Frame::Marker(2), 7, 2);
        match by_plan {
            false => relay.stall(Some(Side::Source), Some(Link::Bulk)),
            true => relay.set_plan(Spot::Marker, Fault::StallOnly(Some(Side::Source), Some(Link::Bulk))),
        }
        bulk.0.write_all(&marker).unwrap();
        arrives(&mut bulk.1, &[]);
        bulk.1.write_all(b"the other way").unwrap();
        arrives(&mut bulk.0, b"the other way");
        urgent.1.write_all(&request::encode(5, 7)).unwrap();
        arrives(&mut urgent.0, &request::encode(5, 7));
        relay.heal();
        arrives(&mut bulk.1, &marker);
    }
}

#[test]
fn one_link_can_be_cut_and_the_relay_takes_new_ones() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::new(&format!("tcp:{}", listener.local_addr().unwrap()), None);
    let (mut bulk, mut urgent) =
        (speaking(&relay, &listener, &bulk_link()), speaking(&relay, &listener, &urgent_link()));
    relay.cut_link(Link::Bulk);
    for mut end in [bulk.0, bulk.1] {
        assert_eq!(end.read(&mut [0; 1]).unwrap(), 0, "this one has ended, as if it was closed");
    }
    urgent.1.write_all(&request::encode(5, 7)).unwrap();
    arrives(&mut urgent.0, &request::encode(5, 7));
    relay.cut_all();
    assert_eq!(urgent.0.read(&mut [0; 1]).unwrap(), 0, "and now the other");
    relay.set_plan(Spot::BulkPreamble, Fault::Note);
    bulk = speaking(&relay, &listener, &bulk_link());
    relay.wait_fired();
    relay.refuse(true);
    let mut refused = TcpStream::connect(relay.uri().strip_prefix("tcp:").unwrap()).unwrap();
    assert_eq!(refused.read(&mut [0; 1]).unwrap_or(0), 0, "closed at once");
    drop(bulk);
}

#[test]
fn a_reset_is_no_end_of_stream() {
    let is_reset = |end: &mut TcpStream| {
        assert_eq!(end.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::new(&format!("tcp:{}", listener.local_addr().unwrap()), None);
    let [mut bulk, mut urgent, mut control] =
        [bulk_link(), urgent_link(), control_link()].map(|bytes| speaking(&relay, &listener, &bytes));
    relay.reset_link(Link::Bulk);
    is_reset(&mut bulk.0);
    is_reset(&mut bulk.1);
    urgent.1.write_all(&request::encode(5, 7)).unwrap();
    arrives(&mut urgent.0, &request::encode(5, 7));
    relay.set_plan(Spot::Message("Permit"), Fault::Reset);
    control.0.write_all(&control_link()[permit()..]).unwrap();
    for mut end in [control.0, control.1, urgent.0, urgent.1] {
        is_reset(&mut end);
    }
    relay.wait_fired();
    let mut again = speaking(&relay, &listener, &bulk_link());
    relay.reset_all();
    is_reset(&mut again.0);
    is_reset(&mut again.1);
}

#[test]
fn a_truncated_frame_ends_its_own_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::new(&format!("tcp:{}", listener.local_addr().unwrap()), None);
    let (mut control, mut urgent) =
        (speaking(&relay, &listener, &control_link()), speaking(&relay, &listener, &urgent_link()));
    relay.set_plan(Spot::Message("Permit"), Fault::Truncate(7));
    let frame = &control_link()[permit()..];
    assert_eq!(received(&mut control.0, &mut control.1, frame), frame[..7]);
    relay.wait_fired();
    urgent.1.write_all(&request::encode(5, 7)).unwrap();
    arrives(&mut urgent.0, &request::encode(5, 7));
}
