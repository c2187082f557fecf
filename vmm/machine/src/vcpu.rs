//! A vCPU's thread: runs the guest while the gate is open, and hands its exits to the buses or to
//! the control.

use std::sync::Arc;
use std::time::Duration;

use kvm_ioctls::VcpuExit;
use vm_memory::{Bytes, GuestAddress};

use super::error::{ExitReason, GuestFailure};
use super::parts::Parts;
use crate::kvm::Vcpu;

/// The longest x86 instruction.
const INSTRUCTION_MAX: usize = 15;
/// KVM_INTERNAL_ERROR_EMULATION.
const EMULATION_FAILED: u32 = 1;
/// KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES.
const HAS_INSTRUCTION_BYTES: u64 = 1;

/// How often in a row `KVM_RUN` may fail to reach guest memory when no page is missing.
const UNREACHABLE_MAX: u32 = 16;
/// Pause before a vCPU that could not reach guest memory tries again.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(1);

/// Runs a vCPU's thread.
pub(super) fn run(parts: &Arc<Parts>, index: usize) {
    let end = ThreadEnd { parts, index };
    warm_up(parts, index);
    let gate = &parts.control.gate;
    while gate.enter(index) {
        run_guest(parts, index);
        gate.leave(index);
    }
    drop(end);
}

/// Enters KVM and leaves it before the guest's first instruction, so that KVM's one-time work for a
/// VM, which starts a thread, is done before an incoming guest is waited for.
fn warm_up(parts: &Parts, index: usize) {
    let mut vcpu = parts.vcpu(index);
    // SAFETY: this thread holds the vCPU. The gate takes the flag back when it lets the thread in.
    unsafe { vcpu.run_area().set_immediate_exit(true) };
    if let Ok(exit) = vcpu.fd().run() {
        tracing::debug!(?exit, "a vCPU that was not to run has");
    }
}

/// Notifies the machine when the thread ends, also by a panic, which no other thread would notice.
struct ThreadEnd<'a> {
    parts: &'a Parts,
    index: usize,
}

impl Drop for ThreadEnd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let failure = GuestFailure::VcpuDied { vcpu: self.index as u32 };
            self.parts.control.end(ExitReason::Failed(failure));
        }
        self.parts.control.gate.gone(self.index);
    }
}

/// Runs the guest until the gate is closed and nothing is pending.
fn run_guest(parts: &Parts, index: usize) {
    let mut vcpu = parts.vcpu(index);
    let area = vcpu.run_area();
    let mut unreachable = 0;
    loop {
        let exit = vcpu.fd().run();
        unreachable = if exit.is_err() { unreachable } else { 0 };
        let failure = match exit {
            Ok(VcpuExit::IoOut(port, data)) => {
                // SAFETY: this thread runs the vCPU, which it holds.
                let len = unsafe { area.port_access_len() };
                for piece in data.chunks(len.max(1)) {
                    parts.ports.write(port.into(), piece);
                }
                continue;
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                // SAFETY: as above.
                let len = unsafe { area.port_access_len() };
                for piece in data.chunks_mut(len.max(1)) {
                    parts.ports.read(port.into(), piece);
                }
                continue;
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                parts.mmio.read(address, data);
                continue;
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                parts.mmio.write(address, data);
                continue;
            }
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr | VcpuExit::IoapicEoi(_)) => continue,
            Ok(VcpuExit::Shutdown) => return parts.triple_fault(vcpu.id()),
            Ok(VcpuExit::InternalError) => internal_error(parts, &mut vcpu),
            Ok(VcpuExit::FailEntry(reason, _)) => GuestFailure::FailEntry { vcpu: vcpu.id(), reason },
            Ok(exit) => {
                let exit = format!("{exit:?}");
                GuestFailure::UnexpectedExit { vcpu: vcpu.id(), exit }
            }
            Err(error) => match error.errno() {
                // For a processor that waited for its start, EAGAIN: the start has come.
                libc::EAGAIN => continue,
                libc::EINTR if parts.control.gate.must_leave(index) => return,
                libc::EINTR => continue,
                // The kernel gave up reading guest memory, for a page that postcopy has not
                // brought, because of a signal.
                libc::EFAULT if parts.control.gate.must_leave(index) => return,
                libc::EFAULT if may_try_again(parts, &mut unreachable) => continue,
                _ => GuestFailure::Run { vcpu: vcpu.id(), error: error.to_string() },
            },
        };
        return parts.control.end(ExitReason::Failed(failure));
    }
}

/// Whether a vCPU that could not reach guest memory, and may run, tries again. The signal may have
/// come from the process, or from the gate, which was opened again meanwhile: the page is still on
/// its way, and `KVM_RUN` waits for it once more. If no page is missing, the last may have come
/// between the failure and this check, so only a failure that persists counts.
pub(super) fn may_try_again(parts: &Parts, in_a_row: &mut u32) -> bool {
    *in_a_row = if parts.control.status().memory_arrives { 0 } else { *in_a_row + 1 };
    tracing::debug!(in_a_row = *in_a_row, "a vCPU could not reach guest memory");
    if *in_a_row > UNREACHABLE_MAX {
        return false;
    }
    // A failure that persists must not keep a core busy while pages are missing.
    std::thread::sleep(UNREACHABLE_PAUSE);
    true
}

/// Describes an internal error with the guest's instruction pointer and the instruction there.
fn internal_error(parts: &Parts, vcpu: &mut Vcpu) -> GuestFailure {
    // SAFETY: this thread runs the vCPU, which it holds.
    let (suberror, data, count) = unsafe { vcpu.run_area().internal_error() };
    let rip = vcpu.fd().get_regs().map_or(0, |regs| regs.rip);
    let given = match (suberror, count, data[0] & HAS_INSTRUCTION_BYTES) {
        (EMULATION_FAILED, 2.., HAS_INSTRUCTION_BYTES) => {
            // The first byte is the length; the instruction follows.
            let bytes: Vec<_> = data[1..3].iter().flat_map(|word| word.to_le_bytes()).collect();
            let len = usize::from(bytes[0]).min(INSTRUCTION_MAX);
            Some(bytes[1..1 + len].to_vec())
        }
        _ => None,
    };
    let bytes = given.or_else(|| read_instruction(parts, vcpu, rip));
    let bytes = bytes.map_or_else(|| "unknown".to_owned(), |bytes| hexadecimal(&bytes));
    GuestFailure::InternalError { vcpu: vcpu.id(), suberror, rip, bytes }
}

/// Reads the bytes at the instruction pointer through the guest's page tables, as far as it is on
/// one page.
fn read_instruction(parts: &Parts, vcpu: &mut Vcpu, rip: u64) -> Option<Vec<u8>> {
    let base = vcpu.fd().get_sregs().ok()?.cs.base;
    let linear = base.wrapping_add(rip);
    let translated = vcpu.fd().translate_gva(linear).ok().filter(|translation| translation.valid != 0)?;
    let len = INSTRUCTION_MAX.min(4096 - (linear & 0xfff) as usize);
    let mut bytes = vec![0; len];
    parts.memory.guest().read_slice(&mut bytes, GuestAddress(translated.physical_address)).ok()?;
    Some(bytes)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
