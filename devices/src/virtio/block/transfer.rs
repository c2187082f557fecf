//! Moves data between the image and guest memory, without a copy in between: vectored reads and
//! writes on guest pages.
//!
//! `vm-memory` does not track these reads into guest memory, so their pages are marked in the
//! memory's bitmap here, after the read: live migration takes the pages that devices wrote from
//! that bitmap.

use std::io;

use vm_memory::bitmap::{Bitmap, BitmapSlice};
use vm_memory::{GuestAddress, GuestMemory as _, Permissions, VolatileSlice};

use super::image::{Image, Vectors};
use crate::GuestMemory;

/// Bytes of a page, which a migration places as a whole.
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
pub(super) fn read(image: &dyn Image, offset: u64, memory: &GuestMemory, segments: &[Segment]) -> io::Result<()> {
    let slices = resolve(memory, segments, Permissions::Write)?;
    await_pages(&slices);
    let result = image.read(Vectors::of(&slices), offset);
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
pub(super) fn write(image: &dyn Image, offset: u64, memory: &GuestMemory, segments: &[Segment]) -> io::Result<()> {
    let slices = resolve(memory, segments, Permissions::Read)?;
    await_pages(&slices);
    image.write(Vectors::of(&slices), offset)
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

/// Waits here for pages that a migration has yet to deliver. The file operation would wait with the
/// lock of the image's inode held: while a postcopy is broken, a process that removes the image
/// would then hang, and no signal would end it.
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
