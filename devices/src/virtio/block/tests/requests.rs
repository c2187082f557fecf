//! What a correct driver asks for, and what it gets.

use super::*;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_REQUEST: u32 = 4;
const GET_ID: u32 = 8;

#[test]
fn a_read_is_scattered_over_guest_memory_and_every_page_written_is_marked() {
    let mut rig = Rig::new();
    rig.header(IN, 3);
    rig.harvest();
    let (first, across) = (DATA + 0xf00, SEAM - 512);
    // Two sectors into odd places, one of them over the seam of two regions.
    assert_eq!(rig.request(IN, 3, &[(first, 512, WRITE), (across, 1024, WRITE)]), (0, 1537));
    assert_eq!([rig.get::<u8>(first), rig.get(across), rig.get(SEAM)], [3, 4, 5]);
    let marked = rig.harvest();
    // The test's own writes are marked too: header, descriptors, available ring.
    let mut expected: Vec<u64> = [DESC, AVAIL, USED, HEADER, STATUS, first, first + 511, across, SEAM]
        .into_iter()
        .map(|address| address / 4096)
        .collect();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(marked, expected);
}

#[test]
fn only_the_disk_marks_what_the_disk_writes() {
    let mut rig = Rig::new();
    rig.header(IN, 0);
    rig.chain(0, &[(HEADER, 16, 0), (DATA, 4096, WRITE), (STATUS, 1, WRITE)]);
    rig.offer(0);
    rig.harvest();
    rig.kick();
    rig.wait_used();
    rig.disk.quiesce().unwrap();
    assert_eq!(rig.harvest(), [USED, STATUS, DATA].map(|address| address / 4096));
}

#[test]
fn a_write_reaches_the_image_and_can_be_read_back() {
    let mut rig = Rig::new();
    rig.memory.write_slice(&[0x5a; 1024], GuestAddress(SEAM - 100)).unwrap();
    assert_eq!(rig.request(OUT, 10, &[(SEAM - 100, 300, 0), (SEAM + 200, 724, 0)]), (0, 1));
    assert_eq!(fs::read(&rig.image.0).unwrap()[5120..6144], [0x5a; 1024]);
    assert_eq!(rig.request(IN, 10, &[(DATA, 1024, WRITE)]), (0, 1025));
    let mut back = [0; 1024];
    rig.memory.read_slice(&mut back, GuestAddress(DATA)).unwrap();
    assert_eq!(back, [0x5a; 1024]);
}

#[test]
fn header_data_and_status_may_be_laid_out_at_will() {
    let mut rig = Rig::new();
    rig.header(IN, 7);
    // The header in two pieces, data and status in one.
    assert_eq!(rig.raw(&[(HEADER, 5, 0), (HEADER + 5, 11, 0), (STATUS - 512, 513, WRITE)]), (0, 513));
    assert_eq!(rig.get::<u8>(STATUS - 512), 7);
    rig.header(OUT, 9);
    rig.memory.write_slice(&[9; 512], GuestAddress(HEADER + 16)).unwrap();
    assert_eq!(rig.raw(&[(HEADER, 528, 0), (STATUS, 1, WRITE)]), (0, 1));
    assert_eq!(fs::read(&rig.image.0).unwrap()[9 * 512..10 * 512], [9; 512]);
}

