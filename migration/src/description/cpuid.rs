//! Whether a host can be the processor that a guest has seen so far, register by register of
//! CPUID.
//!
//! A guest keeps the CPUID that it booted with: the destination loads it into its vCPUs.
//! `KVM_SET_CPUID2` does not check it against the host, so a missing feature shows as #UD, #GP or a
//! wrong reserved-bit fault in the guest. Hence every bit that the source's guest sees must be
//! equal at the destination, unless [`RULES`] says how it may differ. Leaves that the guest does
//! not see are not compared.
//!
//! Sources: Intel SDM volume 2 (CPUID), AMD APM volume 3 (appendix E), Linux
//! `arch/x86/kvm/cpuid.c`, and QEMU's feature words (`target/i386/cpu.c`).

use super::{CpuidLeaf, Incompatibility, MachineDescription, differs};

/// How bits of a register may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Each bit is a feature: the destination may have more, never fewer.
    Features,
    /// Each bit takes something away: the destination may have fewer, never more.
    Limits,
    /// A number: the destination's may be higher.
    AtLeast,
    /// The same on both sides. The text names the value in the error.
    Equal(&'static str),
    /// Not compared: the guest keeps what it has seen, and nothing in the processor depends on it.
    /// The text is the reason.
    Kept(#[allow(dead_code, reason = "for the reader of the list")] &'static str),
}
use Rule::{AtLeast, Equal, Features, Kept, Limits};

/// Which sub-leaves.
#[derive(Clone, Copy, Debug)]
enum Index {
    Only(u32),
    From(u32),
}
use Index::{From, Only};

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;
/// All four of them.
const ANY: usize = 4;
const NAMES: [&str; 4] = ["EAX", "EBX", "ECX", "EDX"];

const ALL: u32 = u32::MAX;

const TOPOLOGY: &str = "made by Ferry for each vCPU, from the number of vCPUs and not from the host";
const HIGHEST: &str = "the highest leaf or sub-leaf; each of them is compared by itself";
const CACHES: &str = "a description of caches and TLBs, for tuning";
const MODEL: &str = "family, model and stepping: a guest keeps the workarounds that it has chosen";
const NAME: &str = "the processor's name, for people";
const RATE: &str = "frequencies: the rate of the TSC is compared with the vCPU's state, where it can be scaled";
const RUNNING: &str = "follows control registers of the running guest, set by KVM";
const SIZE: &str = "the size of the XSAVE area, which follows from the components; those are compared by themselves";

/// Bits that may differ: leaf, sub-leaves, register, bits, and how. Bits that are in no line must
/// be equal.
#[rustfmt::skip]
const RULES: &[(u32, Index, usize, u32, Rule)] = &[
    (0x0, Only(0), EAX, ALL, Kept(HIGHEST)),
    (0x1, Only(0), EAX, ALL, Kept(MODEL)),
    (0x1, Only(0), EBX, 0x0000_00ff, Kept(NAME)),
    (0x1, Only(0), EBX, 0x0000_ff00, Equal("size of a cache line for CLFLUSH")),
    (0x1, Only(0), EBX, 0xffff_0000, Kept(TOPOLOGY)),
    (0x1, Only(0), ECX, 1 << 27, Kept(RUNNING)),
    (0x1, Only(0), ECX, !(1 << 27), Features),
    (0x1, Only(0), EDX, ALL, Features),
    (0x2, From(0), ANY, ALL, Kept(CACHES)),
    (0x4, From(0), ANY, ALL, Kept(CACHES)),
    (0x6, Only(0), EAX, ALL, Features),
    (0x6, Only(0), ECX, 1, Features),
    (0x7, Only(0), EAX, ALL, Kept(HIGHEST)),
    (0x7, Only(0), EBX, ALL, Features),
    (0x7, Only(0), ECX, 1 << 4, Kept(RUNNING)),
    // MAWAU, a number: what BNDLDX and BNDSTX add to the width of addresses.
    (0x7, Only(0), ECX, 0x1f << 17, Equal("MAWAU")),
    (0x7, Only(0), ECX, !(1 << 4 | 0x1f << 17), Features),
    (0x7, Only(0), EDX, ALL, Features),
    (0x7, Only(1), EAX, ALL, Features),
    (0x7, Only(1), EBX, ALL, Features),
    (0x7, Only(1), ECX, ALL, Features),
    (0x7, Only(1), EDX, ALL, Features),
    (0x7, Only(2), EDX, ALL, Features),
    // Performance counters: version, counters, their width, and the number of events in EBX.
    (0xa, Only(0), EAX, 0x0000_00ff, AtLeast),
    (0xa, Only(0), EAX, 0x0000_ff00, AtLeast),
    (0xa, Only(0), EAX, 0x00ff_0000, AtLeast),
    (0xa, Only(0), EAX, 0xff00_0000, AtLeast),
    (0xa, Only(0), EBX, ALL, Limits),
    (0xa, Only(0), ECX, ALL, Features),
    (0xa, Only(0), EDX, 0x0000_001f, AtLeast),
    (0xa, Only(0), EDX, 0x0000_1fe0, AtLeast),
    (0xb, From(0), ANY, ALL, Kept(TOPOLOGY)),
    (0xd, Only(0), EAX, ALL, Features),
    (0xd, Only(0), EBX, ALL, Kept(RUNNING)),
    (0xd, Only(0), ECX, ALL, Kept(SIZE)),
    (0xd, Only(0), EDX, ALL, Features),
    (0xd, Only(1), EAX, ALL, Features),
    (0xd, Only(1), EBX, ALL, Kept(RUNNING)),
    (0xd, Only(1), ECX, ALL, Features),
    (0xd, Only(1), EDX, ALL, Features),
    (0xd, From(2), EAX, ALL, Equal("size of an XSAVE component")),
    (0xd, From(2), EBX, ALL, Equal("place of an XSAVE component")),
    // Processor trace. LIP (ECX bit 31) is the kind of addresses reported, not a feature.
    (0x14, Only(0), EAX, ALL, Kept(HIGHEST)),
    (0x14, Only(0), EBX, ALL, Features),
    (0x14, Only(0), ECX, 1 << 31, Equal("LIP, the kind of addresses in a processor trace")),
    (0x14, Only(0), ECX, !(1 << 31), Features),
    (0x14, Only(1), EAX, 0x0000_0007, AtLeast),
    (0x14, Only(1), EAX, 0xffff_0000, Features),
    (0x14, Only(1), EBX, ALL, Features),
    (0x15, Only(0), EAX, ALL, Kept(RATE)),
    (0x15, Only(0), EBX, ALL, Kept(RATE)),
    (0x15, Only(0), ECX, ALL, Kept(RATE)),
    (0x16, Only(0), EAX, ALL, Kept(RATE)),
    (0x16, Only(0), EBX, ALL, Kept(RATE)),
    (0x16, Only(0), ECX, ALL, Kept(RATE)),
    (0x18, From(0), ANY, ALL, Kept(CACHES)),
    // Key locker.
    (0x19, Only(0), EAX, ALL, Features),
    (0x19, Only(0), EBX, ALL, Features),
    (0x19, Only(0), ECX, ALL, Features),
    (0x1a, Only(0), EAX, ALL, Kept("the kind of the core that was asked on a host with several kinds, for tuning")),
    // AMX: palettes; then the tiles of each, which must be equal; then what the multiplier can do.
    (0x1d, Only(0), EAX, ALL, AtLeast),
    (0x1e, Only(0), EAX, ALL, Kept(HIGHEST)),
    (0x1e, Only(1), EAX, ALL, Features),
    (0x1f, From(0), ANY, ALL, Kept(TOPOLOGY)),
    // AVX10: its version, and the lengths of vectors.
    (0x24, Only(0), EAX, ALL, Kept(HIGHEST)),
    (0x24, Only(0), EBX, 0x0000_00ff, AtLeast),
    (0x24, Only(0), EBX, 0xffff_ff00, Features),
    (0x24, Only(1), ECX, ALL, Features),
    (0x4000_0000, Only(0), EAX, ALL, Kept(HIGHEST)),
    (0x4000_0001, Only(0), EAX, ALL, Features),
    (0x4000_0010, Only(0), EAX, ALL, Kept(RATE)),
    (0x4000_0010, Only(0), EBX, ALL, Kept(RATE)),
    (0x8000_0000, Only(0), EAX, ALL, Kept(HIGHEST)),
    (0x8000_0001, Only(0), EAX, ALL, Kept(MODEL)),
    (0x8000_0001, Only(0), EBX, ALL, Kept(NAME)),
    (0x8000_0001, Only(0), ECX, ALL, Features),
    (0x8000_0001, Only(0), EDX, ALL, Features),
    (0x8000_0002, Only(0), ANY, ALL, Kept(NAME)),
    (0x8000_0003, Only(0), ANY, ALL, Kept(NAME)),
    (0x8000_0004, Only(0), ANY, ALL, Kept(NAME)),
    (0x8000_0005, Only(0), ANY, ALL, Kept(CACHES)),
    (0x8000_0006, Only(0), ANY, ALL, Kept(CACHES)),
    (0x8000_0007, Only(0), EBX, ALL, Features),
    (0x8000_0007, Only(0), EDX, ALL, Features),
    // MAXPHYADDR decides which bits of a page table entry are reserved, and the host's processor
    // enforces its own.
    (0x8000_0008, Only(0), EAX, 0x0000_00ff, Equal("width of physical addresses")),
    (0x8000_0008, Only(0), EAX, 0x0000_ff00, AtLeast),
    (0x8000_0008, Only(0), EAX, 0x00ff_0000, Kept("up to where a guest may map devices; Ferry's lie below 4 GiB")),
    (0x8000_0008, Only(0), EBX, ALL, Features),
    (0x8000_0008, Only(0), ECX, 0x0000_ffff, Kept(TOPOLOGY)),
    // Nested virtualisation: revision, address space identifiers, features.
    (0x8000_000a, Only(0), EAX, 0x0000_00ff, AtLeast),
    (0x8000_000a, Only(0), EBX, ALL, AtLeast),
    (0x8000_000a, Only(0), EDX, ALL, Features),
    (0x8000_0019, Only(0), EAX, ALL, Kept(CACHES)),
    (0x8000_0019, Only(0), EBX, ALL, Kept(CACHES)),
    (0x8000_001a, Only(0), EAX, ALL, Kept("which width of vectors is the fastest, for tuning")),
    (0x8000_001d, From(0), ANY, ALL, Kept(CACHES)),
    (0x8000_001e, Only(0), EAX, ALL, Kept(TOPOLOGY)),
    (0x8000_001e, Only(0), EBX, ALL, Kept(TOPOLOGY)),
    (0x8000_001e, Only(0), ECX, ALL, Kept(TOPOLOGY)),
    (0x8000_001f, Only(0), EAX, ALL, Features),
    (0x8000_001f, Only(0), ECX, ALL, Kept("how many encrypted guests the host can have; this one is not encrypted")),
    (0x8000_001f, Only(0), EDX, ALL, Kept("how many encrypted guests the host can have; this one is not encrypted")),
    (0x8000_0021, Only(0), EAX, ALL, Features),
    (0x8000_0021, Only(0), ECX, ALL, Features),
    (0x8000_0022, Only(0), EAX, ALL, Features),
    (0x8000_0022, Only(0), EBX, 0x0000_000f, AtLeast),
    (0xc000_0000, Only(0), EAX, ALL, Kept(HIGHEST)),
    (0xc000_0001, Only(0), EDX, ALL, Features),
];

/// Compares what the source's guest sees with what the destination's host offers.
///
/// # Errors
/// The first bits that do not fit, with leaf, sub-leaf and register.
pub(super) fn check(source: &MachineDescription, destination: &MachineDescription) -> Result<(), Incompatibility> {
    for ours in &source.cpuid {
        let same = |leaf: &&CpuidLeaf| (leaf.function, leaf.index) == (ours.function, ours.index);
        let theirs = destination.cpuid.iter().find(same).map_or([0; 4], |leaf| leaf.registers);
        // A leaf of zeros is equivalent to a missing one: it has no features.
        if ours.registers == [0; 4] {
            continue;
        }
        for (register, theirs) in theirs.into_iter().enumerate() {
            check_register(ours, register, theirs)?;
        }
    }
    Ok(())
}

fn check_register(leaf: &CpuidLeaf, register: usize, theirs: u32) -> Result<(), Incompatibility> {
    let ours = leaf.registers[register];
    let mut without_rule = ALL;
    let here = RULES.iter().filter(|(function, index, of, ..)| {
        let is_index = match *index {
            Only(index) => leaf.index == index,
            From(first) => leaf.index >= first,
        };
        *function == leaf.function && is_index && (*of == register || *of == ANY)
    });
    for (.., bits, rule) in here {
        without_rule &= !bits;
        check_bits(leaf, register, theirs, *bits, *rule)?;
    }
    match (ours ^ theirs) & without_rule {
        0 => Ok(()),
        _ => check_bits(leaf, register, theirs, without_rule, Equal("")),
    }
}

fn check_bits(leaf: &CpuidLeaf, register: usize, theirs: u32, bits: u32, rule: Rule) -> Result<(), Incompatibility> {
    let ours = leaf.registers[register];
    let number = |value: u32| (value & bits) >> bits.trailing_zeros();
    let (wrong, how) = match rule {
        Features => (ours & !theirs & bits, "without the bits"),
        Limits => (theirs & !ours & bits, "which limits it by the bits"),
        AtLeast if number(ours) > number(theirs) => (bits, "which is less in the bits"),
        Equal(_) => ((ours ^ theirs) & bits, "which must be equal and differs in the bits"),
        AtLeast | Kept(_) => return Ok(()),
    };
    if wrong == 0 {
        return Ok(());
    }
    let what = match rule {
        Equal(what) if !what.is_empty() => format!(" ({what})"),
        _ => String::new(),
    };
    differs(
        &format!("CPUID leaf {:#x}.{} {}{what}", leaf.function, leaf.index, NAMES[register]),
        format!("{ours:#010x}"),
        format!(
            "{theirs:#010x}, {how} {wrong:#010x}; choose a host whose processor and KVM offer what the guest has seen"
        ),
    )
}

#[cfg(test)]
#[path = "cpuid_tests.rs"]
mod tests;
