//! Rules of the fault device, checked against what this machine has: a rule that could never apply is refused.
//!
//! The command line and QMP set rules through [`Machine::set_fault`]; [`sections`](super::sections) asks before each step of a
//! device, and [`Calls`](crate::kvm::calls::Calls) before each call to the kernel.

use ferry_devices::Device;
use ferry_devices::fault::{FaultPoint, FaultSpec, FaultStep, Injected, TooManyRules};

use super::error::DeviceFailure;
use super::parts::Parts;
use super::{Machine, sections};
use crate::kvm::StateCall;
use crate::memory::userfault::HEAR;

/// A rule that this machine does not take.
#[derive(Debug, thiserror::Error)]
pub enum FaultRuleError {
    /// No such call.
    #[error("fault: at={name}: the state is saved and loaded with other calls: write one of {known}")]
    Call {
        /// The name given.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// The machine has no such part, or the step or call is not about it.
    #[error("fault: at={at} does not happen to {of} here: write of= with one of {known}")]
    Part {
        /// Where the fault was to happen.
        at: String,
        /// The part given.
        of: String,
        /// The parts that there are.
        known: String,
    },
    /// Too many rules.
    #[error(transparent)]
    TooMany(#[from] TooManyRules),
}

impl Machine {
    /// Adds a rule to the fault device.
    ///
    /// # Errors
    /// When the rule could never apply here, naming what could, or there are too many.
    pub fn set_fault(&self, rule: FaultSpec) -> Result<(), FaultRuleError> {
        set(&self.parts, rule)
    }
}

pub(super) fn set(parts: &Parts, rule: FaultSpec) -> Result<(), FaultRuleError> {
    check(parts, &rule)?;
    Ok(parts.faults.set(rule)?)
}

/// The call that a rule is about, if it is about one.
///
/// # Errors
/// When there is no such call.
pub fn call_of(rule: &FaultSpec) -> Result<Option<StateCall>, FaultRuleError> {
    match &rule.at {
        FaultPoint::Step(_) => Ok(None),
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

fn check(parts: &Parts, rule: &FaultSpec) -> Result<(), FaultRuleError> {
    let call = call_of(rule)?;
    let Some(of) = &rule.of else { return Ok(()) };
    let known = match call {
        Some(call) => sections::of_kvm(parts.vcpus.len())
            .filter(|(part, _)| part.name == call.part())
            .map(|(part, _)| part.to_string())
            .collect::<Vec<_>>(),
        None => parts.device_names.clone(),
    };
    match known.contains(of) {
        true => Ok(()),
        false => {
            let at = rule.at.as_str().to_owned();
            Err(FaultRuleError::Part { at, of: of.clone(), known: known.join(", ") })
        }
    }
}

/// Does what the rules say about `step` of `device`.
pub(super) fn before(parts: &Parts, step: FaultStep, device: &dyn Device) -> Result<(), DeviceFailure> {
    let id = device.id();
    let told = |why: Injected| {
        let how = if why == Injected::Interrupted { ", interrupted" } else { "" };
        DeviceFailure::new(&id, format!("told to fail in {}{how}", step.as_str()))
    };
    parts.faults.before_step(step, &id).map_err(told)
}
