//! The state of a machine before its first instruction, to which a reset returns.

use super::error::MachineError;
use crate::kvm::{StateError, Vcpu, Vm, chips};

/// The state of everything in KVM before the first instruction.
#[derive(Debug)]
pub(super) struct PowerOn {
    pub(super) vcpus: Vec<Vec<u8>>,
    pub(super) irqchip: Vec<u8>,
    pub(super) pit: Vec<u8>,
}

impl PowerOn {
    /// Takes the state of a machine that has not run.
    pub(super) fn take(vm: &Vm, vcpus: &[Vcpu]) -> Result<Self, MachineError> {
        let vcpu = |vcpu: &Vcpu| vcpu.save().map_err(of_part(format!("vcpu/{}", vcpu.id())));
        Ok(PowerOn {
            vcpus: vcpus.iter().map(vcpu).collect::<Result<_, _>>()?,
            irqchip: chips::save_irqchip(vm).map_err(of_part("irqchip/0"))?,
            pit: chips::save_pit(vm).map_err(of_part("pit/0"))?,
        })
    }
}

/// Names the part whose state could not be saved or set.
pub(super) fn of_part(part: impl Into<String>) -> impl FnOnce(StateError) -> MachineError {
    let part = part.into();
    move |source| MachineError::State { part, source }
}
