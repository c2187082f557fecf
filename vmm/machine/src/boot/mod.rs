//! Loads a kernel, its initrd and its command line into guest memory, and determines the state in
//! which the first vCPU begins.
//!
//! The machine opens a [`BootSource`] once and loads it at power-on and at every reset. A kernel
//! with a PVH note boots by PVH; a Linux bzImage or `vmlinux` boots by the Linux 64-bit protocol.
//! Images are input: each is checked as a whole before guest memory is written.

mod bzimage;
mod elf;
mod error;
mod image;
mod layout;
mod linux;
mod mptable;
mod pvh;
pub(crate) mod registers;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferry_devices::GuestMemory;
use ferry_migration::identity::Boot;
use linux_loader::loader::bootparam::setup_header;
use vm_memory::{Bytes, GuestAddress};

pub use error::{BootError, Input, Problem};
use image::Image;
use layout::{COMMAND_LINE, COMMAND_LINE_MAX};

use ferry_memory::Memory;

/// The highest address of an initrd when the kernel sets none (boot protocol, `initrd_addr_max`).
const INITRD_MAX: u64 = 0x37ff_ffff;

/// Where and how a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In 32-bit protected mode without paging, by PVH.
    Pvh(u32),
    /// In 64-bit mode, by the Linux boot protocol.
    Linux64(u64),
}

impl Entry {
    fn address(self) -> u64 {
        match self {
            Entry::Pvh(entry) => entry.into(),
            Entry::Linux64(entry) => entry,
        }
    }
}

/// The open images and the command line to boot.
#[derive(Debug)]
pub(crate) struct BootSource {
    kernel: Image,
    initrd: Option<Image>,
    /// Identities of the images, and this process's command line.
    own: Boot,
    /// The command line of a guest that arrived.
    arrived: Mutex<Option<String>>,
    cpus: u32,
}

/// Where the initrd lies in guest memory.
#[derive(Clone, Copy, Debug)]
struct Initrd {
    start: u64,
    len: u64,
}

/// A checked kernel image of either kind.
enum Kernel {
    Elf(elf::Elf),
    BzImage(Box<bzimage::BzImage>),
}

impl BootSource {
    /// Opens the images; without a `kernel` it is the built-in guest.
    ///
    /// # Errors
    /// When a file does not open or is empty, naming it.
    pub(crate) fn open(kernel: Option<&Path>, initrd: Option<&Path>, cpus: u32) -> Result<Self, BootError> {
        let kernel = match kernel {
            Some(path) => Image::open(Input::Kernel(path.to_owned()), path)?,
            None => Image::built_in(ferry_guest::ELF)?,
        };
        let initrd = initrd.map(|path| Image::open(Input::Initrd(path.to_owned()), path)).transpose()?;
        let own = Boot {
            kernel: kernel.identity().map_err(|problem| problem.of(&kernel.input))?,
            initrd: match &initrd {
                Some(initrd) => Some(initrd.identity().map_err(|problem| problem.of(&initrd.input))?),
                None => None,
            },
            command_line: String::new(),
        };
        Ok(BootSource { kernel, initrd, own, arrived: Mutex::default(), cpus })
    }

    /// The images and command line that boot at the next reset.
    #[must_use]
    pub(crate) fn identity(&self) -> Boot {
        let arrived = self.arrived().clone();
        Boot { command_line: arrived.unwrap_or_else(|| self.own.command_line.clone()), ..self.own.clone() }
    }

    /// Sets the command line of a guest that boots here; it is empty before.
    pub(crate) fn set_own_command_line(&mut self, command_line: String) {
        self.own.command_line = command_line;
    }

    /// Sets the command line of a guest that arrives; `None` keeps this process's own.
    pub(crate) fn set_command_line(&self, arrived: Option<String>) {
        *self.arrived() = arrived;
    }

