//! The calls that save and load state, by name: the only way to make one, and the place to inject a
//! failure of it.
//!
//! The modules beside this one make every such call through [`Calls`]; the machine checks rules of
//! the fault device against [`StateCall::ALL`]; tests go through the same table, so that a new
//! call is a new case.

use std::sync::Arc;

use ferry_devices::DeviceId;
use ferry_devices::fault::{FaultControl, Injected};
use kvm_ioctls::Error as Errno;

use super::error::StateError;

macro_rules! state_calls {
    ($($call:ident = $name:literal,)*) => {
        /// An ioctl that takes or sets a part of the machine's state (KVM API, by the ioctl's own
        /// name).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum StateCall {
            $(#[doc = concat!("`", $name, "`")] $call,)*
        }

        impl StateCall {
            /// Every one.
            pub const ALL: &[StateCall] = &[$(StateCall::$call),*];

            /// Its name in Linux.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(StateCall::$call => $name,)*
                }
            }
        }
    };
}

state_calls! {
    GetMpState = "KVM_GET_MP_STATE",
    GetRegs = "KVM_GET_REGS",
    GetSregs = "KVM_GET_SREGS",
    GetXsave = "KVM_GET_XSAVE",
    GetXsave2 = "KVM_GET_XSAVE2",
    GetXcrs = "KVM_GET_XCRS",
    GetDebugRegs = "KVM_GET_DEBUGREGS",
    GetLapic = "KVM_GET_LAPIC",
    GetMsrs = "KVM_GET_MSRS",
    GetVcpuEvents = "KVM_GET_VCPU_EVENTS",
    GetIrqchip = "KVM_GET_IRQCHIP",
    GetPit2 = "KVM_GET_PIT2",
    GetClock = "KVM_GET_CLOCK",
    SetCpuid2 = "KVM_SET_CPUID2",
    SetTscKhz = "KVM_SET_TSC_KHZ",
    SetSregs = "KVM_SET_SREGS",
    SetXcrs = "KVM_SET_XCRS",
    SetXsave = "KVM_SET_XSAVE",
    SetRegs = "KVM_SET_REGS",
    SetDebugRegs = "KVM_SET_DEBUGREGS",
    SetLapic = "KVM_SET_LAPIC",
    SetMsrs = "KVM_SET_MSRS",
    SetMpState = "KVM_SET_MP_STATE",
    SetVcpuEvents = "KVM_SET_VCPU_EVENTS",
    SetIrqchip = "KVM_SET_IRQCHIP",
    SetPit2 = "KVM_SET_PIT2",
    SetClock = "KVM_SET_CLOCK",
}

impl StateCall {
    /// Whether it sets state: a destination makes these.
    #[must_use]
    pub fn loads(self) -> bool {
        self.name().starts_with("KVM_SET_")
    }

    /// The kind of part that it is about, as in `vcpu/0`.
    #[must_use]
    pub fn part(self) -> &'static str {
        match self {
            StateCall::GetIrqchip | StateCall::SetIrqchip => "irqchip",
            StateCall::GetPit2 | StateCall::SetPit2 => "pit",
            StateCall::GetClock | StateCall::SetClock => "kvmclock",
            _ => "vcpu",
        }
    }
}

/// Makes the calls about one part of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    part: DeviceId,
    faults: Arc<FaultControl>,
}

impl Calls {
    pub(super) fn new(part: DeviceId, faults: Arc<FaultControl>) -> Self {
        Calls { part, faults }
    }

    #[cfg(test)]
    pub(super) fn faults(&self) -> Arc<FaultControl> {
        self.faults.clone()
    }

    /// Skew of the wall clock, by the rules of the fault device.
    pub(super) fn clock_skew_ns(&self) -> i64 {
        self.faults.clock_skew_ms() * 1_000_000
    }

    /// Makes a call, unless a rule of the fault device makes it fail. The failure looks like one of
    /// the kernel.
    pub(super) fn make<T>(&self, call: StateCall, ioctl: impl FnOnce() -> Result<T, Errno>) -> Result<T, StateError> {
        let injected = self.faults.before_call(call.name(), &self.part).map_err(|injected| match injected {
            Injected::Failed => Errno::new(libc::EINVAL),
            Injected::Errno(errno) => Errno::new(errno.number()),
            Injected::Interrupted => Errno::new(libc::EIO),
        });
        injected.and_then(|()| ioctl()).map_err(|errno| StateError::Call { call: call.name(), errno })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_fails_as_the_kernel_would_and_is_then_not_made() {
        let faults = Arc::new(FaultControl::new(ferry_devices::fault::Direction::Incoming));
        let calls = Calls::new(DeviceId { name: "vcpu", instance: 1 }, faults.clone());
        faults.set("at=KVM_SET_REGS,do=fail,of=vcpu/1,times=1".parse().unwrap()).unwrap();
        let error = calls.make(StateCall::SetRegs, || -> Result<(), _> { panic!("the call was made") }).unwrap_err();
        assert_eq!(error.to_string(), "KVM_SET_REGS: Invalid argument (os error 22)");
        assert_eq!(calls.make(StateCall::SetRegs, || Ok(7)).unwrap(), 7);
        assert_eq!(calls.make(StateCall::GetRegs, || Ok(8)).unwrap(), 8);
    }

    #[test]
    fn every_call_gets_or_sets() {
        for call in StateCall::ALL {
            assert!(call.loads() || call.name().starts_with("KVM_GET_"), "{call:?}");
        }
    }
}
