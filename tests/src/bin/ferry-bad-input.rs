//! Prints what Ferry says to bad input, as the Markdown tables that `docs/bad-input.md` includes.
//!
//! Run by whoever updates that page: `cargo run -p ferry-tests --bin ferry-bad-input > TABLES`.
//! Exit status 1 when an answer is not what the table expects.

use std::process::ExitCode;

use ferry_tests::{Lab, bad_input};

fn main() -> ExitCode {
    let Some(lab) = Lab::new() else { return ExitCode::SUCCESS };
    let rows = bad_input::all(&lab);
    print!("{}", bad_input::markdown(&rows));
    let wrong: Vec<_> = rows.iter().filter(|row| !row.is_right()).collect();
    for row in &wrong {
        eprintln!("{}: {}: '{}' is not in: {}", row.group, row.input, row.expected, row.answer);
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
