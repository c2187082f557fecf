//! The interrupt controllers (two PICs, the IOAPIC) and the timer that KVM emulates, as saved state.

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irqchip, kvm_pit_state2};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::error::{StateError, state_call};
use super::exact::{Exact, decode, encode};

/// Version of the `irqchip` state.
pub const IRQCHIP_VERSION: u32 = 1;
/// Version of the `pit` state.
pub const PIT_VERSION: u32 = 1;

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

#[derive(Serialize, Deserialize)]
struct SavedChips {
    chips: [Exact<kvm_irqchip>; 3],
}

/// Saves the interrupt controllers.
pub(crate) fn save_irqchip(vm: &VmFd) -> Result<Vec<u8>, StateError> {
    let mut chips = [Exact(kvm_irqchip::default()); 3];
    for (chip, id) in chips.iter_mut().zip(CHIPS) {
        chip.0.chip_id = id;
        vm.get_irqchip(&mut chip.0).map_err(state_call("KVM_GET_IRQCHIP"))?;
    }
    encode(&SavedChips { chips })
}

/// Sets the interrupt controllers. The local APICs must be set before: the IOAPIC hands over what is pending at once.
pub(crate) fn load_irqchip(vm: &VmFd, version: u32, payload: &[u8]) -> Result<(), StateError> {
    let saved: SavedChips = decode(version, IRQCHIP_VERSION, payload)?;
    for (Exact(chip), id) in saved.chips.iter().zip(CHIPS) {
        if chip.chip_id != id {
            let value = chip.chip_id.into();
            return Err(StateError::OutOfBounds { field: "chip_id", value, allowed: "PICs, then the IOAPIC" });
        }
    }
    for Exact(chip) in &saved.chips {
        vm.set_irqchip(chip).map_err(state_call("KVM_SET_IRQCHIP"))?;
    }
    Ok(())
}

/// Saves the timer.
pub(crate) fn save_pit(vm: &VmFd) -> Result<Vec<u8>, StateError> {
    encode(&Exact(vm.get_pit2().map_err(state_call("KVM_GET_PIT2"))?))
}

/// Sets the timer.
pub(crate) fn load_pit(vm: &VmFd, version: u32, payload: &[u8]) -> Result<(), StateError> {
    let Exact(pit) = decode::<Exact<kvm_pit_state2>>(version, PIT_VERSION, payload)?;
    vm.set_pit2(&pit).map_err(state_call("KVM_SET_PIT2"))
}
