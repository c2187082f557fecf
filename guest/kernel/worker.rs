//! The loop that every processor runs: fill its pages, then touch them at the planned rate, and between two bursts see to
//! everything else.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::cpu::{CPUS, Cpu, State};
use crate::disk::DiskWork;
use crate::gaps::Gaps;
use crate::lines::{End, Line, Ready, Report};
use crate::log::{self, Log};
use crate::pages::{PAGE, Pages};
use crate::plan::Plan;
use crate::registers::{self, Changed};
use crate::timer::{Health, Timer};
use crate::workload::{Exit, Idle, Order, Rate};
use crate::{gate, kvmclock, power, serial, time};

/// The longest burst, and the shortest time between two looks at everything else.
const QUANTUM_US: u64 = 1_000;
/// The longest time between them, when the rate is low.
const QUANTUM_MAX_US: u64 = 10_000;
/// Touches in a burst without pacing.
const BURST: u64 = 64;
/// Pages that are filled between two looks at the operator.
const FILL_BURST: u64 = 256;
/// Ticks of a processor that never sleeps.
const TICK_US: u64 = 10_000;
/// How long the other processors may take to print their last report.
const LAST_REPORTS_US: u64 = 5_000_000;
/// How long another processor may stand still, and how often it must be found so.
const SILENCE_US: u64 = 2_000_000;
const SILENCE_LOOKS: u32 = 8;

/// What all processors are asked for by processor 0: 0 nothing, else an [`Exit`] plus 1.
static EXIT: AtomicU32 = AtomicU32::new(0);
/// Counts the operator's wishes for a report.
static REPORT_WISHES: AtomicU32 = AtomicU32::new(0);

/// Runs a processor's workload to its end.
pub fn run(cpu: &'static Cpu, plan: &'static Plan, disk: Option<DiskWork>, log: Log) -> ! {
    Worker::new(cpu, plan, disk, log).run()
}

struct Worker {
    cpu: &'static Cpu,
    plan: &'static Plan,
    log: Log,
    disk: Option<DiskWork>,
    pages: Pages,
    gaps: Gaps,
    timer: Timer,
    /// Where the next touch goes, in sequential order; the state of the generator, in random order.
    position: u64,
    touched: u64,
    sequence: u64,
    next_report: u64,
    wishes_seen: u32,
    serial_irqs_seen: u64,
    kvmclock_ns: u64,
    silence: [(u64, u32); CPUS.len()],
}

impl Worker {
    fn new(cpu: &'static Cpu, plan: &'static Plan, disk: Option<DiskWork>, log: Log) -> Self {
        let workload = &plan.workload;
        let index = u64::from(cpu.index);
        Self {
            cpu,
            plan,
            log,
            disk,
            pages: Pages::new(plan.layout, workload.seed, index, workload.cpus.into()),
            gaps: Gaps::new(),
            timer: Timer::new(cpu, plan.timer),
            position: if workload.order == Order::Rand { workload.seed ^ index << 40 } else { 0 },
            touched: 0,
            sequence: 0,
            next_report: 0,
            wishes_seen: 0,
            serial_irqs_seen: 0,
            kvmclock_ns: 0,
            silence: [(0, 0); CPUS.len()],
        }
    }

    fn run(mut self) -> ! {
        self.fill();
        match self.plan.workload.rate {
            Rate::Max => self.touch_unpaced(),
            Rate::BytesPerSecond(rate) => self.touch_paced(rate),
        }
        self.finish()
    }

    fn fill(&mut self) {
        for at in 0..self.pages.count {
            self.pages.fill(at);
            if at % FILL_BURST == 0 {
                self.hear_operator();
                if asked_to_exit() {
                    return;
                }
            }
        }
        let ready = Ready { cpu: self.cpu.index, pages: self.pages.count, uptime_ms: time::uptime_ms() };
        self.log.print(&Line::Ready(ready));
        self.gaps = Gaps::new();
        self.next_report = time::now() + self.report_cycles();
    }

    fn touch_unpaced(&mut self) {
        while !asked_to_exit() {
            for _ in 0..BURST {
                self.touch(0);
            }
            self.chores();
        }
    }

