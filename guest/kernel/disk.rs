//! The disk's share of the workload, driven by processor 0: stamped blocks are written, flushed,
//! read back and checked, several at a time. On a read-only disk, blocks are read, and must not
//! change.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::cpu::{Cpu, Shared};
use crate::lines::Disk;
use crate::log::Log;
use crate::virtio::{BLOCK, DiskDevice, OpenError, Operation, SECTOR, SLOTS};
use crate::{apic, time};

/// Blocks that are used: the first 2 MiB of the disk, so that each is seen again within seconds.
const BLOCKS_MAX: usize = 512;
/// A slot's pause between two requests, so that the disk is busy but not swamped.
const PAUSE_US: u64 = 10_000;
/// A request that is older than this and has come back without an interrupt shows that the
/// interrupt was lost.
const INTERRUPT_US: u64 = 2_000_000;
/// How long it must have lain there while this processor ran: a host with much to do may stand
/// still between the two.
const WATCHED_US: u64 = 1_000_000;
/// The most of it between two looks: more, and it was this processor that stood still.
const LOOK_US: u64 = 1000;
/// A request that is older than this is taken for lost.
const REQUEST_US: u64 = 60_000_000;

/// What each block should hold: its generation, or on a read-only disk a hash. 0: not known yet.
/// Processor 0 alone uses it.
static EXPECTED: Shared<[u32; BLOCKS_MAX]> = Shared::new([0; BLOCKS_MAX]);

/// What a slot does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing until this TSC.
    Pause(u64),
    /// Reads what was written long ago.
    CheckOld,
    Write,
    Flush,
    /// Reads what was just written.
    CheckNew,
}

#[derive(Clone, Copy)]
struct Slot {
    step: Step,
    /// What comes after the pause.
    next: Step,
    block: usize,
    submitted: u64,
    reported: bool,
}

/// The disk's share of the workload.
pub struct DiskWork {
    device: DiskDevice,
    seed: u64,
    blocks: usize,
    next_block: usize,
    slots: [Slot; SLOTS],
    irqs_seen: u64,
    /// For how long, in TSC cycles, a completed request has been watched that no interrupt told
    /// of.
    watched: u64,
    looked: u64,
    /// Completed requests.
    pub requests: u64,
}

impl DiskWork {
    /// Opens the disk that the command line names; `None` when it names none.
    pub fn open(cmdline: &str, seed: u64) -> Result<Option<Self>, OpenError> {
        let Some(device) = DiskDevice::open(cmdline)? else { return Ok(None) };
        apic::route_disk(device.irq);
        let blocks = (device.capacity as usize / (BLOCK / SECTOR)).min(BLOCKS_MAX);
        let slot = Slot { step: Step::Pause(0), next: Step::Pause(0), block: 0, submitted: 0, reported: false };
        let slots = [slot; SLOTS];
        Ok(Some(Self { device, seed, blocks, next_block: 0, slots, irqs_seen: 0, watched: 0, looked: 0, requests: 0 }))
    }

    /// Read-only or not.
    pub fn kind(&self) -> Disk {
        if self.device.read_only { Disk::ReadOnly } else { Disk::ReadWrite }
    }

    /// Takes what has completed, and requests what is due. Returns the number of device accesses.
    pub fn step(&mut self, cpu: &Cpu, log: &mut Log) -> usize {
        let now = time::now();
        let mut accesses = self.collect(cpu, now, log);
        let mut submitted = false;
        for slot in 0..SLOTS.min(self.blocks) {
            if matches!(self.slots[slot].step, Step::Pause(until) if until <= now) {
                self.start(slot, now);
                submitted = true;
            }
        }
        if submitted {
            self.device.notify();
            accesses += 1;
        }
        accesses
    }

    fn collect(&mut self, cpu: &Cpu, now: u64, log: &mut Log) -> usize {
        let irqs = cpu.disk_irqs.load(Ordering::Acquire);
        let interrupted = irqs != self.irqs_seen;
        self.irqs_seen = irqs;
        let old = self.find_old(now, log);
        let since = now.saturating_sub(self.looked).min(time::cycles_of_us(LOOK_US));
        self.looked = now;
        let overdue = old && !interrupted && self.device.has_completed();
        self.watched = if overdue { self.watched + since } else { 0 };
        let look_anyway = self.watched >= time::cycles_of_us(WATCHED_US);
        if !interrupted && !look_anyway {
            return 0;
        }
        self.watched = 0;
        self.device.acknowledge();
        let mut found = false;
        while let Some(completed) = self.device.completed() {
            found = true;
            match completed {
                Ok((slot, status)) => self.complete(slot, status, now, log),
                Err(id) => log.error(format_args!("disk: the used ring names descriptor {id}, which heads no request")),
            }
        }
        if found && look_anyway {
            log.error(format_args!("disk: a request completed without an interrupt on irq {}", self.device.irq));
        }
        2
    }

    /// Whether a request is old enough to look for it without an interrupt. Reports those that are
    /// too old.
    fn find_old(&mut self, now: u64, log: &mut Log) -> bool {
        let mut found = false;
        for slot in self.slots.iter_mut().filter(|slot| !matches!(slot.step, Step::Pause(_))) {
            let age = now.saturating_sub(slot.submitted);
            found |= age > time::cycles_of_us(INTERRUPT_US);
            if age > time::cycles_of_us(REQUEST_US) && !slot.reported {
                slot.reported = true;
                log.error(format_args!("disk: {} has not completed for 60 s", Request(slot)));
            }
        }
        found
    }

