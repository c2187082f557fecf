//! One vCPU: its handle, its run area, and the processor it shows to the guest.
//!
//! While it runs, its thread owns it; while it is stopped, the machine saves and loads it from any
//! thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use ferry_devices::DeviceId;
use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_msr_entry, kvm_run};
use kvm_ioctls::{Cap, VcpuFd};

use super::calls::{Calls, StateCall};
use super::clock::Tsc;
use super::error::{KvmError, StateError, call};
use super::vm::Vm;
use super::{cpuid, msrs};
use crate::boot::{Entry, registers};

/// Properties that all vCPUs of a machine share on this host.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// MSRs that are saved.
    pub msrs: Vec<u32>,
    /// How the TSC behaves.
    pub tsc: Tsc,
    /// Rate of the TSC in kHz; 0 when the host does not report it.
    pub tsc_khz: u32,
    pub(super) xsave_len: usize,
    pub(super) has_xcrs: bool,
    pub(super) has_debug_registers: bool,
    pub(super) has_tsc_control: bool,
}

/// A vCPU.
#[derive(Debug)]
pub(crate) struct Vcpu {
    id: u32,
    pub(super) fd: VcpuFd,
    pub(super) cpuid: Vec<kvm_cpuid_entry2>,
    pub(super) host: Arc<Host>,
    pub(super) calls: Calls,
    /// MSRs that were loaded and are only set when the guest is to run here.
    pub(super) pending_msrs: Vec<kvm_msr_entry>,
}

/// Creates `count` vCPUs with ids from 0.
///
/// # Errors
/// When there are too many for this host or KVM refuses.
pub(crate) fn create_all(vm: &Vm, count: u32) -> Result<Vec<Vcpu>, KvmError> {
    let most = u32::try_from(vm.kvm().get_max_vcpus()).unwrap_or(u32::MAX);
    if count == 0 || count > most {
        return Err(KvmError::Cpus { wanted: count, most });
    }
    let mut fds = Vec::with_capacity(count as usize);
    for id in 0..count {
        fds.push(vm.fd().create_vcpu(id.into()).map_err(call("KVM_CREATE_VCPU"))?);
    }
    let Some(first) = fds.first() else { return Ok(Vec::new()) };
    let tsc_khz = first.get_tsc_khz().unwrap_or(0);
    let offered = cpuid::offered(vm.kvm(), tsc_khz)?;
    // The list of MSRs depends on CPUID.
    set_cpuid(first, &cpuid::of_vcpu(&offered, 0, count)).map_err(call("KVM_SET_CPUID2"))?;
    let host = Arc::new(host(vm, first, tsc_khz)?);
    let mut vcpus = Vec::with_capacity(fds.len());
    for (id, fd) in (0..).zip(fds) {
        let cpuid = cpuid::of_vcpu(&offered, id, count);
        set_cpuid(&fd, &cpuid).map_err(call("KVM_SET_CPUID2"))?;
        vcpus.push(Vcpu { id, fd, cpuid, host: host.clone(), calls: vm.calls(part(id)), pending_msrs: Vec::new() });
    }
    Ok(vcpus)
}

/// The name of a vCPU as a part of the machine.
pub(crate) fn part(id: u32) -> DeviceId {
    DeviceId { name: "vcpu", instance: id }
}

fn host(vm: &Vm, first: &VcpuFd, tsc_khz: u32) -> Result<Host, KvmError> {
    let calls = vm.calls(part(0));
    let fresh_tsc = match msrs::get(&calls, first, &[msrs::TSC]) {
        Ok(entries) => entries[0].data,
        Err(_) => return Err(KvmError::Missing("a readable IA32_TSC")),
    };
    let tsc = Tsc::probe(fresh_tsc);
    let msrs = msrs::list(vm.kvm(), &calls, first)?;
    let kvm = vm.kvm();
    let xsave_len = usize::try_from(vm.fd().check_extension_int(Cap::Xsave2)).unwrap_or(0).max(XSAVE_MIN);
    tracing::debug!(?tsc, tsc_khz, msrs = msrs.len(), xsave_len, "this host's vCPUs");
    Ok(Host {
        msrs,
        tsc,
        tsc_khz,
        xsave_len,
        has_xcrs: kvm.check_extension(Cap::Xcrs),
        has_debug_registers: kvm.check_extension(Cap::Debugregs),
        has_tsc_control: kvm.check_extension(Cap::TscControl),
    })
}

