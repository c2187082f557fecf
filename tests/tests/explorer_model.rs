//! The Promela model of the switchover, checked by spin where spin is installed: a second statement of the protocol, which the
//! explorer's world and the state machines had no part in. Its broken variants must be caught.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest that one command may take, as `timeout` reads it.
const LONGEST: &str = "120s";

/// Whether a model with these settings keeps its promises.
struct Verdict {
    errors: u64,
    report: String,
}

#[test]
fn spin_finds_no_error_but_in_the_broken_variants() {
    if !starts("spin", "-V") || !starts("gcc", "--version") {
        println!("skipped: spin or gcc is not installed (apt-get install spin gcc)");
        return;
    }
    for (owned, broken, is_caught) in
        [(true, 0, false), (false, 0, false), (true, 1, true), (false, 1, true), (true, 2, true)]
    {
        let verdict = check(owned, broken);
        let report = verdict.report;
        assert_eq!(verdict.errors > 0, is_caught, "owned {owned}, broken variant {broken}:\n{report}");
        assert!(!report.contains("max search depth too small"), "not everything was seen:\n{report}");
    }
}

fn starts(program: &str, version: &str) -> bool {
    Command::new(program).arg(version).output().is_ok_and(|output| output.status.success())
}

fn check(owned: bool, broken: u8) -> Verdict {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("model/switchover.pml");
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("model-{owned}-{broken}"));
    std::fs::create_dir_all(&directory).expect("a directory for spin's files");
    let settings = [format!("-DOWNED={}", u8::from(owned)), format!("-DBROKEN={broken}")];
    let model = model.to_str().expect("the path is text");
    run(&directory, &["spin", "-a", &settings[0], &settings[1], model]);
    run(&directory, &["gcc", "-O1", "-w", "-DSAFETY", "-o", "pan", "pan.c"]);
    let report = run(&directory, &["./pan", "-m200000"]);
    let errors = report.split("errors: ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let errors = errors.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("pan said: {report}"));
    Verdict { errors, report }
}

fn run(directory: &Path, words: &[&str]) -> String {
    let output = Command::new("timeout").arg(LONGEST).args(words).current_dir(directory).output();
    let output = output.unwrap_or_else(|error| panic!("{words:?} does not start: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    // pan ends with an error status when it finds one; spin and gcc do when they cannot do their work.
    assert!(output.status.success() || words[0] == "./pan", "{words:?}: {text}{errors}");
    text
}
