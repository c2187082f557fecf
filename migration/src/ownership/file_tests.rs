//! Two slots: after a torn write, the record before it or the new one is read, never a third, and
//! nothing that is not understood is chosen.

use proptest::prelude::*;

use super::*;
use crate::ownership::tests::{name, record};

/// A file after these records were written one after the other.
fn file_of(records: &[Record]) -> Vec<u8> {
    let mut bytes = create(&records[0]);
    for record in &records[1..] {
        let write = read(&bytes).unwrap().next(record).unwrap();
        apply(&mut bytes, &write, |_| true);
    }
    bytes
}

/// Applies the bytes of `write` whose position in the slot `lands`.
fn apply(bytes: &mut [u8], write: &SlotWrite, lands: impl Fn(usize) -> bool) {
    let slot = &mut bytes[write.offset as usize..][..SLOT_LEN];
    for (at, byte) in write.bytes.iter().enumerate().filter(|(at, _)| lands(*at)) {
        slot[at] = *byte;
    }
}

/// Records as they can follow each other.
fn series() -> impl Strategy<Value = Vec<Record>> {
    proptest::collection::vec(any::<(bool, u64, u128, bool)>(), 1..6).prop_map(|steps| {
        let mut next = record(1, 1);
        let mut out = vec![next.clone()];
        for (change, nonce, owner, settled) in steps {
            if change {
                next.generation += 1;
                next.owner.id = owner;
            }
            (next.nonce, next.settled) = (nonce, settled);
            out.push(next.clone());
        }
        out
    })
}

proptest! {
    #[test]
    fn the_last_write_counts(records in series()) {
        let newest = read(&file_of(&records)).unwrap();
        prop_assert_eq!(&newest.record, records.last().unwrap());
        prop_assert_eq!(newest.sequence, records.len() as u64);
    }

    /// Any prefix, in units of 1 to 512 bytes, and any set of units: what a power cut leaves of
    /// one write.
    #[test]
    fn a_torn_write_leaves_the_old_record_or_the_new(records in series(), unit_log2 in 0u32..10, cut: u64, holes: bool) {
        let (new, before) = records.split_last().unwrap();
        let mut bytes = file_of(before);
        let old = read(&bytes).unwrap();
        let write = old.next(new).unwrap();
        let units = SLOT_LEN >> unit_log2;
        let lands = |at: usize| {
            let unit = at >> unit_log2;
            if holes { cut.rotate_left(unit as u32 * 7) & 1 == 1 } else { unit < cut as usize % (units + 1) }
        };
        apply(&mut bytes, &write, lands);
        let found = read(&bytes).unwrap();
        let is_old = found == old;
        let is_new = &found.record == new && found.sequence == old.sequence + 1;
        prop_assert!(is_old || is_new, "{:?}", found);
        // The next write heals the file.
        let write = found.next(new).unwrap();
        apply(&mut bytes, &write, |_| true);
        prop_assert_eq!(&read(&bytes).unwrap().record, new);
    }

    /// Bytes that land one by one, in any order, over what several torn writes before have
    /// left.
    #[test]
    fn tears_over_tears_leave_the_old_record(
        records in series(),
        tears in proptest::collection::vec(any::<[u64; 8]>(), 1..4),
    ) {
        let (new, before) = records.split_last().unwrap();
        let mut bytes = file_of(before);
        let old = read(&bytes).unwrap();
        let write = old.next(new).unwrap();
        for mask in tears {
            apply(&mut bytes, &write, |at| mask[at / 64] >> (at % 64) & 1 == 1);
            let found = read(&bytes).unwrap();
            prop_assert!(found == old || &found.record == new, "{:?}", found);
        }
    }

    /// A file that is being created shows its record or none.
    #[test]
    fn a_torn_creation_is_no_other_record(mask: [u64; 8]) {
        let (whole, mut bytes) = (create(&record(1, 1)), vec![0; FILE_LEN]);
        for at in (0..SLOT_LEN).filter(|at| mask[at / 64] >> (at % 64) & 1 == 1) {
            bytes[at] = whole[at];
        }
        if let Ok(newest) = read(&bytes) {
            prop_assert_eq!(newest.record, record(1, 1));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..FILE_LEN + 8)) {
        prop_assert!(read(&bytes).is_err());
    }
}

#[test]
fn every_prefix_of_a_write_leaves_the_old_record() {
    let before = file_of(&[record(1, 1), record(2, 2)]);
    let old = read(&before).unwrap();
    let write = old.next(&record(3, 1)).unwrap();
    for cut in 0..SLOT_LEN {
        let mut bytes = before.clone();
        apply(&mut bytes, &write, |at| at < cut);
        assert_eq!(read(&bytes).unwrap(), old, "{cut} bytes written");
    }
}

