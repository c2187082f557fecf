//! A disk's saved state: loaded again and again, refused by name when it cannot be right, safe
//! with any contents.

use super::life::destination;
use super::*;
use crate::device::LoadError;
use crate::saved;
use crate::virtio::block::BlockFacts;
use crate::virtio::state::SavedVirtio;
use proptest::prelude::*;

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
    other.resume().unwrap();
    rig.disk = other;
    assert_eq!(rig.request(0, 4, &[(DATA, 512, WRITE)]), (0, 513));
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
    other.resume().unwrap();
}

#[test]
fn a_state_from_another_disk_or_other_memory_is_refused_by_name() {
    let mut rig = Rig::new();
    rig.disk.quiesce().unwrap();
    let state = rig.disk.save().unwrap();
    let smaller = Scratch::new(SECTORS * 256);
    let error = disk(&smaller, false, &rig.memory).load(1, &state).unwrap_err().to_string();
    assert!(error.starts_with("capacity in sectors = 128"), "{error}");
    let error = disk(&rig.image, true, &rig.memory).load(1, &state).unwrap_err().to_string();
    assert!(error.starts_with("read_only = false"), "{error}");
    let small = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap());
    let mut other = disk(&rig.image, false, &small);
    other.load(1, &state).unwrap();
    assert!(matches!(other.post_load(), Err(LoadError::Host(text)) if text.contains("do not lie in guest memory")));
}

#[test]
fn fields_beyond_what_a_disk_can_reach_are_refused_by_name() {
    let mut rig = Rig::new();
    rig.disk.quiesce().unwrap();
    let good = rig.disk.save().unwrap();
    let mut refuse = |field: &str, change: &dyn Fn(&mut SavedVirtio<BlockFacts>)| {
        let mut state = saved::decode(1, 1, &good).unwrap();
        change(&mut state);
        let error = rig.disk.load(1, &saved::encode(&state).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{field} = ")), "{field}: {error}");
    };
    refuse("status", &|state| state.status |= 0x10);
    refuse("status", &|state| state.status = 0x7);
    refuse("driver_features", &|state| state.driver_features |= 1 << 40);
    refuse("driver_features", &|state| state.driver_features &= !VERSION_1);
    refuse("interrupt_status", &|state| state.interrupt_status = 4);
    refuse("queues", &|state| state.queues.clear());
    refuse("queue size", &|state| state.queues[0].size = 12);
    refuse("queue size", &|state| state.queues[0].size = 512);
    refuse("queue size", &|state| state.queues[0].size = 0);
    refuse("queue next_avail", &|state| state.queues[0].next_avail = 17);
    refuse("queue next_avail", &|state| state.queues[0].next_used = 1);
    assert!(matches!(rig.disk.load(2, &good), Err(LoadError::Version { found: 2, supported: 1 })));
    rig.disk.load(1, &good).unwrap();
}

#[test]
fn a_queue_that_is_misaligned_is_refused_after_loading() {
    let mut rig = Rig::new();
    rig.disk.quiesce().unwrap();
    let mut state: SavedVirtio<BlockFacts> = saved::decode(1, 1, &rig.disk.save().unwrap()).unwrap();
    state.queues[0].desc += 8;
    rig.disk.load(1, &saved::encode(&state).unwrap()).unwrap();
    assert!(rig.disk.post_load().unwrap_err().to_string().starts_with("queue 0: "));
}

/// A register of the transport and what a driver, good or bad, writes to it.
fn register_write() -> impl Strategy<Value = (u32, u32)> {
    let status = prop::sample::select(vec![0, 1, 3, 0xb, 0xf, 0x4f, 0x83, 0x8b, 0x8f, 0xcf, 0xff]);
    let registers = vec![
        reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL,
        reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL,
        reg::VIRTIO_MMIO_DRIVER_FEATURES,
        reg::VIRTIO_MMIO_QUEUE_SEL,
        reg::VIRTIO_MMIO_QUEUE_NUM,
        reg::VIRTIO_MMIO_QUEUE_READY,
        reg::VIRTIO_MMIO_QUEUE_DESC_LOW,
        reg::VIRTIO_MMIO_QUEUE_DESC_HIGH,
        reg::VIRTIO_MMIO_QUEUE_USED_LOW,
        reg::VIRTIO_MMIO_INTERRUPT_ACK,
    ];
    let value = prop::sample::select(vec![0, 1, 2, 3, 8, 16, 0x1001, 0x4000, 1 << 9, u32::MAX]);
    prop_oneof![status.prop_map(|value| (reg::VIRTIO_MMIO_STATUS, value)), (prop::sample::select(registers), value),]
}

/// All that a driver can find out: every register, for the queue and the features that are
/// selected, the configuration space, and whether the queue is served.
fn behaviour(disk: &VirtioMmio<Block>) -> (Vec<u32>, bool) {
    let registers = (0..0x110).step_by(4).map(|register| read(disk, register)).collect();
    (registers, disk.workers[0].shared.lock().queue.is_some())
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

    /// With any driver, the device behaves the same before and after a move: every
    /// register reads the same, the queue is served or not, and what the driver writes next has
    /// the same effect.
    #[test]
    fn a_device_behaves_after_a_move_as_before(
        before in prop::collection::vec(register_write(), 0..12),
        after in prop::collection::vec(register_write(), 0..12),
        gives_up: bool,
    ) {
        let mut rig = Rig::new();
        for (register, value) in before {
            write(&rig.disk, register, value);
        }
        if gives_up {
            rig.disk.signals.need_reset();
            rig.disk.workers[0].shared.lock().queue = None;
        }
        rig.disk.quiesce().unwrap();
        let state = rig.disk.save().unwrap();
        let mut other = destination(&rig);
        other.load(1, &state).unwrap();
        other.post_load().unwrap();
        prop_assert_eq!(behaviour(&rig.disk), behaviour(&other));
        for (register, value) in after {
            write(&rig.disk, register, value);
            write(&other, register, value);
            prop_assert_eq!(behaviour(&rig.disk), behaviour(&other), "after {:#x} = {:#x}", register, value);
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
