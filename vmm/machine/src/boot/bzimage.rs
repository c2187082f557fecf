//! Linux bzImage kernels (Linux `Documentation/arch/x86/boot.rst`), entered by the 64-bit boot
//! protocol.

use ferry_devices::GuestMemory;
use linux_loader::loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::error::Problem;
use super::image::Image;
use super::layout::KERNEL_MIN;

/// Where the setup header lies in the file and in the zero page.
const SETUP_HEADER: u64 = 0x1f1;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// The first protocol with `xloadflags`.
const VERSION_MIN: u16 = 0x20c;
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
/// From the start of the protected-mode kernel to its 64-bit entry.
const ENTRY_64: u64 = 0x200;
const SECTOR: u64 = 512;

/// A checked bzImage and its load address.
#[derive(Debug)]
pub(super) struct BzImage {
    /// The header as the file has it.
    pub(super) header: setup_header,
    offset: u64,
    len: u64,
    load: u64,
    /// First address past the space that the kernel needs to decompress itself.
    pub(super) end: u64,
}

/// Whether the image has the setup header's magic number.
pub(super) fn is_bzimage(image: &Image) -> bool {
    let mut magic = [0; 4];
    image.read(0x202, &mut magic, "setup header").is_ok() && u32::from_le_bytes(magic) == MAGIC
}

impl BzImage {
    /// Reads the setup header and finds a place below `low_end`, the end of RAM below 4 GiB.
    pub(super) fn parse(image: &Image, low_end: u64) -> Result<Self, Problem> {
        let mut header = setup_header::default();
        image.read(SETUP_HEADER, header.as_mut_slice(), "setup header")?;
        let (version, loadflags, xloadflags) = (header.version, header.loadflags, header.xloadflags);
        if version < VERSION_MIN || loadflags & LOADED_HIGH == 0 || xloadflags & XLF_KERNEL_64 == 0 {
            return Err(Problem::OldBzImage { version });
        }
        let setup_sectors = match header.setup_sects {
            0 => 4,
            sectors => u64::from(sectors),
        };
        let offset = (setup_sectors + 1) * SECTOR;
        let needed = offset + ENTRY_64;
        let len = image.len().checked_sub(offset).filter(|len| *len > ENTRY_64);
        let len = len.ok_or(Problem::Truncated { part: "kernel", needed, len: image.len() })?;
        // `syssize` is the length of the kernel in units of 16 bytes; a shorter file was cut.
        let promised = u64::from(header.syssize) * 16;
        if promised > len.next_multiple_of(16) {
            return Err(Problem::Truncated { part: "kernel", needed: offset + promised, len: image.len() });
        }
        let space = len.max(u64::from(header.init_size));
        let load = load_address(&header, space, low_end)?;
        Ok(BzImage { header, offset, len, load, end: load + space })
    }

    /// Copies the protected-mode kernel.
    pub(super) fn load(&self, image: &Image, memory: &GuestMemory) -> Result<(), Problem> {
        image.copy(self.offset, self.len, (memory, self.load), "kernel")
    }

    /// Address of the 64-bit entry.
    pub(super) fn entry(&self) -> u64 {
        self.load + ENTRY_64
    }
}

/// The preferred address, or for a relocatable kernel in a small guest the lowest one.
fn load_address(header: &setup_header, space: u64, low_end: u64) -> Result<u64, Problem> {
    let preferred = match header.pref_address {
        0 => u64::from(header.code32_start),
        address => address,
    };
    let fits = |start: u64| start >= KERNEL_MIN && start.checked_add(space).is_some_and(|end| end <= low_end);
    let alignment = u64::from(header.kernel_alignment).max(1);
    let lowest = KERNEL_MIN.next_multiple_of(alignment);
    match (fits(preferred), header.relocatable_kernel != 0) {
        (true, _) => Ok(preferred),
        (false, true) if fits(lowest) => Ok(lowest),
        _ => Err(Problem::OutsideRam { start: preferred, end: preferred.saturating_add(space) }),
    }
}
