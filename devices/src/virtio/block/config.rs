//! The disk's offer to its driver: features, limits and the configuration space (virtio 1.2
//! §5.2.3, §5.2.4).

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::image::SECTOR_BYTES;

/// Entries in the one queue, at most.
pub(super) const QUEUE_SIZE: u16 = 256;

/// Descriptors in a request: the data's, and one each for header and status.
pub(super) const MAX_DESCRIPTORS: usize = SEG_MAX as usize + 2;

/// Data segments in a request (`seg_max`).
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Bytes in a segment (`size_max`).
const SIZE_MAX: u32 = 128 * 1024;

/// Bytes of data in a request. A driver that keeps to `seg_max` and `size_max` cannot request more,
/// and the stop of a guest waits for one request at most.
pub(super) const MAX_REQUEST_BYTES: u64 = 32 * 1024 * 1024;

const _: () = assert!(SEG_MAX as u64 * SIZE_MAX as u64 <= MAX_REQUEST_BYTES);

/// Bytes that `VIRTIO_BLK_T_GET_ID` returns.
pub(super) const ID_BYTES: usize = 20;

/// The feature bits offered for this image.
pub(super) fn features(read_only: bool) -> u64 {
    let always = [
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_SIZE_MAX,
    ];
    let read_only = read_only.then_some(VIRTIO_BLK_F_RO);
    always.into_iter().chain(read_only).fold(0, |features, bit| features | 1 << bit)
}

/// Reads `struct virtio_blk_config` of a disk of `capacity` bytes; fields of features that are not
/// offered are 0.
pub(super) fn read(capacity: u64, offset: u64, data: &mut [u8]) {
    let mut space = [0; 16];
    space[0..8].copy_from_slice(&(capacity / SECTOR_BYTES).to_le_bytes());
    space[8..12].copy_from_slice(&SIZE_MAX.to_le_bytes());
    space[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
    data.fill(0);
    let Ok(offset) = usize::try_from(offset) else { return };
    for (byte, value) in data.iter_mut().zip(space.iter().skip(offset)) {
        *byte = *value;
    }
}

/// The text by which a guest may recognise the disk, the same on every host.
pub(super) fn id(instance: u32) -> [u8; ID_BYTES] {
    let mut id = [0; ID_BYTES];
    for (byte, value) in id.iter_mut().zip(format!("ferry-disk-{instance}").bytes()) {
        *byte = value;
    }
    id
}
