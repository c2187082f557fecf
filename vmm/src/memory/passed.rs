//! Guest memory that another process hands over as a whole: the memfd behind it is passed, and no page is copied.
//!
//! ```text
//!            view_passed            take_passed
//!   Own ───────────────▶ Viewed ───────────────▶ Taken        part_with: Own, with nothing in it
//!    ▲                      │                      │
//!    └──────────────────────┴──────────────────────┘
//!             forget_passed, discard
//! ```
//!
//! Until the guest is this process's, it only *views* the passed memory: it is mapped to be read. Nothing that a load does can write to
//! a guest that may have to go on at the source: KVM and system calls get an error, a device that writes all the same ends the
//! process, which leaves the guest where it is. To take it is to allow writes, which takes as long for any size, since nothing of it
//! has been touched yet. The destination's driver views at `Hello` and takes right before it starts the guest; the source's parts
//! with memory that it has handed over.
//!
//! Whoever takes it turns a *mark* over that both sides see, and that outlives them: one permission bit of the file, which means
//! nothing otherwise. A source that is left in doubt knows by it whether what it remembers of the guest still fits the memory.

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

/// `TMPFS_MAGIC` of linux/magic.h: what a memfd of ordinary pages lies in. One of huge pages does not.
const TMPFS: u64 = 0x0102_1994;

/// The bit that is the mark.
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
    /// Another process's, whose guest it is.
    Viewed,
    /// Another process's, whose guest is here.
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
    /// This side has nothing in whose place a memfd could be.
    #[error("its guest memory is anonymous: start it with --memory SIZE,backing=memfd")]
    NoMemfdHere,
    /// What was passed is no memfd.
    #[error(
        "the descriptor that came for guest memory is no memfd of ordinary pages: the source is no Ferry, or is damaged"
    )]
    NotMemfd,
    /// What was passed cannot be both read and written.
    #[error(
        "the memfd that came for guest memory is not open for reading and writing: the source is no Ferry, or is damaged"
    )]
    Mode,
    /// What was passed could shrink under the guest, or be made read-only.
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
    /// What was passed, or announced, has another size than this guest's memory.
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

/// What [`sealed_memfd`] seals.
const NEEDED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
/// What would keep it from being written to.
const READ_ONLY: SealFlags = SealFlags::WRITE.union(SealFlags::FUTURE_WRITE);

impl Memory {
    /// Shows the passed memory, announced to have so many bytes, in place of this machine's own, whose contents are given up.
    /// Addresses stay, for KVM as well. It can only be read here. Nobody else may use the memory meanwhile.
    ///
    /// # Errors
    /// When this is no such memory, or the host refuses; the machine then has empty memory of its own.
    pub fn view_passed(&self, passed: OwnedFd, bytes: u64) -> Result<(), PassedError> {
        let Store::Memfd(held) = &self.store else { return Err(PassedError::NoMemfdHere) };
        let passed = self.check_passed(passed, bytes)?;
        let mut held = change(held);
        // Before the mapping: whatever comes of it, what is there is not to be emptied.
        *held = Held { memfd: Arc::new(passed), whose: Whose::Viewed };
        self.show_bit_by_bit(&held.memfd, Access::Read).map_err(PassedError::Host).inspect_err(|_| {
            if let Err(error) = self.renew(&mut held) {
                tracing::warn!(%error, "guest memory could not be made anew");
            }
        })
    }

    /// Makes memory that is viewed the guest's own: from now on it can be written to, for everybody who maps it. Memory that is no
    /// other process's stays as it is.
    ///
    /// # Errors
    /// When the host refuses; the memory must then be forgotten.
    pub fn take_passed(&self) -> io::Result<()> {
        let Store::Memfd(held) = &self.store else { return Ok(()) };
        let mut held = change(held);
        if held.whose == Whose::Viewed {
            turn_mark(&held.memfd)?;
            // What a failure leaves may be writable in part.
            held.whose = Whose::Taken;
            self.mappings().try_for_each(|(mapping, _)| mapping.allow(Access::ReadWrite))?;
        }
        Ok(())
    }

    /// The mark as it is now: one that has been turned over since tells that another process has taken this memory.
    ///
    /// # Errors
    /// When the host does not tell.
    pub fn mark(&self) -> io::Result<bool> {
        match &self.store {
            Store::Memfd(held) => mark_of(&look_at(held).memfd),
            Store::Anonymous { .. } => Ok(false),
        }
    }