#[test]
fn an_indirect_table_works_like_a_direct_chain() {
    let mut rig = Rig::new();
    rig.header(IN, 6);
    rig.chain(4, &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
    // Within an indirect table, `next` counts from the table's start.
    for (index, next) in [(4u64, 1u16), (5, 2)] {
        rig.put(next, DESC + index * 16 + 14);
    }
    assert_eq!(rig.raw(&[(DESC + 4 * 16, 48, INDIRECT)]), (0, 513));
    assert_eq!(rig.get::<u8>(DATA), 6);
}

#[test]
fn flush_and_identity_are_served() {
    let mut rig = Rig::new();
    assert_eq!(rig.request(FLUSH_REQUEST, 0, &[]), (0, 1));
    assert_eq!(rig.request(GET_ID, 0, &[(DATA, 20, WRITE)]), (0, 21));
    let mut id = [0; 20];
    rig.memory.read_slice(&mut id, GuestAddress(DATA)).unwrap();
    assert_eq!(&id, b"ferry-disk-0\0\0\0\0\0\0\0\0");
}

#[test]
fn what_is_not_offered_is_unsupported() {
    let mut rig = Rig::new();
    for kind in [2, 11, 13, 14, 99, u32::MAX] {
        assert_eq!(rig.request(kind, 0, &[(DATA, 512, 0)]), (2, 1), "type {kind}");
    }
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let mut rig = Rig::with(true, VERSION_1 | EVENT_IDX | FLUSH);
    assert_ne!(read(&rig.disk, reg::VIRTIO_MMIO_DEVICE_FEATURES) & 1 << 5, 0);
    let before = fs::read(&rig.image.0).unwrap();
    assert_eq!(rig.request(OUT, 0, &[(DATA, 512, 0)]), (1, 1));
    assert_eq!(rig.request(IN, 1, &[(DATA, 512, WRITE)]), (0, 513));
    assert_eq!(rig.request(FLUSH_REQUEST, 0, &[]), (0, 1));
    assert_eq!(fs::read(&rig.image.0).unwrap(), before);
}

#[test]
fn a_driver_without_flush_gets_its_writes_too() {
    let mut rig = Rig::with(false, VERSION_1);
    rig.put(0x77u8, DATA);
    assert_eq!(rig.request(OUT, 2, &[(DATA, 512, 0)]), (0, 1));
    assert_eq!(fs::read(&rig.image.0).unwrap()[1024], 0x77);
}

#[test]
fn the_configuration_space_gives_capacity_and_limits() {
    let rig = Rig::new();
    let at = |offset: u64| {
        let mut value = [0xee; 4];
        rig.disk.read(0x100 + offset, &mut value);
        u32::from_le_bytes(value)
    };
    assert_eq!([at(0), at(4), at(8), at(12), at(16), at(0xfc)], [SECTORS as u32, 0, 128 * 1024, 254, 0, 0]);
    let mut byte = [0];
    rig.disk.read(0x100, &mut byte);
    assert_eq!(byte, [SECTORS as u8]);
    let mut wide = [0; 8];
    rig.disk.read(0x100, &mut wide);
    assert_eq!(u64::from_le_bytes(wide), SECTORS);
}

#[test]
fn completion_interrupts_until_acknowledged() {
    let mut rig = Rig::with(false, VERSION_1);
    assert_eq!(rig.request(FLUSH_REQUEST, 0, &[]).0, 0);
    rig.disk.quiesce().unwrap();
    assert_eq!(rig.disk.interrupt().edges(), 1);
    assert_eq!(read(&rig.disk, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    write(&rig.disk, reg::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(read(&rig.disk, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn a_driver_can_suppress_interrupts_by_flag_and_by_event_index() {
    let mut rig = Rig::with(false, VERSION_1);
    rig.put(1u16, AVAIL);
    rig.request(FLUSH_REQUEST, 0, &[]);
    rig.disk.quiesce().unwrap();
    assert_eq!(rig.disk.interrupt().edges(), 0);

    let mut rig = Rig::new();
    let used_event = AVAIL + 4 + 2 * u64::from(rig.size);
    rig.put(1u16, used_event);
    rig.request(FLUSH_REQUEST, 0, &[]);
    assert_eq!(rig.disk.interrupt().edges(), 0);
    rig.request(FLUSH_REQUEST, 0, &[]);
    rig.disk.quiesce().unwrap();
    assert_eq!(rig.disk.interrupt().edges(), 1);
}

#[test]
fn many_requests_with_registers_being_read_all_complete() {
    let mut rig = Rig::new();
    let disk = Arc::clone(&rig.disk);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let reader = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            assert_eq!(read(&disk, reg::VIRTIO_MMIO_STATUS), 0xf);
            write(&disk, reg::VIRTIO_MMIO_INTERRUPT_ACK, 1);
        }
    });
    for round in 0..2000u64 {
        let sector = round % SECTORS;
        assert_eq!(rig.request(IN, sector, &[(DATA, 512, WRITE)]), (0, 513));
        assert_eq!(rig.get::<u8>(DATA), sector as u8);
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}
