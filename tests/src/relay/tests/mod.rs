//! The relay itself: what is not spoiled arrives as it was, and what is spoiled does not. Here are
//! the streams that the tests send and the faults that change bytes; the other files are about a
//! kind of fault each.

mod ends;
mod frames;
mod holds;
mod time;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use ferry_migration::ToDestination;
use ferry_migration::wire::bulk::{self, Chunk, Frame};
use ferry_migration::wire::control;
use ferry_migration::wire::preamble::{LinkRole, Preamble};
use ferry_migration::wire::request;

use super::{Fault, Plan, Relay, Side, Spot};
use crate::wait::SOON;

/// Both ends of a connection through a relay.
fn through(plan: Option<Plan>) -> (TcpStream, TcpStream, Relay) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::new(&format!("tcp:{}", listener.local_addr().unwrap()), plan);
    let near = TcpStream::connect(relay.uri().strip_prefix("tcp:").unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(SOON)).unwrap();
    }
    (near, far, relay)
}

/// Both ends of one more connection through a relay to `listener`, which have spoken already.
fn speaking(relay: &Relay, listener: &TcpListener, bytes: &[u8]) -> (TcpStream, TcpStream) {
    let mut near = TcpStream::connect(relay.uri().strip_prefix("tcp:").unwrap()).unwrap();
    let mut far = listener.accept().unwrap().0;
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(SOON)).unwrap();
    }
    near.write_all(bytes).unwrap();
    far.read_exact(&mut vec![0; bytes.len()]).unwrap();
    (near, far)
}

/// Exactly this arrives, and for a while nothing more.
fn arrives(stream: &mut TcpStream, bytes: &[u8]) {
    let mut arrived = vec![0; bytes.len()];
    stream.read_exact(&mut arrived).unwrap();
    assert_eq!(arrived, bytes);
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing more passes");
    stream.set_read_timeout(Some(SOON)).unwrap();
}

/// Where the permit begins in [`control_link`].
fn permit() -> usize {
    control_link().len() - (control::HEADER_LEN + 2)
}

fn control_link() -> Vec<u8> {
    let hello = ToDestination::Hello {
        version: 1,
        generation: 1,
        postcopy: false,
        handshake: ferry_migration::Handshake::Setup,
    };
    let mut bytes = Preamble { migration_id: 7, connection: 0, link: LinkRole::Control }.encode().to_vec();
    bytes.extend(control::encode(&hello, &[5; 100], 7, 0).unwrap());
    bytes.extend([5; 100]);
    bytes.extend(control::encode(&ToDestination::Permit { generation: 1 }, &[], 7, 1).unwrap());
    bytes
}

fn bulk_link() -> Vec<u8> {
    let mut bytes = Preamble { migration_id: 7, connection: 0, link: LinkRole::Bulk(0) }.encode().to_vec();
    let mut data = [0; 8];
    data[3] = 0b101;
    bytes.extend(bulk::encode(&Frame::Chunk(Chunk { index: 0, data, zero: [0; 8] }), 7, 0));
    bytes.extend([9; 2 * 4096]);
    bytes.extend(bulk::encode(&Frame::Marker(1), 7, 1));
    bytes
}

/// What the source says on an urgent link: its preamble and two answers.
fn urgent_link() -> Vec<u8> {
    let mut bytes = Preamble { migration_id: 7, connection: 0, link: LinkRole::Urgent }.encode().to_vec();
    for (sequence, page) in [(0, 1), (1, 3)] {
        let mut data = [0; 8];
        data[0] = 1 << page;
        bytes.extend(bulk::encode(&Frame::Chunk(Chunk { index: 0, data, zero: [0; 8] }), 7, sequence));
        bytes.extend([page; 4096]);
    }
    bytes
}

fn received(near: &mut TcpStream, far: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    near.write_all(bytes).unwrap();
    near.shutdown(std::net::Shutdown::Write).unwrap();
    let mut out = vec![];
    // A cut may show as a reset.
    let _ = far.read_to_end(&mut out);
    out
}

#[test]
fn what_is_not_spoiled_arrives_as_it_was() {
    for bytes in [control_link(), bulk_link(), urgent_link(), vec![3; 10_000]] {
        let (mut near, mut far, _relay) = through(None);
        assert_eq!(received(&mut near, &mut far, &bytes), bytes);
    }
}

#[test]
fn a_byte_of_the_chosen_frame_is_flipped() {
    for (bytes, at, first) in [
        (control_link(), Spot::ControlPreamble, 0),
        (control_link(), Spot::Message("Hello"), 40),
        (bulk_link(), Spot::Pages(0), 40),
        (bulk_link(), Spot::Marker, 40 + 160 + 8192),
        (urgent_link(), Spot::UrgentPreamble, 0),
        (urgent_link(), Spot::UrgentPages(1), 40 + 160 + 4096),
    ] {
        let (mut near, mut far, relay) = through(Some(Plan { at, fault: Fault::Corrupt(2) }));
        let mut expected = bytes.clone();
        expected[first + 2] ^= 1;
        assert_eq!(received(&mut near, &mut far, &bytes), expected, "{at:?}");
        relay.wait_fired();
    }
}

#[test]
fn a_cut_lets_nothing_of_the_frame_through() {
    let bytes = control_link();
    let (mut near, mut far, _relay) = through(Some(Plan { at: Spot::Message("Permit"), fault: Fault::Cut }));
    assert_eq!(received(&mut near, &mut far, &bytes), bytes[..permit()]);
}

#[test]
fn a_lost_frame_leaves_a_gap_and_a_repeated_one_comes_twice() {
    let bytes = bulk_link();
    let marker = bytes.len() - 160;
    let (mut near, mut far, _relay) = through(Some(Plan { at: Spot::Pages(0), fault: Fault::Lose }));
    assert_eq!(received(&mut near, &mut far, &bytes), [&bytes[..40], &bytes[marker..]].concat());
    let (mut near, mut far, _relay) = through(Some(Plan { at: Spot::Marker, fault: Fault::Repeat }));
    assert_eq!(received(&mut near, &mut far, &bytes), [&bytes[..], &bytes[marker..]].concat());
}

#[test]
fn a_stall_holds_back_until_it_is_healed() {
    let bytes = control_link();
    let (mut near, mut far, relay) = through(Some(Plan { at: Spot::Message("Hello"), fault: Fault::Stall }));
    near.write_all(&bytes).unwrap();
    relay.wait_fired();
    arrives(&mut far, &bytes[..40]);
    relay.heal();
    arrives(&mut far, &bytes[40..]);
}

#[test]
fn page_requests_are_counted_on_their_own() {
    let (mut near, mut far, relay) = through(Some(Plan { at: Spot::Request(1), fault: Fault::Lose }));
    near.write_all(&urgent_link()).unwrap();
    let requests = [5, 6, 7].map(|page| request::encode(page, 7));
    far.write_all(requests.as_flattened()).unwrap();
    let mut arrived = [0; 2 * request::REQUEST_LEN];
    near.read_exact(&mut arrived).unwrap();
    relay.wait_fired();
    assert_eq!(arrived, [requests[0], requests[2]].as_flattened());
}
