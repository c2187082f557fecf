//! A disk's life around a pause and a move: the lock, the pause that loses nothing, saved state, reset, and the end.

use super::*;
use crate::device::LoadError;
use crate::virtio::BlockError;
use proptest::prelude::*;
use std::io::ErrorKind;

/// Another process's view: the same memory content and image, a disk of its own.
fn destination(rig: &Rig) -> Arc<VirtioMmio<Block>> {
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
}

#[test]
fn images_that_cannot_be_disks_are_refused_by_name() {
    let memory = memory();
    let open = |path: &std::path::Path| Block::open(0, path, false, Arc::clone(&memory)).map(drop).unwrap_err();
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
    rig.disk.quiesce().unwrap();
    other.acquire().unwrap_err();
    rig.disk.release().unwrap();
    other.acquire().unwrap();
    rig.disk.acquire().unwrap_err();
    drop(other);
    rig.disk.acquire().unwrap();
}

#[test]
fn readers_share_an_image_and_a_writer_does_not() {
    let rig = Rig::with(true, VERSION_1);
    let mut reader = disk(&rig.image, true, &rig.memory);
    reader.acquire().unwrap();
    destination(&rig).acquire().unwrap_err();
}

#[test]
fn an_image_that_changed_its_size_is_not_run() {
    let mut rig = Rig::new();
    rig.disk.release().unwrap();
    fs::OpenOptions::new().write(true).open(&rig.image.0).unwrap().set_len(512).unwrap();
    assert!(rig.disk.acquire().unwrap_err().to_string().contains("had 65536 when it was opened"));
    // The refusal does not keep the lock.
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

#[test]
fn every_request_is_served_exactly_once_however_often_the_disk_moves() {
    let mut rig = Rig::new();
    let mut other = destination(&rig);
    rig.header(0, 1);
    let mut used = 0u16;
    for round in 0..200u16 {
        for chain in 0..4 {
            rig.chain(chain * 3, &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
            rig.offer(chain * 3);
        }
        rig.kick();
        hand_over(&mut rig.disk, &mut other);
        std::mem::swap(&mut rig.disk, &mut other);
        rig.wait_used();
        for chain in 0..4u32 {
            let head: u32 = rig.get(USED + 4 + 8 * u64::from(used % rig.size));
            assert_eq!(head, chain * 3, "round {round}");
            used += 1;
        }
    }
}

#[test]
fn a_failed_switchover_goes_on_where_it_was() {
    let mut rig = Rig::new();
    rig.disk.quiesce().unwrap();
    rig.disk.save().unwrap();
    rig.disk.release().unwrap();
    rig.disk.acquire().unwrap();
    assert_eq!(rig.request(0, 2, &[(DATA, 512, WRITE)]), (0, 513));
}

#[test]
fn loading_is_repeatable_and_only_the_last_load_counts() {
    let mut rig = Rig::new();
    let early = rig.disk.save().unwrap();
    for sector in 0..3 {
        rig.request(0, sector, &[(DATA, 512, WRITE)]);
    }
    rig.disk.quiesce().unwrap();
    let late = rig.disk.save().unwrap();
    assert_ne!(early, late);
    rig.disk.release().unwrap();
    let mut other = destination(&rig);
    for state in [&late, &early, &late] {
        other.load(1, state).unwrap();
        other.post_load().unwrap();
        assert_eq!(other.save().unwrap(), *state);
    }
    other.acquire().unwrap();
    rig.disk = other;
    assert_eq!(rig.request(0, 4, &[(DATA, 512, WRITE)]), (0, 513));
}

#[test]
fn a_pending_interrupt_is_raised_again_at_the_destination() {
    let mut rig = Rig::new();
    rig.request(0, 0, &[(DATA, 512, WRITE)]);
    let mut other = destination(&rig);
    hand_over(&mut rig.disk, &mut other);
    assert_eq!(read(&other, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    assert_eq!(other.interrupt().read().unwrap(), 1);
}

#[test]
fn a_disk_whose_load_failed_is_not_run_but_can_be_loaded_again() {
    let mut rig = Rig::new();
    rig.disk.quiesce().unwrap();
    let state = rig.disk.save().unwrap();
    rig.disk.release().unwrap();
    let mut other = destination(&rig);
    other.load(1, &state[..5]).unwrap_err();
    assert!(other.acquire().unwrap_err().to_string().contains("load it again"));
    other.load(1, &state).unwrap();
    other.acquire().unwrap_err();
    other.post_load().unwrap();
    other.acquire().unwrap();
}

#[test]
fn a_state_from_another_disk_or_other_memory_is_refused_by_name() {
    let mut rig = Rig::new();
    rig.disk.quiesce().unwrap();
    let state = rig.disk.save().unwrap();
    let larger = Scratch::new(SECTORS * 1024);
    let error = disk(&larger, false, &rig.memory).load(1, &state).unwrap_err().to_string();
    assert!(error.starts_with("capacity in sectors = 128"), "{error}");
    let error = disk(&rig.image, true, &rig.memory).load(1, &state).unwrap_err().to_string();
    assert!(error.starts_with("read_only = false"), "{error}");
    let small = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap());
    let mut other = disk(&rig.image, false, &small);
    other.load(1, &state).unwrap();
    assert!(matches!(other.post_load(), Err(LoadError::Host(text)) if text.contains("do not lie in guest memory")));
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
    let Rig { disk, image: _image, memory: own, .. } = rig;
    drop((disk, own));
    other.acquire().unwrap();
    drop(other);
    assert!(memory.upgrade().is_none(), "a thread still holds guest memory");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..120)) {
        let rig = Rig::new();
        let mut other = destination(&rig);
        if other.load(1, &payload).is_ok() {
            let _ = other.post_load();
        }
    }

    /// A real state with a few bytes changed: refused, or taken and then saved as it was taken.
    #[test]
    fn damaged_states_are_refused_or_survive_a_round_trip(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut rig = Rig::new();
        rig.request(0, 0, &[(DATA, 512, WRITE)]);
        rig.disk.quiesce().unwrap();
        let mut state = rig.disk.save().unwrap();
        for (at, value) in changes {
            let at = at.index(state.len());
            state[at] = value;
        }
        let mut other = destination(&rig);
        if other.load(1, &state).is_ok() && other.post_load().is_ok() {
            let again = other.save().unwrap();
            other.load(1, &again).unwrap();
            other.post_load().unwrap();
            prop_assert_eq!(other.save().unwrap(), again);
        }
    }

    #[test]
    fn any_register_access_is_safe(
        accesses in prop::collection::vec((0u64..0x220, 0usize..10, any::<u32>(), any::<bool>()), 0..200),
    ) {
        let mut rig = Rig::new();
        for (offset, len, value, write) in accesses {
            let mut data: Vec<u8> = value.to_le_bytes().into_iter().cycle().take(len).collect();
            if write { rig.disk.write(offset, &data) } else { rig.disk.read(offset, &mut data) }
        }
        rig.disk.quiesce().unwrap();
        let state = rig.disk.save().unwrap();
        rig.disk.load(1, &state).unwrap();
        rig.disk.post_load().unwrap();
        prop_assert_eq!(rig.disk.save().unwrap(), state);
    }
}
