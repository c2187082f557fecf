//! Time across a switchover: the host's real time, the guest's kvmclock, and its TSC.
//!
//! The guest's clocks go on by the real time that passed between save and load. Where this host
//! cannot set a TSC (the guest reads the host's own), a pending TSC deadline is moved instead, so
//! that no timer sleeps indefinitely.

use std::time::{SystemTime, UNIX_EPOCH};

use ferry_devices::DeviceId;
use kvm_bindings::{KVM_CLOCK_REALTIME, kvm_clock_data};
use kvm_ioctls::Cap;
use serde::{Deserialize, Serialize};

use super::calls::{Calls, StateCall};
use super::error::StateError;
use super::exact::{decode, encode};
use super::vm::Vm;

/// The guest's kvmclock.
pub(crate) const KVMCLOCK: DeviceId = DeviceId { name: "kvmclock", instance: 0 };
/// Version of the `kvmclock` state.
pub(crate) const VERSION: u32 = 1;

/// The longest time that a clock is moved forward. More than that means that a host's clock is
/// wrong.
const ELAPSED_MAX_NS: u64 = 10 * 60 * 1_000_000_000;

/// Nanoseconds since 1970, by this host's clock.
fn host_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// Nanoseconds since 1970, with the skew of the fault device's rules.
pub(super) fn real_ns(calls: &Calls) -> u64 {
    host_ns().saturating_add_signed(calls.clock_skew_ns())
}

/// Real time from `taken_ns` to `now_ns`, or 0 when the two hosts' clocks cannot both be right.
pub(super) fn elapsed_ns(taken_ns: u64, now_ns: u64) -> u64 {
    let elapsed = now_ns.saturating_sub(taken_ns);
    if elapsed > ELAPSED_MAX_NS {
        tracing::warn!(
            elapsed_s = elapsed / 1_000_000_000,
            "the hosts' clocks differ too much: the guest's stands still"
        );
        return 0;
    }
    elapsed
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedClock {
    /// The guest's kvmclock in nanoseconds.
    clock_ns: u64,
    /// Real time when it had that value.
    taken_ns: u64,
}

/// Saves kvmclock.
pub(crate) fn save(vm: &Vm) -> Result<Vec<u8>, StateError> {
    let calls = vm.calls(KVMCLOCK);
    let clock = calls.make(StateCall::GetClock, || vm.fd().get_clock())?;
    let host = if clock.flags & KVM_CLOCK_REALTIME != 0 { clock.realtime } else { host_ns() };
    let taken_ns = host.saturating_add_signed(calls.clock_skew_ns());
    encode(&SavedClock { clock_ns: clock.clock, taken_ns })
}

/// Sets kvmclock, moved forward by the real time since the save.
pub(crate) fn load(vm: &Vm, version: u32, payload: &[u8]) -> Result<(), StateError> {
    let saved: SavedClock = decode(version, VERSION, payload)?;
    let calls = vm.calls(KVMCLOCK);
    let skew_ns = calls.clock_skew_ns();
    let elapsed = elapsed_ns(saved.taken_ns, host_ns().saturating_add_signed(skew_ns));
    let knows_real_time = vm.fd().check_extension_int(Cap::AdjustClock) as u32 & KVM_CLOCK_REALTIME != 0;
    let clock = if knows_real_time && elapsed > 0 {
        // The kernel adds the time since then itself, at the moment of setting.
        kvm_clock_data {
            clock: saved.clock_ns,
            flags: KVM_CLOCK_REALTIME,
            // By the kernel's own clock, which no rule skews.
            realtime: saved.taken_ns.saturating_add_signed(-skew_ns),
            ..Default::default()
        }
    } else {
        kvm_clock_data { clock: saved.clock_ns.saturating_add(elapsed), ..Default::default() }
    };
    calls.make(StateCall::SetClock, || vm.fd().set_clock(&clock))
}

/// How a vCPU's TSC behaves on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tsc {
    /// Each guest has its own, which can be set.
    Own,
    /// The guest reads the host's; setting it does nothing.
    Hosts,
}

impl Tsc {
    /// Classifies the TSC of a vCPU that has just been created: its own starts near 0, the host's
    /// does not.
    pub(super) fn probe(fresh_vcpu_tsc: u64) -> Self {
        // SAFETY: every x86-64 processor has `rdtsc`.
        let host = unsafe { std::arch::x86_64::_rdtsc() };
        if fresh_vcpu_tsc > host / 2 { Tsc::Hosts } else { Tsc::Own }
    }

    /// The new TSC and TSC deadline of a vCPU that had `tsc` and `deadline` `elapsed_ns` ago, at
    /// `khz`.
    pub(super) fn resumed(self, tsc: u64, deadline: u64, elapsed_ns: u64, khz: u32) -> (Option<u64>, u64) {
        let elapsed = (u128::from(elapsed_ns) * u128::from(khz) / 1_000_000) as u64;
        let expected = tsc.wrapping_add(elapsed);
        match self {
            Tsc::Own => (Some(expected), deadline),
            Tsc::Hosts => {
                // SAFETY: every x86-64 processor has `rdtsc`.
                let here = unsafe { std::arch::x86_64::_rdtsc() };
                let jump = here.wrapping_sub(expected);
                // On the host where it was saved, the TSC has simply gone on; the rest is the time
                // of reading it.
                let same_host = (jump as i64).unsigned_abs() < u64::from(khz) * 1000;
                if deadline == 0 || same_host { (None, deadline) } else { (None, deadline.wrapping_add(jump)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_tsc_goes_on_by_the_time_that_passed() {
        assert_eq!(Tsc::Own.resumed(1_000, 5_000, 2_000_000, 1_000_000), (Some(2_001_000), 5_000));
    }

    #[test]
    fn a_deadline_moves_only_to_another_hosts_tsc() {
        // SAFETY: every x86-64 processor has `rdtsc`.
        let here = unsafe { std::arch::x86_64::_rdtsc() };
        let khz = 2_000_000;
        assert_eq!(Tsc::Hosts.resumed(here, here + 100, 0, khz), (None, here + 100));
        let far = here.wrapping_add(1 << 50);
        let (tsc, deadline) = Tsc::Hosts.resumed(far, far + 100, 0, khz);
        assert_eq!(tsc, None);
        assert!(deadline.wrapping_sub(here) < u64::from(khz) * 1000, "the deadline is due soon here");
        assert_eq!(Tsc::Hosts.resumed(far, 0, 0, khz).1, 0, "a timer that is off stays off");
    }

    #[test]
    fn a_clock_from_the_future_or_the_far_past_moves_nothing() {
        assert_eq!(elapsed_ns(u64::MAX, host_ns()), 0);
        assert_eq!(elapsed_ns(1, host_ns()), 0);
        assert!(elapsed_ns(host_ns() - 1_000_000, host_ns()) >= 1_000_000);
    }
}
