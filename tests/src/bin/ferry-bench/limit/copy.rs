//! The bare copy: how long the bytes of a migration take through bare loopback TCP connections,
//! memory to memory.
//!
//! Nothing is logged, scanned, loaded or started here. The receiver's memory is fresh, as a
//! destination's is, and then copied into once more, as if somebody had touched it before: that is
//! the limit, since touching could be done early.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::mm::{Advice, MapFlags, ProtFlags};
use serde::Serialize;

use crate::account::{Measured, Reading};
use crate::error::BenchError;
use crate::migration::{RATE, TOTAL};

/// Written and read at a time.
const BLOCK: usize = 2 << 20;
/// Most memory at each end; more bytes go through it again.
const MOST_MEMORY: usize = 4 << 30;
/// A loopback connection that stands still for so long is broken.
const STALL: Duration = Duration::from_secs(30);

/// What the bare copy took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Copy {
    /// Bytes copied.
    pub bytes: u64,
    /// TCP connections, side by side.
    pub connections: u32,
    /// Milliseconds into memory that nobody had touched.
    pub fresh_ms: f64,
    /// Milliseconds into memory that was there.
    pub touched_ms: f64,
}

impl Measured for Copy {
    fn readings(&self) -> Vec<Reading> {
        let rate = self.bytes as f64 / 1e6 / self.touched_ms;
        vec![Reading::new(TOTAL, "ms", self.touched_ms), Reading::new(RATE, "GB", rate)]
    }
}

/// Copies `bytes` bytes, twice, each connection its share.
pub(crate) fn copy(bytes: u64, connections: u32) -> Result<Copy, BenchError> {
    let share = bytes / u64::from(connections);
    let size = usize::try_from(share).unwrap_or(usize::MAX).min(MOST_MEMORY / connections as usize);
    let size = size.max(BLOCK).next_multiple_of(BLOCK);
    let map = || (0..connections).map(|_| Mapping::anonymous(size)).collect::<io::Result<Vec<_>>>();
    let mut from = map().map_err(BenchError::system("map memory to send from"))?;
    from.iter_mut().for_each(|mapping| mapping.bytes().fill(0x5a));
    let mut to = map().map_err(BenchError::system("map memory to receive into"))?;
    let mut timed = || -> io::Result<f64> {
        let began = Instant::now();
        std::thread::scope(|scope| {
            let pairs = from.iter_mut().zip(&mut to);
            let copies: Vec<_> = pairs.map(|(from, to)| scope.spawn(move || through_tcp(from, to, share))).collect();
            copies.into_iter().try_for_each(joined)
        })?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    };
    let fresh_ms = timed().map_err(BenchError::system("copy over loopback TCP"))?;
    let touched_ms = timed().map_err(BenchError::system("copy over loopback TCP"))?;
    Ok(Copy { bytes: share * u64::from(connections), connections, fresh_ms, touched_ms })
}

fn through_tcp(from: &mut Mapping, to: &mut Mapping, bytes: u64) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    near.set_write_timeout(Some(STALL))?;
    far.set_read_timeout(Some(STALL))?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let outcome = blocks(from, bytes, |block| near.write_all(block));
            // The receiver must not wait for what will not come.
            let _ = near.shutdown(Shutdown::Both);
            outcome
        });
        let received = blocks(to, bytes, |block| far.read_exact(block));
        joined(sender).and(received)
    })
}

fn joined(thread: std::thread::ScopedJoinHandle<'_, io::Result<()>>) -> io::Result<()> {
    thread.join().map_err(|_| io::Error::other("a copying thread ended unexpectedly"))?
}

/// Goes through `memory` block by block, again and again, until `bytes` bytes have been handed
/// out.
fn blocks(memory: &mut Mapping, bytes: u64, mut each: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        for block in memory.bytes().chunks_exact_mut(BLOCK) {
            let take = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            each(&mut block[..take])?;
            left -= take as u64;
            if left == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Memory that is given back with its value.
pub(super) struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Mapping {
    /// Anonymous memory with huge pages where the host gives them: what Ferry's guests have by
    /// default.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that
        // exists.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, access, flags) }?;
        let mapping = Mapping { start: start.cast(), len };
        // SAFETY: the range is the mapping that was just made. A host without huge pages answers
        // with an error that changes nothing.
        let _ = unsafe { rustix::mm::madvise(start, len, Advice::LinuxHugepage) };
        Ok(mapping)
    }

    /// The first `len` bytes of a memfd, which nobody else may map or shrink.
    pub(super) fn of_file(file: &File, len: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, file.as_fd(), 0) }?;
        Ok(Mapping { start: start.cast(), len })
    }

    /// All of it.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is readable, writable, owned by `self` alone and lives as long.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Reads one byte, really.
    pub(super) fn read(&self, offset: usize) -> u8 {
        assert!(offset < self.len, "offset {offset} lies beyond a mapping of {} bytes", self.len);
        // SAFETY: the byte lies in the mapping, which is readable and lives as long as `self`.
        unsafe { self.start.add(offset).read_volatile() }
    }
}

// SAFETY: the mapping belongs to its value alone; no other thread has a pointer into it.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and nobody borrows from it
        // any more.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_handed_out_once_more_than_the_memory_holds() {
        let mut memory = Mapping::anonymous(2 * BLOCK).unwrap();
        let mut seen = 0;
        blocks(&mut memory, 5 * BLOCK as u64 + 7, |block| {
            seen += block.len();
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 5 * BLOCK + 7);
    }

    #[test]
    fn bytes_arrive() {
        let (mut from, mut to) = (Mapping::anonymous(BLOCK).unwrap(), Mapping::anonymous(BLOCK).unwrap());
        from.bytes().fill(7);
        through_tcp(&mut from, &mut to, BLOCK as u64).unwrap();
        assert!(to.bytes().iter().all(|byte| *byte == 7));
    }

    #[test]
    fn connections_share_the_bytes() {
        let copy = copy(9 * BLOCK as u64, 2).unwrap();
        assert_eq!((copy.bytes, copy.connections), (9 * BLOCK as u64, 2));
        assert!(copy.fresh_ms > 0.0 && copy.touched_ms > 0.0);
    }
}
