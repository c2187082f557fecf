//! The virtual machine: KVM's handle, the interrupt controllers and timer that live in the kernel,
//! and RAM as memory slots.

use std::sync::Arc;

use ferry_devices::DeviceId;
use ferry_devices::fault::FaultControl;
use ferry_memory::Memory;
use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVM_MEM_LOG_DIRTY_PAGES, KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::calls::Calls;
use super::error::{KvmError, call};

/// Three pages that KVM needs on Intel hosts, in the hole below 4 GiB and away from every device.
const TSS_ADDRESS: usize = 0xfffb_d000;
/// One more such page.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// How clearing the dirty log works on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// The log is cleared when it is read, for the whole slot.
    OnRead,
    /// The log is cleared by ranges; logging starts with all pages protected, which takes time.
    Manual,
    /// As `Manual`, and logging starts with all pages dirty: nothing to protect, nearly free.
    ManualInitiallySet,
}

/// A range of RAM as a KVM memory slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) first_page: u64,
    pub(super) pages: u64,
    guest_address: u64,
    host_address: u64,
}

/// A virtual machine with RAM, an interrupt controller and a timer, and no vCPU yet.
#[derive(Debug)]
pub struct Vm {
    kvm: Kvm,
    fd: Arc<VmFd>,
    slots: Vec<Slot>,
    protection: Protection,
    faults: Arc<FaultControl>,
}

impl Vm {
    /// Creates the machine around `memory`, which must stay mapped as long as it lives. `faults`
    /// may inject failures into the calls that save and load its state.
    ///
    /// # Errors
    /// When `/dev/kvm` does not open or KVM lacks or refuses something, naming the call.
    pub fn create(memory: &Memory, faults: &Arc<FaultControl>) -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(KvmError::Open)?;
        for (needed, name) in [
            (Cap::Irqchip, "an in-kernel irqchip"),
            (Cap::Pit2, "a PIT"),
            (Cap::ImmediateExit, "immediate_exit"),
            (Cap::Ioeventfd, "ioeventfd"),
        ] {
            if !kvm.check_extension(needed) {
                return Err(KvmError::Missing(name));
            }
        }
        let fd = create(&kvm)?;
        fd.set_tss_address(TSS_ADDRESS).map_err(call("KVM_SET_TSS_ADDR"))?;
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(call("KVM_CREATE_PIT2"))?;
        let protection = enable_manual_protection(&fd);
        tracing::debug!(?protection, "dirty log");
        let vm = Vm { kvm, fd: Arc::new(fd), slots: slots(memory), protection, faults: faults.clone() };
        vm.set_dirty_logging(false).map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        Ok(vm)
    }

    /// Makes calls that save or load this part of the machine's state.
    pub(crate) fn calls(&self, part: DeviceId) -> Calls {
        Calls::new(part, self.faults.clone())
    }

    /// KVM itself, for calls about the host rather than this machine.
    #[must_use]
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// The machine's own handle.
    #[must_use]
    pub fn fd(&self) -> &Arc<VmFd> {
        &self.fd
    }

    /// How clearing the dirty log works here.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Maps every slot, with or without a dirty log. Switching a log off discards its bits.
    pub(super) fn set_dirty_logging(&self, on: bool) -> Result<(), kvm_ioctls::Error> {
        for slot in &self.slots {
            let region = kvm_userspace_memory_region {
                slot: slot.number,
                flags: if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
                guest_phys_addr: slot.guest_address,
                memory_size: slot.pages * ferry_migration::pages::PAGE_SIZE,
                userspace_addr: slot.host_address,
            };
            // SAFETY: the range is mapped and stays so: the machine drops its memory last.
            unsafe { self.fd.set_user_memory_region(region)? };
        }
        Ok(())
    }
}

/// `KVM_CREATE_VM` returns EINTR when a signal arrives; it is then called again, a bounded number
/// of times.
fn create(kvm: &Kvm) -> Result<VmFd, KvmError> {
    const ATTEMPTS: u32 = 10;
    let mut attempt = 1;
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR && attempt < ATTEMPTS => attempt += 1,
            result => return result.map_err(call("KVM_CREATE_VM")),
        }
    }
}

fn enable_manual_protection(fd: &VmFd) -> Protection {
    let offered = fd.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into()) as u32;
    let wanted = offered & (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
    let mut cap = kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..Default::default() };
    cap.args[0] = wanted.into();
    if wanted & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE == 0 || fd.enable_cap(&cap).is_err() {
        Protection::OnRead
    } else if wanted & KVM_DIRTY_LOG_INITIALLY_SET != 0 {
        Protection::ManualInitiallySet
    } else {
        Protection::Manual
    }
}

fn slots(memory: &Memory) -> Vec<Slot> {
    let mut first_page = 0;
    let slot = |(number, range): (usize, &ferry_migration::description::RamRange)| {
        let pages = range.len / ferry_migration::pages::PAGE_SIZE;
        let host_address = memory.host_pages(first_page).0 as u64;
        let slot = Slot { number: number as u32, first_page, pages, guest_address: range.start, host_address };
        first_page += pages;
        slot
    };
    memory.ranges().iter().enumerate().map(slot).collect()
}