    /// Lets go of another process's memory, whose guest has not run here, and has empty memory of its own instead. Without such
    /// memory it does nothing.
    ///
    /// # Errors
    /// When the host refuses; part of the memory may then still be the other's.
    pub fn forget_passed(&self) -> io::Result<()> {
        let Store::Memfd(held) = &self.store else { return Ok(()) };
        let mut held = change(held);
        if held.whose == Whose::Own { Ok(()) } else { self.give_back(&mut held) }
    }

    /// The guest is another process's, and its memory with it: from now on nothing that this process does reaches it. The guest runs
    /// meanwhile, maybe on this core, so it is done bit by bit.
    ///
    /// # Errors
    /// When the host refuses; part of the memory may then still be shown here.
    pub fn part_with(&self) -> io::Result<()> {
        let Store::Memfd(held) = &self.store else { return Ok(()) };
        let mut held = change(held);
        let fresh = sealed_memfd(self.bytes())?;
        self.show_bit_by_bit(&fresh, Access::ReadWrite)?;
        *held = Held::own(fresh);
        Ok(())
    }

    /// For [`Memory::discard`]: only what is this process's own is emptied.
    pub(super) fn empty(&self, held: &RwLock<Held>) -> io::Result<()> {
        let mut held = change(held);
        if held.whose == Whose::Own {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(fallocate(&*held.memfd, punch, 0, self.bytes())?)
        } else {
            self.give_back(&mut held)
        }
    }

    /// Only when nothing is written to it any more the mark says so.
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

    /// For when a guest runs elsewhere on this host.
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
        // Only a file system with seals answers this at all.
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

/// The memfd as it is now.
pub(super) fn look_at(held: &RwLock<Held>) -> RwLockReadGuard<'_, Held> {
    held.read().unwrap_or_else(PoisonError::into_inner)
}

