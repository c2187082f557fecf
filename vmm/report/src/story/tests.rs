//! Two traces become one story: messages find their other half, clocks are brought together, a
//! killed writer is no error.

use std::path::Path;

use serde_json::{Value, json};

use super::read::parse;
use super::*;

fn trace(name: &str, host: &str, entries: &[(u64, Value)]) -> Trace {
    let start = json!({ "at_us": 1, "what": "start", "format": "ferry-trace/1", "ferry": "0", "vm": "g", "incoming": false, "host": host,
        "pid": 1, "memory": 1, "backing": "anon", "cpus": 1 });
    let line = |(at_us, what): &(u64, Value)| {
        let mut what = what.clone();
        what["at_us"] = json!(at_us);
        format!("{what}\n")
    };
    let text: String = std::iter::once(format!("{start}\n")).chain(entries.iter().map(line)).collect();
    parse(Path::new(name), &text).unwrap()
}

fn begins(side: &str, id: &str) -> Value {
    json!({ "what": "migration", "side": side, "id": id })
}

fn message(what: &str, name: &str) -> Value {
    json!({ "what": what, "message": name, "bytes": 10, "connection": 0 })
}

fn rows(migration: &Migration) -> Vec<(i64, String, Option<String>)> {
    migration.timeline.iter().map(|entry| (entry.at_us, entry.text.clone(), entry.fate.clone())).collect()
}

#[test]
fn both_sides_of_a_message_are_one_arrow_and_one_without_an_end_is_lost() {
    let source = [
        (100, begins("source", "a")),
        (110, message("sent", "Hello")),
        (150, message("received", "HelloAck")),
        (200, message("sent", "Permit")),
    ];
    let destination =
        [(105, begins("destination", "a")), (120, message("received", "Hello")), (130, message("sent", "HelloAck"))];
    let story = tell(&[trace("b", "h", &destination), trace("a", "h", &source)]);
    let [one] = &story.migrations[..] else { panic!("{story:?}") };
    let expected = [(10, "Hello", None), (30, "HelloAck", None), (100, "Permit", Some("lost"))];
    assert_eq!(rows(one), expected.map(|(at, text, fate)| (at, text.to_owned(), fate.map(str::to_owned))));
    assert_eq!((one.began_us, one.took_us, one.skew_us), (100, 100, 0));
    // One side alone does not know what became of it.
    let alone = tell(&[trace("a", "h", &source)]);
    assert!(rows(&alone.migrations[0]).iter().all(|(_, _, fate)| fate.is_none()));
}

#[test]
fn clocks_of_two_hosts_are_brought_together() {
    let source =
        [(1000, begins("source", "a")), (1010, message("sent", "Hello")), (1050, message("received", "HelloAck"))];
    let destination =
        [(501, begins("destination", "a")), (520, message("received", "Hello")), (540, message("sent", "HelloAck"))];
    let story = tell(&[trace("a", "h", &source), trace("b", "i", &destination)]);
    assert_eq!(story.migrations[0].skew_us, -500);
    assert_eq!(rows(&story.migrations[0]).iter().map(|row| row.0).collect::<Vec<_>>(), [10, 40]);
}

#[test]
fn migrations_of_one_process_are_told_apart() {
    let entries =
        [(10, begins("source", "a")), (11, json!({ "what": "error", "text": "first" })), (20, begins("source", "b"))];
    let story = tell(&[trace("a", "h", &entries)]);
    let ends: Vec<_> = story.migrations.iter().map(|one| (one.id.as_str(), one.sides[0].error.as_deref())).collect();
    assert_eq!(ends, [("a", Some("first")), ("b", None)]);
}

#[test]
fn a_round_is_shown_where_it_began() {
    let round = json!({ "what": "round", "number": 1, "pages": 3, "zero_pages": 4, "bytes": 1 << 20, "took_us": 30, "dirty_pages": 2 });
    let story = tell(&[trace("a", "h", &[(10, begins("source", "a")), (50, round)])]);
    assert_eq!(rows(&story.migrations[0]), [(10, "round 1: 3 pages, 4 zero, 1.0 MiB".to_owned(), None)]);
}

#[test]
fn a_torn_last_line_is_left_out_and_any_other_is_an_error() {
    let text = "{\"at_us\":1,\"what\":\"event\",\"name\":\"STOP\"}\n{\"at_us\":2,\"what\":\"eve";
    let read = parse(Path::new("t"), text).unwrap();
    assert!(read.torn && read.entries.len() == 1);
    let error = parse(Path::new("t"), &format!("{text}\n{text}")).unwrap_err().to_string();
    assert!(error.starts_with("t line 2 is no line of a ferry-trace/1 file"), "{error}");
}
