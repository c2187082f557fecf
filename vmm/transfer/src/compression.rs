//! Compresses the pages of a chunk for a slow link, and restores them: LZ4's block format.
//!
//! The sending and the receiving end of each bulk link have their own buffers, made once. Pages
//! are copied before they are compressed: the guest may write to them meanwhile, and a compressor
//! that reads a byte twice must find it the same.

use ferry_memory::Memory;
use ferry_migration::pages::{CHUNK_PAGES, CHUNK_WORDS, PAGE_SIZE, runs};
use ferry_migration::wire::WireError;
use ferry_migration::wire::bulk::Chunk;
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use vm_memory::VolatileSlice;

const PAGE: usize = PAGE_SIZE as usize;
const CHUNK: usize = CHUNK_PAGES as usize * PAGE;

/// The sending end's buffers.
pub(crate) struct Packer {
    pages: Vec<u8>,
    packed: Vec<u8>,
    len: usize,
    table: CompressTable,
}

impl Packer {
    /// Empty.
    #[must_use]
    pub(crate) fn new() -> Self {
        let packed = vec![0; get_maximum_output_size(CHUNK)];
        Packer { pages: vec![0; CHUNK], packed, len: 0, table: CompressTable::large() }
    }

    /// Compresses the pages of `data` in chunk `index`. Returns the length of the block, or `None`
    /// when it is no shorter than the pages.
    ///
    /// # Panics
    /// When the machine has no such pages.
    pub(crate) fn pack(&mut self, memory: &Memory, index: u64, data: &[u64; CHUNK_WORDS]) -> Option<u32> {
        let (base, contiguous) = memory.host_pages(index * CHUNK_PAGES);
        assert!(contiguous >= CHUNK_PAGES, "chunk {index} is not whole");
        let mut end = 0;
        for (first, len) in runs(data) {
            let bytes = len as usize * PAGE;
            // SAFETY: the chunk is mapped for as long as `memory` is borrowed; a volatile slice may
            // be read while others write.
            let pages = unsafe { VolatileSlice::new(base.add(first as usize * PAGE), bytes) };
            pages.copy_to(&mut self.pages[end..end + bytes]);
            end += bytes;
        }
        let pages = &self.pages[..end];
        self.len = compress_into_with_table(pages, &mut self.packed, &mut self.table).unwrap_or(end);
        (self.len < end).then_some(self.len as u32)
    }

    /// The last block.
    #[must_use]
    pub(crate) fn block(&self) -> &[u8] {
        &self.packed[..self.len]
    }
}

/// The receiving end's buffers.
pub(crate) struct Unpacker {
    block: Vec<u8>,
    pages: Vec<u8>,
}

impl Unpacker {
    /// Empty.
    #[must_use]
    pub(crate) fn new() -> Self {
        Unpacker { block: vec![0; CHUNK], pages: vec![0; CHUNK] }
    }

    /// Buffer for a compressed block of `len` bytes (less than a chunk), to be filled from the
    /// link.
    ///
    /// # Panics
    /// When it is longer.
    pub(crate) fn block(&mut self, len: u32) -> &mut [u8] {
        &mut self.block[..len as usize]
    }

    /// Restores the pages of `chunk`, one after the other, from the first `len` bytes of the
    /// block.
    ///
    /// # Errors
    /// When the bytes are no LZ4 block, or one of another number of pages.
    pub(crate) fn unpack(&mut self, chunk: &Chunk, len: u32) -> Result<&[u8], WireError> {
        let pages = &mut self.pages[..chunk.data_bytes() as usize];
        let wrong = |why| WireError::Packed { chunk: chunk.index, why };
        match decompress_into(&self.block[..len as usize], pages) {
            Ok(bytes) if bytes == pages.len() => Ok(pages),
            Ok(bytes) => Err(wrong(format!("they are {bytes} bytes, {} are expected", pages.len()))),
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use ferry_memory::MemoryConfig;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::page_path_tests::noise;

    /// Every third page of a chunk.
    fn chunk() -> Chunk {
        Chunk { index: 3, data: [0x9249_2492_4924_9249; CHUNK_WORDS], zero: [0; CHUNK_WORDS] }
    }

    fn packed(packer: &mut Packer, bytes: &[u8]) -> Option<u32> {
        let memory = Memory::new(&MemoryConfig { size: 16 << 20, ..MemoryConfig::default() }).unwrap();
        memory.guest().write_slice(bytes, GuestAddress(CHUNK as u64)).unwrap();
        packer.pack(&memory, 1, &chunk().data)
    }

    #[test]
    fn pages_come_back_as_they_were() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        for seed in 1..5 {
            let mut byte = noise(seed);
            let memory: Vec<u8> = (0..CHUNK).map(|at| if at % 4096 < 1024 { byte() } else { 7 }).collect();
            let len = packed(&mut packer, &memory).expect("it is mostly one byte");
            assert!(u64::from(len) < chunk().data_bytes() / 3, "{len}");
            unpacker.block(len).copy_from_slice(packer.block());
            let restored = unpacker.unpack(&chunk(), len).unwrap();
            let chunk = chunk();
            let pages = runs(&chunk.data).flat_map(|(first, count)| first..first + count);
            let expected: Vec<u8> = pages.flat_map(|page| &memory[page as usize * PAGE..][..PAGE]).copied().collect();
            assert!(restored == expected);
        }
    }

    #[test]
    fn noise_is_left_as_it_is() {
        let mut byte = noise(9);
        let memory: Vec<u8> = (0..CHUNK).map(|_| byte()).collect();
        assert_eq!(packed(&mut Packer::new(), &memory), None);
    }

    #[test]
    fn a_block_that_is_damaged_or_of_other_pages_is_refused() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        let len = packed(&mut packer, &vec![7; CHUNK]).unwrap();
        unpacker.block(len).copy_from_slice(packer.block());
        for (data, what) in [(u64::MAX, "bytes"), (1, "small")] {
            let other = Chunk { data: [data; CHUNK_WORDS], ..chunk() };
            let error = unpacker.unpack(&other, len).unwrap_err().to_string();
            assert!(error.starts_with("the pages of chunk 3 do not unpack: ") && error.contains(what), "{error}");
        }
        let error = unpacker.unpack(&chunk(), len / 2).unwrap_err().to_string();
        assert!(error.contains("do not unpack"), "{error}");
    }
}
