//! Helpers for the tests of this crate and of those above it.

#![cfg_attr(not(test), expect(clippy::print_stderr, reason = "a test says why it is skipped"))]

use std::sync::Arc;

use tempfile::NamedTempFile;

use crate::{DiskConfig, Machine, MachineConfig, SerialSink};

/// Whether tests may use KVM. Without it they fail, unless `FERRY_NO_KVM=1` says that this is
/// known.
#[must_use]
pub fn has_kvm() -> bool {
    if std::env::var_os("FERRY_NO_KVM").is_some_and(|value| value == "1") {
        eprintln!("skipped: FERRY_NO_KVM=1");
        return false;
    }
    if let Err(error) = kvm_ioctls::Kvm::new() {
        panic!("{}; set FERRY_NO_KVM=1 to skip these tests", crate::kvm::KvmError::Open(error));
    }
    true
}

/// A machine with a disk whose storage hangs at a request for a proof, and its image. `None` where
/// tests that need KVM are skipped.
#[must_use]
pub fn with_hanging_disk() -> Option<(Arc<Machine>, NamedTempFile)> {
    if !has_kvm() {
        return None;
    }
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let disk = Some(DiskConfig { path: image.path().to_owned(), read_only: false, raw: true });
    let config = MachineConfig { paused: true, serial: SerialSink::Null, disk, ..MachineConfig::default() };
    let machine = Arc::new(Machine::build(&config, Arc::default()).unwrap());
    machine.set_fault("at=disk:prove,do=hang".parse().unwrap()).unwrap();
    Some((machine, image))
}
