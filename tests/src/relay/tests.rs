//! The relay itself: what is not spoiled arrives as it was, and what is spoiled does not.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use ferry_migration::ToDestination;
use ferry_migration::wire::bulk::{self, Chunk, Frame};
use ferry_migration::wire::control;
use ferry_migration::wire::preamble::{Link, Preamble};

use super::{Fault, Plan, Relay, Spot};
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

fn control_link() -> Vec<u8> {
    let hello = ToDestination::Hello {
        version: 1,
        generation: 1,
        postcopy: false,
        handshake: ferry_migration::Handshake::Setup,
    };
    let mut bytes = Preamble { migration_id: 7, connection: 0, link: Link::Control }.encode().to_vec();
    bytes.extend(control::encode(&hello, &[5; 100], 7, 0).unwrap());
    bytes.extend([5; 100]);
    bytes.extend(control::encode(&ToDestination::Permit { generation: 1 }, &[], 7, 1).unwrap());
    bytes
}

fn bulk_link() -> Vec<u8> {
    let mut bytes = Preamble { migration_id: 7, connection: 0, link: Link::Bulk(0) }.encode().to_vec();
    let mut data = [0; 8];
    data[3] = 0b101;
    bytes.extend(bulk::encode(&Frame::Chunk(Chunk { index: 0, data, zero: [0; 8] }), 7, 0));
    bytes.extend([9; 2 * 4096]);
    bytes.extend(bulk::encode(&Frame::Marker(1), 7, 1));
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
    for bytes in [control_link(), bulk_link(), vec![3; 10_000]] {
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
    let permit = bytes.len() - (control::HEADER_LEN + 2);
    let (mut near, mut far, _relay) = through(Some(Plan { at: Spot::Message("Permit"), fault: Fault::Cut }));
    assert_eq!(received(&mut near, &mut far, &bytes), bytes[..permit]);
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
    let mut preamble = [0; 40];
    far.read_exact(&mut preamble).unwrap();
    far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(far.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing passes");
    relay.heal();
    far.set_read_timeout(Some(SOON)).unwrap();
    let mut rest = vec![0; bytes.len() - 40];
    far.read_exact(&mut rest).unwrap();
    assert_eq!(rest, bytes[40..]);
}
