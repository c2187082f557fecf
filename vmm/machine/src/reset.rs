//! Reset: every part back to power-on, the kernel loaded again, and the thread that does it for a
//! guest.
//!
//! A guest that resets itself does so from a vCPU, which cannot wait for itself to stop; so the
//! vCPU only requests it. While a migration holds the machine the request waits: it travels with
//! the state, and the side that runs the guest next carries it out. It also waits while pages of
//! the guest are missing: a reset writes to memory and needs every vCPU out of KVM, and would hold
//! the operation lock until the last page has come, which a broken link may delay for long.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferry_observe::events::Event;

use super::error::{ExitReason, GuestFailure, MachineError};
use super::parts::Parts;
use super::power_on::{PowerOn, of_part};
use super::status::ResetCause;
use crate::kvm::chips;

/// Runs the reset thread: waits for requests until the machine is dropped.
pub(super) fn serve(parts: &Arc<Parts>) {
    let control = &parts.control;
    loop {
        let due = |status: &super::status::Status| {
            let may = status.running && status.ended.is_none() && !status.memory_arrives;
            status.dropped || status.reset.is_some() && may
        };
        if control.wait_until(due).dropped {
            return;
        }
        // Busy: a long operation is under way, and the request stays pending.
        let Ok(_operation) = control.operation.take("a reset") else { continue };
        // Under a hold that came first the request stays pending.
        if !control.status().running {
            continue;
        }
        if let Err(error) = carry_out(parts).and_then(|()| control.go_on()) {
            control.end(ExitReason::Failed(GuestFailure::Reset(error.to_string())));
        }
    }
}

/// Carries out a pending reset, unless it may have to wait for pages: then the reset thread does
/// so once every page is here and the guest is to run. The caller holds the operation lock, and no
/// hold is in place.
pub(super) fn carry_out_pending(parts: &Parts) -> Result<(), MachineError> {
    let may_wait = parts.control.status().memory_arrives;
    match may_wait {
        true => Ok(()),
        false => carry_out(parts),
    }
}

fn carry_out(parts: &Parts) -> Result<(), MachineError> {
    let control = &parts.control;
    let Some(cause) = control.status().reset else { return Ok(()) };
    control.halt()?;
    reset(parts)?;
    control.status().reset = None;
    let event = match cause {
        ResetCause::Guest => Event::Reset { guest: true, reason: "guest-reset" },
        ResetCause::Operator => Event::Reset { guest: false, reason: "host-qmp-system-reset" },
    };
    control.events.publish(event);
    Ok(())
}

/// Everything back to power-on, with the kernel loaded. The vCPUs are stopped.
fn reset(parts: &Parts) -> Result<(), MachineError> {
    for device in parts.devices().iter_mut() {
        device.reset().map_err(|source| MachineError::Device { device: device.id().to_string(), source })?;
    }
    for (index, power_on) in parts.power_on.vcpus.iter().enumerate() {
        parts.vcpu(index).reset(power_on).map_err(of_part(format!("vcpu/{index}")))?;
    }
    let vm = &parts.vm;
    let PowerOn { irqchip, pit, .. } = &parts.power_on;
    chips::load_irqchip(vm, chips::IRQCHIP_VERSION, irqchip).map_err(of_part("irqchip/0"))?;
    chips::load_pit(vm, chips::PIT_VERSION, pit).map_err(of_part("pit/0"))?;
    parts.control.has_spoken.store(false, Ordering::Relaxed);
    load_guest(parts)
}

/// Loads the kernel and points the first vCPU at it; all parts are in their power-on state.
pub(super) fn load_guest(parts: &Parts) -> Result<(), MachineError> {
    let entry = parts.boot.load(&parts.memory)?;
    parts.vcpu(0).enter_at(entry).map_err(of_part("vcpu/0"))
}
