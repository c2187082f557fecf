//! The whole state of a stopped vCPU, as one saved value.
//!
//! Saving and loading is repeatable: a load sets everything that a save took, from any state that
//! the vCPU was in. The order of the calls matters and is kept in [`Vcpu::save`] and
//! [`VcpuState::apply`] only.

use kvm_bindings::{
    KVM_MP_STATE_AP_RESET_HOLD, Xsave, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use super::calls::{Calls, StateCall};
use super::clock::{elapsed_ns, real_ns};
use super::error::StateError;
use super::exact::{Exact, decode, encode};
use super::msrs;
use super::vcpu::{Vcpu, XSAVE_MIN, set_cpuid};

/// Version of the `vcpu` state.
pub(crate) const VERSION: u32 = 1;

/// Bounds of the lists in a saved state.
const CPUID_MAX: usize = 256;
const MSRS_MAX: usize = 1024;
const XSAVE_MAX: usize = 64 << 10;
const XCRS_MAX: u32 = 16;
/// Two hosts of one kind calibrate their TSC to within this many parts of a million.
const TSC_TOLERANCE_PPM: u64 = 250;

/// A vCPU's state.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VcpuState {
    mp_state: Exact<kvm_mp_state>,
    regs: Exact<kvm_regs>,
    sregs: Exact<kvm_sregs>,
    /// The FPU in XSAVE's layout; as long as the source's area.
    xsave: Vec<u32>,
    xcrs: Exact<kvm_xcrs>,
    debug_registers: Exact<kvm_debugregs>,
    lapic: Exact<kvm_lapic_state>,
    msrs: Vec<Exact<kvm_msr_entry>>,
    events: Exact<kvm_vcpu_events>,
    cpuid: Vec<Exact<kvm_cpuid_entry2>>,
    tsc_khz: u32,
    /// Real time of the save.
    taken_ns: u64,
}

impl VcpuState {
    /// Decodes and checks a state.
    ///
    /// # Errors
    /// When the version, a length or a value is not possible.
    pub(crate) fn decode(version: u32, payload: &[u8]) -> Result<Self, StateError> {
        let state: VcpuState = decode(version, VERSION, payload)?;
        let bounds: [(&'static str, u64, bool, &'static str); 5] = [
            ("cpuid entries", state.cpuid.len() as u64, state.cpuid.len() <= CPUID_MAX, "at most 256"),
            ("MSRs", state.msrs.len() as u64, state.msrs.len() <= MSRS_MAX, "at most 1024"),
            (
                "xsave bytes",
                state.xsave.len() as u64 * 4,
                (XSAVE_MIN..=XSAVE_MAX).contains(&(state.xsave.len() * 4)),
                "4096 to 65536",
            ),
            ("xcrs", state.xcrs.0.nr_xcrs.into(), state.xcrs.0.nr_xcrs <= XCRS_MAX, "at most 16"),
            (
                "mp_state",
                state.mp_state.0.mp_state.into(),
                state.mp_state.0.mp_state <= KVM_MP_STATE_AP_RESET_HOLD,
                "0 to 9",
            ),
        ];
        match bounds.into_iter().find(|(_, _, fits, _)| !fits) {
            Some((field, value, _, allowed)) => Err(StateError::OutOfBounds { field, value, allowed }),
            None => Ok(state),
        }
    }

    /// Sets `vcpu` to this state, with its clocks moved on by the real time since the save.
    fn apply(&self, vcpu: &mut Vcpu) -> Result<(), StateError> {
        self.apply_cpuid(vcpu)?;
        self.apply_tsc_rate(vcpu)?;
        let (fd, calls) = (&vcpu.fd, &vcpu.calls);
        calls.make(StateCall::SetSregs, || fd.set_sregs(&self.sregs.0))?;
        if vcpu.host.has_xcrs && self.xcrs.0.nr_xcrs > 0 {
            calls.make(StateCall::SetXcrs, || fd.set_xcrs(&self.xcrs.0))?;
        }
        set_xsave(calls, fd, &self.xsave, vcpu.host.xsave_len)?;
        calls.make(StateCall::SetRegs, || fd.set_regs(&self.regs.0))?;
        if vcpu.host.has_debug_registers {
            calls.make(StateCall::SetDebugRegs, || fd.set_debug_regs(&self.debug_registers.0))?;
        }
        // The MSRs after the local APIC: its mode decides whether a write of IA32_TSC_DEADLINE
        // takes effect, and without the deadline a guest that sleeps on it would sleep
        // indefinitely.
        calls.make(StateCall::SetLapic, || fd.set_lapic(&self.lapic.0))?;
        let (pending_msrs, msrs): (_, Vec<_>) =
            self.msrs_now(vcpu).into_iter().partition(|msr| msrs::CLOCKS.contains(&msr.index));
        msrs::set(calls, fd, &msrs)?;
        calls.make(StateCall::SetMpState, || fd.set_mp_state(self.mp_state.0))?;
        calls.make(StateCall::SetVcpuEvents, || fd.set_vcpu_events(&self.events.0))?;
        vcpu.pending_msrs = pending_msrs;
        Ok(())
    }

