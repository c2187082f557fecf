//! The parts of a machine that are saved beside its devices: their names, their versions and their
//! order.

use ferry_devices::DeviceId;

use crate::kvm::chips::{IRQCHIP, PIT};
use crate::kvm::clock::KVMCLOCK;
use crate::kvm::{chips, clock, state, vcpu};

/// The machine as a whole.
pub(super) const MACHINE: DeviceId = DeviceId { name: "machine", instance: 0 };
/// Version of the machine's own state.
pub(super) const MACHINE_VERSION: u32 = 1;

/// The sections that KVM fills, with their versions, in order.
pub(super) fn of_kvm(vcpus: usize) -> impl Iterator<Item = (DeviceId, u32)> {
    let vcpus = (0..vcpus as u32).map(|instance| (vcpu::part(instance), state::VERSION));
    vcpus.chain([(IRQCHIP, chips::IRQCHIP_VERSION), (PIT, chips::PIT_VERSION), (KVMCLOCK, clock::VERSION)])
}
