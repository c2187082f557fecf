//! Migration streams with something wrong about them: the answers are the source's `error-desc`
//! and the destination's last line.

use super::Row;
use crate::peer::{Answer, FalsePeer};
use crate::relay::{Fault, Spot};
use crate::{Lab, Scene};

/// What a frame suffers, in words; what the source's answer must hold, and what the destination's
/// must hold.
const CASES: &[(&str, Spot, Fault, &str, &str)] = &[
    ("another protocol version", Spot::ControlPreamble, Fault::Replace(8, &[99, 0]), "version", ""),
    ("a flipped bit in Hello", Spot::Message("Hello"), Fault::Corrupt(24), "checksum", "checksum"),
    ("a flipped bit in a machine description", Spot::Message("Hello"), Fault::Corrupt(100), "checksum", "checksum"),
    ("an unknown message", Spot::Message("Rehearse"), Fault::Replace(2, &[200]), "no such message", "no such message"),
    (
        "a message of another migration",
        Spot::Message("Rehearse"),
        Fault::Corrupt(4),
        "another migration",
        "another migration",
    ),
    ("a message that comes twice", Spot::Message("Rehearse"), Fault::Repeat, "repeated", "repeated"),
    (
        "an attachment of 2 GiB",
        Spot::Message("Package"),
        Fault::Replace(16, &[0xff, 0xff, 0xff, 0x7f]),
        "attachment length",
        "attachment length",
    ),
    ("a flipped bit in device state", Spot::Message("Package"), Fault::Corrupt(1000), "checksum", "checksum"),
    ("a flipped bit in a page header", Spot::Pages(1), Fault::Corrupt(30), "checksum", "checksum"),
    (
        "a page header that is none",
        Spot::Pages(1),
        Fault::Replace(0, b"GET / HT"),
        "does not speak Ferry",
        "does not speak Ferry",
    ),
    ("a chunk of pages that comes twice", Spot::Pages(1), Fault::Repeat, "repeated", "repeated"),
    ("a chunk of pages that is lost", Spot::Pages(1), Fault::Lose, "lost", "lost"),
    ("an answer that is none", Spot::Message("HelloAck"), Fault::Replace(0, b"HTTP/1.1"), "does not speak Ferry", ""),
    ("an answer that comes twice", Spot::Message("HelloAck"), Fault::Repeat, "repeated", ""),
];

/// Tries each with a migration of its own, all from one source whose guest runs on.
pub fn rows(lab: &Lab) -> Vec<Row> {
    let mut scene = Scene::new().expect("there is a lab already");
    scene.be_impatient();
    let mut rows = vec![];
    for (what, at, fault, at_source, at_destination) in CASES {
        let (mut destination, relay) = scene.destination_behind(*at, fault.clone());
        let reason = scene.fails(&relay.uri());
        drop(relay);
        rows.push(Row::new(lab, "Migration stream", format!("{what}, at the source"), &reason, at_source));
        if *at != Spot::ControlPreamble {
            let error = crate::scene::gave_up(&mut destination);
            rows.push(Row::new(lab, "Migration stream", format!("{what}, at the destination"), &error, at_destination));
        }
    }
    for (what, answer, expected) in [
        (
            "a web server",
            Answer::Bytes(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
            "does not speak Ferry",
        ),
        ("a peer that says nothing", Answer::Nothing, "in time"),
    ] {
        let peer = FalsePeer::new(answer);
        let reason = scene.fails(&peer.uri());
        rows.push(Row::new(lab, "Migration stream", format!("{what}, at the source"), &reason, expected));
    }
    scene.guest.wait_reports(1);
    rows
}
