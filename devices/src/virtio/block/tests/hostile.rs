//! Drivers that lie: the disk answers or refuses all that they put into memory, and serves the
//! next honest request.

use super::*;
use crate::virtio::state::NEEDS_RESET;
use proptest::prelude::*;

const OK: u8 = 0;
const IOERR: u8 = 1;
/// The status byte as the rig left it.
const UNTOUCHED: u8 = 0xaa;

fn still_serves(rig: &mut Rig) {
    assert_eq!(rig.request(0, 1, &[(DATA, 512, WRITE)]), (OK, 513));
    assert_eq!(rig.get::<u8>(DATA), 1);
}

#[test]
fn impossible_requests_get_an_error_status() {
    let mut rig = Rig::new();
    let image = fs::read(&rig.image.0).unwrap();
    let cases: &[(&str, u32, u64, &[Buffer])] = &[
        ("read beyond the end", 0, SECTORS, &[(DATA, 512, WRITE)]),
        ("read over the end", 0, SECTORS - 1, &[(DATA, 1024, WRITE)]),
        ("sector overflow", 0, u64::MAX, &[(DATA, 512, WRITE)]),
        ("byte overflow", 0, u64::MAX / 512, &[(DATA, 512, WRITE)]),
        ("part of a sector", 0, 0, &[(DATA, 100, WRITE)]),
        ("read into nowhere", 0, 0, &[(NOWHERE, 512, WRITE)]),
        ("read past the end of memory", 0, 0, &[(0x20_f000, 0x2000, WRITE)]),
        ("address overflow", 0, 0, &[(u64::MAX - 255, 512, WRITE)]),
        ("read with a readable buffer", 0, 0, &[(DATA, 512, 0)]),
        ("write with a writable buffer", 1, 0, &[(DATA, 512, WRITE)]),
        ("write from nowhere", 1, 0, &[(NOWHERE, 512, 0)]),
        ("write beyond the end", 1, SECTORS, &[(DATA, 512, 0)]),
        ("readable after writable", 0, 0, &[(DATA, 512, WRITE), (DATA, 512, 0)]),
        ("identity to nowhere", 8, 0, &[(NOWHERE, 20, WRITE)]),
        ("far too long", 0, 0, &[(0, 0x4000_0000, WRITE)]),
    ];
    for (name, kind, sector, data) in cases {
        assert_eq!(rig.request(*kind, *sector, data), (IOERR, 1), "{name}");
    }
    assert_eq!(rig.raw(&[(NOWHERE, 16, 0), (STATUS, 1, WRITE)]), (IOERR, 1), "header nowhere");
    assert_eq!(rig.raw(&[(HEADER, 15, 0), (STATUS, 1, WRITE)]), (IOERR, 1), "short header");
    assert_eq!(rig.raw(&[(STATUS, 1, WRITE)]), (IOERR, 1), "no header");
    assert_eq!(fs::read(&rig.image.0).unwrap(), image);
    still_serves(&mut rig);
}

#[test]
fn chains_without_a_place_for_the_status_are_returned_unanswered() {
    let mut rig = Rig::new();
    rig.header(0, 0);
    for buffers in [
        &[(HEADER, 16, 0)][..],
        &[(HEADER, 16, 0), (STATUS, 0, WRITE)],
        &[(HEADER, 16, 0), (NOWHERE, 1, WRITE)],
        &[(HEADER, 16, 0), (u64::MAX, 2, WRITE)],
        &[(0, 0, 0)],
        &[(NOWHERE, 16, INDIRECT)],
        &[(DESC, 17, INDIRECT)],
        &[(DESC, 16, INDIRECT)],
    ] {
        assert_eq!(rig.raw(buffers), (UNTOUCHED, 0), "{buffers:?}");
    }
    still_serves(&mut rig);
}

#[test]
fn chains_that_loop_or_leave_the_table_are_returned_unanswered() {
    let mut rig = Rig::new();
    for next in [0, 1, 16, u16::MAX] {
        rig.put(UNTOUCHED, STATUS);
        rig.descriptor(0, (HEADER, 16, NEXT), 1);
        rig.descriptor(1, (STATUS, 1, WRITE | NEXT), next);
        rig.offer(0);
        rig.kick();
        rig.wait_used();
        assert_eq!((rig.get::<u8>(STATUS), rig.newest().1), (UNTOUCHED, 0), "next {next}");
    }
    still_serves(&mut rig);
}

#[test]
fn a_huge_indirect_table_is_cut_off() {
    let mut rig = Rig::new();
    let table = DATA;
    for index in 0..0x1000u64 {
        rig.put(STATUS, table + index * 16);
        rig.put(1u32, table + index * 16 + 8);
        rig.put(WRITE | NEXT, table + index * 16 + 12);
        rig.put(index as u16 + 1, table + index * 16 + 14);
    }
    assert_eq!(rig.raw(&[(table, 0x1_0000, INDIRECT)]), (UNTOUCHED, 0));
    still_serves(&mut rig);
}