/// Size of the XSAVE area before it could grow (KVM API, `KVM_GET_XSAVE`).
pub(super) const XSAVE_MIN: usize = 4096;

pub(super) fn set_cpuid(fd: &VcpuFd, entries: &[kvm_cpuid_entry2]) -> Result<(), kvm_ioctls::Error> {
    let entries = CpuId::from_entries(entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    fd.set_cpuid2(&entries)
}

impl Vcpu {
    /// Counts from 0; also the APIC id.
    #[must_use]
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The handle, to run it.
    pub(crate) fn fd(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// CPUID as the guest sees it.
    #[must_use]
    pub(crate) fn cpuid(&self) -> &[kvm_cpuid_entry2] {
        &self.cpuid
    }

    /// Properties that all vCPUs share on this host.
    #[must_use]
    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Sets the registers for a kernel's first instruction; everything else keeps its power-on
    /// state.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(crate) fn enter_at(&self, entry: Entry) -> Result<(), StateError> {
        let mut sregs = self.calls.make(StateCall::GetSregs, || self.fd.get_sregs())?;
        registers::special(entry, &mut sregs);
        self.calls.make(StateCall::SetSregs, || self.fd.set_sregs(&sregs))?;
        self.calls.make(StateCall::SetRegs, || self.fd.set_regs(&registers::general(entry)))
    }

    /// Marks the guest's kvmclock as paused, so that the guest's watchdogs do not fire (KVM API,
    /// `KVM_KVMCLOCK_CTRL`). A guest without kvmclock needs no mark.
    pub(crate) fn note_pause(&self) {
        if let Err(error) = self.fd.kvmclock_ctrl() {
            tracing::trace!(vcpu = self.id, %error, "the guest does not use kvmclock");
        }
    }

    /// The run area, to interrupt the vCPU from other threads.
    pub(crate) fn run_area(&mut self) -> RunArea {
        RunArea(self.fd.get_kvm_run())
    }
}

/// The part of a vCPU that it shares with the kernel (KVM API, `struct kvm_run`).
///
/// Valid as long as the [`Vcpu`] that it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunArea(*mut kvm_run);

// SAFETY: the methods access single fields, atomically or while the vCPU's thread does not run it.
unsafe impl Send for RunArea {}
// SAFETY: as above.
unsafe impl Sync for RunArea {}

impl RunArea {
    /// Makes the present or next `KVM_RUN` finish a pending access and return EINTR, until reset.
    ///
    /// # Safety
    /// The vCPU still exists.
    pub(crate) unsafe fn set_immediate_exit(self, on: bool) {
        // SAFETY: the area is mapped as long as the vCPU exists; the kernel reads this byte at any
        // time.
        let flag = unsafe { AtomicU8::from_ptr(&raw mut (*self.0).immediate_exit) };
        flag.store(on.into(), Ordering::SeqCst);
    }

    /// Bytes in each access of the port exit that the vCPU has just made: 1, 2 or 4.
    ///
    /// # Safety
    /// The vCPU still exists, and the caller runs it.
    #[must_use]
    pub(crate) unsafe fn port_access_len(self) -> usize {
        // SAFETY: the area is mapped, and the kernel does not write to it between two runs.
        unsafe { (*self.0).__bindgen_anon_1.io.size.into() }
    }

    /// Suberror and data of the internal error that the vCPU has just made.
    ///
    /// # Safety
    /// The vCPU still exists, and the caller runs it.
    #[must_use]
    pub(crate) unsafe fn internal_error(self) -> (u32, [u64; 16], usize) {
        // SAFETY: the area is mapped, and the kernel does not write to it between two runs.
        let error = unsafe { (*self.0).__bindgen_anon_1.internal };
        (error.suberror, error.data, (error.ndata as usize).min(error.data.len()))
    }
}

/// Turns an error of `kvm-ioctls` into one of the standard library.
pub(crate) fn io_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
