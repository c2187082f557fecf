//! A disk's life around a pause and a move: the lock, the pause that loses nothing, reset, and the
//! end.

use super::*;
use crate::saved;
use crate::virtio::BlockError;
use crate::virtio::Done;
use crate::virtio::block::BlockFacts;
use crate::virtio::state::SavedVirtio;
use crate::virtio::worker::Patience;
use std::io::ErrorKind;

/// Another process's view: the same memory content and image, a disk of its own.
pub(super) fn destination(rig: &Rig) -> Arc<VirtioMmio<Block>> {
    disk(&rig.image, false, &rig.memory)
}

fn hand_over(from: &mut Arc<VirtioMmio<Block>>, to: &mut Arc<VirtioMmio<Block>>) {
    from.quiesce().unwrap();
    let state = from.save().unwrap();
    from.release().unwrap();
    to.load(1, &state).unwrap();
    to.post_load().unwrap();
    assert_eq!(to.save().unwrap(), state);
    to.acquire().unwrap();
    to.resume().unwrap();
}

#[test]
fn images_that_cannot_be_disks_are_refused_by_name() {
    let open = |path: &std::path::Path| RawImage::open(path, false, no_faults()).map(drop).unwrap_err();
    let odd = Scratch::new(1000);
    assert!(matches!(open(&odd.0), BlockError::Size { bytes: 1000, .. }));
    assert!(open(&odd.0).to_string().contains("has 1000 bytes, not a positive multiple of 512"));
    assert!(matches!(open(&Scratch::new(0).0), BlockError::Size { bytes: 0, .. }));
    assert!(matches!(open("/dev/null".as_ref()), BlockError::NotAnImage { .. }));
    assert!(matches!(open("/nowhere/disk.img".as_ref()), BlockError::Open { .. }));
}

#[test]
fn a_disk_is_opened_without_its_lock_and_run_only_with_it() {
    let mut rig = Rig::new();
    let mut other = destination(&rig);
    let error = other.acquire().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert!(error.to_string().contains(rig.image.0.to_str().unwrap()), "{error}");
    rig.disk.acquire().unwrap();
    rig.disk.resume().unwrap();
    rig.disk.quiesce().unwrap();
    let state = rig.disk.save().unwrap();
    other.acquire().unwrap_err();
    rig.disk.release().unwrap();
    // It would boot the guest, whose newest state is elsewhere.
    let error = other.acquire().unwrap_err();
    assert!(error.to_string().contains("is in a hand-over"), "{error}");
    other.load(1, &state).unwrap();
    other.post_load().unwrap();
    other.acquire().unwrap();
    other.resume().unwrap();
    rig.disk.acquire().unwrap_err();
    drop(other);
    rig.disk.acquire().unwrap();
    rig.disk.resume().unwrap();
}

#[test]
fn readers_share_an_image_and_a_writer_does_not() {
    let rig = Rig::with(true, VERSION_1);
    let mut reader = disk(&rig.image, true, &rig.memory);
    reader.acquire().unwrap();
    reader.resume().unwrap();
    destination(&rig).acquire().unwrap_err();
}

fn resize(image: &Scratch, bytes: u64) {
    fs::OpenOptions::new().write(true).open(&image.0).unwrap().set_len(bytes).unwrap();
}

fn capacity(disk: &VirtioMmio<Block>) -> u64 {
    let mut sectors = [0; 8];
    disk.read(0x100, &mut sectors);
    u64::from_le_bytes(sectors)
}

#[test]
fn a_guest_keeps_its_disk_when_the_image_grows() {
    let mut rig = Rig::new();
    resize(&rig.image, 2 * SECTORS * 512);
    rig.disk.quiesce().unwrap();
    rig.disk.release().unwrap();
    rig.disk.acquire().unwrap();
    rig.disk.resume().unwrap();
    assert_eq!(rig.request(0, SECTORS - 1, &[(DATA, 512, WRITE)]), (0, 513));
    assert_eq!(rig.request(0, SECTORS, &[(DATA, 512, WRITE)]).0, 1, "beyond the guest's disk");
    // Here and back: each side that opens the image anew finds it larger.
    let early = destination(&rig).save().unwrap();
    for _ in 0..2 {
        let mut other = destination(&rig);
        assert_eq!(capacity(&other), 2 * SECTORS);
        hand_over(&mut rig.disk, &mut other);
        rig.disk = other;
        assert_eq!((capacity(&rig.disk), rig.disk.offer().capacity), (SECTORS, Some(SECTORS * 512)));
        assert_eq!(rig.request(0, SECTORS, &[(DATA, 512, WRITE)]).0, 1, "beyond the guest's disk");
    }
    rig.disk.reset().unwrap();
    assert_eq!(capacity(&rig.disk), SECTORS, "over a reset, too");
    // Only the last load counts.
    rig.disk.quiesce().unwrap();
    rig.disk.load(1, &early).unwrap();
    assert_eq!(capacity(&rig.disk), 2 * SECTORS);
}

