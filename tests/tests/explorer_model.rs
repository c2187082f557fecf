//! The Promela model of the switchover, checked by spin where spin is installed: a second
//! statement of the protocol, which the explorer's world and the state machines had no part in.
//! Its broken variants must be caught.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest that one command may take, as `timeout` reads it.
const LONGEST: &str = "600s";

/// The most memory that spin may take, in MiB: it stops there, and says so.
const MEMORY: &str = "-DMEMLIM=2048";

/// The handshakes, as the model numbers them.
const OWNED: u8 = 1;
const SETUP: u8 = 2;
const SETUP_UNSHARED: u8 = 3;
const SETUP_WITHOUT_RECORD: u8 = 4;

/// The promises that a broken variant breaks, by words of their assertions.
const FRESH: &str = "(s_has==runs)";
const KEPT: &str = "t_takes";
const TOGETHER: &str = "s_stopped";
const UNDISTURBED: &str = "t_late";

/// What the model is told, and the promise that spin must find broken.
struct Case {
    settings: String,
    breaks: Option<&'static str>,
}

fn holds(handshake: u8) -> Case {
    Case { settings: format!("-DHANDSHAKE={handshake}"), breaks: None }
}

fn breaks(handshake: u8, settings: &str, promise: &'static str) -> Case {
    Case { settings: format!("-DHANDSHAKE={handshake} {settings}"), breaks: Some(promise) }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        breaks(OWNED, "-DBROKEN=1", FRESH),
        breaks(SETUP_WITHOUT_RECORD, "-DBROKEN=1", FRESH),
        breaks(OWNED, "-DBROKEN=2", TOGETHER),
    ];
    // A boot that asks the disk alone.
    for (handshake, past) in [(OWNED, "-DPAST=1"), (SETUP, "-DPAST=1"), (SETUP_WITHOUT_RECORD, "-DPAST=0")] {
        cases.extend([
            breaks(handshake, &format!("{past} -DBROKEN=8"), KEPT),
            breaks(handshake, &format!("{past} -DBROKEN=8 -DKEPT=0"), FRESH),
        ]);
    }
    for handshake in [OWNED, SETUP, SETUP_UNSHARED] {
        cases.push(Case { settings: format!("-DHANDSHAKE={handshake} -DPAST=1"), breaks: None });
    }
    cases.extend([OWNED, SETUP, SETUP_UNSHARED, SETUP_WITHOUT_RECORD].map(holds));
    for handshake in [OWNED, SETUP, SETUP_UNSHARED] {
        cases.extend([
            breaks(handshake, "-DBROKEN=3", KEPT),
            breaks(handshake, "-DBROKEN=3 -DKEPT=0 -DLATE=1", FRESH),
            breaks(handshake, "-DBROKEN=4", KEPT),
            breaks(handshake, "-DBROKEN=6", FRESH),
            breaks(handshake, "-DBROKEN=7", UNDISTURBED),
        ]);
    }
    for handshake in [SETUP, SETUP_UNSHARED] {
        cases.extend([
            breaks(handshake, "-DBROKEN=5", KEPT),
            breaks(handshake, "-DBROKEN=5 -DALSO=6 -DKEPT=0 -DLATE=1", FRESH),
        ]);
    }
    cases
}

#[test]
fn spin_finds_no_error_but_in_the_broken_variants() {
    if !starts("spin", "-V") || !starts("gcc", "--version") {
        println!("skipped: spin or gcc is not installed (apt-get install spin gcc)");
        return;
    }
    for (number, Case { settings, breaks }) in cases().into_iter().enumerate() {
        let report = check(number, &settings);
        let violated = report.lines().find(|line| line.starts_with("pan:1: "));
        match (breaks, violated) {
            (None, None) => {}
            (Some(promise), Some(line)) if line.contains(promise) => {}
            _ => panic!("{settings}: expected {breaks:?}, and spin found:\n{report}"),
        }
        let errors = report.split("errors: ").nth(1).and_then(|rest| rest.split_whitespace().next());
        assert_eq!(errors, Some(if breaks.is_some() { "1" } else { "0" }), "{settings}:\n{report}");
        let partly =
            ["max search depth too small", "truncated", "out of memory"].iter().any(|text| report.contains(text));
        // A search that finds an error ends there.
        let ended_early = breaks.is_none() && report.contains("Search not completed");
        assert!(!partly && !ended_early, "{settings}: not everything was seen:\n{report}");
    }
}

fn starts(program: &str, version: &str) -> bool {
    Command::new(program).arg(version).output().is_ok_and(|output| output.status.success())
}

/// What spin says about the model with these settings.
fn check(number: usize, settings: &str) -> String {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("model/switchover.pml");
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("model-{number}"));
    std::fs::create_dir_all(&directory).expect("a directory for spin's files");
    let mut spin = vec!["spin", "-a"];
    spin.extend(settings.split(' '));
    spin.push(model.to_str().expect("the path is text"));
    run(&directory, &spin);
    run(&directory, &["gcc", "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", MEMORY, "-o", "pan", "pan.c"]);
    run(&directory, &["./pan", "-m200000"])
}

fn run(directory: &Path, words: &[&str]) -> String {
    let output = Command::new("timeout").arg(LONGEST).args(words).current_dir(directory).output();
    let output = output.unwrap_or_else(|error| panic!("{words:?} does not start: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    // pan ends with an error status when it finds one; spin and gcc do when they cannot do their
    // work.
    assert!(output.status.success() || words[0] == "./pan", "{words:?}: {text}{errors}");
    text
}