    /// KVM accepts CPUID only before the first run, unless nothing changes.
    fn apply_cpuid(&self, vcpu: &mut Vcpu) -> Result<(), StateError> {
        let same = vcpu.cpuid.len() == self.cpuid.len() && vcpu.cpuid.iter().zip(&self.cpuid).all(|(a, b)| *a == b.0);
        if !same {
            let entries: Vec<_> = self.cpuid.iter().map(|entry| entry.0).collect();
            vcpu.calls.make(StateCall::SetCpuid2, || set_cpuid(&vcpu.fd, &entries))?;
            vcpu.cpuid = entries;
        }
        Ok(())
    }

    fn apply_tsc_rate(&self, vcpu: &Vcpu) -> Result<(), StateError> {
        let (saved, here) = (self.tsc_khz, vcpu.host.tsc_khz);
        if saved == 0 || here == 0 || u64::from(saved.abs_diff(here)) * 1_000_000 <= u64::from(here) * TSC_TOLERANCE_PPM
        {
            return Ok(());
        }
        if !vcpu.host.has_tsc_control {
            return Err(StateError::TscRate { saved, here });
        }
        vcpu.calls.make(StateCall::SetTscKhz, || vcpu.fd.set_tsc_khz(saved))
    }

    /// The MSRs with time moved on.
    fn msrs_now(&self, vcpu: &Vcpu) -> Vec<kvm_msr_entry> {
        let value = |index| self.msrs.iter().find(|msr| msr.0.index == index).map_or(0, |msr| msr.0.data);
        let elapsed = elapsed_ns(self.taken_ns, real_ns(&vcpu.calls));
        let (tsc, deadline) = vcpu.host.tsc.resumed(value(msrs::TSC), value(msrs::TSC_DEADLINE), elapsed, self.tsc_khz);
        let now = |msr: &Exact<kvm_msr_entry>| match msr.0.index {
            msrs::TSC => tsc.map(|data| kvm_msr_entry { data, ..msr.0 }),
            msrs::TSC_DEADLINE => Some(kvm_msr_entry { data: deadline, ..msr.0 }),
            _ => Some(msr.0),
        };
        self.msrs.iter().filter_map(now).collect()
    }
}

impl Vcpu {
    /// Takes the state of the stopped vCPU. Nothing is pending: the last `KVM_RUN` returned EINTR,
    /// or there was none.
    ///
    /// # Errors
    /// When KVM refuses a part, naming it.
    pub(crate) fn save(&self) -> Result<Vec<u8>, StateError> {
        let (fd, host, calls) = (&self.fd, &self.host, &self.calls);
        // First, because this call makes KVM process pending INIT and SIPI, which changes
        // registers.
        let mp_state = calls.make(StateCall::GetMpState, || fd.get_mp_state())?;
        let xcrs = match host.has_xcrs {
            true => calls.make(StateCall::GetXcrs, || fd.get_xcrs())?,
            false => kvm_xcrs::default(),
        };
        let debug_registers = match host.has_debug_registers {
            true => calls.make(StateCall::GetDebugRegs, || fd.get_debug_regs())?,
            false => kvm_debugregs::default(),
        };
        let taken_ns = real_ns(calls);
        let mut msrs = msrs::get(calls, fd, &host.msrs)?;
        for msr in &mut msrs {
            // As loaded, if the guest has not run here since.
            msr.data =
                self.pending_msrs.iter().find(|other| other.index == msr.index).map_or(msr.data, |other| other.data);
        }
        encode(&VcpuState {
            mp_state: Exact(mp_state),
            regs: Exact(calls.make(StateCall::GetRegs, || fd.get_regs())?),
            sregs: Exact(calls.make(StateCall::GetSregs, || fd.get_sregs())?),
            xsave: get_xsave(calls, fd, host.xsave_len)?,
            xcrs: Exact(xcrs),
            debug_registers: Exact(debug_registers),
            lapic: Exact(calls.make(StateCall::GetLapic, || fd.get_lapic())?),
            msrs: msrs.into_iter().map(Exact).collect(),
            events: Exact(calls.make(StateCall::GetVcpuEvents, || fd.get_vcpu_events())?),
            cpuid: self.cpuid.iter().copied().map(Exact).collect(),
            tsc_khz: host.tsc_khz,
            taken_ns,
        })
    }

