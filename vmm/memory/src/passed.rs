//! Guest memory that another process hands over as a whole: the memfd behind it is passed, and no
//! page is copied.
//!
//! ```text
//!            view_passed            take_passed
//!   Own ───────────────▶ Viewed ───────────────▶ Taken        part_with: Own, with nothing in it
//!    ▲                      │                      │
//!    └──────────────────────┴──────────────────────┘
//!             forget_passed, discard
//! ```
//!
//! Until this process owns the guest, it only *views* the passed memory: the mapping is read-only.
//! So a load cannot write to a guest that may have to resume at the source: KVM and system calls
//! fail, and a device that writes ends the process, which leaves the guest at the source. To take
//! the memory is to allow writes, in constant time, since none of it has been touched yet. The
//! destination's driver views at `Hello` and takes right before it starts the guest; the source's
//! driver unmaps memory that it has handed over.
//!
//! The process that takes it flips a *mark* that both sides see, and that outlives them: one
//! permission bit of the file, which has no other use. From the mark an uncertain source sees
//! whether its state of the guest still fits the memory.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ferry_migration::pages::PAGE_SIZE;
use rustix::fs::{
    FallocateFlags, Mode, OFlags, SealFlags, fallocate, fchmod, fcntl_get_seals, fcntl_getfl, fstat, fstatfs,
};

use super::mapping::{Access, Mapping, sealed_memfd};
use super::{Memory, Store};

/// `TMPFS_MAGIC` of linux/magic.h: the file system of a memfd with ordinary pages, but not of one
/// with huge pages.
const TMPFS: u64 = 0x0102_1994;

/// The permission bit that serves as the mark.
const MARK: Mode = Mode::ROTH;

/// The memfd behind guest memory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) memfd: Arc<File>,
    whose: Whose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Made here.
    Own,
    /// Another process's, which owns the guest.
    Viewed,
    /// Made by another process, whose guest is here now.
    Taken,
}

impl Held {
    pub(super) fn own(memfd: File) -> Self {
        Held { memfd: Arc::new(memfd), whose: Whose::Own }
    }
}

/// Why guest memory cannot be taken over from another process.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// This side's memory is anonymous: a memfd cannot replace it.
    #[error("its guest memory is anonymous: start it with --memory SIZE,backing=memfd")]
    NoMemfdHere,
    /// The passed descriptor is no memfd.
    #[error(
        "the descriptor that came for guest memory is no memfd of ordinary pages: the source is no Ferry, or is damaged"
    )]
    NotMemfd,
    /// The passed memfd is not open for both reading and writing.
    #[error(
        "the memfd that came for guest memory is not open for reading and writing: the source is no Ferry, or is damaged"
    )]
    Mode,
    /// The passed memfd could shrink under the guest, or be made read-only.
    #[error(
        "the memfd that came for guest memory has the seals {found:#x} and not {needed:#x}, so its size is not settled: the source \
         is no Ferry, or is damaged"
    )]
    Seals {
        /// `F_SEAL_*` that it has.
        found: u32,
        /// Those that it must have.
        needed: u32,
    },
    /// The size passed or announced differs from that of this guest's memory.
    #[error(
        "the memory that was passed has {found} bytes, and the guest's here {expected}: start both sides with the same --memory"
    )]
    Size {
        /// Bytes passed.
        found: u64,
        /// Bytes of guest RAM.
        expected: u64,
    },
    /// The host refused.
    #[error("the memory that was passed cannot be mapped: {0}; free memory on this host and try again")]
    Host(#[source] io::Error),
}

/// Seals that [`sealed_memfd`] sets.
const NEEDED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
/// Seals that forbid writes.
const READ_ONLY: SealFlags = SealFlags::WRITE.union(SealFlags::FUTURE_WRITE);

impl Memory {
    /// Maps the passed memory, announced with `bytes` bytes, read-only in place of this machine's
    /// own, whose contents are lost. Addresses do not change, for KVM either. No other thread may
    /// use the memory meanwhile.
    ///
    /// # Errors
    /// When this is no such memory: nothing has changed then. When the host refuses: the machine
    /// then has empty memory of its own.
    pub fn view_passed(&self, passed: OwnedFd, bytes: u64) -> Result<(), PassedError> {
        let Store::Memfd(held) = &self.store else { return Err(PassedError::NoMemfdHere) };
        let passed = self.check_passed(passed, bytes)?;
        let mut held = change(held);
        // Before the mapping: even if that fails, the passed memory must not be emptied.
        *held = Held { memfd: Arc::new(passed), whose: Whose::Viewed };
        self.show_bit_by_bit(&held.memfd, Access::Read).map_err(PassedError::Host).inspect_err(|_| {
            if let Err(error) = self.renew(&mut held) {
                tracing::warn!(%error, "guest memory could not be made anew");
            }
        })
    }

    /// Makes viewed memory the guest's own: from now on this process may write to it, and every
    /// process that maps it sees the writes. No effect on memory that was made here.
    ///
    /// # Errors
    /// When the host refuses; the memory must then be forgotten.
    pub fn take_passed(&self) -> io::Result<()> {
        let Store::Memfd(held) = &self.store else { return Ok(()) };
        let mut held = change(held);
        if held.whose == Whose::Viewed {
            turn_mark(&held.memfd)?;
            // After a failure, part of the memory may be writable.
            held.whose = Whose::Taken;
            self.mappings().try_for_each(|(mapping, _)| mapping.allow(Access::ReadWrite))?;
        }
        Ok(())
    }

