//! Moves data between the image and guest memory, without a copy in between: vectored reads and
//! writes on guest pages.
//!
//! A read fills guest memory behind the back of `vm-memory`, so its pages are marked in the
//! memory's bitmap here, after the read: that bitmap is how live migration learns what devices
//! wrote.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;

use vm_memory::bitmap::{Bitmap, BitmapSlice};
use vm_memory::{GuestAddress, GuestMemory as _, Permissions, VolatileSlice};

use super::image::Image;
use crate::GuestMemory;
use crate::fault::Place;

/// Vectors handed to the kernel at once (`IOV_MAX` on Linux).
const MAX_VECTORS: usize = 1024;

/// Bytes of a page: what a migration brings at a time.
const PAGE_BYTES: usize = 4096;

/// A stretch of guest memory that a descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) address: GuestAddress,
    pub(super) len: usize,
}

/// Reads from the image at byte `offset` until all segments are full.
///
/// # Errors
///
/// A segment is not in guest memory (nothing is read then), or the host cannot read.
pub(super) fn read(image: &Image, offset: u64, memory: &GuestMemory, segments: &[Segment]) -> io::Result<()> {
    let slices = resolve(memory, segments, Permissions::Write)?;
    await_pages(&slices);
    image.faults.before(Place::DiskRead)?;
    let result = run(offset, vectors(&slices), |vectors, offset| {
        // SAFETY: the descriptor is open; each vector covers a live mapping of guest memory, which
        // the caller's reference to it keeps. The guest may access the same bytes meanwhile, which
        // is what its driver asked for; no Rust reference to them exists.
        unsafe { libc::preadv(image.file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, offset) }
    });
    // After a failure too: some of the vectors may have been filled.
    for slice in &slices {
        slice.bitmap().mark_dirty(0, slice.len());
    }
    result
}

/// Writes all segments to the image at byte `offset`.
///
/// # Errors
///
/// A segment is not in guest memory (nothing is written then), or the host cannot write.
pub(super) fn write(image: &Image, offset: u64, memory: &GuestMemory, segments: &[Segment]) -> io::Result<()> {
    let slices = resolve(memory, segments, Permissions::Read)?;
    await_pages(&slices);
    image.faults.before(Place::DiskWrite)?;
    image.mark_unsynced();
    run(offset, vectors(&slices), |vectors, offset| {
        // SAFETY: as in `read`; the kernel only reads the guest's bytes.
        unsafe { libc::pwritev(image.file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, offset) }
    })
}

/// The host's view of the segments; a segment over a boundary of two memory regions becomes two
/// slices.
fn resolve<'a>(
    memory: &'a GuestMemory,
    segments: &[Segment],
    access: Permissions,
) -> io::Result<Vec<VolatileSlice<'a, impl BitmapSlice + use<'a>>>> {
    let mut slices = Vec::with_capacity(segments.len());
    for segment in segments {
        for slice in memory.get_slices(segment.address, segment.len, access).map_err(io::Error::other)? {
            slices.push(slice.map_err(io::Error::other)?);
        }
    }
    Ok(slices)
}

/// Waits here for pages that a migration has yet to bring. In the file operation it would be with
/// the lock of the image's inode held: as long as a broken postcopy lasts, a process that so much
/// as removed the image would hang where no signal reaches it.
fn await_pages<B: BitmapSlice>(slices: &[VolatileSlice<'_, B>]) {
    for slice in slices.iter().filter(|slice| !slice.is_empty()) {
        let guard = slice.ptr_guard();
        let start = guard.as_ptr() as usize;
        let pages =
            (start / PAGE_BYTES + 1..=(start + slice.len() - 1) / PAGE_BYTES).map(|page| page * PAGE_BYTES - start);
        for offset in std::iter::once(0).chain(pages) {
            // SAFETY: the offset lies in the slice, which is live guest memory as long as the
            // guard; the guest may change the byte, whose value is of no interest.
            let _present = unsafe { guard.as_ptr().add(offset).read_volatile() };
        }
    }
}

fn vectors<B: BitmapSlice>(slices: &[VolatileSlice<'_, B>]) -> Vec<libc::iovec> {
    let vector = |slice: &VolatileSlice<'_, B>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    slices.iter().filter(|slice| !slice.is_empty()).map(vector).collect()
}

/// Calls the kernel until every vector is done.
fn run(offset: u64, mut vectors: Vec<libc::iovec>, call: impl Fn(&[libc::iovec], i64) -> isize) -> io::Result<()> {
    let mut offset = i64::try_from(offset).map_err(io::Error::other)?;
    let mut first = 0;
    while first < vectors.len() {
        let end = vectors.len().min(first + MAX_VECTORS);
        match usize::try_from(call(&vectors[first..end], offset)) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the image ends before its size")),
            Ok(done) => {
                offset += done as i64;
                first += advance(&mut vectors[first..end], done);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Takes `done` bytes off the front of `vectors`; tells how many of them are used up.
fn advance(vectors: &mut [libc::iovec], mut done: usize) -> usize {
    for (index, vector) in vectors.iter_mut().enumerate() {
        if done < vector.iov_len {
            vector.iov_base = vector.iov_base.wrapping_byte_add(done);
            vector.iov_len -= done;
            return index;
        }
        done -= vector.iov_len;
    }
    vectors.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the kernel cuts a transfer up, every byte is asked for once, in order.
        #[test]
        fn short_transfers_go_on_where_they_stopped(
            lens in prop::collection::vec(1usize..50, 1..30),
            cuts in prop::collection::vec(1usize..70, 1..20),
        ) {
            let mut at = 0;
            let vectors = lens.iter().map(|len| {
                let vector = libc::iovec { iov_base: std::ptr::without_provenance_mut(0x1000 + at), iov_len: *len };
                at += len;
                vector
            }).collect();
            let expected = std::cell::Cell::new(0usize);
            let calls = std::cell::Cell::new(0usize);
            run(7, vectors, |vectors, offset| {
                assert_eq!(offset as usize, 7 + expected.get());
                assert_eq!(vectors[0].iov_base as usize, 0x1000 + expected.get());
                let offered: usize = vectors.iter().map(|vector| vector.iov_len).sum();
                let done = offered.min(cuts[calls.replace(calls.get() + 1) % cuts.len()]);
                expected.set(expected.get() + done);
                done as isize
            }).unwrap();
            prop_assert_eq!(expected.get(), at);
        }
    }

    #[test]
    fn the_end_of_the_file_is_an_error_and_not_a_loop() {
        let vectors = vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 }];
        assert_eq!(run(0, vectors, |_, _| 0).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
