//! vCPU, chip and clock state on the real KVM: what is saved loads again, and what is damaged is
//! refused by name.

use std::sync::Arc;

use ferry_memory::{Backing, Memory, MemoryConfig};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::kvm::testing::{machine, no_faults};
use crate::kvm::vcpu::part;
use crate::kvm::{Vm, chips, clock, create_all};
use crate::testing::has_kvm;

/// What must be equal between two saves with a load between: everything but time.
fn without_time(payload: &[u8]) -> String {
    let state = VcpuState::decode(VERSION, payload).unwrap();
    let timeless = |msr: &&Exact<kvm_msr_entry>| msr.0.index != msrs::TSC;
    let msrs: Vec<_> = state.msrs.iter().filter(timeless).map(|msr| (msr.0.index, msr.0.data)).collect();
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {msrs:x?}",
        state.mp_state.0,
        state.regs.0,
        state.sregs.0,
        state.xsave,
        state.xcrs.0,
        state.debug_registers.0,
        state.lapic.0.regs,
        state.events.0,
    )
}

#[test]
fn a_state_loads_twice_and_saves_the_same() {
    if !has_kvm() {
        return;
    }
    let (_memory, _vm, vcpus) = machine(16 << 20, 2);
    let mut regs = vcpus[1].fd.get_regs().unwrap();
    (regs.rax, regs.rip, regs.r15) = (0x1234, 0x5678, 0x9abc);
    vcpus[1].fd.set_regs(&regs).unwrap();
    let mut sregs = vcpus[1].fd.get_sregs().unwrap();
    sregs.cr2 = 0xdead_b000;
    vcpus[1].fd.set_sregs(&sregs).unwrap();
    let saved = vcpus[1].save().unwrap();

    let (_memory2, _vm2, mut others) = machine(16 << 20, 2);
    for _ in 0..2 {
        others[1].load(VERSION, &saved).unwrap();
        assert_eq!(without_time(&others[1].save().unwrap()), without_time(&saved));
    }
    let power_on = vcpus[0].save().unwrap();
    others[1].load(VERSION, &saved).unwrap();
    others[0].load(VERSION, &power_on).unwrap();
    assert_eq!(without_time(&others[0].save().unwrap()), without_time(&power_on), "the first keeps its own");
}

/// What is loaded holds addresses to which KVM itself writes. Until the guest is here, that memory
/// belongs to a source whose guest may have to go on, or it is still being filled.
#[test]
fn kvm_writes_to_guest_memory_when_the_guest_is_here_and_not_before() {
    const AT: u64 = 0x5000;
    const SIZE: u64 = 16 << 20;
    if !has_kvm() {
        return;
    }
    let config = MemoryConfig { size: SIZE, backing: Backing::Memfd, prealloc: false };
    let [source, destination] = [(); 2].map(|()| Memory::new(&config).unwrap());
    let vm = Arc::new(Vm::create(&destination, &no_faults()).unwrap());
    let mut vcpu = create_all(&vm, 1).unwrap().remove(0);
    let wall_clock = msrs::CLOCKS[2];
    if !vcpu.host.msrs.contains(&wall_clock) {
        eprintln!("skipped: this host's KVM has no wall clock");
        return;
    }
    let entry = kvm_msr_entry { index: wall_clock, data: AT, ..Default::default() };
    msrs::set(&vcpu.calls, &vcpu.fd, &[entry]).unwrap();
    let saved = vcpu.save().unwrap();
    let version = |memory: &Memory| memory.guest().read_obj::<u32>(GuestAddress(AT)).unwrap();
    let power_on = {
        let vm = Arc::new(Vm::create(&source, &no_faults()).unwrap());
        create_all(&vm, 1).unwrap().remove(0).save().unwrap()
    };

    let first = version(&destination);
    assert_ne!(first, 0, "KVM writes");
    vcpu.load(VERSION, &saved).unwrap();
    assert_eq!(version(&destination), first, "a load does not");
    assert_eq!(without_time(&vcpu.save().unwrap()), without_time(&saved));
    vcpu.load(VERSION, &power_on).unwrap();
    vcpu.complete_load().unwrap();
    vcpu.load(VERSION, &saved).unwrap();
    assert_eq!(without_time(&vcpu.save().unwrap()), without_time(&saved), "what is not set yet is saved as well");
    assert_eq!(version(&destination), first);
    vcpu.complete_load().unwrap();
    let second = version(&destination);
    assert_ne!(second, first, "the guest is here");
    vcpu.complete_load().unwrap();
    assert_eq!(version(&destination), second, "once");

    destination.view_passed(source.memfd().unwrap().try_clone().unwrap().into(), SIZE).unwrap();
    vcpu.load(VERSION, &saved).unwrap();
    vcpu.complete_load().unwrap();
    assert_eq!(version(&source), 0, "nothing writes to memory that is only viewed");
    destination.take_passed().unwrap();
    vcpu.load(VERSION, &saved).unwrap();
    assert_eq!(version(&source), 0);
    vcpu.complete_load().unwrap();
    assert_ne!(version(&source), 0, "KVM has followed: what it writes now is the guest's");

    vcpu.load(VERSION, &saved).unwrap();
    vcpu.reset(&power_on).unwrap();
    assert_eq!(without_time(&vcpu.save().unwrap()), without_time(&power_on), "a reset leaves nothing behind");
}

