//! Which processors can take a guest over, bit by bit.

use super::*;

fn machine(leaves: &[(u32, u32, [u32; 4])]) -> MachineDescription {
    let leaf = |&(function, index, registers): &(u32, u32, [u32; 4])| CpuidLeaf { function, index, registers };
    MachineDescription {
        memory: Vec::new(),
        page_size: 4096,
        vcpus: 1,
        cpuid: leaves.iter().map(leaf).collect(),
        msrs: Vec::new(),
        devices: Vec::new(),
    }
}

/// A leaf with one register in use.
fn one(function: u32, index: u32, register: usize, value: u32) -> MachineDescription {
    let mut registers = [0; 4];
    registers[register] = value;
    machine(&[(function, index, registers)])
}

/// Whether a guest that sees `ours` there may go to a host with `theirs`.
fn fits(function: u32, index: u32, register: usize, ours: u32, theirs: u32) -> bool {
    check(&one(function, index, register, ours), &one(function, index, register, theirs)).is_ok()
}

#[test]
fn a_feature_that_is_missing_is_refused_and_one_more_is_welcome() {
    for (function, index, register) in [
        (0x1, 0, ECX),
        (0x1, 0, EDX),
        (0x6, 0, EAX),
        (0x7, 0, EBX),
        (0x7, 0, EDX),
        (0x7, 1, EAX),
        (0x7, 2, EDX),
        (0xd, 0, EAX),
        (0xd, 1, EAX),
        (0x14, 0, EBX),
        (0x14, 1, EBX),
        (0x19, 0, EBX),
        (0x1e, 1, EAX),
        (0x4000_0001, 0, EAX),
        (0x8000_0001, 0, ECX),
        (0x8000_0007, 0, EDX),
        (0x8000_0008, 0, EBX),
        (0x8000_000a, 0, EDX),
        (0x8000_0021, 0, EAX),
        (0x8000_0022, 0, EAX),
    ] {
        let with = |bits| one(function, index, register, bits);
        let error = check(&with(0x101), &with(0x1)).expect_err("a bit is missing").to_string();
        let begins = format!("CPUID leaf {function:#x}.{index} {}: the source has 0x00000101", NAMES[register]);
        assert!(error.starts_with(&begins), "{error}");
        assert!(error.contains("0x00000001, without the bits 0x00000100; choose a host"), "{error}");
        assert!(check(&with(0x101), &machine(&[])).is_err(), "the whole leaf is missing");
        assert_eq!(check(&with(0x101), &with(0x303)), Ok(()));
    }
}

#[test]
fn an_invariant_tsc_is_not_lost() {
    let error = check(&one(0x8000_0007, 0, EDX, 1 << 8), &machine(&[])).unwrap_err();
    assert_eq!(error.item, "CPUID leaf 0x80000007.0 EDX");
}

#[test]
fn the_width_of_physical_addresses_is_equal_both_ways() {
    let width = |bits: u32| one(0x8000_0008, 0, EAX, 48 << 8 | bits);
    assert_eq!(check(&width(46), &width(46)), Ok(()));
    for (ours, theirs) in [(46, 52), (52, 46)] {
        let error = check(&width(ours), &width(theirs)).unwrap_err().to_string();
        assert!(error.starts_with("CPUID leaf 0x80000008.0 EAX (width of physical addresses)"), "{error}");
    }
    assert!(fits(0x8000_0008, 0, EAX, 0x302e, 0x392e), "57 bits of virtual addresses hold 48");
    assert!(!fits(0x8000_0008, 0, EAX, 0x392e, 0x302e));
    assert!(fits(0x8000_0008, 0, EAX, 0x0030_302e, 0x302e), "the width for guests is not the processor's");
}

#[test]
fn numbers_may_be_higher() {
    for (function, index, register, ours, more) in [
        (0xa, 0, EAX, 0x0730_0402, 0x0830_0805),
        (0x14, 1, EAX, 2, 4),
        (0x1d, 0, EAX, 1, 2),
        (0x24, 0, EBX, 1, 2),
        (0x8000_000a, 0, EBX, 8, 16),
    ] {
        assert!(fits(function, index, register, ours, more), "{function:#x}");
        assert!(!fits(function, index, register, more, ours), "{function:#x}");
    }
    assert!(!fits(0xa, 0, EAX, 0x0730_0402, 0x0830_0305), "fewer counters, though the register is larger");
    assert!(fits(0xa, 0, EBX, 0x3, 0x1) && !fits(0xa, 0, EBX, 0x1, 0x3), "these bits say what is not there");
}

