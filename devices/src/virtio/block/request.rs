//! One request of the driver, from a chain of descriptors to a status byte (virtio 1.2 §5.2.6).
//!
//! The worker hands each chain to [`serve`]. A driver may lay a request out over descriptors as it
//! likes (§2.7.4), and a hostile one may put anything into them: every address and length is
//! checked, and an invalid request is refused with an error status if it has a byte for one.

use std::io::{self, ErrorKind};

use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress};

use super::config::{ID_BYTES, MAX_DESCRIPTORS, MAX_REQUEST_BYTES};
use super::image::{Image, SECTOR_BYTES};
use super::transfer::{self, Segment};
use crate::GuestMemory;
use crate::virtio::device::{Chain, Done};

/// Type, reserved word and sector, all little-endian.
const HEADER_BYTES: usize = 16;

/// The resources from which requests are served.
struct Backend<'a> {
    image: &'a dyn Image,
    /// The size of the guest's disk, in bytes.
    capacity: u64,
    id: &'a [u8; ID_BYTES],
    memory: &'a GuestMemory,
    /// The driver did not accept `VIRTIO_BLK_F_FLUSH`: a write must be durable when it completes
    /// (§5.2.6.2).
    write_through: bool,
}

/// Executes a request on the disk `image`, of which the guest has `capacity` bytes.
pub(super) fn serve(request: Chain<'_>, image: &dyn Image, capacity: u64, id: &[u8; ID_BYTES]) -> Done {
    let Chain { descriptors, memory, features } = request;
    let write_through = features & (1 << VIRTIO_BLK_F_FLUSH) == 0;
    let backend = Backend { image, capacity, id, memory, write_through };
    let head = descriptors.head_index();
    let (status_at, outcome) = match Layout::of(descriptors) {
        Ok(layout) => (layout.status, Request::read(layout, memory).and_then(|request| request.run(&backend))),
        Err((status_at, refusal)) => (status_at, Err(refusal)),
    };
    let (status, len, cost, error) = match outcome {
        Ok(moved) => (VIRTIO_BLK_S_OK, moved.into_guest, moved.cost, None),
        Err(Refusal::Unsupported(kind)) => {
            (VIRTIO_BLK_S_UNSUPP, 0, 0, Some(format!("request type {kind} is not offered")))
        }
        Err(Refusal::Malformed(why)) => (VIRTIO_BLK_S_IOERR, 0, 0, Some(why.to_owned())),
        Err(Refusal::Io(error)) => (VIRTIO_BLK_S_IOERR, 0, MAX_REQUEST_BYTES, Some(error.to_string())),
    };
    Done { head, len, last: status_at.map(|address| (address, status as u8)), cost, error }
}

/// Why a request was not executed.
#[derive(Debug)]
enum Refusal {
    Unsupported(u32),
    Malformed(&'static str),
    Io(io::Error),
}

/// What an executed request moved.
#[derive(Default)]
struct Moved {
    into_guest: u32,
    cost: u64,
}

/// A parsed chain: the segments that the device may read, those that it may write, and the status
/// byte at their end.
#[derive(Debug, Default)]
struct Layout {
    readable: Vec<Segment>,
    writable: Vec<Segment>,
    status: Option<GuestAddress>,
}

impl Layout {
    /// Walks the chain. An error includes the address of the status byte, if the chain has one.
    fn of(chain: DescriptorChain<&GuestMemory>) -> Result<Layout, (Option<GuestAddress>, Refusal)> {
        let mut layout = Layout::default();
        let mut refusal = None;
        let mut ended = false;
        for (index, descriptor) in chain.enumerate() {
            if index >= MAX_DESCRIPTORS {
                return Err((None, Refusal::Malformed("the chain has more descriptors than seg_max allows")));
            }
            ended = !descriptor.has_next();
            let segment = Segment { address: descriptor.addr(), len: descriptor.len() as usize };
            if descriptor.is_write_only() {
                layout.writable.push(segment);
            } else if layout.writable.is_empty() {
                layout.readable.push(segment);
            } else {
                refusal = Some(Refusal::Malformed("a readable descriptor follows a writable one (2.7.4.2)"));
            }
        }
        if !ended {
            return Err((None, Refusal::Malformed("the chain loops, or leaves its table or guest memory")));
        }
        layout.status = take_last_byte(&mut layout.writable);
        if layout.status.is_none() {
            refusal = Some(Refusal::Malformed("the request has no status byte"));
        }
        match refusal {
            Some(refusal) => Err((layout.status, refusal)),
            None => Ok(layout),
        }
    }
}

/// Removes the last byte and returns its address.
fn take_last_byte(segments: &mut Vec<Segment>) -> Option<GuestAddress> {
    while segments.pop_if(|segment| segment.len == 0).is_some() {}
    let last = segments.last_mut()?;
    last.len -= 1;
    last.address.0.checked_add(last.len as u64).map(GuestAddress)
}

/// A request with a complete header.
struct Request {
    kind: u32,
    sector: u64,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

impl Request {
    /// Reads the header from the front of the readable segments.
    fn read(layout: Layout, memory: &GuestMemory) -> Result<Request, Refusal> {
        let mut header = [0; HEADER_BYTES];
        let mut filled = 0;
        let mut readable = layout.readable;
        for segment in &mut readable {
            let take = segment.len.min(HEADER_BYTES - filled);
            let part = &mut header[filled..filled + take];
            memory
                .read_slice(part, segment.address)
                .map_err(|_| Refusal::Malformed("the header is not in guest memory"))?;
            filled += take;
            segment.len -= take;
            segment.address = GuestAddress(segment.address.0.wrapping_add(take as u64));
        }
        if filled < HEADER_BYTES {
            return Err(Refusal::Malformed("the header is shorter than 16 bytes"));
        }
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| header[at + byte]));
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        readable.retain(|segment| segment.len > 0);
        Ok(Request { kind: word(0), sector, readable, writable: layout.writable })
    }