    /// Touches a burst at the beginning of each quantum. After a stall, the schedule begins anew: what was missed is not made
    /// up for.
    fn touch_paced(&mut self, rate: u64) {
        let share = rate.div_ceil(self.plan.workload.cpus.into());
        let per_page_us = (1_000_000 * PAGE).div_ceil(share);
        let quantum = time::cycles_of_us(per_page_us.clamp(QUANTUM_US, QUANTUM_MAX_US));
        // Pages a quantum, in 2^-20.
        let quota = (u128::from(share) * u128::from(quantum) << 20) / u128::from(time::khz() * 1000 * PAGE);
        let mut credit = 0;
        let mut due = time::now();
        while !asked_to_exit() {
            credit += quota as u64;
            for _ in 0..credit >> 20 {
                self.touch(due);
            }
            credit &= (1 << 20) - 1;
            self.chores();
            due += quantum;
            let now = time::now();
            if now > due + 2 * quantum {
                due = now;
            }
            self.idle(due);
        }
    }

    fn touch(&mut self, due: u64) {
        let at = match self.plan.workload.order {
            Order::Seq => {
                self.position = if self.position + 1 < self.pages.count { self.position + 1 } else { 0 };
                self.position
            }
            Order::Rand => {
                self.position = self.position.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                (u128::from(self.position) * u128::from(self.pages.count) >> 64) as u64
            }
        };
        let result = self.pages.touch(at);
        self.touched += 1;
        self.gaps.touched(due);
        if let Err(wrong) = result {
            let began = time::now();
            self.log.error(format_args!("{wrong}"));
            self.gaps.excuse(began, 512);
        }
    }

    /// Waits until `due`, asleep or spinning.
    fn idle(&mut self, due: u64) {
        while time::now() < due {
            if self.plan.workload.idle == Idle::Spin || !self.tick_seen() {
                core::hint::spin_loop();
                continue;
            }
            let result = self.timer.sleep(due);
            self.complain(result);
        }
    }

    /// Everything but pages.
    fn chores(&mut self) {
        let began = time::now();
        let mut accesses = 0;
        self.cpu.beat.store(began, Ordering::Relaxed);
        let kept = registers::check_kept(self.cpu.index, self.plan.simd);
        self.complain(kept);
        if self.tick_seen() && !self.timer.is_armed() && !self.sleeps() {
            self.timer.arm(began + time::cycles_of_us(TICK_US));
            accesses += 1;
        }
        if let Some(disk) = &mut self.disk {
            accesses += disk.step(self.cpu, &mut self.log);
        }
        accesses += self.hear_operator();
        accesses += self.report_if_due(began);
        accesses += self.log.pump();
        self.end_if_due(began);
        self.gaps.excuse(began, accesses);
    }

    /// Whether the timer is as it should be; says so when it was lost.
    fn tick_seen(&mut self) -> bool {
        let health = self.timer.check(time::now());
        if health == Health::Lost {
            let ticks = self.cpu.ticks.load(Ordering::Relaxed);
            self.log.error(format_args!("ticks stopped: no timer interrupt since tick {ticks}, 500 ms after it was due"));
        }
        health != Health::Late
    }

    fn sleeps(&self) -> bool {
        self.plan.workload.idle == Idle::Hlt && self.plan.workload.rate != Rate::Max
    }

    /// Processor 0 does what comes by the serial port: `q` shut down, `r` reboot, `s` report, `f` break: an access
    /// that nothing maps shows what an exception looks like.
    fn hear_operator(&mut self) -> usize {
        let irqs = self.cpu.serial_irqs.load(Ordering::Acquire);
        if self.cpu.index != 0 || irqs == self.serial_irqs_seen {
            return 0;
        }
        self.serial_irqs_seen = irqs;
        let mut accesses = 1;
        while let Some(byte) = serial::receive() {
            accesses += 2;
            match byte {
                b'q' => ask_to_exit(Exit::Shutdown),
                b'r' => ask_to_exit(Exit::Reboot),
                b'f' => gate::break_down(),
                b's' => _ = REPORT_WISHES.fetch_add(1, Ordering::Relaxed),
                _ => {}
            }
        }
        accesses
    }

    fn report_if_due(&mut self, now: u64) -> usize {
        let wishes = REPORT_WISHES.load(Ordering::Relaxed);
        if now < self.next_report && wishes == self.wishes_seen || !self.log.is_idle() {
            return 0;
        }
        self.wishes_seen = wishes;
        if now >= self.next_report {
            self.next_report = (self.next_report + self.report_cycles()).max(now);
        }
        self.inspect();
        let report = self.report();
        self.log.queue(&Line::Report(report));
        4
    }

