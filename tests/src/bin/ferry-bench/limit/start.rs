//! A process that starts, and an empty VM that is made: what no VMM's start can do without.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::account::{Measured, Reading};
use crate::error::BenchError;
use crate::process::spawn;

/// Three pages below 4 GiB that nobody uses, where KVM wants them on hosts of some kind (KVM API,
/// `KVM_SET_TSS_ADDR`).
const TSS_ADDRESS: usize = 0xfffb_d000;

/// How long the process may take to say something.
const ANSWER: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// What one start took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Start {
    /// Milliseconds from just before the process was made to its first byte of output.
    pub process_ms: f64,
    /// Milliseconds for a VM with interrupt controllers, timer and vCPUs.
    pub vm_ms: f64,
    /// KiB that are resident in a process that does nothing.
    pub resident_kib: u64,
}

impl Measured for Start {
    fn readings(&self) -> Vec<Reading> {
        vec![
            Reading::new("first serial byte", "ms", self.process_ms + self.vm_ms),
            Reading::new("memory of the VMM", "MiB", self.resident_kib as f64 / 1024.0),
        ]
    }
}

/// Starts `cat`, whose first byte of output is one of its input, and makes a VM in this process.
pub(crate) fn start(cpus: u32) -> Result<Start, BenchError> {
    let (process_ms, resident_kib) = process()?;
    let began = Instant::now();
    let vm = make_vm(cpus).map_err(BenchError::system("make an empty VM on /dev/kvm"))?;
    let vm_ms = began.elapsed().as_secs_f64() * 1e3;
    drop(vm);
    Ok(Start { process_ms, vm_ms, resident_kib })
}

fn process() -> Result<(f64, u64), BenchError> {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = spawn(command)?;
    let mut input = child.0.stdin.take().expect("its input was asked for");
    let mut output = child.0.stdout.take().expect("its output was asked for");
    let answer = input.write_all(b"x").and_then(|()| await_output(&output)).and_then(|()| output.read_exact(&mut [0]));
    answer.map_err(BenchError::system("read the first output of cat"))?;
    let process_ms = began.elapsed().as_secs_f64() * 1e3;
    let path = format!("/proc/{}/status", child.0.id());
    let status = std::fs::read_to_string(&path).map_err(BenchError::system(format!("read {path}")))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    Ok((process_ms, resident.unwrap_or(0)))
}

fn await_output(output: &impl AsFd) -> io::Result<()> {
    match poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&ANSWER))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "it says nothing")),
        _ => Ok(()),
    }
}

/// As Ferry and QEMU do: a kernel interrupt controller and timer, and all vCPUs.
fn make_vm(cpus: u32) -> io::Result<(VmFd, Vec<VcpuFd>)> {
    let error = |error: kvm_ioctls::Error| io::Error::from_raw_os_error(error.errno());
    let vm = Kvm::new().and_then(|kvm| kvm.create_vm()).map_err(error)?;
    vm.set_tss_address(TSS_ADDRESS).map_err(error)?;
    vm.create_irq_chip().map_err(error)?;
    vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() }).map_err(error)?;
    let vcpus = (0..cpus).map(|id| vm.create_vcpu(id.into())).collect::<Result<Vec<_>, _>>().map_err(error)?;
    Ok((vm, vcpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_does_nothing_has_a_time_and_some_memory() {
        let (ms, resident_kib) = process().unwrap();
        assert!(ms > 0.0);
        assert!((100..100_000).contains(&resident_kib), "{resident_kib} KiB");
    }
}
