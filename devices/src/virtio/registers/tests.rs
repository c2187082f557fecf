//! The registers keep to the specification, in any order in which a driver uses them.

use super::*;
use proptest::prelude::*;

const OFFERED: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << 9;

fn registers() -> Registers {
    Registers::new(2, OFFERED, &[256, 64])
}

/// Up to the choice of `features`, with FEATURES_OK asked for.
fn negotiate(features: u64) -> Registers {
    let mut registers = registers();
    for status in [1, 3] {
        assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, status), Effect::None);
    }
    for half in [0, 1] {
        registers.write(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        registers.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * half)) as u32);
    }
    registers.write(reg::VIRTIO_MMIO_STATUS, 0xb);
    registers
}

#[test]
fn a_driver_recognises_the_device() {
    let mut registers = registers();
    assert_eq!(registers.read(reg::VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(registers.read(reg::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(registers.read(reg::VIRTIO_MMIO_DEVICE_ID), 2);
    assert_eq!(registers.read(reg::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    for (half, bits) in [(0, 1 << 9), (1, 1), (2, 0), (u32::MAX, 0)] {
        registers.write(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
        assert_eq!(registers.read(reg::VIRTIO_MMIO_DEVICE_FEATURES), bits);
    }
    for (queue, size) in [(0, 256), (1, 64), (2, 0), (u32::MAX, 0)] {
        registers.write(reg::VIRTIO_MMIO_QUEUE_SEL, queue);
        assert_eq!(registers.read(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), size);
    }
}

#[test]
fn only_a_subset_of_the_offered_features_with_version_1_is_accepted() {
    for (features, accepted) in
        [(OFFERED, true), (1 << VIRTIO_F_VERSION_1, true), (1 << 9, false), (OFFERED | 1 << 3, false), (0, false)]
    {
        let registers = negotiate(features);
        assert_eq!(registers.read(reg::VIRTIO_MMIO_STATUS) & FEATURES_OK != 0, accepted, "{features:#x}");
    }
}

#[test]
fn accepted_features_are_settled_and_refused_ones_can_be_corrected() {
    let mut registers = negotiate(OFFERED);
    assert!(matches!(registers.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, 0), Effect::Ignored(_)));
    assert_eq!(registers.driver_features, OFFERED);
    let mut registers = negotiate(1 << 9);
    registers.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, 1);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, 0xb), Effect::None);
    assert_eq!(registers.status, 0xb);
}

#[test]
fn the_driver_starts_the_device_once_and_only_with_features() {
    let mut registers = negotiate(0);
    assert!(matches!(registers.write(reg::VIRTIO_MMIO_STATUS, 0xf), Effect::Ignored(_)));
    assert!(!registers.is_started());
    let mut registers = negotiate(OFFERED);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, 0xf), Effect::Start);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, 0xf), Effect::None);
    assert!(matches!(registers.write(reg::VIRTIO_MMIO_STATUS, 1), Effect::Ignored(_)));
    assert_eq!(registers.status, 0xf);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, 0), Effect::Reset);
    registers.reset();
    assert_eq!(registers, self::registers());
}

#[test]
fn a_driver_that_gives_up_stops_the_device_until_it_resets_it() {
    let mut registers = negotiate(OFFERED);
    registers.write(reg::VIRTIO_MMIO_STATUS, 0xf);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, 0x8f), Effect::Stop);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, 0x8f), Effect::None);
    assert!(matches!(registers.write(reg::VIRTIO_MMIO_STATUS, 0xf), Effect::Ignored(_)));
    assert_eq!(registers.status, 0x8f);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, 0), Effect::Reset);
    for both_at_once in [false, true] {
        let mut registers = negotiate(OFFERED);
        if !both_at_once {
            assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, 0x8b), Effect::None);
        }
        assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, 0x8f), Effect::None, "it never works");
    }
}

#[test]
fn a_queue_takes_its_registers_only_while_it_is_idle() {
    let mut registers = negotiate(OFFERED);
    for (register, value) in [
        (reg::VIRTIO_MMIO_QUEUE_SEL, 1),
        (reg::VIRTIO_MMIO_QUEUE_NUM, 32),
        (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000),
        (reg::VIRTIO_MMIO_QUEUE_DESC_HIGH, 1),
        (reg::VIRTIO_MMIO_QUEUE_READY, 1),
    ] {
        assert_eq!(registers.write(register, value), Effect::None);
    }
    let expected = QueueRegisters { max_size: 64, size: 32, ready: true, desc: 0x1_0000_1000, avail: 0, used: 0 };
    assert_eq!(registers.queues[1], expected);
    assert!(matches!(registers.write(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, 0), Effect::Ignored(_)));
    registers.write(reg::VIRTIO_MMIO_STATUS, 0xf);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_QUEUE_READY, 0), Effect::StopQueue(1));
    registers.queue_stopped(1);
    assert_eq!(registers.read(reg::VIRTIO_MMIO_QUEUE_READY), 0);
    assert!(matches!(registers.write(reg::VIRTIO_MMIO_QUEUE_READY, 1), Effect::Ignored(_)));
}

#[test]
fn a_queue_size_is_a_power_of_two_within_the_maximum() {
    let mut registers = registers();
    for size in [0, 3, 512, 0x1_0000, u32::MAX] {
        assert!(matches!(registers.write(reg::VIRTIO_MMIO_QUEUE_NUM, size), Effect::Ignored(_)));
    }
    assert_eq!(registers.queues[0].size, 256);
}

proptest! {
    #[test]
    fn no_order_of_writes_breaks_the_status_rules(
        writes in prop::collection::vec((0u32..0x100, prop_oneof![0u32..16, any::<u32>()]), 0..100),
    ) {
        let mut registers = registers();
        for (offset, value) in writes {
            let effect = registers.write(offset & !3, value);
            if effect == Effect::Reset {
                registers.reset();
            }
            let status = registers.status;
            prop_assert!(status & !DRIVER_STATUS_BITS == 0);
            prop_assert!(status & DRIVER_OK == 0 || status & FEATURES_OK != 0);
            prop_assert!(status & FEATURES_OK == 0 || registers.features_acceptable());
            prop_assert!(registers.queues.iter().all(|q| q.size.is_power_of_two() && q.size <= q.max_size));
            registers.read(offset);
        }
    }
}
