//! The source's identity, which the destination must match.

use ferry_migration::Identity;
use ferry_migration::identity::Disk;

use super::Driver;

impl Driver {
    /// The identity that follows the greeting.
    pub(super) fn identity(&self) -> Identity {
        let disk = self.machine.writable_disk();
        let disks = disk.map(|disk| Disk { instance: disk.instance(), file: self.proof.file() });
        let through = self.machine.came_through();
        Identity { boot: self.machine.boot_identity(), disks: disks.into_iter().collect(), through }
    }
}