/// Every set of eight parts of a slot, for the first update (over zeros), the second (over the
/// record of the creation) and a later one, with parts that cut through the magic and with parts
/// of 64 bytes.
#[test]
fn with_any_part_of_a_write_the_record_is_the_old_one_or_the_new() {
    let records: Vec<_> = [(1, 1), (2, 2), (3, 1), (4, 2)].into_iter().map(|(g, owner)| record(g, owner)).collect();
    let cuts: [[usize; 8]; 3] =
        [[0, 64, 128, 192, 256, 320, 384, 448], [0, 1, 4, 7, 8, 12, 72, 508], [0, 2, 8, 9, 16, 509, 510, 511]];
    for (at, new) in records.iter().enumerate().skip(1) {
        let before = file_of(&records[..at]);
        let old = read(&before).unwrap();
        let write = old.next(new).unwrap();
        for (cuts, landed) in cuts.iter().flat_map(|cuts| (0..=255u8).map(move |landed| (cuts, landed))) {
            let mut bytes = before.clone();
            apply(&mut bytes, &write, |at| landed >> (cuts.partition_point(|cut| *cut <= at) - 1) & 1 == 1);
            let found = read(&bytes).unwrap_or_else(|error| panic!("update {at}, parts {landed:#b}: {error}"));
            assert!(found == old || found.record == *new, "update {at}, parts {landed:#b}: {found:?}");
        }
    }
}

#[test]
fn what_no_torn_write_leaves_is_foreign() {
    let whole = create(&record(1, 1));
    let second_slot = |at: usize, found: &[u8]| {
        let mut bytes = whole.clone();
        bytes[4096 + at..4096 + at + found.len()].copy_from_slice(found);
        read(&bytes)
    };
    for (at, found) in
        [(0, &b"ferry"[..]), (0, b"\0\0X"), (8, &[3]), (10, &[2]), (14, &[1]), (280, b"text"), (507, &[1])]
    {
        assert!(matches!(second_slot(at, found), Err(FormatError::Foreign { slot: 1, .. })), "{found:?} at {at}");
    }
    assert_eq!(second_slot(16, &[9]).unwrap().record, record(1, 1));
}

#[test]
fn a_write_never_touches_the_newest_record() {
    let newest = read(&file_of(&[record(1, 1), record(2, 2)])).unwrap();
    assert_eq!((newest.slot, newest.next(&record(3, 1)).unwrap().offset), (1, 0));
    let newest = read(&create(&record(1, 1))).unwrap();
    assert_eq!((newest.slot, newest.next(&record(2, 2)).unwrap().offset), (0, 4096));
}

#[test]
fn what_is_not_understood_is_never_chosen() {
    let good = || Slot::Filled { sequence: 1, record: record(1, 1) };
    let foreign = || Slot::Foreign { found: "x".into() };
    let newer = || Slot::Newer { version: 9 };
    assert_eq!(choose(good(), foreign()), Err(FormatError::Foreign { slot: 1, found: "x".into() }));
    assert_eq!(choose(foreign(), good()), Err(FormatError::Foreign { slot: 0, found: "x".into() }));
    assert_eq!(choose(good(), newer()), Err(FormatError::Newer { slot: 1, version: 9 }));
    assert_eq!(choose(newer(), Slot::Empty), Err(FormatError::Newer { slot: 0, version: 9 }));
    assert!(matches!(choose(Slot::Empty, Slot::Empty), Err(FormatError::Unreadable { .. })));
}

#[test]
fn slots_that_cannot_follow_each_other_are_a_conflict() {
    let at = |sequence, record| Slot::Filled { sequence, record };
    let renamed = Record { vm: name("other"), ..record(2, 2) };
    for (first, second) in [
        (at(1, record(1, 1)), at(1, record(1, 1))),
        (at(1, record(2, 1)), at(2, record(1, 1))),
        (at(2, record(1, 1)), at(1, record(2, 1))),
        (at(1, record(1, 1)), at(2, record(1, 2))),
        (at(1, record(1, 1)), at(2, renamed)),
    ] {
        let error = choose(first.clone(), second.clone()).unwrap_err();
        assert_eq!(error, FormatError::Conflict { slots: Box::new([first, second]) });
    }
}

#[test]
fn a_cut_or_grown_file_is_refused() {
    let whole = file_of(&[record(1, 1), record(2, 2)]);
    for len in [0, 8, 4096, 4607, 4608, FILE_LEN - 1] {
        assert!(read(&whole[..len]).is_err(), "{len} bytes");
    }
    let mut grown = whole;
    grown.push(0);
    assert_eq!(read(&grown), Err(FormatError::Length { found: FILE_LEN + 1 }));
    assert!(matches!(read(b"disk image"), Err(FormatError::Foreign { .. })));
}

#[test]
fn a_write_number_at_its_end_is_refused() {
    let newest = Newest { record: record(1, 1), sequence: u64::MAX, slot: 0 };
    assert_eq!(newest.next(&record(2, 2)), Err(FormatError::Exhausted));
}
