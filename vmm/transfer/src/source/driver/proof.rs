//! The proof of a disk: a lock that the source shows at its image, so that the destination can
//! check that its own is the same.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferry_devices::fault::FaultControl;
use ferry_devices::one_call::Open;
use ferry_machine::{self as machine, DiskProof};
use ferry_migration::identity::{DiskFile, nonce_of};
use ferry_migration::parameters::DiskSharing;

/// The thread that takes the lock from the image's storage.
const THREAD: &str = "ferry-src-proof";

/// The proof of a disk, from when the control link is opened to the destination's first answer.
///
/// The image's storage may hang. It is called on threads that no migration joins: the guest runs
/// on, and the migration ends. While one of them hangs, a later migration has no proof.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    sharing: DiskSharing,
    shown: Arc<Mutex<Shown>>,
}

#[derive(Debug)]
enum Shown {
    NotYet,
    Here(DiskProof, Open),
    /// No longer needed: a proof that is obtained only now is released.
    Over,
}

impl Proof {
    /// None yet; by the operator's setting there may never be one.
    pub(super) fn new(sharing: DiskSharing) -> Self {
        Proof { sharing, shown: Arc::new(Mutex::new(Shown::NotYet)) }
    }

    /// Shows the proof, and waits for that up to `within`.
    pub(super) fn begin(&self, disk: machine::DiskFile, migration_id: u128, faults: &FaultControl, within: Duration) {
        if self.sharing == DiskSharing::Copied {
            return;
        }
        let (done, was_done) = channel();
        let until = Instant::now() + within;
        let (shown, path) = (self.shown.clone(), disk.path());
        let Some(open) = disk.proving().begin(within) else {
            tracing::warn!(
                image = path,
                "the image's storage has not answered an earlier migration yet, so that there is no proof of the disk for \
                 this destination; see whether it hangs"
            );
            return;
        };
        let prove = move || {
            match disk.prove(nonce_of(migration_id)) {
                Ok(proof) => keep(&shown, proof, open),
                Err(error) => {
                    tracing::warn!(%error, image = disk.path(), "no lock can be put on the image as a proof for the destination");
                }
            }
            // The caller has stopped waiting if it took too long.
            let _ = done.send(());
        };
        match faults.spawn(THREAD, prove) {
            Ok(_) if was_done.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() => {}
            Ok(_) => tracing::warn!(
                image = path,
                "the image's storage gives no answer to a lock that proves it to the destination; see whether it hangs"
            ),
            Err(error) => tracing::warn!(%error, image = path, "no thread to prove the image to the destination"),
        }
    }

    /// Releases the proof. Does not wait for storage.
    pub(super) fn end(&self, faults: &FaultControl) {
        let before = std::mem::replace(&mut *lock(&self.shown), Shown::Over);
        if let Shown::Here(proof, open) = before {
            open.restart();
            // Without a thread it is released here.
            let _ = faults.spawn(THREAD, move || drop((proof, open)));
        }
    }

    /// The file's entry in the greeting.
    pub(super) fn file(&self) -> DiskFile {
        match (self.sharing, &*lock(&self.shown)) {
            (DiskSharing::Copied, _) => DiskFile::Copied,
            (DiskSharing::Shared, Shown::Here(proof, _)) => DiskFile::Locked { nonce: proof.nonce() },
            (DiskSharing::Shared, Shown::NotYet | Shown::Over) => DiskFile::Unproven,
        }
    }
}

fn keep(shown: &Mutex<Shown>, proof: DiskProof, open: Open) {
    let mut shown = lock(shown);
    if matches!(*shown, Shown::NotYet) {
        *shown = Shown::Here(proof, open);
        return;
    }
    // Releasing it calls storage, and the driver must not wait for this lock.
    drop(shown);
    drop((proof, open));
}

fn lock(shown: &Mutex<Shown>) -> MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::of_this_process;
    use ferry_machine::testing::with_hanging_disk;

    #[test]
    fn while_a_proof_hangs_a_later_migration_goes_without_and_starts_no_thread() {
        let Some((machine, _image)) = with_hanging_disk() else { return };
        let (faults, within) = (machine.faults(), Duration::from_millis(10));
        for migration in 1..4_u128 {
            let proof = Proof::new(DiskSharing::Shared);
            proof.begin(machine.writable_disk().unwrap(), migration << 66, faults, within);
            assert_eq!(proof.file(), DiskFile::Unproven);
            proof.end(faults);
            assert!(of_this_process(THREAD) <= 1);
        }
        faults.clear();
        let proof = Proof::new(DiskSharing::Shared);
        let long = Duration::from_secs(60);
        // The call that hung ends, and its proof is given back.
        while proof.file() == DiskFile::Unproven {
            proof.begin(machine.writable_disk().unwrap(), 4 << 66, faults, long);
        }
        proof.end(faults);
    }
}