/// The wall clock that the guest reads is the host's time less kvmclock, which is the guest's own
/// only once that has been loaded as well.
#[test]
fn the_wall_clock_is_that_of_the_guests_own_kvmclock() {
    const AT: u64 = 0x5000;
    const HOUR_S: u64 = 3600;
    if !has_kvm() {
        return;
    }
    let (_memory, vm, vcpus) = machine(16 << 20, 1);
    if !vcpus[0].host.msrs.contains(&msrs::CLOCKS[2]) {
        eprintln!("skipped: this host's KVM has no wall clock");
        return;
    }
    let hour = kvm_bindings::kvm_clock_data { clock: HOUR_S * 1_000_000_000, ..Default::default() };
    vm.fd().set_clock(&hour).unwrap();
    let entry = kvm_msr_entry { index: msrs::CLOCKS[2], data: AT, ..Default::default() };
    msrs::set(&vcpus[0].calls, &vcpus[0].fd, &[entry]).unwrap();
    let (saved, clocks) = (vcpus[0].save().unwrap(), clock::save(&vm).unwrap());

    let (memory, vm, mut vcpus) = machine(16 << 20, 1);
    vcpus[0].load(VERSION, &saved).unwrap();
    clock::load(&vm, clock::VERSION, &clocks).unwrap();
    vcpus[0].complete_load().unwrap();
    let booted_s = memory.guest().read_obj::<u32>(GuestAddress(AT + 4)).unwrap();
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // Longer than any test takes, shorter than what a wrong kvmclock makes.
    assert!((now_s - HOUR_S).abs_diff(booted_s.into()) < HOUR_S / 2, "{now_s} - {HOUR_S} and {booted_s}");
}

#[test]
fn a_pending_deadline_survives_a_load() {
    if !has_kvm() {
        return;
    }
    let (_memory, _vm, mut vcpus) = machine(16 << 20, 1);
    let vcpu = &mut vcpus[0];
    if !vcpu.host.msrs.contains(&msrs::TSC_DEADLINE) {
        eprintln!("skipped: this host has no TSC deadline timer");
        return;
    }
    // Software-enable the local APIC and put its timer into deadline mode, vector 0x40 (Intel SDM
    // volume 3, 11.5.4).
    let mut lapic = vcpu.fd.get_lapic().unwrap();
    for (register, value) in [(0xf0, 0x1ff_u32), (0x320, 0x4_0040)] {
        for (byte, slot) in value.to_le_bytes().into_iter().zip(&mut lapic.regs[register..register + 4]) {
            *slot = byte as std::os::raw::c_char;
        }
    }
    let mut sregs = vcpu.fd.get_sregs().unwrap();
    sregs.apic_base |= 1 << 11;
    vcpu.fd.set_sregs(&sregs).unwrap();
    vcpu.fd.set_lapic(&lapic).unwrap();
    let now = msrs::get(&vcpu.calls, &vcpu.fd, &[msrs::TSC]).unwrap()[0].data;
    let far = kvm_msr_entry { index: msrs::TSC_DEADLINE, data: now + (1 << 44), ..Default::default() };
    msrs::set(&vcpu.calls, &vcpu.fd, &[far]).unwrap();
    let saved = vcpu.save().unwrap();
    // A fresh vCPU's timer is in another mode, in which the register takes no value.
    let (_memory2, _vm2, mut fresh) = machine(16 << 20, 1);
    fresh[0].load(VERSION, &saved).unwrap();
    assert_eq!(msrs::get(&fresh[0].calls, &fresh[0].fd, &[msrs::TSC_DEADLINE]).unwrap()[0].data, far.data);
}

#[test]
fn a_refused_msr_is_named() {
    if !has_kvm() {
        return;
    }
    let (_memory, _vm, vcpus) = machine(16 << 20, 1);
    let no_such = kvm_msr_entry { index: 0x4567_89ab, data: 7, ..Default::default() };
    let error = msrs::set(&vcpus[0].calls, &vcpus[0].fd, &[no_such]).unwrap_err().to_string();
    assert!(error.contains("0x456789ab = 0x7 is refused"), "{error}");
}

