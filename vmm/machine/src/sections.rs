//! The machine's state as sections: one for each vCPU, the chips in KVM, every device, and the
//! machine as a whole.
//!
//! Order matters when loading: local APICs (in the vCPUs) before the IOAPIC, everything in KVM
//! before the devices, and all devices before the first `post_load`.

use std::collections::HashMap;

use ferry_devices::DeviceId;
use ferry_devices::fault::FaultStep;
use ferry_migration::Section;
use serde::{Deserialize, Serialize};

use super::error::DeviceFailure;
use super::faults;
use super::ids::{MACHINE, MACHINE_VERSION};
use super::parts::Parts;
use super::status::ResetCause;
use crate::kvm::chips::{IRQCHIP, PIT};
use crate::kvm::clock::KVMCLOCK;
use crate::kvm::{StateError, chips, clock, state, vcpu};

/// State that belongs to no device.
#[derive(Debug, Serialize, Deserialize)]
struct SavedMachine {
    /// The operator wants the guest to run.
    wants: bool,
    /// A reset was requested and not carried out yet.
    reset_pending: bool,
}

/// Saves everything but memory. The vCPUs are stopped.
pub(super) fn save(parts: &Parts) -> Result<Vec<Section>, DeviceFailure> {
    let mut devices = parts.devices();
    let mut sections = Vec::with_capacity(parts.vcpus.len() + devices.len() + 4);
    for instance in 0..parts.vcpus.len() {
        sections.push(of_part(vcpu::part(instance as u32), state::VERSION, parts.vcpu(instance).save())?);
    }
    let vm = &parts.vm;
    sections.push(of_part(IRQCHIP, chips::IRQCHIP_VERSION, chips::save_irqchip(vm))?);
    sections.push(of_part(PIT, chips::PIT_VERSION, chips::save_pit(vm))?);
    sections.push(of_part(KVMCLOCK, clock::VERSION, clock::save(vm))?);
    for device in devices.iter_mut() {
        faults::before(parts, FaultStep::Save, &**device)?;
        let payload = device.save().map_err(|error| DeviceFailure::new(device.id(), error))?;
        sections.push(section(device.id(), device.state_version(), payload));
    }
    let payload = requests(parts).map_err(|error| DeviceFailure::new(MACHINE, error))?;
    sections.push(section(MACHINE, MACHINE_VERSION, payload));
    Ok(sections)
}

/// Loads what [`save`] saved. The vCPUs are stopped. Every section must be taken by exactly one
/// device, and every device must get one.
pub(super) fn load(parts: &Parts, sections: &[Section]) -> Result<(), DeviceFailure> {
    let mut devices = parts.devices();
    let mut left = Unclaimed::new(sections)?;
    // All sections are claimed before the first is loaded: a wrong set changes nothing.
    let vcpus = (0..parts.vcpus.len() as u32).map(|id| left.claim(vcpu::part(id))).collect::<Result<Vec<_>, _>>()?;
    let (irqchip, pit, clock) = (left.claim(IRQCHIP)?, left.claim(PIT)?, left.claim(KVMCLOCK)?);
    let of_devices = devices.iter().map(|device| left.claim(device.id())).collect::<Result<Vec<_>, _>>()?;
    let own = left.claim(MACHINE)?;
    left.check_empty()?;

    let own = decode_machine(own)?;
    for (instance, section) in vcpus.into_iter().enumerate() {
        in_part(section, |version, payload| parts.vcpu(instance).load(version, payload))?;
    }
    let vm = &parts.vm;
    in_part(irqchip, |version, payload| chips::load_irqchip(vm, version, payload))?;
    in_part(pit, |version, payload| chips::load_pit(vm, version, payload))?;
    in_part(clock, |version, payload| clock::load(vm, version, payload))?;
    for (device, section) in devices.iter_mut().zip(of_devices) {
        faults::before(parts, FaultStep::Load, &**device)?;
        device.load(section.version, &section.payload).map_err(|error| DeviceFailure::new(device.id(), error))?;
    }
    for device in devices.iter_mut() {
        faults::before(parts, FaultStep::PostLoad, &**device)?;
        device.post_load().map_err(|error| DeviceFailure::new(device.id(), error))?;
    }
    adopt(parts, &own);
    Ok(())
}

/// The requested run state and reset, encoded to be sent.
pub(super) fn requests(parts: &Parts) -> postcard::Result<Vec<u8>> {
    let own = {
        let status = parts.control.status();
        SavedMachine { wants: status.wants, reset_pending: status.reset.is_some() }
    };
    postcard::to_stdvec(&own)
}

/// Adopts what the source's operator has requested; a `cont` or `stop` of this process's operator
/// overrides it.
pub(super) fn adopt_requests(parts: &Parts, bytes: &[u8]) -> postcard::Result<()> {
    postcard::from_bytes(bytes).map(|own| adopt(parts, &own))
}

fn adopt(parts: &Parts, own: &SavedMachine) {
    let mut status = parts.control.status();
    status.reset = own.reset_pending.then_some(ResetCause::Guest);
    if !status.commanded {
        status.wants = own.wants;
    }
}

fn decode_machine(section: &Section) -> Result<SavedMachine, DeviceFailure> {
    if section.version != MACHINE_VERSION {
        let error = StateError::Version { found: section.version, supported: MACHINE_VERSION };
        return Err(DeviceFailure::new(MACHINE, error));
    }
    match postcard::take_from_bytes(&section.payload) {
        Ok((own, [])) => Ok(own),
        Ok((_, rest)) => Err(DeviceFailure::new(MACHINE, format!("{} bytes follow the end of the state", rest.len()))),
        Err(error) => Err(DeviceFailure::new(MACHINE, format!("state does not decode: {error}"))),
    }
}

fn of_part(id: DeviceId, version: u32, payload: Result<Vec<u8>, StateError>) -> Result<Section, DeviceFailure> {
    let payload = payload.map_err(|error| DeviceFailure::new(&id, error))?;
    Ok(section(id, version, payload))
}

fn in_part(section: &Section, load: impl FnOnce(u32, &[u8]) -> Result<(), StateError>) -> Result<(), DeviceFailure> {
    load(section.version, &section.payload).map_err(|error| DeviceFailure::new(section.name(), error))
}

fn section(id: DeviceId, version: u32, payload: Vec<u8>) -> Section {
    Section { device: id.name.to_owned(), instance: id.instance, version, payload }
}

/// Sections that no device has taken yet.
struct Unclaimed<'a>(HashMap<(&'a str, u32), &'a Section>);

impl<'a> Unclaimed<'a> {
    fn new(sections: &'a [Section]) -> Result<Self, DeviceFailure> {
        let mut left = HashMap::with_capacity(sections.len());
        for section in sections {
            if left.insert((section.device.as_str(), section.instance), section).is_some() {
                return Err(DeviceFailure::new(
                    section.name(),
                    "its state came twice; the source is damaged or hostile",
                ));
            }
        }
        Ok(Unclaimed(left))
    }

    fn claim(&mut self, id: DeviceId) -> Result<&'a Section, DeviceFailure> {
        let section = self.0.remove(&(id.name, id.instance));
        section.ok_or_else(|| DeviceFailure::new(&id, "no state came for it; start both sides with the same devices"))
    }

    fn check_empty(&self) -> Result<(), DeviceFailure> {
        match self.0.values().map(|section| section.name()).min() {
            Some(name) => Err(DeviceFailure::new(name, "no such device here; start both sides with the same devices")),
            None => Ok(()),
        }
    }
}
