//! Gathers the results of a run of the fault matrix into one file, for `ferry report`; lists the
//! cells. `ci/matrix` calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ferry_report::matrix::{Matrix, Verdict};
use ferry_tests::matrix::catalogue;
use ferry_tests::matrix::cell::Cell;
use ferry_tests::matrix::results::Results;

/// A run of which one cell in so many was not let happen by the machine has shown too little.
const ENOUGH: usize = 20;

/// The fault matrix's clerk.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists every cell.
    List,
    /// Makes DIRECTORY/matrix.json of DIRECTORY/cells, and says what came out.
    Gather {
        /// Where the run left its results.
        directory: PathBuf,
        /// How the run was started.
        #[arg(long, default_value = "")]
        command: String,
        /// How long it took.
        #[arg(long, default_value_t = 0.0)]
        seconds: f64,
    },
}

fn main() -> ExitCode {
    match Options::parse().command {
        Command::List => {
            catalogue::all().iter().map(Cell::name).for_each(|name| println!("{name}"));
            ExitCode::SUCCESS
        }
        Command::Gather { directory, command, seconds } => match gather(directory, command, seconds) {
            Ok(matrix) => tell(&matrix),
            Err(error) => {
                eprintln!("ferry-matrix: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn gather(directory: PathBuf, command: String, seconds: f64) -> std::io::Result<Matrix> {
    let matrix = Results::of(directory.clone()).gather(command, seconds)?;
    std::fs::write(directory.join("matrix.json"), serde_json::to_vec(&matrix)?)?;
    Ok(matrix)
}

fn tell(matrix: &Matrix) -> ExitCode {
    let failed: Vec<_> = matrix.cells.iter().filter(|cell| cell.verdict == Verdict::Fail).collect();
    for cell in &failed {
        println!(
            "FAILED {}\n       {}\n       again: {}",
            cell.name,
            cell.why.as_deref().unwrap_or_default(),
            cell.rerun
        );
    }
    let starved: Vec<_> = matrix.cells.iter().filter(|cell| cell.verdict == Verdict::Skip).collect();
    for cell in &starved {
        println!("NO RESULT {}\n       {}", cell.name, cell.why.as_deref().unwrap_or_default());
    }
    let (cells, failed, starved) = (matrix.cells.len(), failed.len(), starved.len());
    println!("{cells} cells, {failed} failed, {starved} not let happen by the machine, {:.0} s", matrix.seconds);
    if starved * ENOUGH > cells {
        println!("too many were not let happen: give the machine less to do, or run fewer at a time (--jobs)");
    }
    if failed == 0 && starved * ENOUGH <= cells { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