    /// Sets the stopped vCPU to a state that [`Vcpu::save`] took, here or on another host.
    /// Repeatable. Guest memory does not change: MSRs that make KVM write to it are left to
    /// [`Vcpu::complete_load`].
    ///
    /// # Errors
    /// When the bytes are no such state, or this host cannot provide it, naming the part. The vCPU
    /// can then be loaded again, but not run.
    pub(crate) fn load(&mut self, version: u32, payload: &[u8]) -> Result<(), StateError> {
        VcpuState::decode(version, payload)?.apply(self)
    }

    /// Sets the MSRs of the last load that make KVM write to guest memory, which must be the
    /// guest's own by now. To be called before the guest runs; a second call does nothing.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(crate) fn complete_load(&mut self) -> Result<(), StateError> {
        msrs::set(&self.calls, &self.fd, &self.pending_msrs)?;
        self.pending_msrs.clear();
        Ok(())
    }

    /// Back to the state `power_on`, which this vCPU saved before its first run, with the CPUID
    /// that it has now.
    ///
    /// # Errors
    /// When KVM refuses a part, naming it.
    pub(crate) fn reset(&mut self, power_on: &[u8]) -> Result<(), StateError> {
        let mut state = VcpuState::decode(VERSION, power_on)?;
        state.cpuid = self.cpuid.iter().copied().map(Exact).collect();
        state.taken_ns = real_ns(&self.calls);
        state.apply(self)?;
        self.complete_load()
    }
}

fn get_xsave(calls: &Calls, fd: &VcpuFd, len: usize) -> Result<Vec<u32>, StateError> {
    if len <= XSAVE_MIN {
        let xsave = calls.make(StateCall::GetXsave, || fd.get_xsave())?;
        return Ok(xsave.region.to_vec());
    }
    let mut xsave = xsave_of(len)?;
    calls.make(StateCall::GetXsave2, || {
        // SAFETY: the area is as long as KVM reports that it writes, and nothing enables features
        // later.
        unsafe { fd.get_xsave2(&mut xsave) }
    })?;
    let region = xsave.as_fam_struct_ref().xsave.region;
    Ok(region.iter().chain(xsave.as_slice()).copied().collect())
}

/// Sets the area; if the source's is longer than this host's, the rest must be zero.
fn set_xsave(calls: &Calls, fd: &VcpuFd, words: &[u32], len: usize) -> Result<(), StateError> {
    let here = words.len().min(len / 4);
    if words[here..].iter().any(|word| *word != 0) {
        let value = words.len() as u64 * 4;
        return Err(StateError::OutOfBounds { field: "xsave bytes", value, allowed: "what this host's processor has" });
    }
    let mut xsave = xsave_of(len)?;
    let (head, tail) = words[..here].split_at(XSAVE_MIN / 4);
    // SAFETY: only `region` is written; the length of the array behind it stays.
    unsafe { xsave.as_mut_fam_struct() }.xsave.region.as_mut_bytes().copy_from_slice(head.as_bytes());
    xsave.as_mut_slice()[..tail.len()].copy_from_slice(tail);
    calls.make(StateCall::SetXsave, || {
        // SAFETY: the area is as long as KVM reports that it reads.
        unsafe { fd.set_xsave2(&xsave) }
    })
}

fn xsave_of(len: usize) -> Result<Xsave, StateError> {
    let extra = (len - size_of::<kvm_xsave>()).div_ceil(size_of::<u32>());
    Xsave::new(extra).map_err(|error| StateError::Malformed(format!("XSAVE area of {len} bytes: {error:?}")))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