#[test]
fn rings_that_make_no_sense_need_a_reset_and_a_reset_helps() {
    let corruptions: [fn(&mut Rig); 2] = [
        |rig| rig.put(1000u16, AVAIL + 2),
        |rig| {
            rig.offer(77);
        },
    ];
    for corrupt in corruptions {
        let mut rig = Rig::new();
        corrupt(&mut rig);
        rig.kick();
        wait_for("DEVICE_NEEDS_RESET", || read(&rig.disk, reg::VIRTIO_MMIO_STATUS) & NEEDS_RESET != 0);
        assert_eq!(read(&rig.disk, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
        assert_eq!(read(&rig.disk, reg::VIRTIO_MMIO_CONFIG_GENERATION), 1);
        // A broken disk can still move, and is still broken there.
        let state = rig.disk.save().unwrap();
        rig.disk.load(1, &state).unwrap();
        rig.disk.post_load().unwrap();
        assert_eq!(rig.disk.save().unwrap(), state);
        rig.put(0u32, USED);
        rig.put(0u32, AVAIL);
        rig.avail = 0;
        configure(&rig.disk, VERSION_1 | EVENT_IDX | FLUSH, 16);
        still_serves(&mut rig);
    }
}

#[test]
fn a_queue_outside_memory_is_refused_when_the_driver_starts() {
    for (register, address) in [
        (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, NOWHERE as u32),
        (reg::VIRTIO_MMIO_QUEUE_DESC_HIGH, u32::MAX),
        (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0),
        (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x2001),
        (reg::VIRTIO_MMIO_QUEUE_USED_LOW, 0x20_fff0),
    ] {
        let rig = Rig::new();
        for status in [0, 1, 3] {
            write(&rig.disk, reg::VIRTIO_MMIO_STATUS, status);
        }
        write(&rig.disk, reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        write(&rig.disk, reg::VIRTIO_MMIO_DRIVER_FEATURES, 1);
        write(&rig.disk, reg::VIRTIO_MMIO_STATUS, 0xb);
        write(&rig.disk, reg::VIRTIO_MMIO_QUEUE_DESC_LOW, DESC as u32);
        write(&rig.disk, reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAIL as u32);
        write(&rig.disk, reg::VIRTIO_MMIO_QUEUE_USED_LOW, USED as u32);
        write(&rig.disk, register, address);
        write(&rig.disk, reg::VIRTIO_MMIO_QUEUE_READY, 1);
        write(&rig.disk, reg::VIRTIO_MMIO_STATUS, 0xf);
        assert_eq!(read(&rig.disk, reg::VIRTIO_MMIO_STATUS), 0xf | NEEDS_RESET);
    }
}

fn buffer() -> impl Strategy<Value = Buffer> {
    let address = prop_oneof![
        Just(HEADER),
        Just(STATUS),
        Just(DATA),
        Just(DESC),
        Just(USED),
        Just(AVAIL),
        Just(SEAM - 8),
        Just(0x20_ffff),
        any::<u64>(),
    ];
    let len = prop_oneof![Just(0u32), Just(1), Just(16), Just(512), Just(48), Just(u32::MAX), any::<u32>()];
    (address, len, 0u16..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Tables and rings full of anything: the worker neither dies nor hangs, and a reset brings
    /// the disk back.
    #[test]
    fn arbitrary_descriptors_neither_panic_nor_hang(
        table in prop::collection::vec((buffer(), 0u16..18), 16),
        heads in prop::collection::vec(0u16..17, 1..16),
        header in (prop_oneof![Just(0u32), Just(1), Just(4), Just(8), any::<u32>()], 0u64..SECTORS + 2),
        features in prop_oneof![Just(VERSION_1), Just(VERSION_1 | EVENT_IDX | FLUSH)],
    ) {
        let mut rig = Rig::with(false, features);
        rig.header(header.0, header.1);
        for (index, (buffer, next)) in table.into_iter().enumerate() {
            rig.descriptor(index as u16, buffer, next);
        }
        for head in heads {
            rig.offer(head);
        }
        rig.kick();
        rig.disk.quiesce().unwrap();
        rig.disk.acquire().unwrap();
        rig.disk.resume().unwrap();
        rig.disk.quiesce().unwrap();
        let state = rig.disk.save().unwrap();
        rig.disk.load(1, &state).unwrap();
        rig.disk.post_load().unwrap();
        prop_assert_eq!(rig.disk.save().unwrap(), state);
        rig.disk.acquire().unwrap();
        rig.disk.resume().unwrap();
        write(&rig.disk, reg::VIRTIO_MMIO_STATUS, 0);
        rig.memory.write_slice(&[0; 0x5000], GuestAddress(DESC)).unwrap();
        rig.avail = 0;
        configure(&rig.disk, features, 16);
        rig.put(3u8, DATA);
        prop_assert_eq!(rig.request(1, 3, &[(DATA, 512, 0)]), (OK, 1));
    }
}
