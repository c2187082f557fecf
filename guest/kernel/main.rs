//! The tiny guest: a PVH kernel whose work, and nearly all of whose initialisation, runs in
//! ring 3.
//!
//! `guest/build.rs` builds it and `ferry_guest::ELF` hands it out. The VMM enters at `boot.rs`,
//! which comes to [`start`] here within some thirty instructions. Ring 0 is kept that small
//! because some hosts emulate it, at a microsecond an instruction and with gaps, while ring 3 runs
//! natively everywhere.

#![no_std]
#![no_main]
#![warn(clippy::undocumented_unsafe_blocks)]

mod apic;
mod boot;
mod cpu;
mod disk;
mod fatal;
mod gaps;
mod gate;
mod kvmclock;
mod libc;
#[path = "../src/lines.rs"]
#[allow(dead_code, reason = "the host reads the words that the kernel writes")]
mod lines;
mod log;
mod operator;
mod pace;
mod pages;
mod paging;
mod plan;
mod port;
mod power;
mod pvh;
mod registers;
mod serial;
mod time;
mod timer;
mod traps;
mod virtio;
mod watch;
mod worker;
#[path = "../src/workload.rs"]
mod workload;

use cpu::{CPUS, Cpu, State};
use log::Log;
use plan::Plan;

/// Processor 0's first function in ring 3. `info` is the physical address of the PVH start info.
extern "C" fn start(info: u64, cpu: &'static Cpu) -> ! {
    pvh::clear_bss();
    time::start();
    traps::fill_idt();
    let boot = pvh::read(info);
    paging::map(&boot);
    serial::init();
    let mut log = Log::new(cpu.index);
    let (plan, disk) = Plan::make(&boot, &mut log);
    apic::disable_pic();
    prepare(cpu);
    apic::enable_watchdog();
    for other in &CPUS[1..plan.workload.cpus as usize] {
        if !cpu::start_secondary(other) {
            let index = other.index;
            log.error(format_args!("vCPU {index} does not start: INIT and ten start-up messages had no effect"));
            other.set_state(State::Done);
        }
    }
    worker::run(cpu, plan, disk, log)
}

/// Every other processor's first function in ring 3.
extern "C" fn start_secondary(_: u64, cpu: &'static Cpu) -> ! {
    prepare(cpu);
    worker::run(cpu, plan::get(), None, Log::new(cpu.index))
}

/// Readies a processor's own parts.
fn prepare(cpu: &'static Cpu) {
    apic::enable();
    timer::init();
    if plan::get().kvmclock {
        kvmclock::enable(cpu.index);
    }
    registers::init(cpu.index, plan::get().simd);
    gate::interrupts_on();
    cpu.set_state(State::Started);
}
