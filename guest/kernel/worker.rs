//! The loop that every processor runs: fill its pages, then touch them at the planned rate, and
//! between two bursts see to everything else.

use core::sync::atomic::Ordering;

use crate::cpu::{CPUS, Cpu, State};
use crate::disk::DiskWork;
use crate::gaps::Gaps;
use crate::lines::{End, Line, Ready, Report};
use crate::log::{self, Log};
use crate::operator::{Ear, ask_to_exit, asked_to_exit, report_wishes};
use crate::pace::Pace;
use crate::pages::Pages;
use crate::plan::Plan;
use crate::registers::{self, Changed};
use crate::timer::{Health, Timer};
use crate::watch::Watch;
use crate::workload::{Exit, Idle, Order, Rate};
use crate::{gate, kvmclock, power, time, timer};

/// Touches in a burst without pacing.
const BURST: u64 = 64;
/// Pages that are filled between two looks at the operator.
const FILL_BURST: u64 = 256;
/// Ticks of a processor that never sleeps.
const TICK_US: u64 = 10_000;
/// How long the other processors may take to print their last report.
const LAST_REPORTS_US: u64 = 10_000_000;

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
    /// Where the next touch goes, in sequential order; the state of the generator, in random
    /// order.
    position: u64,
    touched: u64,
    /// The TSC when the pages were filled.
    ready: u64,
    /// The TSC as last seen.
    tsc: u64,
    sequence: u64,
    next_report: u64,
    wishes_seen: u32,
    kvmclock_ns: u64,
    ear: Ear,
    watch: Watch,
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
            ready: 0,
            tsc: 0,
            sequence: 0,
            next_report: 0,
            wishes_seen: 0,
            kvmclock_ns: 0,
            ear: Ear::default(),
            watch: Watch::default(),
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
                self.ear.listen(self.cpu);
                if asked_to_exit().is_some() {
                    return;
                }
            }
        }
        let ready = Ready { cpu: self.cpu.index, pages: self.pages.count, uptime_ms: time::uptime_ms() };
        self.log.print(&Line::Ready(ready));
        self.gaps = Gaps::new();
        self.ready = time::now();
        self.next_report = self.ready + self.report_cycles();
    }

    fn touch_unpaced(&mut self) {
        while asked_to_exit().is_none() {
            for _ in 0..BURST {
                self.touch(0);
            }
            self.chores();
        }
    }

    fn touch_paced(&mut self, rate: u64) {
        let mut pace = Pace::new(rate.div_ceil(self.plan.workload.cpus.into()));
        while asked_to_exit().is_none() {
            for _ in 0..pace.pages() {
                self.touch(pace.due);
            }
            self.chores();
            pace.advance();
            self.idle(&pace);
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
                ((u128::from(self.position) * u128::from(self.pages.count)) >> 64) as u64
            }
        };
        let began = time::now();
        let result = self.pages.touch(at);
        self.touched += 1;
        self.gaps.touched(due, began);
        if let Err(wrong) = result {
            let began = time::now();
            self.log.error(format_args!("{wrong}"));
            self.gaps.excuse(began, self.log.take_accesses());
        }
    }

    /// Waits until the pages are due, asleep or spinning.
    fn idle(&mut self, pace: &Pace) {
        loop {
            let now = time::now();
            if now >= pace.due || pace.is_lost(now) {
                return;
            }
            if self.plan.workload.idle == Idle::Spin || !self.tick_seen() {
                core::hint::spin_loop();
                continue;
            }
            let result = self.timer.sleep(pace.due);
            self.complain(result);
        }
    }

    /// Everything but pages.
    fn chores(&mut self) {
        let began = time::now();
        let mut accesses = 0;
        self.check_tsc(began);
        let kept = registers::check_kept(self.cpu.index, self.plan.simd);
        self.complain(kept);
        if self.tick_seen() && !self.timer.is_armed() && !self.sleeps() {
            self.timer.arm(began + time::cycles_of_us(TICK_US));
            accesses += 1;
        }
        if let Some(disk) = &mut self.disk {
            accesses += disk.step(self.cpu, &mut self.log);
        }
        accesses += self.ear.listen(self.cpu);
        accesses += self.report_if_due(began);
        self.log.pump();
        if self.cpu.index == 0 {
            self.watch.look(began, &CPUS[1..self.plan.workload.cpus as usize], &mut self.log);
            self.end_if_due(began);
        }
        self.gaps.excuse(began, accesses + self.log.take_accesses());
    }

    /// The TSC must not go back, for everything here is timed by it. If it does, all begins anew.
    fn check_tsc(&mut self, now: u64) {
        let before = core::mem::replace(&mut self.tsc, now);
        if now >= before {
            return;
        }
        self.log.error(format_args!("the TSC went back from {before} to {now}"));
        self.timer.forget();
        self.watch.restart();
        self.ready = now;
        self.next_report = now + self.report_cycles();
    }

    /// Whether the timer is as it should be; says so when it was lost.
    fn tick_seen(&mut self) -> bool {
        let health = self.timer.check(time::now());
        if health == Health::Lost {
            let ticks = self.cpu.ticks.load(Ordering::Relaxed);
            self.log
                .error(format_args!("ticks stopped: no timer interrupt since tick {ticks}, 500 ms after it was due"));
        }
        health != Health::Late
    }

    fn sleeps(&self) -> bool {
        self.plan.workload.idle == Idle::Hlt && self.plan.workload.rate != Rate::Max
    }

    fn report_if_due(&mut self, now: u64) -> usize {
        let wishes = report_wishes();
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
        // The passages through the gate take as long as some accesses.
        4 + if self.cpu.index == 0 { self.ear.poll() } else { 0 }
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
            stalls: self.gaps.take_stalls(),
        }
    }

    fn end_if_due(&self, now: u64) {
        let workload = &self.plan.workload;
        let late = workload.runtime_ms != 0 && now >= self.ready + workload.runtime_ms * time::khz();
        if late || workload.reports != 0 && self.sequence >= workload.reports {
            ask_to_exit(workload.exit);
        }
    }

    fn complain(&mut self, result: Result<(), Changed>) {
        if let Err(Changed { bank, number, expected, found }) = result {
            self.log.error(format_args!("register {bank}{number}: expected {expected:#x}, found {found:#x}"));
            registers::load(self.cpu.index, self.plan.simd);
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
                timer::nap();
            }
            if !cpu.reached(State::Done) {
                self.log.error(format_args!("vCPU {} does not print its last report", cpu.index));
            }
        }
        let exit = asked_to_exit().unwrap_or(Exit::Shutdown);
        self.log.print(&Line::End(End { exit, errors: log::all_errors(), uptime_ms: time::uptime_ms() }));
        power::exit(exit)
    }
}
