//! `ferry-bench`: what a migration costs here, beside what this host could do at best and beside QEMU.
//!
//! `ci/bench` builds and calls it. One guest (the embedded one) is migrated over loopback TCP by Ferry, by QEMU where it is
//! installed, and its bytes are then copied by a bare pair of sockets, in turns, so that all three meet the same moods of the
//! machine. Everything is killed and removed at the end, also when it is interrupted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::account::Account;
use crate::error::BenchError;
use crate::machine::Guest;
use crate::peer::Peer;
use crate::postcopy::{Contender, When};

mod account;
mod error;
mod limit;
mod local;
mod machine;
mod migration;
mod peer;
mod postcopy;
mod process;
mod serial;
mod startup;
mod statistics;
mod surroundings;
mod table;

/// Measure migrations of the embedded guest, beside a bare copy over loopback TCP and beside QEMU.
#[derive(Parser, Debug)]
#[command(name = "ferry-bench", max_term_width = 100)]
struct Options {
    /// Migrations of each kind; medians are shown
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Guest memory, in MiB, one table for each
    #[arg(long, default_values_t = [1024, 4096], value_name = "MIB", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(64..=8192))]
    sizes: Vec<u64>,
    /// vCPUs of the guest
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    cpus: u32,
    /// How fast the guest touches pages at random in half of its memory, in MiB/s
    #[arg(long, default_value_t = 400, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Let the guest fill half of its memory and then do next to nothing
    #[arg(long)]
    idle: bool,
    /// Migrate by postcopy, QEMU without and with postcopy-preempt, and switch then [when not said: first-round]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, default_missing_value = "first-round")]
    postcopy: Option<When>,
    /// What backs Ferry's guest memory
    #[arg(long, default_value = "anon", value_name = "anon|memfd", value_parser = ["anon", "memfd"])]
    backing: String,
    /// Starts of each kind, for the time to the first serial byte and the memory overhead; 0 leaves that out
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    starts: u32,
    /// Hand the memory over to a process on this host, and measure nothing else
    #[arg(long, conflicts_with = "postcopy")]
    local: bool,
    /// Do not compare with QEMU
    #[arg(long)]
    no_qemu: bool,
    /// Write every measured value there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferry-bench: {}", ferry_vmm::runtime::causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), BenchError> {
    let directory = surroundings::prepare()?;
    if options.local {
        let guest = |size_mib: &u64| Guest::new(size_mib << 20, options.cpus, options.rate << 20, options.idle);
        return local::run(&options.sizes.iter().map(guest).collect::<Vec<_>>(), options.runs, directory.path());
    }
    let peers = Peer::available(options.no_qemu);
    let mut account = Account::new(&peers, options.cpus, options.runs);
    for size_mib in &options.sizes {
        let guest = Guest::new(size_mib << 20, options.cpus, options.rate << 20, options.idle);
        let guest = guest.backed_by(&options.backing);
        for run in 1..=options.runs {
            let turn = format!("{size_mib} MiB, run {run} of {}", options.runs);
            match options.postcopy {
                Some(when) => {
                    for contender in Contender::all(&peers, when) {
                        eprintln!("{turn}: {} by postcopy", contender.name());
                        let sample = postcopy::measure(&contender, &guest, directory.path())?;
                        account.moved_by_postcopy(&guest, &contender, sample);
                    }
                }
                None => by_precopy(&mut account, &peers, &guest, directory.path(), &turn)?,
            }
        }
    }
    for start in 1..=options.starts {
        for peer in &peers {
            eprintln!("start {start} of {}: {}", options.starts, peer.name());
            account.started(peer, startup::measure(peer, options.cpus, directory.path())?);
        }
    }
    print!("{}", table::render(&account));
    if let Some(path) = &options.json {
        account.write_json(path)?;
    }
    Ok(())
}

/// Everybody's turn, and then the bare copy's.
fn by_precopy(
    account: &mut Account,
    peers: &[Peer],
    guest: &Guest,
    directory: &Path,
    turn: &str,
) -> Result<(), BenchError> {
    for peer in peers {
        eprintln!("{turn}: {}", peer.name());
        account.migrated(guest, peer, migration::measure(peer, guest, directory)?);
    }
    eprintln!("{turn}: bare copy");
    let copy = limit::measure(account.newest_bytes(guest))?;
    account.copied(guest, copy);
    Ok(())
}