    fn run(&self, backend: &Backend<'_>) -> Result<Moved, Refusal> {
        match self.kind {
            VIRTIO_BLK_T_IN => self.read_sectors(backend),
            VIRTIO_BLK_T_OUT => self.write_sectors(backend),
            VIRTIO_BLK_T_FLUSH => {
                backend.image.sync().map_err(Refusal::Io)?;
                Ok(Moved { into_guest: 0, cost: MAX_REQUEST_BYTES })
            }
            VIRTIO_BLK_T_GET_ID => self.get_id(backend),
            kind => Err(Refusal::Unsupported(kind)),
        }
    }

    fn read_sectors(&self, backend: &Backend<'_>) -> Result<Moved, Refusal> {
        if !self.readable.is_empty() {
            return Err(Refusal::Malformed("a read has data for the device to read"));
        }
        let (offset, len) = self.range(&self.writable, backend.capacity)?;
        transfer::read(backend.image, offset, backend.memory, &self.writable).map_err(Refusal::Io)?;
        Ok(Moved { into_guest: len, cost: len.into() })
    }

    fn write_sectors(&self, backend: &Backend<'_>) -> Result<Moved, Refusal> {
        if backend.image.is_read_only() {
            return Err(Refusal::Malformed("the disk is read-only"));
        }
        if self.writable.iter().any(|segment| segment.len > 0) {
            return Err(Refusal::Malformed("a write has room for the device to write data"));
        }
        let (offset, len) = self.range(&self.readable, backend.capacity)?;
        transfer::write(backend.image, offset, backend.memory, &self.readable).map_err(Refusal::Io)?;
        if backend.write_through {
            backend.image.sync().map_err(Refusal::Io)?;
        }
        Ok(Moved { into_guest: 0, cost: len.into() })
    }

    /// §5.2.6: up to 20 bytes of text, padded with zeros.
    fn get_id(&self, backend: &Backend<'_>) -> Result<Moved, Refusal> {
        let mut rest = &backend.id[..];
        for segment in &self.writable {
            let (part, after) = rest.split_at(rest.len().min(segment.len));
            let failed = |_| Refusal::Io(io::Error::new(ErrorKind::InvalidInput, "the buffer is not in guest memory"));
            backend.memory.write_slice(part, segment.address).map_err(failed)?;
            rest = after;
        }
        let into_guest = (backend.id.len() - rest.len()) as u32;
        Ok(Moved { into_guest, cost: 0 })
    }

    /// The byte offset and length of the transfer, if it is whole sectors inside the disk.
    fn range(&self, data: &[Segment], capacity: u64) -> Result<(u64, u32), Refusal> {
        let len: u64 = data.iter().map(|segment| segment.len as u64).sum();
        if !len.is_multiple_of(SECTOR_BYTES) {
            return Err(Refusal::Malformed("the data is not whole sectors"));
        }
        if len > MAX_REQUEST_BYTES {
            return Err(Refusal::Malformed("the data is longer than size_max and seg_max allow"));
        }
        let offset = self.sector.checked_mul(SECTOR_BYTES);
        let inside = offset.filter(|offset| offset.checked_add(len).is_some_and(|end| end <= capacity));
        match (inside, u32::try_from(len)) {
            (Some(offset), Ok(len)) => Ok((offset, len)),
            _ => Err(Refusal::Malformed("the sectors lie beyond the end of the disk")),
        }
    }
}
