//! The limit: how long the bytes of a migration take through one bare loopback TCP connection, memory to memory.
//!
//! Nothing is logged, scanned, loaded or started here. The receiver's memory is fresh, as a destination's is, and then copied
//! into once more, as if somebody had touched it before.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::mm::{Advice, MapFlags, ProtFlags};
use serde::Serialize;

use crate::error::BenchError;

/// Written and read at a time.
const BLOCK: usize = 2 << 20;
/// Most memory at each end; more bytes go through it again.
const MOST_MEMORY: usize = 4 << 30;
/// A loopback connection that stands still for so long is broken.
const STALL: Duration = Duration::from_secs(30);

/// What the bare copy took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Copy {
    /// Bytes copied.
    pub bytes: u64,
    /// Milliseconds into memory that nobody had touched.
    pub fresh_ms: f64,
    /// Milliseconds into memory that was there.
    pub touched_ms: f64,
}

/// Copies `bytes` bytes, twice.
pub fn measure(bytes: u64) -> Result<Copy, BenchError> {
    let size = usize::try_from(bytes).unwrap_or(usize::MAX).clamp(BLOCK, MOST_MEMORY).next_multiple_of(BLOCK);
    let mut from = Mapping::new(size).map_err(BenchError::system("map memory to send from"))?;
    from.bytes().fill(0x5a);
    let mut to = Mapping::new(size).map_err(BenchError::system("map memory to receive into"))?;
    let fresh = copy(&mut from, &mut to, bytes).map_err(BenchError::system("copy over loopback TCP"))?;
    let touched = copy(&mut from, &mut to, bytes).map_err(BenchError::system("copy over loopback TCP"))?;
    Ok(Copy { bytes, fresh_ms: fresh.as_secs_f64() * 1e3, touched_ms: touched.as_secs_f64() * 1e3 })
}

fn copy(from: &mut Mapping, to: &mut Mapping, bytes: u64) -> io::Result<Duration> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    near.set_write_timeout(Some(STALL))?;
    far.set_read_timeout(Some(STALL))?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let outcome = blocks(from, bytes, |block| near.write_all(block));
            // The receiver must not wait for what will not come.
            let _ = near.shutdown(std::net::Shutdown::Both);
            outcome
        });
        let received = blocks(to, bytes, |block| far.read_exact(block));
        sender.join().map_err(|_| io::Error::other("the sending thread ended unexpectedly"))?.and(received)
    })?;
    Ok(began.elapsed())
}

/// Goes through `memory` block by block, again and again, until `bytes` bytes have been handed out.
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

/// Anonymous memory with huge pages where the host gives them: what Ferry's guests have by default.
struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let mapping = Mapping { start: start.cast(), len };
        // SAFETY: the range is the mapping that was just made. A host without huge pages answers with an error that changes nothing.
        let _ = unsafe { rustix::mm::madvise(start, len, Advice::LinuxHugepage) };
        Ok(mapping)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is readable, writable, zeroed by the kernel, owned by `self` alone and lives as long.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

// SAFETY: the mapping belongs to its value alone; no other thread has a pointer into it.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and nobody borrows from it any more.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_handed_out_once_more_than_the_memory_holds() {
        let mut memory = Mapping::new(2 * BLOCK).unwrap();
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
        let (mut from, mut to) = (Mapping::new(BLOCK).unwrap(), Mapping::new(BLOCK).unwrap());
        from.bytes().fill(7);
        copy(&mut from, &mut to, BLOCK as u64).unwrap();
        assert!(to.bytes().iter().all(|byte| *byte == 7));
    }
}
