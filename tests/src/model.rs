//! Runs spin on a Promela model: a second statement of a protocol, in which the state machines had
//! no part.

use std::path::Path;
use std::process::Command;

/// Longest that one command may take, as `timeout` reads it.
const LONGEST: &str = "600s";
/// The most memory that spin may take, in MiB: it stops there, and says so.
const MEMORY: &str = "-DMEMLIM=2048";

/// A model, how to run it, and what must come out.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// Its file in `tests/model`.
    pub model: &'a str,
    /// Definitions for the preprocessor, separated by spaces.
    pub settings: String,
    /// More arguments of the verifier.
    pub arguments: &'a [&'a str],
    /// Words of the assertion that must fail; none must without them.
    pub breaks: Option<&'a str>,
}

/// Whether spin and gcc are installed; says so if not.
#[must_use]
pub fn is_there() -> bool {
    let there = starts("spin", "-V") && starts("gcc", "--version");
    if !there {
        println!("skipped: spin or gcc is not installed (apt-get install spin gcc)");
    }
    there
}

/// Has spin check a model; `directory` is for its files.
///
/// # Panics
/// When something else comes out than the case says, or spin has not seen everything.
pub fn check(case: &Case, directory: &Path) {
    let Case { settings, breaks, .. } = case;
    let report = verify(case, directory);
    let violated = report.lines().find(|line| line.starts_with("pan:1: "));
    match (breaks, violated) {
        (None, None) => {}
        (Some(promise), Some(line)) if line.contains(promise) => {}
        _ => panic!("{settings}: expected {breaks:?}, and spin found:\n{report}"),
    }
    let errors = report.split("errors: ").nth(1).and_then(|rest| rest.split_whitespace().next());
    assert_eq!(errors, Some(if breaks.is_some() { "1" } else { "0" }), "{settings}:\n{report}");
    let partly = ["max search depth too small", "truncated", "out of memory"].iter().any(|text| report.contains(text));
    // A search that finds an error ends there.
    let ended_early = breaks.is_none() && report.contains("Search not completed");
    assert!(!partly && !ended_early, "{settings}: not everything was seen:\n{report}");
}

fn starts(program: &str, version: &str) -> bool {
    Command::new(program).arg(version).output().is_ok_and(|output| output.status.success())
}

/// What spin says about the model.
fn verify(case: &Case, directory: &Path) -> String {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("model").join(case.model);
    std::fs::create_dir_all(directory).expect("a directory for spin's files");
    let mut spin = vec!["spin", "-a"];
    spin.extend(case.settings.split(' ').filter(|setting| !setting.is_empty()));
    spin.push(model.to_str().expect("the path is text"));
    run(directory, &spin);
    run(directory, &["gcc", "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", MEMORY, "-o", "pan", "pan.c"]);
    let mut pan = vec!["./pan", "-m200000"];
    pan.extend(case.arguments);
    run(directory, &pan)
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