    /// Begins the slot's next request.
    fn start(&mut self, slot: usize, now: u64) {
        if matches!(self.slots[slot].next, Step::Pause(_)) {
            let block = self.free_block();
            self.slots[slot].block = block;
            let known = expected(block) != 0;
            self.slots[slot].next = if known || self.device.read_only { Step::CheckOld } else { Step::Write };
        }
        let Slot { next, block, .. } = self.slots[slot];
        let operation = match next {
            Step::Write => {
                let generation = expected(block).wrapping_add(1).max(1);
                set_expected(block, generation);
                stamp(self.device.data(slot), block, generation, self.seed);
                Operation::Write
            }
            Step::Flush => Operation::Flush,
            Step::CheckOld | Step::CheckNew | Step::Pause(_) => Operation::Read,
        };
        let sector = if operation == Operation::Flush { 0 } else { first_sector(block) };
        self.slots[slot].step = next;
        self.slots[slot].submitted = now;
        self.slots[slot].reported = false;
        self.device.submit(slot, operation, sector);
    }

    fn complete(&mut self, slot: usize, status: u8, now: u64, log: &mut Log) {
        let Slot { step, block, .. } = self.slots[slot];
        self.requests += 1;
        if matches!(step, Step::Pause(_)) {
            log.error(format_args!("disk: slot {slot} completed without a request in it"));
            return;
        }
        let after = match step {
            _ if status != 0 => {
                log.error(format_args!("disk: {} ended with status {status}", Request(&self.slots[slot])));
                set_expected(block, 0);
                Step::Pause(0)
            }
            Step::Write if self.device.has_flush => Step::Flush,
            Step::Write | Step::Flush => Step::CheckNew,
            Step::CheckOld | Step::CheckNew | Step::Pause(_) => {
                self.check(slot, block, log);
                if step == Step::CheckOld && !self.device.read_only { Step::Write } else { Step::Pause(0) }
            }
        };
        self.slots[slot].next = after;
        self.slots[slot].step = Step::Pause(now + time::cycles_of_us(PAUSE_US));
    }

    /// Checks the block that was read. A wrong one is reported, and counts as unknown from then
    /// on.
    fn check(&mut self, slot: usize, block: usize, log: &mut Log) {
        let (seed, read_only) = (self.seed, self.device.read_only);
        let expected = expected(block);
        let data = self.device.data(slot);
        if read_only {
            let found = hash(data);
            if expected != 0 && expected != found {
                log.error(format_args!(
                    "disk: block {block} changed on a read-only disk: hash {expected:#x}, now {found:#x}"
                ));
            }
            set_expected(block, found);
            return;
        }
        for (sector, content) in (first_sector(block)..).zip(data.chunks_exact(SECTOR)) {
            let wanted = words(sector, expected, seed);
            let found = content.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
            if let Some((at, found)) = found.enumerate().find(|(at, word)| *word != wanted[at % 4]) {
                let wanted = wanted[at % 4];
                log.error(format_args!(
                    "disk: sector {sector} word {at}: expected generation {expected} word {wanted:#x}, found {found:#x}"
                ));
                set_expected(block, 0);
                return;
            }
        }
    }

    /// The next block that no slot is busy with: there are more blocks than busy slots.
    fn free_block(&mut self) -> usize {
        loop {
            let block = self.next_block;
            self.next_block = (block + 1) % self.blocks;
            let busy = |slot: &Slot| !matches!(slot.next, Step::Pause(_)) && slot.block == block;
            if !self.slots.iter().any(busy) {
                return block;
            }
        }
    }
}

/// A request, in words.
struct Request<'a>(&'a Slot);

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.0.step {
            Step::Pause(_) => "nothing",
            Step::CheckOld | Step::CheckNew => "read",
            Step::Write => "write",
            Step::Flush => "flush",
        };
        write!(f, "{what} at sector {}", first_sector(self.0.block))
    }
}

fn expected(block: usize) -> u32 {
    // SAFETY: processor 0 alone uses the table, and no reference to it outlives a call.
    unsafe { (&(*EXPECTED.get()))[block] }
}

fn set_expected(block: usize, value: u32) {
    // SAFETY: as in `expected`.
    unsafe { (&mut (*EXPECTED.get()))[block] = value };
}

fn first_sector(block: usize) -> u64 {
    (block * (BLOCK / SECTOR)) as u64
}

/// What a sector repeats over and over.
fn words(sector: u64, generation: u32, seed: u64) -> [u64; 4] {
    let generation = u64::from(generation);
    let mix = (sector.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ generation.rotate_left(40) ^ seed)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    [sector, generation, seed, mix]
}

fn stamp(data: &mut [u8; BLOCK], block: usize, generation: u32, seed: u64) {
    for (sector, content) in (first_sector(block)..).zip(data.chunks_exact_mut(SECTOR)) {
        let words = words(sector, generation, seed);
        for (at, word) in content.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&words[at % 4].to_le_bytes());
        }
    }
}

/// A hash that is never 0.
fn hash(data: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for word in data.chunks_exact(8) {
        hash = (hash ^ u64::from_le_bytes(word.try_into().unwrap_or_default())).wrapping_mul(0x0100_0000_01b3);
    }
    (hash ^ hash >> 32) as u32 | 1
}