    /// Looks at what is worth a look with each report.
    fn inspect(&mut self) {
        let slow = registers::check_slow(self.cpu.index);
        self.complain(slow);
        if self.plan.kvmclock {
            let (before, now) = (self.kvmclock_ns, kvmclock::now_ns(self.cpu.index));
            self.kvmclock_ns = now;
            if now < before {
                self.log.error(format_args!("kvmclock went back from {before} ns to {now} ns"));
            }
        }
        if self.cpu.index == 0 {
            self.look_for_silent_cpus();
        }
    }

    fn look_for_silent_cpus(&mut self) {
        let now = time::now();
        for cpu in &CPUS[1..self.plan.workload.cpus as usize] {
            let beat = cpu.beat.load(Ordering::Relaxed);
            let (seen, looks) = &mut self.silence[cpu.index as usize];
            let silent = beat != 0 && beat == *seen && now.saturating_sub(beat) > time::cycles_of_us(SILENCE_US);
            *looks = if silent && !cpu.reached(State::Done) { *looks + 1 } else { 0 };
            *seen = beat;
            if *looks == SILENCE_LOOKS {
                let ticks = cpu.ticks.load(Ordering::Relaxed);
                self.log.error(format_args!("vCPU {} stands still since its tick {ticks}", cpu.index));
            }
        }
    }

    fn report(&mut self) -> Report {
        let (gap_us, worst_gap_us) = self.gaps.report();
        self.sequence += 1;
        Report {
            cpu: self.cpu.index,
            sequence: self.sequence,
            pages: self.touched,
            gap_us,
            worst_gap_us,
            gaps: self.gaps.histogram().clone(),
            ticks: self.cpu.ticks.load(Ordering::Relaxed),
            disk_requests: self.disk.as_ref().map_or(0, |disk| disk.requests),
            errors: self.log.errors(),
            uptime_ms: time::uptime_ms(),
            kvmclock_ms: self.plan.kvmclock.then_some(self.kvmclock_ns / 1_000_000),
        }
    }

    fn end_if_due(&self, now: u64) {
        let workload = &self.plan.workload;
        let late = workload.runtime_ms != 0 && now >= time::at_uptime_ms(workload.runtime_ms);
        if self.cpu.index == 0 && (late || workload.reports != 0 && self.sequence >= workload.reports) {
            ask_to_exit(workload.exit);
        }
    }

    fn complain(&mut self, result: Result<(), Changed>) {
        if let Err(Changed { bank, number, expected, found }) = result {
            self.log.error(format_args!("register {bank}{number}: expected {expected:#x}, found {found:#x}"));
        }
    }

    fn report_cycles(&self) -> u64 {
        self.plan.workload.report_ms * time::khz()
    }

    /// Prints the last report. Processor 0 waits for the others' and ends the guest.
    fn finish(mut self) -> ! {
        self.inspect();
        let report = self.report();
        self.log.print(&Line::Report(report));
        self.cpu.set_state(State::Done);
        if self.cpu.index != 0 {
            gate::stop();
        }
        let deadline = time::now() + time::cycles_of_us(LAST_REPORTS_US);
        for cpu in &CPUS[1..self.plan.workload.cpus as usize] {
            while !cpu.reached(State::Done) && time::now() < deadline {
                core::hint::spin_loop();
            }
            if !cpu.reached(State::Done) {
                self.log.error(format_args!("vCPU {} does not print its last report", cpu.index));
            }
        }
        let exit = if EXIT.load(Ordering::Relaxed) == exit_code(Exit::Reboot) { Exit::Reboot } else { Exit::Shutdown };
        self.log.print(&Line::End(End { exit, errors: log::all_errors(), uptime_ms: time::uptime_ms() }));
        power::exit(exit)
    }
}

fn exit_code(exit: Exit) -> u32 {
    exit as u32 + 1
}

fn ask_to_exit(exit: Exit) {
    EXIT.store(exit_code(exit), Ordering::Relaxed);
}

fn asked_to_exit() -> bool {
    EXIT.load(Ordering::Relaxed) != 0
}
