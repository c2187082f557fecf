//! Measures local hand-overs: the guest's memory goes to a new process as a whole, and no page is copied.
//!
//! The guest is moved again and again, each time to a fresh process, as an operator does who upgrades the binary; its gap is its own
//! word. There is no peer: Cloud Hypervisor's figures for its own local migration are in docs/performance.md.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::error::BenchError;
use crate::machine::Guest;
use crate::migration::{FILL, MIGRATE, REPORTS, SPANNING, WARM_UP};
use crate::peer::{Kind, Peer, Role};
use crate::process::Process;
use crate::serial::SerialLog;
use crate::statistics::median;

/// One hand-over, in milliseconds.
struct Sample {
    total_ms: f64,
    downtime_ms: f64,
    gap_ms: f64,
    gap_before_ms: f64,
}

/// Hands each guest over so many times, and prints a table.
pub fn run(guests: &[Guest], runs: u32, directory: &Path) -> Result<(), BenchError> {
    let peers = Peer::available(true);
    let ferry = peers.iter().find(|peer| peer.kind == Kind::Ferry).expect("Ferry is measured always");
    println!("local hand-over, medians of {runs} runs     total  downtime  guest's gap (most)  before the stop");
    for guest in guests {
        let samples = (0..runs).map(|_| measure(ferry, guest, directory)).collect::<Result<Vec<_>, _>>()?;
        let middle = |of: fn(&Sample) -> f64| median(samples.iter().map(of)).unwrap_or_default();
        let most = samples.iter().map(|sample| sample.gap_ms).fold(0.0, f64::max);
        println!(
            "  {:>5} MiB, {} vCPUs            {:>9.2} {:>9.2}  {:>10.2} {:>8} {:>16.2} ms",
            guest.memory >> 20,
            guest.cpus,
            middle(|sample| sample.total_ms),
            middle(|sample| sample.downtime_ms),
            middle(|sample| sample.gap_ms),
            format!("({most:.2})"),
            middle(|sample| sample.gap_before_ms),
        );
    }
    Ok(())
}

fn measure(ferry: &Peer, guest: &Guest, directory: &Path) -> Result<Sample, BenchError> {
    let guest = guest.clone().backed_by("memfd");
    let mut source = Process::start(ferry, &guest, Role::Source, directory)?;
    let mut log = SerialLog::new(&source)?;
    let mut destination = Process::start(ferry, &guest, Role::Destination, directory)?;
    let socket = directory.join("local");
    // One that a run before has left.
    let _ = std::fs::remove_file(&socket);
    let uri = format!("unix:{}", socket.display());
    destination.execute("migrate-incoming", json!({ "uri": uri }))?;
    source.execute("migrate-set-parameters", json!({ "x-ferry-local": true }))?;
    log.wait_ready(&mut source, guest.cpus, FILL)?;
    log.wait_reports(&mut source, guest.cpus, WARM_UP, REPORTS)?;

    let begun = log.position();
    let began = Instant::now();
    source.execute("migrate", json!({ "uri": uri }))?;
    let info = source.wait_completed(MIGRATE)?;
    let total_ms = began.elapsed().as_secs_f64() * 1e3;
    log.read(&source)?;
    let gap_before_us = log.longest_gap_us(&begun, usize::MAX);
    let left = log.position();
    log.moved_to(&destination)?;
    log.wait_reports(&mut destination, guest.cpus, SPANNING, REPORTS)?;
    Ok(Sample {
        total_ms,
        downtime_ms: source.number(&info, &["x-ferry-downtime-us"])? as f64 / 1e3,
        gap_ms: log.longest_gap_us(&left, SPANNING) as f64 / 1e3,
        gap_before_ms: gap_before_us as f64 / 1e3,
    })
}
