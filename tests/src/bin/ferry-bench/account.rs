//! Everything that was measured, for the table and for the JSON file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::error::BenchError;
use crate::limit::Copy;
use crate::machine::Guest;
use crate::peer::{Kind, Peer};
use crate::postcopy::Contender;
use crate::{migration, postcopy, startup};

/// All samples of one run of the bench.
#[derive(Debug, Serialize)]
pub struct Account {
    /// The VMMs, with their versions.
    pub versions: BTreeMap<&'static str, String>,
    /// What it ran on.
    pub host: String,
    /// vCPUs of every guest.
    pub cpus: u32,
    /// Migrations of each kind and size.
    pub runs: u32,
    /// By size of guest, in the order of measuring.
    pub sizes: Vec<Size>,
    /// Starts, by VMM.
    pub starts: BTreeMap<&'static str, Vec<startup::Sample>>,
}

/// Samples with one guest.
#[derive(Debug, Serialize)]
pub struct Size {
    /// RAM of the guest, in bytes.
    pub memory: u64,
    /// What it does.
    pub load: String,
    /// What backs its memory under Ferry.
    pub backing: String,
    /// Migrations, by VMM.
    pub migrations: BTreeMap<&'static str, Vec<migration::Sample>>,
    /// Migrations by postcopy, by VMM and way.
    pub postcopies: BTreeMap<&'static str, Vec<postcopy::Sample>>,
    /// Bare copies, each of as many bytes as Ferry had just moved.
    pub copies: Vec<Copy>,
}

impl Account {
    /// Nothing measured yet.
    pub fn new(peers: &[Peer], cpus: u32, runs: u32) -> Self {
        let versions = peers.iter().map(|peer| (peer.name(), peer.version.clone())).collect();
        Account { versions, host: host(), cpus, runs, sizes: vec![], starts: BTreeMap::new() }
    }

    /// Takes a migration.
    pub fn migrated(&mut self, guest: &Guest, peer: &Peer, sample: migration::Sample) {
        self.size(guest).migrations.entry(peer.name()).or_default().push(sample);
    }

    /// Takes a migration by postcopy.
    pub fn moved_by_postcopy(&mut self, guest: &Guest, contender: &Contender<'_>, sample: postcopy::Sample) {
        self.size(guest).postcopies.entry(contender.name()).or_default().push(sample);
    }

    /// Takes a bare copy.
    pub fn copied(&mut self, guest: &Guest, copy: Copy) {
        self.size(guest).copies.push(copy);
    }

    /// Takes a start.
    pub fn started(&mut self, peer: &Peer, sample: startup::Sample) {
        self.starts.entry(peer.name()).or_default().push(sample);
    }

    /// Bytes that Ferry moved in its newest migration of this guest.
    pub fn newest_bytes(&mut self, guest: &Guest) -> u64 {
        let migrations = self.size(guest).migrations.get(Kind::Ferry.name());
        migrations.and_then(|samples| samples.last()).map_or(guest.memory, |sample| sample.bytes)
    }

    /// Writes everything as JSON.
    pub fn write_json(&self, path: &Path) -> Result<(), BenchError> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from);
        text.and_then(|text| std::fs::write(path, text + "\n"))
            .map_err(BenchError::system(format!("write {}", path.display())))
    }

    fn size(&mut self, guest: &Guest) -> &mut Size {
        let same = |size: &Size| size.memory == guest.memory;
        if !self.sizes.iter().any(same) {
            self.sizes.push(Size {
                memory: guest.memory,
                load: guest.load.clone(),
                backing: guest.backing.clone(),
                migrations: BTreeMap::new(),
                postcopies: BTreeMap::new(),
                copies: vec![],
            });
        }
        self.sizes.iter_mut().find(|size| same(size)).expect("it was added above")
    }
}

/// Kernel, cores and CPU.
fn host() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    format!("Linux {}, {cores} cores, {}", kernel.trim(), model.map_or("unknown CPU", |(_, model)| model.trim()))
}
