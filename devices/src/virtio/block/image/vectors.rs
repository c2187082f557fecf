//! Stretches of guest memory that the kernel reads into or writes from, without a copy in between.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::marker::PhantomData;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Vectors handed to the kernel at once (`IOV_MAX` on Linux).
const MAX_VECTORS: usize = 1024;

/// Stretches of guest memory, in order. The guest may access the same bytes meanwhile: no Rust
/// reference to them exists.
pub struct Vectors<'a> {
    vectors: Vec<libc::iovec>,
    memory: PhantomData<&'a ()>,
}

impl<'a> Vectors<'a> {
    /// The vectors of these slices.
    pub(in crate::virtio::block) fn of<B: BitmapSlice>(slices: &'a [VolatileSlice<'_, B>]) -> Self {
        let vector = |slice: &VolatileSlice<'_, B>| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        let vectors = slices.iter().filter(|slice| !slice.is_empty()).map(vector).collect();
        Vectors { vectors, memory: PhantomData }
    }

    /// Fills all of them with the content of `file` from byte `offset`.
    ///
    /// # Errors
    /// The host cannot read, or the file ends before.
    pub fn read_from(self, file: &File, offset: u64) -> io::Result<()> {
        run(offset, self.vectors, |vectors, offset| {
            // SAFETY: the descriptor is open; each vector covers a live mapping of guest memory,
            // which the borrow of its slice keeps. The guest may access the same bytes meanwhile,
            // which is what its driver asked for.
            unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, offset) }
        })
    }

    /// Writes all of them to `file` at byte `offset`.
    ///
    /// # Errors
    /// The host cannot write.
    pub fn write_to(self, file: &File, offset: u64) -> io::Result<()> {
        run(offset, self.vectors, |vectors, offset| {
            // SAFETY: as in `read_from`; the kernel only reads the guest's bytes.
            unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, offset) }
        })
    }
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

/// Removes `done` bytes from the front of `vectors`; returns how many vectors are used up.
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
