//! Another kind of image: one that stands in front of a raw image and forwards to it.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::virtio::block::Vectors;

/// Counts what the guest reads and writes, in requests.
struct Forwarding {
    behind: Arc<RawImage>,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Storage for Forwarding {
    fn path(&self) -> &Path {
        self.behind.path()
    }

    fn is_read_only(&self) -> bool {
        self.behind.is_read_only()
    }

    fn flush_ahead(&self) {
        self.behind.flush_ahead();
    }

    fn show_proof(&self, nonce: u64) -> std::io::Result<()> {
        self.behind.show_proof(nonce)
    }

    fn end_proof(&self, nonce: u64) -> std::io::Result<()> {
        self.behind.end_proof(nonce)
    }

    fn sees_proof(&self, nonce: u64) -> std::io::Result<bool> {
        self.behind.sees_proof(nonce)
    }

    fn expect_handover(&self) {
        self.behind.expect_handover();
    }

    fn leave_handover(&self) -> bool {
        self.behind.leave_handover()
    }

    fn follow_handover(&self) {
        self.behind.follow_handover();
    }
}

impl Image for Forwarding {
    fn bytes(&self) -> u64 {
        self.behind.bytes()
    }

    fn read(&self, into: Vectors<'_>, offset: u64) -> std::io::Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.behind.read(into, offset)
    }

    fn write(&self, from: Vectors<'_>, offset: u64) -> std::io::Result<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.behind.write(from, offset)
    }

    fn sync(&self) -> std::io::Result<()> {
        self.behind.sync()
    }

    fn sync_for_pause(&self) -> std::io::Result<()> {
        self.behind.sync_for_pause()
    }

    fn guest_arrives(&self) {
        self.behind.guest_arrives();
    }

    fn lock(&self, capacity: u64) -> std::io::Result<()> {
        self.behind.lock(capacity)
    }

    fn unlock(&self) -> std::io::Result<()> {
        self.behind.unlock()
    }
}

#[test]
fn an_image_can_stand_in_front_of_another_and_the_guest_sees_one_disk() {
    let mut rig = Rig::new();
    rig.disk.quiesce().unwrap();
    rig.disk.release().unwrap();
    assert!(rig.raw.leave_handover(), "a release shows a hand-over");
    rig.raw.follow_handover();
    let behind = raw(&rig.image, false, no_faults());
    let forwarding = Arc::new(Forwarding { behind, reads: AtomicU64::new(0), writes: AtomicU64::new(0) });
    rig.disk = attach(forwarding.clone(), &rig.memory);
    rig.put(0u32, USED);
    rig.put(0u32, AVAIL);
    rig.avail = 0;
    configure(&rig.disk, VERSION_1 | EVENT_IDX | FLUSH, 16);
    rig.disk.acquire().unwrap();
    rig.disk.resume().unwrap();
    assert_eq!(rig.request(0, 3, &[(DATA, 512, WRITE)]), (0, 513));
    assert_eq!(rig.get::<u8>(DATA), 3);
    rig.put(0x77u8, DATA);
    assert_eq!(rig.request(1, 4, &[(DATA, 512, 0)]).0, 0);
    rig.disk.quiesce().unwrap();
    assert_eq!(fs::read(&rig.image.0).unwrap()[4 * 512], 0x77);
    assert_eq!((forwarding.reads.load(Ordering::SeqCst), forwarding.writes.load(Ordering::SeqCst)), (1, 1));
}