#[test]
fn the_layout_of_state_is_equal() {
    // The place of a component in the XSAVE area; a tile; vector lengths of AVX10.
    for (function, index, register) in [(0xd, 2, EAX), (0xd, 9, EBX), (0x1d, 1, EAX), (0x1d, 1, EBX), (0x1e, 0, EBX)] {
        assert!(fits(function, index, register, 0x240, 0x240));
        assert!(!fits(function, index, register, 0x240, 0x340), "{function:#x}.{index}");
        assert!(!fits(function, index, register, 0x240, 0x140), "{function:#x}.{index}");
    }
    assert!(!fits(0x24, 0, EBX, 0x7_0001, 0x3_0001));
    assert!(!fits(0x14, 0, ECX, 1, 1 << 31 | 1) && !fits(0x14, 0, ECX, 1 << 31 | 1, 1));
}

#[test]
fn what_is_in_no_list_is_equal() {
    for (function, index) in [(0x12, 0), (0x17, 0), (0x1c, 0), (0x23, 1), (0x99, 3), (0x4000_0002, 0), (0x8000_0026, 1)]
    {
        for register in EAX..=EDX {
            assert!(fits(function, index, register, 5, 5));
            assert!(!fits(function, index, register, 5, 7) && !fits(function, index, register, 7, 5), "{function:#x}");
        }
    }
    assert!(!fits(0x0, 0, EBX, u32::from_le_bytes(*b"Genu"), u32::from_le_bytes(*b"Auth")), "another maker's");
    assert!(!fits(0x7, 2, EAX, 1, 2), "a register that has no meaning yet");
}

#[test]
fn what_the_guest_does_not_see_may_be_anything() {
    let richer = machine(&[(0x1d, 1, [1, 2, 3, 4]), (0x99, 0, [1, 1, 1, 1])]);
    assert_eq!(check(&machine(&[]), &richer), Ok(()));
    assert_eq!(check(&machine(&[(0x1d, 1, [0; 4]), (0x99, 0, [0; 4])]), &richer), Ok(()), "a leaf of zeros");
}

#[test]
fn what_differs_without_harm_is_not_compared() {
    for (function, index) in
        [(0x2, 0), (0x4, 3), (0xb, 1), (0x15, 0), (0x16, 0), (0x18, 1), (0x1f, 0), (0x4000_0010, 0)]
    {
        assert!(fits(function, index, EBX, 5, 7) && fits(function, index, EBX, 7, 5), "{function:#x}");
    }
    for function in [0x8000_0002, 0x8000_0004, 0x8000_0006, 0x8000_001d, 0x8000_001e] {
        assert!(fits(function, 0, EAX, 5, 7) && fits(function, 0, EAX, 7, 5), "{function:#x}");
    }
    assert!(fits(0xd, 0, EBX, 0x340, 0x240) && fits(0xd, 1, EBX, 0x340, 0x240), "follows XCR0");
    assert!(fits(0x1, 0, EBX, 0x0302_0800, 0x0004_0800), "the number of another vCPU");
    assert!(fits(0x1, 0, ECX, 1 << 27, 0) && fits(0x7, 0, ECX, 1 << 4, 0), "mirrors of CR4");
    assert!(!fits(0x1, 0, EBX, 0x0800, 0x0400), "the size of a cache line is in the same register");
}

/// The list is a partition: two lines about the same bits would contradict each other.
#[test]
fn no_bit_has_two_rules() {
    for (at, (function, index, register, bits, _)) in RULES.iter().enumerate() {
        assert_ne!(*bits, 0);
        for (other, other_index, other_register, other_bits, _) in &RULES[at + 1..] {
            let overlap = match (*index, *other_index) {
                (Only(a), Only(b)) => a == b,
                (From(a), Only(b)) | (Only(b), From(a)) => b >= a,
                (From(_), From(_)) => true,
            };
            let same_register = register == other_register || [*register, *other_register].contains(&ANY);
            let same = function == other && same_register && overlap;
            assert!(!same || bits & other_bits == 0, "{function:#x}, register {register}");
        }
    }
}
