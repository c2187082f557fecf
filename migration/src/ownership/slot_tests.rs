//! The slot's bytes: what was written reads back, and any other content is told apart from a
//! record.

use proptest::prelude::*;

use super::*;
use crate::ownership::tests::record;

fn names() -> impl Strategy<Value = Name> {
    "[ -~é]{1,32}".prop_map(|text| Name::try_from(text).expect("at most 64 bytes"))
}

/// Any record.
pub(crate) fn records() -> impl Strategy<Value = Record> {
    let partner = proptest::option::of((any::<u128>(), names()).prop_map(|(id, label)| OwnerId { id, label }));
    (names(), names(), any::<(u64, u128, u128, bool, u64)>(), partner).prop_map(
        |(vm, label, (generation, id, migration_id, settled, nonce), partner)| Record {
            vm,
            generation,
            owner: OwnerId { id, label },
            migration_id,
            settled,
            nonce,
            partner,
        },
    )
}

/// Changes bytes behind the checksum's back.
fn resealed(mut bytes: [u8; SLOT_LEN], at: usize, value: u8) -> Slot {
    bytes[at] = value;
    let crc = crc32c::crc32c(&bytes[..CRC]);
    bytes[CRC..].copy_from_slice(&crc.to_le_bytes());
    decode(&bytes)
}

proptest! {
    #[test]
    fn reads_back_what_was_written(sequence: u64, record in records()) {
        let labels = |record: &Record| (record.owner.label.clone(), record.partner.clone().map(|partner| partner.label));
        let written = labels(&record);
        let slot = decode(&encode(sequence, &record));
        prop_assert_eq!(&slot, &Slot::Filled { sequence, record });
        let Slot::Filled { record, .. } = slot else { unreachable!() };
        prop_assert_eq!(labels(&record), written);
    }

    #[test]
    fn a_flipped_bit_is_no_record(record in records(), bit in 0..SLOT_LEN * 8) {
        let mut bytes = encode(1, &record);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let found = decode(&bytes);
        if bit < 64 {
            prop_assert!(matches!(found, Slot::Foreign { .. }), "{}", found);
        } else {
            prop_assert_eq!(found, Slot::Torn(Tear::Checksum));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), seal in 0u8..3) {
        let mut slot = [0; SLOT_LEN];
        let taken = bytes.len().min(SLOT_LEN);
        slot[..taken].copy_from_slice(&bytes[..taken]);
        if seal > 0 {
            slot[..10].copy_from_slice(b"FERRYOWN\x00\x00");
            slot[8] = seal;
            let crc = crc32c::crc32c(&slot[..CRC]);
            slot[CRC..].copy_from_slice(&crc.to_le_bytes());
        }
        let _ = decode(&slot);
        let _ = decode(&bytes);
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let mut record = record(0x0102, 0x0304);
    record.settled = true;
    record.nonce = 0x0506;
    let bytes = encode(0x0708, &record);
    assert_eq!(&bytes[..16], b"FERRYOWN\x01\x00\x01\x02\x08\x00\x00\x00");
    for (at, low) in [(16, [0x08, 0x07]), (24, [0x02, 0x01]), (32, [0x06, 0x05]), (40, [7, 0]), (56, [0x04, 0x03])] {
        assert_eq!(bytes[at..at + 2], low, "at {at}");
    }
    assert_eq!(&bytes[72..75], b"vm\0");
    assert_eq!(&bytes[136..141], b"host:");
    assert!(bytes[200..508].iter().all(|byte| *byte == 0));
    assert_eq!(bytes[508..], crc32c::crc32c(&bytes[..508]).to_le_bytes());

    record.partner = Some(OwnerId { id: 0x090a, label: Name::try_from("there:7").unwrap() });
    let bytes = encode(0x0708, &record);
    assert_eq!(&bytes[..16], b"FERRYOWN\x02\x00\x01\x02\x08\x07\x00\x00");
    assert_eq!(bytes[200..202], [0x0a, 0x09]);
    assert_eq!(&bytes[216..224], b"there:7\0");
    assert!(bytes[280..508].iter().all(|byte| *byte == 0));
}

#[test]
fn a_torn_first_write_of_either_version_is_told_from_a_foreign_file() {
    let with = Record { partner: Some(OwnerId { id: 9, label: Name::try_from("p").unwrap() }), ..record(1, 1) };
    for record in [record(1, 1), with] {
        let whole = encode(1, &record);
        // Without its beginning, or with some of its bytes.
        for written in [8..SLOT_LEN, 11..300, 200..SLOT_LEN, 0..2] {
            let mut torn = [0; SLOT_LEN];
            torn[written.clone()].copy_from_slice(&whole[written]);
            assert_eq!(decode(&torn), Slot::Torn(Tear::Checksum));
        }
    }
}

#[test]
fn what_is_no_record_is_named() {
    assert_eq!(decode(&[0; SLOT_LEN]), Slot::Empty);
    assert_eq!(decode(&[]), Slot::Torn(Tear::CutOff));
    assert_eq!(decode(&encode(1, &record(1, 1))[..511]), Slot::Torn(Tear::CutOff));
    let mut other = [0; SLOT_LEN];
    other[..4].copy_from_slice(b"QFI\xfb");
    assert_eq!(decode(&other), Slot::Foreign { found: "QFI\\xfb\\x00\\x00\\x00\\x00".to_owned() });
    assert_eq!(decode(b"#!"), Slot::Foreign { found: "#!".to_owned() });
    let mut begun = [0; SLOT_LEN];
    begun[..3].copy_from_slice(b"FER");
    assert_eq!(decode(&begun), Slot::Torn(Tear::Checksum));
}

#[test]
fn a_later_format_is_told_from_a_torn_one() {
    let bytes = encode(1, &record(1, 1));
    assert_eq!(resealed(bytes, VERSION, 3), Slot::Newer { version: 3 });
    let mut torn = bytes;
    torn[VERSION] = 3;
    assert_eq!(decode(&torn), Slot::Torn(Tear::Checksum));
}

#[test]
fn every_field_is_checked() {
    let bytes = encode(1, &record(1, 1));
    for (at, value, field) in [
        (VERSION, 0, "format version"),
        (FLAGS, 2, "flags"),
        (VM_LEN, 65, "guest name"),
        (VM_LEN, 0, "guest name"),
        (VM, b'\n', "guest name"),
        (VM, 0xff, "guest name"),
        (VM + 63, b'x', "guest name"),
        (LABEL_LEN, 200, "owner label"),
        (VERSION, 2, "partner's label"),
        (PARTNER_LEN, 1, "unused bytes"),
        (PARTNER, 1, "unused bytes"),
        (SEQUENCE - 1, 1, "unused bytes"),
        (UNUSED, 1, "unused bytes"),
        (CRC - 1, 1, "unused bytes"),
    ] {
        assert_eq!(resealed(bytes, at, value), Slot::Torn(Tear::Field(field)), "byte {at} = {value}");
    }
}
