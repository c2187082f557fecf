//! Acquires the guest's resources and lets it run; or releases them again.
//!
//! Every caller holds the operation lock.

use std::time::{Duration, Instant};

use ferry_devices::Device;
use ferry_migration::guards::Guards;
use ferry_migration::ownership::custody::{self, Again};

use super::custody::Settle;
use super::error::{DeviceFailure, MachineError};
use super::parts::Parts;
use super::reset;
use crate::kvm::vcpu::part;

/// How long output that the guest wrote before a triple fault may take to be noticed.
const OUTPUT_DEADLINE: Duration = Duration::from_millis(100);
/// Longest that another process may hold the disk's lock when a switchover ends: a boot that the
/// record refuses holds it for as long as the record takes to answer.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How often the lock is tried meanwhile.
const LOCK_AGAIN: Duration = Duration::from_millis(5);

impl Parts {
    /// Lets the guest run if it should. The caller holds the operation lock, and no hold is in
    /// place.
    pub(super) fn begin(&self) -> Result<(), MachineError> {
        let (idle, held) = {
            let status = self.control.status();
            (!status.running && status.ended.is_none(), status.holds)
        };
        if !idle {
            return Ok(());
        }
        self.acquire()?;
        let claim = self.claim(Again::Cont).inspect_err(|_| {
            if !custody::keeps_disk(held, Guards::all()) {
                self.give_up_resources();
            }
        })?;
        self.run_if_wanted()?;
        self.has_its_disk(claim);
        Ok(())
    }

    /// For a guest whose disk was released, and is held again: claims it. The result is for
    /// [`Parts::has_its_disk`].
    pub(super) fn claim(&self, again: Again) -> Result<Option<Settle>, MachineError> {
        let let_go = self.control.status().let_go;
        let Some(custody) = self.custody.get().filter(|_| custody::must_claim(let_go, again, Guards::all())) else {
            return Ok(None);
        };
        custody.claim(again).map(Some).map_err(MachineError::NotOurs)
    }

    /// Called when a guest whose disk may have been released runs here again, or is stopped with
    /// its disk held.
    pub(super) fn has_its_disk(&self, claim: Option<Settle>) {
        self.control.status().let_go = false;
        if let Some(settle) = claim {
            settle();
        }
    }

    /// With the resources held: carries out a pending reset, and lets the guest run if the operator
    /// wants it.
    pub(super) fn run_if_wanted(&self) -> Result<(), MachineError> {
        reset::carry_out_pending(self)?;
        if !self.control.status().wants {
            return self.quiesce().map_err(|failure| MachineError::Device {
                device: failure.device,
                source: std::io::Error::other(failure.reason),
            });
        }
        self.complete_load()?;
        for vcpu in &self.vcpus {
            // A locked vCPU waits in KVM for a page: it was not paused.
            if let Ok(vcpu) = vcpu.try_lock() {
                vcpu.note_pause();
            }
        }
        for device in self.devices().iter_mut() {
            let id = device.id();
            device.resume().map_err(|source| MachineError::Device { device: id.to_string(), source })?;
        }
        self.control.start()
    }

    /// Makes KVM write the deferred part of the last load to guest memory, if any.
    pub(super) fn complete_load(&self) -> Result<(), MachineError> {
        for vcpu in &self.vcpus {
            // A locked vCPU waits in KVM for a page: it has run since the load.
            if let Ok(mut vcpu) = vcpu.try_lock() {
                let id = vcpu.id();
                vcpu.complete_load().map_err(|source| MachineError::State { part: part(id).to_string(), source })?;
            }
        }
        Ok(())
    }

    /// As [`Parts::acquire`], for a guest that is to run at the end of a switchover: a process
    /// that boots the guest at this moment holds the disk's lock until the record has refused it.
    pub(super) fn acquire_patiently(&self) -> Result<(), MachineError> {
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match self.acquire() {
                Err(error) if error.is_busy_disk() && Instant::now() < until => std::thread::sleep(LOCK_AGAIN),
                result => return result,
            }
        }
    }

    /// Acquires the resources of all devices, or of none. Those held before are kept in any case:
    /// without the lock of its disk a stopped guest could lose its newest state to a boot.
    pub(super) fn acquire(&self) -> Result<(), MachineError> {
        let held = self.control.status().holds;
        let mut devices = self.devices();
        for at in 0..devices.len() {
            if let Err(source) = devices[at].acquire() {
                let device = devices[at].id().to_string();
                if !custody::keeps_disk(held, Guards::all()) {
                    release(&mut devices[..at]);
                }
                return Err(MachineError::Device { device, source });
            }
        }
        self.control.status().holds = true;
        Ok(())
    }

    pub(super) fn give_up_resources(&self) {
        self.control.status().holds = false;
        release(&mut self.devices());
    }

    pub(super) fn quiesce(&self) -> Result<(), DeviceFailure> {
        for device in self.devices().iter_mut() {
            device.quiesce().map_err(|error| DeviceFailure::new(device.id(), error))?;
        }
        Ok(())
    }

    /// A vCPU triple-faulted.
    pub(super) fn triple_fault(&self, vcpu: u32) {
        // The guest's output may still be on its way to the sink. A sink that takes nothing is
        // reported elsewhere.
        let _ = self.serial.drain_output(OUTPUT_DEADLINE);
        self.control.triple_fault(vcpu);
    }
}

fn release(devices: &mut [Box<dyn Device>]) {
    for device in devices {
        if let Err(error) = device.release() {
            tracing::warn!(device = %device.id(), %error, "could not be released");
        }
    }
}