    /// The current mark: if it has flipped since the last look, another process has taken this
    /// memory.
    ///
    /// # Errors
    /// When the host does not report it.
    pub fn mark(&self) -> io::Result<bool> {
        match &self.store {
            Store::Memfd(held) => mark_of(&look_at(held).memfd),
            Store::Anonymous { .. } => Ok(false),
        }
    }

    /// Replaces another process's memory, whose guest has not run here, with empty memory of this
    /// process. Does nothing if there is none.
    ///
    /// # Errors
    /// When the host refuses; part of the other process's memory may then still be mapped.
    pub fn forget_passed(&self) -> io::Result<()> {
        let Store::Memfd(held) = &self.store else { return Ok(()) };
        let mut held = change(held);
        if held.whose == Whose::Own { Ok(()) } else { self.give_back(&mut held) }
    }

    /// Unmaps memory that was handed over with its guest: from now on this process cannot access
    /// it. The guest runs meanwhile, maybe on this core, so it is unmapped bit by bit.
    ///
    /// # Errors
    /// When the host refuses; part of the memory may then still be mapped here.
    pub fn part_with(&self) -> io::Result<()> {
        let Store::Memfd(held) = &self.store else { return Ok(()) };
        let mut held = change(held);
        let fresh = sealed_memfd(self.bytes())?;
        self.show_bit_by_bit(&fresh, Access::ReadWrite)?;
        *held = Held::own(fresh);
        Ok(())
    }

    /// For [`Memory::discard`]: empties memory only if it was made here.
    pub(super) fn empty(&self, held: &RwLock<Held>) -> io::Result<()> {
        let mut held = change(held);
        if held.whose == Whose::Own {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(fallocate(&*held.memfd, punch, 0, self.bytes())?)
        } else {
            self.give_back(&mut held)
        }
    }

    /// The mark flips back only once this process can no longer write to the memory.
    fn give_back(&self, held: &mut Held) -> io::Result<()> {
        let (passed, whose) = (held.memfd.clone(), held.whose);
        self.renew(held)?;
        if whose == Whose::Taken { turn_mark(&passed) } else { Ok(()) }
    }

    fn renew(&self, held: &mut Held) -> io::Result<()> {
        let fresh = sealed_memfd(self.bytes())?;
        self.show(&fresh, Access::ReadWrite)?;
        *held = Held::own(fresh);
        Ok(())
    }

    fn show(&self, memfd: &File, access: Access) -> io::Result<()> {
        self.mappings().try_for_each(|(mapping, offset)| mapping.show(memfd, offset, access))
    }

    /// For use while a guest runs elsewhere on this host.
    fn show_bit_by_bit(&self, memfd: &File, access: Access) -> io::Result<()> {
        self.mappings().try_for_each(|(mapping, offset)| mapping.show_bit_by_bit(memfd, offset, access))
    }

    /// Each range's mapping, with its place in the memfd.
    fn mappings(&self) -> impl Iterator<Item = (&Mapping, u64)> {
        self.regions.iter().map(|region| {
            let mapping = region.mapping.as_ref().unwrap_or_else(|| unreachable!("taken only in drop"));
            (&**mapping, region.first_page * PAGE_SIZE)
        })
    }

    fn check_passed(&self, passed: OwnedFd, announced: u64) -> Result<File, PassedError> {
        let host = |error: rustix::io::Errno| PassedError::Host(error.into());
        // Only a file system with seals supports this call.
        let seals = fcntl_get_seals(&passed).map_err(|_| PassedError::NotMemfd)?;
        if fstatfs(&passed).map_err(host)?.f_type as u64 != TMPFS {
            return Err(PassedError::NotMemfd);
        }
        if fcntl_getfl(&passed).map_err(host)? & OFlags::ACCMODE != OFlags::RDWR {
            return Err(PassedError::Mode);
        }
        if !seals.contains(NEEDED) || seals.intersects(READ_ONLY) {
            return Err(PassedError::Seals { found: seals.bits(), needed: NEEDED.bits() });
        }
        let found = fstat(&passed).map_err(host)?.st_size as u64;
        let expected = self.bytes();
        match [found, announced].into_iter().find(|bytes| *bytes != expected) {
            Some(found) => Err(PassedError::Size { found, expected }),
            None => Ok(File::from(passed)),
        }
    }

    fn bytes(&self) -> u64 {
        self.pages() * PAGE_SIZE
    }
}

fn mark_of(memfd: &File) -> io::Result<bool> {
    Ok(Mode::from_raw_mode(fstat(memfd)?.st_mode).contains(MARK))
}

fn turn_mark(memfd: &File) -> io::Result<()> {
    let mode = Mode::from_raw_mode(fstat(memfd)?.st_mode);
    Ok(fchmod(memfd, mode ^ MARK)?)
}

/// The current memfd.
pub(super) fn look_at(held: &RwLock<Held>) -> RwLockReadGuard<'_, Held> {
    held.read().unwrap_or_else(PoisonError::into_inner)
}

fn change(held: &RwLock<Held>) -> RwLockWriteGuard<'_, Held> {
    held.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
