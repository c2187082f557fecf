//! `ferry-bench` itself: one tiny row of everything that it does, so that a change of Ferry's
//! interface that breaks it shows here and not on the day when somebody measures.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ferry_tests::Lab;
use serde_json::Value;

/// Most of it is the starts of four processes, on a machine that is busy with other tests.
const WITHIN: Duration = Duration::from_secs(300);

/// Runs the bench, with its results in `output`.
fn bench(output: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferry-bench"));
    command.args(arguments).arg("--output").arg(output);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the bench starts");
    let deadline = Instant::now() + WITHIN;
    // What it prints fits into its pipes.
    while child.try_wait().expect("it is our child").is_none() {
        if Instant::now() >= deadline {
            let _ = child.kill();
            panic!("the bench has not ended within {WITHIN:?}: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("it is our child")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn tiny_rows_are_measured_shown_and_written() {
    let Some(lab) = Lab::new() else { return };
    let output = lab.path("results");
    let rows = ["start", "handshake", "--runs", "1", "--starts", "1", "--sizes", "64", "--no-qemu"];
    let ended = bench(&output, &rows);
    let (shown, said) = (text(&ended.stdout), text(&ended.stderr));
    assert!(ended.status.success(), "{shown}\n{said}");
    for words in ["first serial byte", "ferry/limit", "handshake setup", "handshake owned", "one fdatasync"] {
        assert!(shown.contains(words), "'{words}' is missing in:\n{shown}");
    }

    let json = std::fs::read_to_string(output.join("bench.json")).expect("samples are written");
    let account: Value = serde_json::from_str(&json).expect("samples are JSON");
    let owned = &account["sections"][1]["cases"][1];
    let ours = owned["samples"].as_array().and_then(|samples| samples.iter().find(|raw| raw["contender"] == "ferry"));
    assert_eq!(ours.expect("ferry was measured")["sample"]["handshake"], "owned");
    assert!(owned["figures"][0]["values"]["limit"][0].as_f64().is_some_and(|ms| ms > 0.0), "{owned}");
    // Nothing but the results is left.
    let left = std::fs::read_dir(&output).expect("it is there").count();
    assert_eq!(left, 1, "{:?}", std::fs::read_dir(&output));
}

#[test]
fn nothing_to_measure_is_bad_usage() {
    let Some(lab) = Lab::new() else { return };
    let ended = bench(&lab.path("results"), &[]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(text(&ended.stderr).contains("--all"), "{}", text(&ended.stderr));
}
