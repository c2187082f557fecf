//! Guest memory for the kernel to read or to fill in one call, without a reference to it.
//!
//! A `&[u8]` promises that its bytes do not change, and the guest may write its memory while a page
//! is sent. Page data is therefore named by `iovec`s (`readv(2)`, `writev(2)`), which the kernel
//! follows. Copies by this process itself use volatile access.

use std::marker::PhantomData;

use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PAGE_SIZE, runs};
use libc::iovec;
use vm_memory::VolatileSlice;

use crate::Memory;

/// One for a head, and the most runs that a chunk can have. `writev` takes 1024.
const MOST: usize = 1 + CHUNK_PAGES as usize / 2;

/// Memory that the kernel reads: bytes, then guest memory.
pub type Outgoing<'a> = Vectors<'a, false>;
/// Guest memory that the kernel fills. Prerequisite: this process may write its memory. Where it
/// only [views](crate::Memory::view_passed) another's, `readv(2)` fails and a copy ends the
/// process.
pub type Incoming<'a> = Vectors<'a, true>;

/// Pieces of memory, one after the other. `FILL`: the kernel writes to them.
pub struct Vectors<'a, const FILL: bool> {
    pieces: [iovec; MOST],
    /// Pieces before this one have been transferred.
    first: usize,
    end: usize,
    memory: PhantomData<&'a [u8]>,
}

impl<const FILL: bool> Default for Vectors<'_, FILL> {
    fn default() -> Self {
        const NOTHING: iovec = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Vectors { pieces: [NOTHING; MOST], first: 0, end: 0, memory: PhantomData }
    }
}

impl<'a, const FILL: bool> Vectors<'a, FILL> {
    /// The `pages` of chunk `index` of guest memory follow.
    ///
    /// # Panics
    /// When the machine has no such pages, or there are too many pieces.
    #[must_use]
    pub fn pages(mut self, memory: &'a Memory, index: u64, pages: &[u64; CHUNK_WORDS]) -> Self {
        let (base, contiguous) = memory.host_pages(index * CHUNK_PAGES);
        for (first, len) in runs(pages) {
            assert!(u64::from(first + len) <= contiguous, "chunk {index} ends before page {}", first + len);
            self.push(iovec {
                iov_base: base.wrapping_add(first as usize * PAGE_SIZE as usize).cast(),
                iov_len: len as usize * PAGE_SIZE as usize,
            });
        }
        self
    }

    fn push(&mut self, piece: iovec) {
        if piece.iov_len > 0 {
            self.pieces[self.end] = piece;
            self.end += 1;
        }
    }

    /// The pieces left to transfer, for `readv(2)` or `writev(2)`. No piece is empty.
    #[must_use]
    pub fn pieces(&self) -> &[iovec] {
        &self.pieces[self.first..self.end]
    }

    /// The first `bytes` have been transferred.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            assert!(self.first < self.end, "{bytes} bytes more than there are");
            let piece = &mut self.pieces[self.first];
            let taken = bytes.min(piece.iov_len);
            piece.iov_base = piece.iov_base.wrapping_byte_add(taken);
            piece.iov_len -= taken;
            bytes -= taken;
            if piece.iov_len == 0 {
                self.first += 1;
            }
        }
    }
}

impl<'a> Outgoing<'a> {
    /// Begins with these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::default().bytes(bytes)
    }

    /// These bytes follow.
    ///
    /// # Panics
    /// When there are too many pieces.
    #[must_use]
    pub fn bytes(mut self, bytes: &'a [u8]) -> Self {
        self.push(iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        self
    }
}

impl Incoming<'_> {
    /// Fills all of it with zeros.
    pub fn clear(&mut self) {
        const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
        for piece in self.pieces() {
            (0..piece.iov_len).step_by(ZEROS.len()).for_each(|at| {
                let len = ZEROS.len().min(piece.iov_len - at);
                volatile(piece).offset(at).expect("inside the piece").copy_from(&ZEROS[..len]);
            });
        }
        self.first = self.end;
    }

    /// Fills all of it with `bytes`.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn copy_from(&mut self, mut bytes: &[u8]) {
        for piece in self.pieces() {
            let (now, later) = bytes.split_at(piece.iov_len);
            volatile(piece).copy_from(now);
            bytes = later;
        }
        assert!(bytes.is_empty(), "{} bytes too many", bytes.len());
        self.first = self.end;
    }
}

/// A piece of guest memory, for volatile access.
fn volatile(piece: &iovec) -> VolatileSlice<'_> {
    // SAFETY: a piece of `Incoming` lies in guest memory, which stays mapped for as long as the
    // vectors live; the guest and other threads may access it meanwhile, as volatile access allows.
    unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryConfig;
    use vm_memory::{Bytes, GuestAddress};

    fn memory() -> Memory {
        Memory::new(&MemoryConfig { size: 16 << 20, ..MemoryConfig::default() }).unwrap()
    }

    #[test]
    fn pieces_are_the_runs_of_a_chunk() {
        let memory = memory();
        let (base, _) = memory.host_pages(512);
        let mut pages = [0; CHUNK_WORDS];
        (pages[0], pages[1], pages[7]) = (0b110 | 1 << 63, 1, 1 << 63);
        let vectors = Outgoing::new(b"head").bytes(b"").pages(&memory, 1, &pages);
        let found: Vec<_> = vectors.pieces().iter().skip(1).map(|piece| (piece.iov_base, piece.iov_len)).collect();
        let at = |page: usize| base.wrapping_add(page * 4096).cast();
        assert_eq!(found, [(at(1), 8192), (at(63), 8192), (at(511), 4096)]);
        let every_other = [0x5555_5555_5555_5555; CHUNK_WORDS];
        assert_eq!(Outgoing::new(b"head").pages(&memory, 0, &every_other).pieces().len(), MOST);
    }

    #[test]
    fn what_was_transferred_is_left_out() {
        let mut vectors = Outgoing::new(b"head").bytes(b"block");
        vectors.advance(6);
        let [rest] = vectors.pieces() else { panic!("{} pieces", vectors.pieces().len()) };
        assert_eq!(rest.iov_len, 3);
        vectors.advance(3);
        assert!(vectors.pieces().is_empty());
    }

    #[test]
    fn bytes_fill_the_pages_in_their_order() {
        let memory = memory();
        let mut pages = [0; CHUNK_WORDS];
        pages[0] = 0b1001;
        let bytes: Vec<u8> = (0..8192).map(|at| if at < 4096 { 1 } else { 2 }).collect();
        Incoming::default().pages(&memory, 1, &pages).copy_from(&bytes);
        let byte = |page: u64| memory.guest().read_obj::<u8>(GuestAddress((512 + page) * 4096 + 4095)).unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(byte), [1, 0, 0, 2, 0]);
    }

    #[test]
    #[should_panic(expected = "page 4096 of 4096")]
    fn pages_past_the_memory_are_refused() {
        let low = Memory::new(&MemoryConfig { size: 16 << 20, ..MemoryConfig::default() }).unwrap();
        let _ = Incoming::default().pages(&low, 8, &[1; CHUNK_WORDS]);
    }
}