fn change(held: &RwLock<Held>) -> RwLockWriteGuard<'_, Held> {
    held.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::{Backing, HOLE_END, MemoryConfig};
    use super::*;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
    use vm_memory::{Bytes, GuestAddress};

    const SIZE: u64 = 16 << 20;
    const AT: GuestAddress = GuestAddress(5 << 20);

    fn memory(size: u64) -> Memory {
        Memory::new(&MemoryConfig { size, backing: Backing::Memfd, prealloc: false }).unwrap()
    }

    fn passed_by(memory: &Memory) -> OwnedFd {
        memory.memfd().unwrap().try_clone().unwrap().into()
    }

    fn read(memory: &Memory, at: GuestAddress) -> u64 {
        memory.guest().read_obj(at).unwrap()
    }

    fn write(memory: &Memory, at: GuestAddress, value: u64) {
        memory.guest().write_obj(value, at).unwrap();
    }

    #[test]
    fn viewed_memory_can_only_be_read_until_it_is_taken() {
        let (source, destination) = (memory(SIZE), memory(SIZE));
        write(&source, AT, 1);
        destination.view_passed(passed_by(&source), SIZE).unwrap();
        assert_eq!(read(&destination, AT), 1);
        let zeros = File::open("/dev/zero").unwrap();
        let fill = || {
            let (host, _) = destination.host_pages(AT.0 / PAGE_SIZE);
            // SAFETY: the page is mapped for as long as `destination` lives, and only the kernel writes to it.
            unsafe { rustix::io::read(&zeros, std::slice::from_raw_parts_mut(host, 8)) }
        };
        assert_eq!(fill(), Err(rustix::io::Errno::FAULT));
        assert_eq!((read(&source, AT), read(&destination, AT)), (1, 1));
        write(&source, AT, 4);
        assert_eq!(read(&destination, AT), 4, "the guest still runs at the source");
        destination.take_passed().unwrap();
        assert_eq!((fill(), read(&source, AT)), (Ok(8), 0), "now it is the same memory");
        write(&destination, AT, 3);
        assert_eq!(read(&source, AT), 3);
    }

    #[test]
    fn every_range_is_passed() {
        let size = super::super::HOLE_START + (4 << 20);
        let (source, destination) = (memory(size), memory(size));
        let high = GuestAddress(HOLE_END + 4096);
        write(&source, high, 7);
        destination.view_passed(passed_by(&source), size).unwrap();
        destination.take_passed().unwrap();
        assert_eq!(read(&destination, high), 7);
        assert_eq!(destination.populated().unwrap(), source.populated().unwrap());
    }

    #[test]
    fn memory_that_is_forgotten_or_emptied_stays_with_its_owner() {
        for forget in [Memory::forget_passed, Memory::discard] {
            for taken in [false, true] {
                let (source, destination) = (memory(SIZE), memory(SIZE));
                write(&source, AT, 1);
                destination.view_passed(passed_by(&source), SIZE).unwrap();
                if taken {
                    destination.take_passed().unwrap();
                }
                forget(&destination).unwrap();
                assert!(destination.populated().unwrap().is_empty());
                assert_eq!((read(&source, AT), read(&destination, AT)), (1, 0));
                write(&destination, AT, 2);
                assert_eq!(read(&source, AT), 1);
                destination.take_passed().unwrap();
                assert_eq!(read(&destination, AT), 2, "there is nothing to take");
                destination.discard().unwrap();
                assert!(destination.populated().unwrap().is_empty());
            }
        }
    }

    #[test]
    fn the_mark_tells_its_owner_whether_memory_was_taken() {
        let (source, destination) = (memory(SIZE), memory(SIZE));
        let mut before = source.mark().unwrap();
        destination.view_passed(passed_by(&source), SIZE).unwrap();
        assert_eq!(source.mark().unwrap(), before, "it was only looked at");
        destination.forget_passed().unwrap();
        assert_eq!(source.mark().unwrap(), before);
        destination.view_passed(passed_by(&source), SIZE).unwrap();
        destination.take_passed().unwrap();
        assert_ne!(source.mark().unwrap(), before);
        destination.forget_passed().unwrap();
        assert_eq!(source.mark().unwrap(), before, "it was given back");
        // From hop to hop, also if nobody lives to see it.
        let mut owner = source;
        for _ in 0..3 {
            let next = memory(SIZE);
            next.view_passed(passed_by(&owner), SIZE).unwrap();
            next.take_passed().unwrap();
            assert_ne!(owner.mark().unwrap(), before);
            owner.part_with().unwrap();
            before = next.mark().unwrap();
            owner = next;
        }
    }

    #[test]
    fn who_has_parted_with_memory_cannot_reach_it() {
        let (source, destination) = (memory(SIZE), memory(SIZE));
        let everywhere = [0, AT.0, SIZE - 8].map(GuestAddress);
        for at in everywhere {
            write(&source, at, 1);
        }
        destination.view_passed(passed_by(&source), SIZE).unwrap();
        destination.take_passed().unwrap();
        source.part_with().unwrap();
        for at in everywhere {
            assert_eq!(read(&source, at), 0);
        }
        for at in everywhere {
            write(&source, at, 9);
        }
        for at in everywhere {
            assert_eq!(read(&destination, at), 1);
        }
        source.discard().unwrap();
        drop(source);
        assert_eq!(read(&destination, AT), 1, "the memory lives on without who made it");
        let next = memory(SIZE);
        next.view_passed(passed_by(&destination), SIZE).unwrap();
        assert_eq!(read(&next, AT), 1, "and goes on to the next");
    }

    fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, size).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    #[test]
    fn what_is_not_such_memory_is_refused_and_nothing_changes() {
        let memory = memory(SIZE);
        write(&memory, AT, 1);
        let (reader, _writer) = std::io::pipe().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = File::create_new(directory.path().join("file")).unwrap();
        file.set_len(SIZE).unwrap();
        let read_only = File::open(format!("/proc/self/fd/{}", {
            use std::os::fd::AsRawFd;
            memory.memfd().unwrap().as_raw_fd()
        }));
        let cases: [(OwnedFd, u64, &str); 9] = [
            (reader.into(), SIZE, "no memfd"),
            (file.into(), SIZE, "no memfd"),
            (File::open("/dev/null").unwrap().into(), SIZE, "no memfd"),
            (memfd(SIZE, SealFlags::empty()), SIZE, "seals 0x0"),
            (memfd(SIZE, SealFlags::SHRINK | SealFlags::GROW), SIZE, "seals 0x6"),
            (memfd(SIZE, NEEDED | SealFlags::FUTURE_WRITE), SIZE, "seals 0x17"),
            (memfd(SIZE * 2, NEEDED), SIZE, "has 33554432 bytes"),
            (memfd(SIZE, NEEDED), SIZE - 4096, "has 16773120 bytes"),
            (read_only.unwrap().into(), SIZE, "not open for reading and writing"),
        ];
        for (fd, announced, told) in cases {
            let error = memory.view_passed(fd, announced).unwrap_err().to_string();
            assert!(error.contains(told), "`{told}` is to be in: {error}");
            assert_eq!(read(&memory, AT), 1, "{told}");
        }
        let anonymous = Memory::new(&MemoryConfig { size: SIZE, ..MemoryConfig::default() }).unwrap();
        let error = anonymous.view_passed(passed_by(&memory), SIZE).unwrap_err().to_string();
        assert!(error.contains("backing=memfd"), "{error}");
        anonymous.take_passed().and(anonymous.forget_passed()).and(anonymous.part_with()).unwrap();
    }
}
