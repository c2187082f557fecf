//! The dirty log on the real KVM: a vCPU in real mode writes where it is told.

use ferry_migration::pages::PAGE_SIZE;
use kvm_ioctls::VcpuExit;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::kvm::testing::machine;
use crate::kvm::{Vcpu, Vm};
use crate::testing::has_kvm;

const CODE: u64 = 0x1000;

struct Rig {
    log: DirtyLog,
    memory: Arc<Memory>,
    vcpu: Vcpu,
    // After the vCPU, which must not outlive it.
    _vm: Arc<Vm>,
}

impl Rig {
    fn new() -> Self {
        let (memory, vm, mut vcpus) = machine(16 << 20, 1);
        // mov [bx], al; hlt would not exit with an in-kernel irqchip, so: out 0x10, al
        memory.guest().write_slice(&[0x88, 0x07, 0xe6, 0x10, 0xeb, 0xfa], GuestAddress(CODE)).unwrap();
        Rig { log: DirtyLog::new(vm.clone(), memory.clone()), memory, vcpu: vcpus.remove(0), _vm: vm }
    }

    /// Lets the vCPU write one byte to `page`.
    fn write(&mut self, page: u64) {
        let fd = self.vcpu.fd();
        let mut sregs = fd.get_sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        sregs.ds.base = page * PAGE_SIZE;
        fd.set_sregs(&sregs).unwrap();
        let mut regs = fd.get_regs().unwrap();
        (regs.rip, regs.rbx, regs.rax, regs.rflags) = (CODE, 8, 0x77, 2);
        fd.set_regs(&regs).unwrap();
        assert!(matches!(fd.run().unwrap(), VcpuExit::IoOut(0x10, [0x77])));
    }

    fn harvest(&self) -> PageBitmap {
        let mut pages = PageBitmap::new(self.memory.pages());
        self.log.harvest(&mut pages).unwrap();
        pages
    }

    fn clear_all(&self) {
        self.log.clear_chunks(0, &[[u64::MAX; CHUNK_WORDS]; 8]).unwrap();
    }
}

#[test]
fn a_write_is_in_the_log_until_its_chunk_is_cleared() {
    if !has_kvm() {
        return;
    }
    let mut rig = Rig::new();
    rig.log.start().unwrap();
    rig.harvest();
    rig.clear_all();
    assert_eq!(rig.harvest().count(), 0);
    rig.write(700);
    let manual = rig._vm.protection() != Protection::OnRead;
    for expected in [1, u64::from(manual)] {
        let pages = rig.harvest();
        assert_eq!(pages.count(), expected, "a harvest leaves the log as it is");
        assert_eq!(pages.contains(700), expected == 1);
    }
    let mut only_700 = [[0; CHUNK_WORDS]; 1];
    only_700[0][(700 - 512) / 64] = 1 << (700 % 64);
    rig.write(701);
    rig.harvest();
    rig.log.clear_chunks(1, &only_700).unwrap();
    if manual {
        assert!(rig.harvest().contains(701), "a page that was not cleared stays in the log");
    }
    rig.write(700);
    assert!(rig.harvest().contains(700), "cleared pages are protected again");
}

#[test]
fn a_device_write_is_the_callers_once_harvested() {
    if !has_kvm() {
        return;
    }
    let rig = Rig::new();
    rig.log.start().unwrap();
    rig.harvest();
    rig.clear_all();
    rig.memory.guest().write_obj(1u8, GuestAddress(900 * PAGE_SIZE)).unwrap();
    let pages = rig.harvest();
    assert!(pages.contains(900) && pages.count() == 1, "{pages:?}");
    assert_eq!(rig.harvest().count(), 0);
}

#[test]
fn logging_starts_anew_and_stops() {
    if !has_kvm() {
        return;
    }
    let mut rig = Rig::new();
    assert!(rig.log.harvest(&mut PageBitmap::new(rig.memory.pages())).is_err());
    rig.log.start().unwrap();
    rig.write(5);
    rig.log.start().unwrap();
    rig.harvest();
    rig.clear_all();
    rig.write(6);
    assert!(rig.harvest().contains(6));
    rig.log.stop().unwrap();
    rig.log.stop().unwrap();
    assert!(rig.log.harvest(&mut PageBitmap::new(rig.memory.pages())).is_err());
}