#[test]
fn a_destination_needs_no_more_of_the_image_than_the_guest_has() {
    let mut rig = Rig::new();
    resize(&rig.image, 2 * SECTORS * 512);
    let mut other = destination(&rig);
    resize(&rig.image, SECTORS * 512);
    rig.disk.release().unwrap();
    assert!(other.acquire().unwrap_err().to_string().contains("guest's disk (131072)"));
    hand_over(&mut rig.disk, &mut other);
}

/// A request that the storage does not answer, and a flush that it does not: the migration is
/// given up, and the guest goes on.
#[test]
fn a_pause_that_is_given_up_ends_its_wait_and_the_disk_goes_on() {
    let mut rig = Rig::new();
    for place in ["disk:read", "disk:flush"] {
        let faults = rig.faults.clone();
        faults.set(format!("at={place},do=hang").parse().unwrap()).unwrap();
        rig.header(0, 3);
        rig.chain(0, &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
        if place == "disk:read" {
            rig.offer(0);
            rig.kick();
            wait_for("the request", || faults.is_waiting());
        }
        let mut disk = rig.disk.clone();
        let pause = thread::spawn(move || disk.quiesce());
        wait_for("the pause", || faults.is_waiting() && !rig.disk.workers[0].shared.lock().run);
        assert!(!pause.is_finished());
        // Again and again, as a driver does: the pause may not have begun to wait.
        wait_for("the end of the pause", || {
            rig.disk.interrupt_pause();
            pause.is_finished()
        });
        let error = pause.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
        assert!(faults.is_waiting(), "the storage is as slow as before");
        rig.disk.acquire().unwrap();
        rig.disk.resume().unwrap();
        assert!(faults.is_waiting(), "the guest runs while the disk waits for its storage");
        faults.clear();
        rig.wait_used();
        assert_eq!(rig.request(0, 4, &[(DATA, 512, WRITE)]), (0, 513));
        rig.disk.quiesce().unwrap();
        rig.disk.resume().unwrap();
    }
}

#[test]
fn a_flush_ahead_of_the_pause_leaves_the_pause_its_own() {
    let mut rig = Rig::new();
    let image = rig.raw.clone();
    image.flush_ahead();
    assert!(!image.is_flushing_ahead(), "nothing was written");
    rig.request(1, 0, &[(DATA, 512, 0)]);
    rig.raw.flush_ahead();
    wait_for("the flush", || !image.is_flushing_ahead());
    assert!(image.is_unsynced(), "the kernel tells of lost data where the pause and the guest ask");
    rig.disk.quiesce().unwrap();
    assert!(!image.is_unsynced());
}

#[test]
fn an_image_that_has_shrunk_is_not_run() {
    let mut rig = Rig::new();
    rig.disk.release().unwrap();
    resize(&rig.image, 512);
    assert!(
        rig.disk.acquire().unwrap_err().to_string().contains("has 512 bytes now, less than the guest's disk (65536)")
    );
    // The refusal does not keep the lock.
    drop((rig.disk, rig.raw));
    disk(&rig.image, false, &rig.memory).acquire().unwrap();
}

#[test]
fn requests_offered_while_parked_are_served_after_the_move_without_a_kick() {
    let mut rig = Rig::new();
    rig.request(0, 0, &[(DATA, 512, WRITE)]);
    rig.disk.quiesce().unwrap();
    rig.header(0, 5);
    rig.chain(0, &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
    rig.offer(0);
    let mut other = destination(&rig);
    hand_over(&mut rig.disk, &mut other);
    rig.wait_used();
    assert_eq!(rig.get::<u8>(DATA), 5);
}

/// Flushes end a part of the batch each, so that a pause finds some requests served and gives the
/// others back.
#[test]
fn every_request_is_served_exactly_once_however_often_the_disk_moves() {
    let mut rig = Rig::new();
    let mut other = destination(&rig);
    rig.header(4, 0);
    let mut used = 0u16;
    let mut cut_short = 0;
    for round in 0..300u16 {
        let before = rig.used();
        for chain in 0..8 {
            rig.chain(chain * 2, &[(HEADER, 16, 0), (STATUS, 1, WRITE)]);
        }
        rig.offer_all(&[0, 2, 4, 6, 8, 10, 12, 14]);
        rig.kick();
        if round % 2 == 0 {
            wait_for("the first flush", || rig.used() != before);
        }
        rig.disk.quiesce().unwrap();
        cut_short += u32::from(rig.used() != before && rig.used() != rig.avail);
        hand_over(&mut rig.disk, &mut other);
        std::mem::swap(&mut rig.disk, &mut other);
        rig.wait_used();
        for chain in 0..8u32 {
            let head: u32 = rig.get(USED + 4 + 8 * u64::from(used % rig.size));
            assert_eq!(head, chain * 2, "round {round}");
            used += 1;
        }
    }
    assert!(cut_short > 0, "no batch was ever cut short");
}

/// A state saved while requests are in flight lets the other side begin at the oldest that is not
/// completed.
#[test]
fn a_snapshot_of_a_working_disk_loses_no_request() {
    let mut rig = Rig::new();
    rig.disk.quiesce().unwrap();
    rig.header(4, 0);
    for head in [0, 2, 4] {
        rig.chain(head, &[(HEADER, 16, 0), (STATUS, 1, WRITE)]);
    }
    rig.offer_all(&[0, 2, 4]);
    let mut disk = Arc::clone(&rig.disk);
    let mut saved_at = || {
        let state: SavedVirtio<BlockFacts> = saved::decode(1, 1, &disk.save().unwrap()).unwrap();
        (state.queues[0].next_avail, state.queues[0].next_used)
    };
    let shared = &rig.disk.workers[0].shared;
    // By hand, what the parked worker would do: take all three, complete one.
    assert_eq!(shared.lock().pop(&rig.memory).unwrap().len(), 3);
    assert_eq!(saved_at(), (0, 0));
    let done = Done { head: 0, len: 0, last: None, cost: 0, error: None };
    shared.lock().complete(&rig.memory, &[done]).unwrap();
    assert_eq!(saved_at(), (1, 1));
    shared.lock().give_back();
    assert_eq!(saved_at(), (1, 1));
    Arc::clone(&rig.disk).acquire().unwrap();
    Arc::clone(&rig.disk).resume().unwrap();
    rig.wait_used();
    assert_eq!(rig.newest(), (4, 1));
}

#[test]
fn a_pause_makes_written_data_durable() {
    let mut rig = Rig::new();
    rig.request(1, 0, &[(DATA, 512, 0)]);
    let image = &rig.raw;
    assert!(image.is_unsynced());
    Arc::clone(&rig.disk).quiesce().unwrap();
    assert!(!image.is_unsynced());
}

#[test]
fn a_failed_switchover_goes_on_where_it_was() {
    let mut rig = Rig::new();
    rig.disk.quiesce().unwrap();
    rig.disk.save().unwrap();
    rig.disk.release().unwrap();
    rig.disk.acquire().unwrap();
    rig.disk.resume().unwrap();
    assert_eq!(rig.request(0, 2, &[(DATA, 512, WRITE)]), (0, 513));
}

#[test]
fn a_pending_interrupt_is_raised_again_at_the_destination() {
    let mut rig = Rig::new();
    rig.request(0, 0, &[(DATA, 512, WRITE)]);
    let mut other = destination(&rig);
    hand_over(&mut rig.disk, &mut other);
    assert_eq!(read(&other, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    assert_eq!(other.interrupt().edges(), 1);
}

#[test]
fn a_machine_reset_returns_to_power_on_and_keeps_the_disk_running() {
    let mut rig = Rig::new();
    let fresh = destination(&rig).save().unwrap();
    rig.request(0, 0, &[(DATA, 512, WRITE)]);
    rig.disk.reset().unwrap();
    assert_eq!(rig.disk.save().unwrap(), fresh);
    rig.put(0u32, USED);
    rig.put(0u32, AVAIL);
    rig.avail = 0;
    configure(&rig.disk, VERSION_1, 16);
    assert_eq!(rig.request(0, 1, &[(DATA, 512, WRITE)]), (0, 513));
}

#[test]
fn a_queue_that_the_driver_stops_serves_nothing_more() {
    let mut rig = Rig::new();
    write(&rig.disk, reg::VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(read(&rig.disk, reg::VIRTIO_MMIO_QUEUE_READY), 0);
    rig.chain(0, &[(HEADER, 16, 0), (STATUS, 1, WRITE)]);
    rig.offer(0);
    rig.kick();
    rig.disk.quiesce().unwrap();
    assert_eq!(rig.used(), 0);
}

#[test]
fn dropping_a_running_disk_ends_its_thread_and_frees_the_image() {
    let mut rig = Rig::new();
    rig.request(0, 0, &[(DATA, 512, WRITE)]);
    let mut other = destination(&rig);
    let memory = Arc::downgrade(&rig.memory);
    let Rig { disk, raw, image: _image, memory: own, .. } = rig;
    drop((disk, raw, own));
    other.acquire().unwrap();
    other.resume().unwrap();
    drop(other);
    assert!(memory.upgrade().is_none(), "a thread still holds guest memory");
}

#[test]
fn nobody_waits_for_ever_for_a_worker_that_holds_the_ring() {
    let rig = Rig::new();
    let shared = &rig.disk.workers[0].shared;
    let stuck = shared.lock();
    let error = thread::scope(|scope| {
        scope
            .spawn(|| shared.lock_within(Patience::of(Duration::from_millis(5))).map(drop).unwrap_err())
            .join()
            .unwrap()
    });
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    drop(stuck);
    drop(shared.lock_within(Patience::of(SOON)).unwrap());
}
