//! `ferry-bench`: what a migration costs here, beside what this host could do at best and beside
//! QEMU.
//!
//! `ci/bench` builds and calls it. It has rows, each a question ([`rows::Row`]). For each, one
//! guest (the embedded one) is migrated over loopback TCP by Ferry, by QEMU where it is installed,
//! and the host's own limit is taken without a VMM, in turns, so that all meet the same moods of
//! the machine. A measurement that fails is noted, and the others go on. Everything is killed and
//! removed at the end, also when it is interrupted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Parser, ValueEnum};

use crate::account::Account;
use crate::error::BenchError;
use crate::peer::Peer;
use crate::rows::{Bench, Row};

mod account;
mod error;
mod limit;
mod machine;
mod migration;
mod peer;
mod plot;
mod postcopy;
mod process;
mod rows;
mod serial;
mod startup;
mod statistics;
mod surroundings;
mod svg;
mod table;
mod target;

/// Memory of the largest guest that most rows have.
const MOST_MIB: u64 = 4096;

/// Measure migrations of the embedded guest, beside QEMU and beside what this host could do at
/// best.
#[derive(Parser, Debug)]
#[command(name = "ferry-bench", max_term_width = 100)]
#[command(group(ArgGroup::new("what").required(true).args(["rows", "all"])))]
struct Options {
    /// What to measure
    #[arg(value_name = "ROW")]
    rows: Vec<Row>,
    /// Measure every row
    #[arg(long)]
    all: bool,
    /// Runs of each kind; medians are shown
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Guest memory in MiB, in the place of each row's own; a row that takes one size takes the
    /// first
    #[arg(long, value_name = "MIB", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(64..=8192))]
    sizes: Vec<u64>,
    /// Starts of each kind, in the row `start`
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    starts: u32,
    /// What backs Ferry's guest memory
    #[arg(long, default_value = "anon", value_name = "anon|memfd", value_parser = ["anon", "memfd"])]
    backing: String,
    /// Do not compare with QEMU
    #[arg(long)]
    no_qemu: bool,
    /// Write bench.json with every sample there [default: bench in the target directory]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Write the plots there [default: beside bench.json]
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(account) if account.ferry_failed() => {
            eprintln!("ferry-bench: Ferry failed; the lines with a star say where");
            ExitCode::FAILURE
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferry-bench: {}", ferry_observe::causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Account, BenchError> {
    let output = options.output.clone().unwrap_or_else(default_output);
    std::fs::create_dir_all(&output).map_err(BenchError::system(format!("make {}", output.display())))?;
    let surroundings = surroundings::prepare(&output)?;
    let bench = Bench {
        peers: Peer::available(options.no_qemu),
        runs: options.runs,
        starts: options.starts,
        sizes_mib: options.sizes.clone(),
        backing: options.backing.clone(),
        directory: surroundings.sockets.path().to_owned(),
        storage: surroundings.storage.path().to_owned(),
    };
    let mut account = Account::new(&bench.peers, bench.runs);
    let rows = if options.all { Row::value_variants() } else { &options.rows };
    print!("{}", table::head(&account));
    make_room(&bench)?;
    for row in rows {
        // What has been measured is not lost with what comes next.
        let section = row.measure(&bench);
        print!("{}", table::render(&section));
        account.sections.push(section);
        account.write_json(&output.join("bench.json"))?;
    }
    let plots = options.plots.as_deref().unwrap_or(&output);
    for name in plot::write_all(&account, plots)? {
        eprintln!("ferry-bench: {}", plots.join(name).display());
    }
    eprintln!("ferry-bench: {}", output.join("bench.json").display());
    Ok(account)
}

/// Whoever is the first to take gigabytes from a host whose memory is full of cached files waits
/// for them: that is to be nobody who is measured.
fn make_room(bench: &Bench) -> Result<(), BenchError> {
    let mib = bench.sizes_mib.iter().copied().max().unwrap_or(MOST_MIB);
    limit::copy(mib << 20, 1).map(drop)
}

/// `TARGET/bench`, for a program that is `TARGET/PROFILE/ferry-bench`.
fn default_output() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(2).unwrap_or(Path::new("target")).join("bench")
}
