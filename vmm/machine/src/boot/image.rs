//! A kernel or initrd image as bytes that are read on demand.
//!
//! An image stays open as long as the machine lives, so that a reset loads the very file that was
//! booted, also when another file has taken its name since. Images are input: a length is checked
//! before anything is read by it.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ferry_devices::GuestMemory;
use ferry_migration::identity::Content as Identity;
use vm_memory::{Bytes, GuestAddress};
use xxhash_rust::xxh3::Xxh3;

use super::error::{BootError, Input, Problem};

/// Bytes copied at once from a file into guest memory.
const COPY_BYTES: usize = 256 << 10;

/// An open image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) input: Input,
    bytes: Content,
    len: u64,
}

#[derive(Debug)]
enum Content {
    File(File),
    Memory(&'static [u8]),
}

impl Image {
    /// Opens the file that `input` names; `path` is that path.
    pub(super) fn open(input: Input, path: &Path) -> Result<Self, BootError> {
        // O_NONBLOCK: opening a pipe by mistake must not wait for a writer.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(|error| Problem::Open(error).of(&input))?;
        let metadata = file.metadata().map_err(|error| Problem::Read(error).of(&input))?;
        if !metadata.is_file() {
            return Err(Problem::NotAFile.of(&input));
        }
        Self::checked(input, Content::File(file), metadata.len())
    }

    /// The image that is part of the program.
    pub(super) fn built_in(bytes: &'static [u8]) -> Result<Self, BootError> {
        Self::checked(Input::BuiltIn, Content::Memory(bytes), bytes.len() as u64)
    }

    fn checked(input: Input, bytes: Content, len: u64) -> Result<Self, BootError> {
        if len == 0 {
            return Err(Problem::Empty.of(&input));
        }
        Ok(Image { input, bytes, len })
    }

    /// Length in bytes when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from `offset` on; `part` names what is read, for the error.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8], part: &'static str) -> Result<(), Problem> {
        self.check(offset, buffer.len() as u64, part)?;
        match &self.bytes {
            Content::File(file) => file.read_exact_at(buffer, offset).map_err(Problem::Read),
            Content::Memory(bytes) => {
                buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
                Ok(())
            }
        }
    }

    /// Copies `len` bytes from `offset` on to guest physical address `to`.
    pub(super) fn copy(
        &self,
        offset: u64,
        len: u64,
        (memory, to): (&GuestMemory, u64),
        part: &'static str,
    ) -> Result<(), Problem> {
        self.check(offset, len, part)?;
        let mut buffer = vec![0; COPY_BYTES.min(len as usize)];
        let mut done = 0;
        while done < len {
            let piece = &mut buffer[..COPY_BYTES.min((len - done) as usize)];
            self.read(offset + done, piece, part)?;
            memory.write_slice(piece, GuestAddress(to + done))?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    /// Identifies its content, for a destination to compare.
    pub(super) fn identity(&self) -> Result<Identity, Problem> {
        let mut hash = Xxh3::new();
        let mut buffer = vec![0; COPY_BYTES.min(self.len as usize)];
        let mut done = 0;
        while done < self.len {
            let piece = &mut buffer[..COPY_BYTES.min((self.len - done) as usize)];
            self.read(done, piece, "content")?;
            hash.update(piece);
            done += piece.len() as u64;
        }
        Ok(Identity { built_in: self.input == Input::BuiltIn, bytes: self.len, hash: hash.digest128() })
    }

    fn check(&self, offset: u64, len: u64, part: &'static str) -> Result<(), Problem> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            end => Err(Problem::Truncated { part, needed: end.unwrap_or(u64::MAX), len: self.len }),
        }
    }
}
