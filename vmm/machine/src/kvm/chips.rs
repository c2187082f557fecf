//! The interrupt controllers (two PICs, the IOAPIC) and the timer that KVM emulates, as saved
//! state.

use ferry_devices::DeviceId;
use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip, kvm_pit_state2};
use serde::{Deserialize, Serialize};

use super::calls::StateCall;
use super::error::StateError;
use super::exact::{Exact, decode, encode};
use super::vm::Vm;

/// The interrupt controllers.
pub(crate) const IRQCHIP: DeviceId = DeviceId { name: "irqchip", instance: 0 };
/// The timer.
pub(crate) const PIT: DeviceId = DeviceId { name: "pit", instance: 0 };
/// Version of the `irqchip` state.
pub(crate) const IRQCHIP_VERSION: u32 = 1;
/// Version of the `pit` state.
pub(crate) const PIT_VERSION: u32 = 1;

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

#[derive(Serialize, Deserialize)]
struct SavedChips {
    chips: [Exact<kvm_irqchip>; 3],
}

/// Saves the interrupt controllers.
pub(crate) fn save_irqchip(vm: &Vm) -> Result<Vec<u8>, StateError> {
    let calls = vm.calls(IRQCHIP);
    let mut chips = [Exact(kvm_irqchip::default()); 3];
    for (chip, id) in chips.iter_mut().zip(CHIPS) {
        chip.0.chip_id = id;
        calls.make(StateCall::GetIrqchip, || vm.fd().get_irqchip(&mut chip.0))?;
    }
    encode(&SavedChips { chips })
}

/// Sets the interrupt controllers. The local APICs must be set before: the IOAPIC delivers pending
/// interrupts at once.
pub(crate) fn load_irqchip(vm: &Vm, version: u32, payload: &[u8]) -> Result<(), StateError> {
    let saved: SavedChips = decode(version, IRQCHIP_VERSION, payload)?;
    for (Exact(chip), id) in saved.chips.iter().zip(CHIPS) {
        if chip.chip_id != id {
            let value = chip.chip_id.into();
            return Err(StateError::OutOfBounds { field: "chip_id", value, allowed: "PICs, then the IOAPIC" });
        }
    }
    let calls = vm.calls(IRQCHIP);
    for Exact(chip) in &saved.chips {
        calls.make(StateCall::SetIrqchip, || vm.fd().set_irqchip(chip))?;
    }
    Ok(())
}

/// Saves the timer.
pub(crate) fn save_pit(vm: &Vm) -> Result<Vec<u8>, StateError> {
    encode(&Exact(vm.calls(PIT).make(StateCall::GetPit2, || vm.fd().get_pit2())?))
}

/// Sets the timer.
pub(crate) fn load_pit(vm: &Vm, version: u32, payload: &[u8]) -> Result<(), StateError> {
    let Exact(pit) = decode::<Exact<kvm_pit_state2>>(version, PIT_VERSION, payload)?;
    vm.calls(PIT).make(StateCall::SetPit2, || vm.fd().set_pit2(&pit))
}
