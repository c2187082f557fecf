//! Reports from files that are as they should be, and from files that are not.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

/// Ends a script, begins a comment, and holds what neither XML nor a terminal takes.
const HOSTILE: &str = "</script><!--<script>\u{1}\u{0}\u{1b}[2J]]>&\"'\u{2028}{{data}}";

fn cell(name: &str, verdict: &str) -> Value {
    json!({
        "name": name, "mode": "postcopy", "handshake": "owned", "cpus": 2, "when": "Permit", "what": "link cut", "place": "link",
        "seed": u64::MAX, "verdict": verdict, "millis": 1500, "rerun": "ci/matrix x", "injected": "it was cut", "ending": "well"
    })
}

fn shard(cells: &[Value]) -> Value {
    json!({
        "format": "ferry-matrix/1", "made": "2026-01-02T03:04:05Z", "seed": u64::MAX, "host": "h", "command": "c", "seconds": 1.5,
        "cells": cells
    })
}

/// Writes each text to a file, and reads them all as one report.
fn read_all(texts: &[String]) -> (tempfile::TempDir, Result<Report, ReportError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = |at: usize| dir.path().join(format!("{at}.json"));
    let paths: Vec<PathBuf> = (0..texts.len()).map(path).collect();
    for (path, text) in paths.iter().zip(texts) {
        std::fs::write(path, text).unwrap();
    }
    let report = read(&paths);
    (dir, report)
}

fn error(texts: &[&str]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    ferry_observe::causes(&read_all(&texts).1.unwrap_err())
}

/// The data that a page carries, as its script reads it.
fn data(html: &str) -> Value {
    let (_, rest) = html.split_once(r#"<script type="application/json" id="data">"#).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn shards_become_one_matrix() {
    let mut second = shard(&[cell("b", "fail")]);
    (second["host"], second["made"], second["order"]) =
        (json!("i"), json!("2025-01-01T00:00:00Z"), json!(["Hello", "Permit"]));
    let (_dir, report) = read_all(&[shard(&[cell("a", "pass")]).to_string(), second.to_string()]);
    let Ok(Report::Matrix(whole)) = report else { panic!("{report:?}") };
    assert_eq!(whole.cells.iter().map(|cell| cell.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((whole.seconds, whole.host.as_str(), whole.command.as_str()), (3.0, "h; i", "c"));
    assert_eq!(
        (whole.made.as_str(), whole.order),
        ("2025-01-01T00:00:00Z", vec!["Hello".to_owned(), "Permit".to_owned()])
    );
}

#[test]
fn a_cell_in_two_shards_is_an_error_that_names_both() {
    let text = shard(&[cell("twice", "pass")]).to_string();
    let error = error(&[&text, &text]);
    assert!(error.contains("cell twice is in") && error.contains("0.json") && error.contains("1.json"), "{error}");
}

#[test]
fn hostile_text_stays_text() {
    let mut one = cell(HOSTILE, "fail");
    for field in ["handshake", "when", "what", "rerun", "injected", "ending", "why"] {
        one[field] = json!(HOSTILE);
    }
    one["oracles"] = json!([{ "name": HOSTILE, "verdict": "fail", "says": HOSTILE }]);
    one["logs"] = json!([{ "name": HOSTILE, "text": HOSTILE }]);
    one["timeline"] =
        json!([{ "at_us": -1, "lane": "guest", "kind": "note", "text": HOSTILE, "link": HOSTILE, "fate": HOSTILE }]);
    let mut all = shard(&[one]);
    (all["host"], all["command"], all["order"]) = (json!(HOSTILE), json!(HOSTILE), json!([HOSTILE]));
    let (_dir, report) = read_all(&[all.to_string()]);
    let report = report.unwrap();
    let html = report.html();
    let scripts =
        |page: &str| page.matches("<script").count() + page.matches("</script").count() + page.matches("<!--").count();
    let harmless = read_all(&[shard(&[cell("x", "pass")]).to_string()]).1.unwrap().html();
    assert_eq!(scripts(&html), scripts(&harmless));
    let read = data(&html);
    assert_eq!(read["matrix"]["cells"][0]["timeline"][0]["text"], HOSTILE);
    assert_eq!(read["matrix"]["order"][0], HOSTILE);
    assert_eq!(read["matrix"]["cells"][0]["seed"], u64::MAX.to_string(), "a browser's numbers would round it");
    check_xml(&report.junit().unwrap());
}

#[test]
fn junit_tells_the_verdicts() {
    let (_dir, report) = read_all(&[shard(&[cell("a", "pass"), cell("b<", "fail"), cell("c", "skip")]).to_string()]);
    let xml = report.unwrap().junit().unwrap();
    check_xml(&xml);
    assert!(xml.contains(r#"tests="3" failures="1" errors="0" skipped="1" time="1.500""#), "{xml}");
    assert!(xml.contains(r#"<testcase classname="postcopy.owned.link" name="b&lt;" time="1.500">"#), "{xml}");
    assert_eq!((xml.matches("<failure ").count(), xml.matches("<skipped ").count()), (1, 1), "{xml}");
}

/// Every element ends in order, every `&` begins a reference, every character may stand in XML
/// 1.0.
fn check_xml(xml: &str) {
    assert!(xml.chars().all(|c| c >= ' ' || c == '\n'), "{xml:?}");
    for (at, _) in xml.match_indices('&') {
        let entity = xml[at + 1..].split(';').next().unwrap();
        assert!(["amp", "lt", "gt", "quot"].contains(&entity) || entity.starts_with('#'), "&{entity};");
    }
    let mut open = Vec::new();
    for piece in xml.split('<').skip(1) {
        let (tag, _) = piece.split_once('>').unwrap_or_else(|| panic!("'<{piece}' does not end"));
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap();
        match tag.strip_prefix('/') {
            Some(ended) => assert_eq!(open.pop(), Some(ended), "{xml}"),
            None if tag.ends_with('/') || tag.starts_with('?') => {}
            None => open.push(name),
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn every_error_names_the_file_and_what_is_wrong() {
    let trace = "{\"at_us\":1,\"what\":\"start\",\"format\":\"ferry-trace/1\",\"ferry\":\"\",\"vm\":\"\",\"incoming\":false,\"host\":\"\",\"pid\":1,\"memory\":1,\"backing\":\"anon\",\"cpus\":1}\n";
    let matrix = shard(&[]).to_string();
    let odd = shard(&[json!({ "name": "x" })]).to_string();
    for (texts, says) in [
        (vec![""], "0.json is no matrix and no trace: it is empty"),
        (vec!["hello"], "0.json is no matrix and no trace: expected value at line 1 column 1"),
        (vec!["{}"], "missing field `format`"),
        (
            vec!["{\"format\":\"ferry-matrix/9\"}"],
            "it says it is 'ferry-matrix/9', and this ferry reads ferry-matrix/1 and ferry-trace/1",
        ),
        (vec![odd.as_str()], "0.json is no ferry-matrix/1 file: missing field `mode`"),
        (vec![trace, &matrix], "1.json is a matrix and"),
        (vec![&format!("{trace}rubbish\n")], "0.json line 2 is no line of a ferry-trace/1 file"),
    ] {
        let error = error(&texts);
        assert!(error.contains(says), "{error}");
    }
    let error = read(&["/nowhere/x.json".into()]).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/x.json cannot be read"), "{error}");
    let (_dir, traced) = read_all(&[trace.to_owned()]);
    assert!(traced.unwrap().junit().unwrap_err().to_string().contains("made of matrices"));
}
