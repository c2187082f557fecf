//! Compares the guest memory of two processes: by hash, and where that differs byte by byte.
//!
//! One difference is nobody's fault. A guest that uses kvmclock has one structure for each vCPU in
//! its memory (`pvclock_vcpu_time_info`, 32 bytes; KVM documentation, x86 MSRs), and the
//! destination's KVM rewrites it when it is told the time, before the guest has run a single
//! instruction there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::Ferry;

/// Bytes of one kvmclock structure.
const CLOCK_BYTES: usize = 32;
/// Differences that an error shows.
const SHOWN: usize = 8;

/// Both guests are stopped and have the same memory, but for kvmclock's structures of at most
/// `cpus` vCPUs.
///
/// # Panics
/// When the memory differs; the text shows where.
pub fn assert_equal(source: &mut Ferry, destination: &mut Ferry, cpus: u32) {
    let (hash, other) = (source.memory_hash(), destination.memory_hash());
    if hash == other {
        return;
    }
    let bytes = hash["bytes"].as_u64().expect("the hash tells the size of guest memory");
    let (ours, theirs) = (read(source, bytes), read(destination, bytes));
    let blocks = ours.chunks(CLOCK_BYTES).zip(theirs.chunks(CLOCK_BYTES)).enumerate();
    let different: Vec<_> = blocks.filter(|(_, (a, b))| a != b).collect();
    let clocks = different.iter().filter(|(_, (a, b))| is_clock(a, b)).count();
    let shown: Vec<_> =
        different.iter().take(SHOWN).map(|(at, pair)| format!("{:#x}: {pair:02x?}", at * CLOCK_BYTES)).collect();
    assert!(
        clocks == different.len() && clocks <= cpus as usize,
        "{} blocks of memory differ, of which {clocks} are kvmclock's:\n{}",
        different.len(),
        shown.join("\n")
    );
}

/// Whether two blocks are the same clock at two times: the scale is the same and no update was
/// under way.
fn is_clock(a: &[u8], b: &[u8]) -> bool {
    let is_stable = |block: &[u8]| block[0].is_multiple_of(2);
    a[24..29] == b[24..29] && a[24..28] != [0; 4] && is_stable(a) && is_stable(b)
}

/// The guest memory of a process that holds this much of it in one mapping, as the tests' small
/// guests do.
fn read(ferry: &Ferry, bytes: u64) -> Vec<u8> {
    let directory = format!("/proc/{}", ferry.pid());
    let maps = fs::read_to_string(format!("{directory}/maps")).expect("a living process has mappings");
    let start = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        (end - start == bytes && rest.starts_with("rw")).then_some(start)
    });
    let start = start.unwrap_or_else(|| panic!("{} has no mapping of {bytes} bytes:\n{maps}", ferry.label()));
    let mut memory = vec![0; bytes as usize];
    let file = File::open(format!("{directory}/mem")).expect("a child's memory can be opened");
    file.read_exact_at(&mut memory, start).expect("a child's memory can be read");
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_finished_clock_of_the_same_scale_is_excused() {
        let mut before = [0; CLOCK_BYTES];
        before[24..29].copy_from_slice(&[0xcc, 0xcc, 0xcc, 0xcc, 0xff]);
        let mut after = before;
        (after[0], after[16], after[29]) = (2, 99, 1);
        assert!(is_clock(&before, &after));
        let changed = |at: usize| {
            let mut other = after;
            other[at] ^= 1;
            is_clock(&before, &other)
        };
        assert!(!changed(0) && !changed(24) && !changed(28));
        assert!(!is_clock(&[0; CLOCK_BYTES], &[2; CLOCK_BYTES]));
    }
}
