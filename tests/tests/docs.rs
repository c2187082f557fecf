//! Facts that the code knows and pages state: a page that has fallen behind fails here, and the
//! message says which.

use std::collections::BTreeSet;
use std::fs;

use ferry_devices::fault::WORKERS;
use ferry_devices::fault::{Moment, Place};
use ferry_migration::Parameters;
use ferry_migration::message::{OLDEST_VERSION, PROTOCOL_VERSION, ToDestination, ToSource};
use ferry_migration::parameters::Capability;
use ferry_migration::parameters::Given;
use ferry_migration::{destination, source};
use ferry_qmp::command_names;
use serde_json::{Map, Value, json};

fn page(name: &str) -> String {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The rows of the tables under a heading, each as its cells.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let section = page.split("\n## ").find(|section| section.starts_with(heading));
    let section = section.unwrap_or_else(|| panic!("the page has no heading '{heading}'"));
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    lines.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The words in backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_protocols_version() {
    let page = page("protocol.md");
    for text in [format!("\nVersion {PROTOCOL_VERSION}. "), format!("| protocol version, {PROTOCOL_VERSION} |")] {
        assert!(page.contains(&text), "docs/protocol.md is to say `{}`: change it there", text.trim());
    }
}

#[test]
fn the_files_of_the_tests() {
    let here = env!("CARGO_MANIFEST_DIR");
    let page = fs::read_to_string(format!("{here}/README.md")).expect("the tests have a page");
    let named: BTreeSet<_> = quoted(&page).into_iter().filter(|name| name.starts_with("tests/")).collect();
    let files = fs::read_dir(format!("{here}/tests")).expect("the tests have a folder").map(|file| {
        let file = file.expect("a folder can be read");
        format!("tests/{}", file.file_name().to_string_lossy())
    });
    let missing: Vec<_> = files.filter(|file| file.ends_with(".rs") && !named.contains(file)).collect();
    assert!(missing.is_empty(), "tests/README.md has no row for {missing:?}: add one");
}

#[test]
fn the_versions_that_talk() {
    let path = format!("{}/../CHANGELOG.md", env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let table = page.split("\n## ").find(|section| section.starts_with("The migration protocol"));
    let mut rows = table.expect("CHANGELOG.md has the table").lines().filter(|line| line.starts_with("| "));
    let last: Vec<_> = rows.next_back().expect("it has rows").trim_matches('|').split('|').map(str::trim).collect();
    let taken = format!("{OLDEST_VERSION} and {PROTOCOL_VERSION}");
    assert_eq!((last[0], last[2]), (&*PROTOCOL_VERSION.to_string(), &*taken), "CHANGELOG.md is to have a row: add it");
}

#[test]
fn the_threads_of_a_migration() {
    let page = page("architecture.md");
    let named = quoted(page.split("\n## Threads").nth(1).expect("docs/architecture.md has a heading Threads"));
    let named: BTreeSet<_> = named
        .into_iter()
        .filter(|name| ["ferry-src-", "ferry-dst-", "ferry-source", "ferry-dest"].iter().any(|of| name.starts_with(of)))
        .collect();
    assert_eq!(named, set(WORKERS), "the tables of docs/architecture.md, Threads, against WORKERS: change the page");
}

#[test]
fn the_fault_points() {
    let page = page("faults.md");
    let points: BTreeSet<_> = rows(&page, "Points").iter().flat_map(|row| quoted(&row[0])).collect();
    for place in Place::ALL {
        assert!(points.contains(place.as_str()), "docs/faults.md, Points: a row for {} is missing", place.as_str());
    }
    for moment in Moment::ALL {
        let begins = format!("{}:", moment.as_str());
        assert!(points.iter().any(|point| point.starts_with(&begins)), "docs/faults.md, Points: {begins} is missing");
    }
    // `Send` is a step that has points of its own.
    let steps = |names: &'static [&'static str]| {
        let own = |name: &&str| {
            ["Send", "StartTimer", "StopTimer", "Status", "Handshake", "Interrupt", "Refuse"].contains(name)
        };
        set(names.iter().copied().filter(|name| !own(name)))
    };
    let sides = [
        ("`step:`", steps(source::Output::NAMES), steps(destination::Output::NAMES)),
        ("`send:`, `sent:`", set(ToDestination::NAMES.iter().copied()), set(ToSource::NAMES.iter().copied())),
    ];
    for (first, at_source, at_destination) in sides {
        let rows = rows(&page, "Points");
        let row = rows.iter().find(|row| row[0] == first && row.len() == 3);
        let row = row.unwrap_or_else(|| panic!("docs/faults.md has no row for {first}"));
        let names = |cell: &str| set(cell.split(", "));
        assert_eq!(names(&row[1]), at_source, "docs/faults.md, {first} of the source: change the page");
        assert_eq!(names(&row[2]), at_destination, "docs/faults.md, {first} of the destination: change the page");
    }
}

#[test]
fn the_qmp_commands() {
    let listed: BTreeSet<_> = rows(&page("qmp.md"), "Commands").iter().flat_map(|row| quoted(&row[0])).collect();
    let known = set(command_names().filter(|name| *name != "qmp_capabilities"));
    assert_eq!(listed, known, "the table of docs/qmp.md, Commands, against query-commands: change the page");
}

#[test]
fn the_migration_capabilities() {
    let rows = rows(&page("qmp.md"), "Commands");
    let row = rows.iter().find(|row| row[0].contains("migrate-set-capabilities")).expect("a row in docs/qmp.md");
    let known: BTreeSet<_> = Capability::ALL.iter().map(|of| json!(of).as_str().expect("a name").to_owned()).collect();
    assert_eq!(quoted(&row[1]), known, "docs/qmp.md, migrate-set-capabilities: change the page");
}

fn check(name: &str, value: Value) -> Result<(), String> {
    let members = Map::from_iter([(name.to_owned(), value)]);
    let given = Given::new(members).map_err(|error| error.to_string())?;
    given.over(&Parameters::default()).check().map_err(|error| error.to_string())
}

#[test]
fn the_migration_parameters_with_defaults_and_ranges() {
    let rows = rows(&page("qmp.md"), "Parameters");
    let defaults = json!(Parameters::default());
    let known = set(defaults.as_object().expect("an object").keys().map(String::as_str));
    let listed: BTreeSet<_> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(listed, known, "the table of docs/qmp.md, Parameters: change the page");
    for row in rows {
        let (name, default, range) = (row[0].trim_matches('`'), row[1].trim_matches('`'), &row[2]);
        let value = &defaults[name];
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert_eq!(default, text, "docs/qmp.md, the default of {name}: change the page");
        if value.is_u64() {
            check_range(name, range, &defaults);
        } else if value.is_string() {
            let refused = check(name, json!("no such value")).expect_err("no parameter takes that");
            let words = quoted(refused.split("expected").nth(1).unwrap_or_default());
            assert_eq!(quoted(range), words, "docs/qmp.md, the values of {name}: change the page");
        }
    }
}

/// `A to B`, `0, or from A`, or `any`; a parameter's name stands for its default.
fn check_range(name: &str, range: &str, defaults: &Value) {
    let fine = |value: u64| check(name, json!(value)).is_ok();
    let wrong = format!("docs/qmp.md, the range of {name}, '{range}', is not what is accepted: change the page");
    let number = |text: &str| {
        let own = defaults[text.trim_matches('`')].as_u64();
        own.or_else(|| text.parse().ok()).unwrap_or_else(|| panic!("{wrong}"))
    };
    match range.strip_prefix("0, or from ") {
        Some(least) => {
            let least = number(least);
            assert!(fine(0) && fine(least) && fine(u64::MAX) && !fine(least - 1) && !fine(1), "{wrong}");
        }
        None if range == "any" => assert!(fine(0) && fine(u64::MAX), "{wrong}"),
        None => {
            let (least, most) = range.split_once(" to ").unwrap_or_else(|| panic!("{wrong}"));
            let (least, most) = (number(least), number(most));
            assert!(fine(least) && fine(most) && !fine(most + 1), "{wrong}");
            assert!(least == 0 || !fine(least - 1), "{wrong}");
        }
    }
}
