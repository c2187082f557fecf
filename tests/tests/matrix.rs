//! The fault matrix as tests, one for each cell, with a harness of their own so that `cargo test`
//! and `cargo nextest` list, choose and share them out like any others.
//!
//! By itself it runs the short part. `FERRY_MATRIX=full` is all cells, `FERRY_MATRIX=random:COUNT`
//! so many at random, `FERRY_MATRIX=cell:NAME` one; `FERRY_MATRIX_SEED` chooses what a cell leaves
//! open, `FERRY_MATRIX_OUT` where the results are put. `ci/matrix` sets them.

use std::process::ExitCode;

use ferry_report::matrix::Verdict;
use ferry_tests::matrix::results::Results;
use ferry_tests::matrix::run;
use ferry_tests::matrix::selection::{Selected, Selection};
use libtest_mimic::{Arguments, Failed, Trial};

/// Threads for each core: cells wait most of the time.
const CELLS_PER_CORE: usize = 2;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let threads = || std::env::var("RUST_TEST_THREADS").ok().and_then(|text| text.parse().ok());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    arguments.test_threads = arguments.test_threads.or_else(threads).or(Some(cores * CELLS_PER_CORE));
    let selection = match Selection::from_environment() {
        Ok(selection) => selection,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let results = Results::from_environment();
    let trial = |selected: Selected| {
        let results = results.clone();
        Trial::test(selected.name.clone(), move || judge(&selected, &results))
    };
    libtest_mimic::run(&arguments, selection.cells().into_iter().map(trial).collect()).exit_code()
}

fn judge(selected: &Selected, results: &Results) -> Result<(), Failed> {
    let Some(mut cell) = run::run(&selected.cell, selected.seed, &results.files_of(&selected.name)) else {
        return Ok(());
    };
    cell.name.clone_from(&selected.name);
    results.keep(&cell)?;
    match &cell.why {
        None => Ok(()),
        Some(why) if cell.verdict == Verdict::Skip => {
            // Neither green nor red; `ferry-matrix gather` counts these.
            eprintln!("{}: {why}", selected.name);
            Ok(())
        }
        Some(why) => Err(format!(
            "{}\n{why}\nseed {}; again: {}\nfiles: {}",
            cell.injected,
            cell.seed,
            cell.rerun,
            results.files_of(&selected.name).display()
        )
        .into()),
    }
}