    fn arrived(&self) -> MutexGuard<'_, Option<String>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the images against `memory`, then writes everything that the guest needs into it.
    ///
    /// # Errors
    /// When an image is damaged or does not fit; guest memory may then be partly written.
    pub(crate) fn load(&self, memory: &Memory) -> Result<Entry, BootError> {
        let kernel = self.parse(memory).map_err(|problem| problem.of(&self.kernel.input))?;
        self.write_command_line(memory.guest(), &kernel).map_err(|problem| problem.of(&self.kernel.input))?;
        let initrd = match &self.initrd {
            Some(image) => Some(place_initrd(image, memory, &kernel).map_err(|problem| problem.of(&image.input))?),
            None => None,
        };
        self.write(memory, &kernel, initrd).map_err(|problem| problem.of(&self.kernel.input))
    }

    fn parse(&self, memory: &Memory) -> Result<Kernel, Problem> {
        let mut magic = [0; 4];
        self.kernel.read(0, &mut magic, "header")?;
        if elf::is_elf(magic) {
            elf::Elf::parse(&self.kernel, memory.ranges()).map(Kernel::Elf)
        } else if bzimage::is_bzimage(&self.kernel) {
            let image = bzimage::BzImage::parse(&self.kernel, low_end(memory))?;
            Ok(Kernel::BzImage(Box::new(image)))
        } else {
            Err(Problem::NotAKernel)
        }
    }

    fn write_command_line(&self, memory: &GuestMemory, kernel: &Kernel) -> Result<(), Problem> {
        let arrived = self.arrived();
        let line = arrived.as_ref().unwrap_or(&self.own.command_line).as_bytes();
        let max = match kernel {
            Kernel::BzImage(image) => (image.header.cmdline_size as usize).min(COMMAND_LINE_MAX),
            Kernel::Elf(_) => COMMAND_LINE_MAX,
        };
        if line.len() > max {
            return Err(Problem::CommandLine { len: line.len(), max });
        }
        if line.contains(&0) {
            return Err(Problem::CommandLineZero);
        }
        memory.write_slice(line, GuestAddress(COMMAND_LINE))?;
        Ok(memory.write_obj(0u8, GuestAddress(COMMAND_LINE + line.len() as u64))?)
    }

    fn write(&self, memory: &Memory, kernel: &Kernel, initrd: Option<Initrd>) -> Result<Entry, Problem> {
        let (guest, map) = (memory.guest(), layout::memory_map(memory.ranges()));
        mptable::write(guest, self.cpus)?;
        let entry = match kernel {
            Kernel::Elf(elf) => {
                elf.load(&self.kernel, guest)?;
                elf.entry
            }
            Kernel::BzImage(image) => {
                image.load(&self.kernel, guest)?;
                Entry::Linux64(image.entry())
            }
        };
        match entry {
            Entry::Pvh(_) => pvh::write(guest, &map, initrd)?,
            Entry::Linux64(_) => linux::write(guest, &kernel.header(), &map, initrd)?,
        }
        registers::write_descriptors(guest, entry)?;
        Ok(entry)
    }
}

impl Kernel {
    fn end(&self) -> u64 {
        match self {
            Kernel::Elf(elf) => elf.end,
            Kernel::BzImage(image) => image.end,
        }
    }

    fn header(&self) -> setup_header {
        match self {
            Kernel::Elf(_) => linux::header_for_elf(),
            Kernel::BzImage(image) => image.header,
        }
    }

    /// The last address that an initrd may occupy.
    fn initrd_max(&self) -> u64 {
        match self {
            Kernel::BzImage(image) if image.header.initrd_addr_max != 0 => image.header.initrd_addr_max.into(),
            _ => INITRD_MAX,
        }
    }
}

/// Copies the initrd as high as it may lie, on a page boundary.
fn place_initrd(image: &Image, memory: &Memory, kernel: &Kernel) -> Result<Initrd, Problem> {
    let len = image.len();
    let end = low_end(memory).min(kernel.initrd_max() + 1);
    let start = end.checked_sub(len).map(|start| start & !0xfff).filter(|start| *start >= kernel.end());
    let start = start.ok_or(Problem::InitrdTooLarge { len })?;
    image.copy(0, len, (memory.guest(), start), "content")?;
    Ok(Initrd { start, len })
}

fn low_end(memory: &Memory) -> u64 {
    memory.ranges().first().map_or(0, |range| range.start + range.len)
}