#[test]
fn every_call_can_be_made_to_fail_and_then_succeeds() {
    if !has_kvm() {
        return;
    }
    let (_memory, vm, mut vcpus) = machine(16 << 20, 2);
    let vcpu = &mut vcpus[1];
    let faults = vm.calls(part(1)).faults();
    let saved = vcpu.save().unwrap();
    let (irqchip, pit) = (chips::save_irqchip(&vm).unwrap(), chips::save_pit(&vm).unwrap());
    let kvmclock = clock::save(&vm).unwrap();
    // These depend on the guest, and have a test of their own; one of the two reads is never made
    // on a host.
    let conditional = [StateCall::SetCpuid2, StateCall::SetTscKhz];
    let either = [StateCall::GetXsave, StateCall::GetXsave2];
    let mut reads = 0;
    for call in StateCall::ALL.iter().filter(|call| !conditional.contains(call)) {
        faults.set(format!("at={},do=fail,times=1", call.name()).parse().unwrap()).unwrap();
        let mut attempt = || match (call.part(), call.loads()) {
            ("irqchip", true) => chips::load_irqchip(&vm, chips::IRQCHIP_VERSION, &irqchip),
            ("irqchip", false) => chips::save_irqchip(&vm).map(drop),
            ("pit", true) => chips::load_pit(&vm, chips::PIT_VERSION, &pit),
            ("pit", false) => chips::save_pit(&vm).map(drop),
            ("kvmclock", true) => clock::load(&vm, clock::VERSION, &kvmclock),
            ("kvmclock", false) => clock::save(&vm).map(drop),
            (_, true) => vcpu.load(VERSION, &saved),
            (_, false) => vcpu.save().map(drop),
        };
        match attempt() {
            Ok(()) => assert!(either.contains(call), "{} was not made", call.name()),
            Err(error) => {
                reads += u32::from(either.contains(call));
                assert_eq!(error.to_string(), format!("{}: Invalid argument (os error 22)", call.name()));
            }
        }
        attempt().unwrap();
        faults.clear();
    }
    assert_eq!(reads, 1);
}

#[test]
fn calls_that_only_another_processor_needs_can_be_made_to_fail() {
    if !has_kvm() {
        return;
    }
    let (_memory, vm, mut vcpus) = machine(16 << 20, 1);
    let vcpu = &mut vcpus[0];
    let faults = vm.calls(part(0)).faults();
    for call in [StateCall::SetCpuid2, StateCall::SetTscKhz] {
        let mut state = VcpuState::decode(VERSION, &vcpu.save().unwrap()).unwrap();
        if call == StateCall::SetCpuid2 {
            state.cpuid.last_mut().unwrap().0.ecx ^= 1;
        } else {
            let host = Arc::make_mut(&mut vcpu.host);
            (host.tsc_khz, host.has_tsc_control, state.tsc_khz) = (1_000_000, true, 2_000_000);
        }
        faults.set(format!("at={},do=fail", call.name()).parse().unwrap()).unwrap();
        let error = vcpu.load(VERSION, &encode(&state).unwrap()).unwrap_err().to_string();
        assert_eq!(error, format!("{}: Invalid argument (os error 22)", call.name()));
    }
}

#[test]
fn damaged_states_are_refused_before_anything_is_set() {
    if !has_kvm() {
        return;
    }
    let (_memory, vm, mut vcpus) = machine(16 << 20, 1);
    let saved = vcpus[0].save().unwrap();
    assert!(matches!(vcpus[0].load(VERSION + 1, &saved), Err(StateError::Version { .. })));
    for cut in [0, 1, saved.len() / 2, saved.len() - 1] {
        assert!(matches!(vcpus[0].load(VERSION, &saved[..cut]), Err(StateError::Malformed(_))), "{cut}");
    }
    let mut state = VcpuState::decode(VERSION, &saved).unwrap();
    state.xsave.push(0);
    state.xsave.truncate(100);
    let error = vcpus[0].load(VERSION, &encode(&state).unwrap()).unwrap_err().to_string();
    assert!(error.contains("xsave bytes = 400"), "{error}");

    let (vm, chips, clock) = (&*vm, chips::save_irqchip(&vm).unwrap(), clock::save(&vm).unwrap());
    assert!(chips::load_irqchip(vm, 1, &chips[..chips.len() - 1]).is_err());
    assert!(chips::load_pit(vm, 1, &chips).is_err());
    assert!(clock::load(vm, 2, &clock).is_err());
    chips::load_irqchip(vm, 1, &chips).unwrap();
    clock::load(vm, 1, &clock).unwrap();
    assert_eq!(chips::save_irqchip(vm).unwrap(), chips);
}

#[test]
fn kvmclock_goes_on_by_the_time_between_save_and_load() {
    if !has_kvm() {
        return;
    }
    let (_memory, vm, _vcpus) = machine(16 << 20, 1);
    let before = vm.fd().get_clock().unwrap().clock;
    let saved = clock::save(&vm).unwrap();
    let (_memory2, other, _vcpus2) = machine(16 << 20, 1);
    for _ in 0..2 {
        clock::load(&other, clock::VERSION, &saved).unwrap();
        let (here, there) = (vm.fd().get_clock().unwrap().clock, other.fd().get_clock().unwrap().clock);
        assert!(there >= before, "the guest's clock went backwards");
        assert!(here.abs_diff(there) < 100_000_000, "{here} and {there} ns on one host");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = VcpuState::decode(VERSION, &bytes);
    }
}
