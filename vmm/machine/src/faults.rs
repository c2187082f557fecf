//! Rules of the fault device, checked against what this machine has: a rule that could never apply
//! is refused.
//!
//! The command line and QMP set rules through [`Machine::set_fault`]; [`super::sections`] checks
//! them before each step of a device, and [`Calls`](crate::kvm::calls::Calls) before each call to
//! the kernel. The drivers of a migration, the disk's image and the ownership record use
//! [`Machine::faults`] themselves.

use ferry_devices::Device;
use ferry_devices::fault::{Direction, FaultPoint, FaultSpec, FaultStep, Injected, Moment, Place, WORKERS};
use ferry_memory::userfault::HEAR;
use ferry_migration::message::{ToDestination, ToSource};
use ferry_migration::{destination, source};

use super::error::{DeviceFailure, FaultRuleError};
use super::parts::Parts;
use super::{Machine, ids};
use crate::kvm::StateCall;

impl Machine {
    /// Adds a rule to the fault device.
    ///
    /// # Errors
    /// When the rule could never apply here, naming those that could, or there are too many.
    pub fn set_fault(&self, rule: FaultSpec) -> Result<(), FaultRuleError> {
        if comes_first(&rule) {
            return Err(FaultRuleError::Past { at: rule.at.to_string() });
        }
        set(&self.parts, rule)
    }
}

pub(super) fn set(parts: &Parts, rule: FaultSpec) -> Result<(), FaultRuleError> {
    check(parts, &rule)?;
    Ok(parts.faults.set(rule)?)
}

/// Whether a rule applies while the machine is built, so that it must be in force before.
pub(super) fn comes_first(rule: &FaultSpec) -> bool {
    rule.at == FaultPoint::Place(Place::DiskOpen)
}

/// The call that a rule names, if it names one. On success the call, output or message that it
/// names exists in some machine.
///
/// # Errors
/// When there is no such call, output or message.
pub fn call_of(rule: &FaultSpec) -> Result<Option<StateCall>, FaultRuleError> {
    match &rule.at {
        FaultPoint::Step(_) | FaultPoint::Place(_) => Ok(None),
        FaultPoint::Moment(moment, name) => {
            let known = names(*moment, rule.direction);
            if known.contains(&name.as_str()) {
                return Ok(None);
            }
            Err(FaultRuleError::Moment { at: rule.at.to_string(), moment: moment.as_str(), known: known.join(", ") })
        }
        FaultPoint::Call(name) if name == HEAR => Ok(None),
        FaultPoint::Call(name) => match StateCall::ALL.iter().find(|call| call.name() == name) {
            Some(call) => Ok(Some(*call)),
            None => {
                let known = StateCall::ALL.iter().map(|call| call.name()).chain([HEAR]).collect::<Vec<_>>().join(", ");
                Err(FaultRuleError::Call { name: name.clone(), known })
            }
        },
    }
}

/// Outputs without an action that could be interrupted, or with a moment of their own.
const NO_STEP: [&str; 7] = ["Send", "StartTimer", "StopTimer", "Interrupt", "Status", "Handshake", "Refuse"];

/// The names that a moment can have: on that side, or on either.
fn names(moment: Moment, direction: Option<Direction>) -> Vec<&'static str> {
    let (of_source, of_destination) = match moment {
        Moment::Step => (source::Output::NAMES, destination::Output::NAMES),
        Moment::Send | Moment::Sent => (ToDestination::NAMES, ToSource::NAMES),
        Moment::Received => (ToSource::NAMES, ToDestination::NAMES),
    };
    let mut names = match direction {
        Some(Direction::Outgoing) => of_source.to_vec(),
        Some(Direction::Incoming) => of_destination.to_vec(),
        None => [of_source, of_destination].concat(),
    };
    names.sort_unstable();
    names.dedup();
    names.retain(|name| moment != Moment::Step || !NO_STEP.contains(name));
    names
}

fn is_of_disk(place: Place) -> bool {
    place.as_str().starts_with("disk:")
}

fn check(parts: &Parts, rule: &FaultSpec) -> Result<(), FaultRuleError> {
    let call = call_of(rule)?;
    let disks =
        || parts.device_names.iter().filter(|name| name.starts_with("virtio-blk/")).cloned().collect::<Vec<_>>();
    let is_disk = matches!(rule.at, FaultPoint::Place(place) if is_of_disk(place));
    if is_disk && disks().is_empty() {
        return Err(FaultRuleError::NoDisk { at: rule.at.to_string() });
    }
    let Some(of) = &rule.of else { return Ok(()) };
    let known = match call {
        None if is_disk => disks(),
        None if rule.at == FaultPoint::Place(Place::HostThread) => {
            WORKERS.iter().map(|name| format!("{name}/0")).collect()
        }
        None if matches!(rule.at, FaultPoint::Place(_) | FaultPoint::Moment(..)) => {
            return Err(FaultRuleError::NoPart { at: rule.at.to_string() });
        }
        Some(call) => ids::of_kvm(parts.vcpus.len())
            .filter(|(part, _)| part.name == call.part())
            .map(|(part, _)| part.to_string())
            .collect::<Vec<_>>(),
        None => parts.device_names.clone(),
    };
    match known.contains(of) {
        true => Ok(()),
        false => {
            let at = rule.at.to_string();
            Err(FaultRuleError::Part { at, of: of.clone(), known: known.join(", ") })
        }
    }
}

/// Applies the rules for `step` of `device`.
pub(super) fn before(parts: &Parts, step: FaultStep, device: &dyn Device) -> Result<(), DeviceFailure> {
    let id = device.id();
    let told = |why: Injected| {
        let how = if why == Injected::Interrupted { ", interrupted" } else { "" };
        DeviceFailure::new(&id, format!("told to fail in {}{how}", step.as_str()))
    };
    parts.faults.before_step(step, &id).map_err(told)
}
