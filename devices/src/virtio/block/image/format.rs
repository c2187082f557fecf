//! Image formats that are not raw, by their magic numbers.
//!
//! The disk offers the bytes of its image as they are. An image in another format would show the
//! guest headers and tables in place of its disk, and the first write of the guest would destroy
//! them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::interface::SECTOR_BYTES;

/// The magic of VDI follows a line of text (VirtualBox, `VDICore.h`).
const VDI_MAGIC_AT: usize = 0x40;
const VDI_MAGIC: [u8; 4] = 0xbeda_107f_u32.to_le_bytes();
/// The version follows the magic of qcow, big-endian: 1 is qcow, later ones are qcow2 (QEMU
/// `docs/interop/qcow2.rst`).
const QCOW_VERSION_AT: usize = 4;

/// Magic numbers at the start of a file, with their formats.
const STARTS: &[(&[u8], &str)] = &[
    (b"QED\0", "QED"),
    (b"KDMV", "VMDK"),
    (b"COWD", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
    (b"WithoutFreeSpace", "Parallels"),
    (b"WithouFreSpacExt", "Parallels"),
];

/// Magic numbers at the start of the last sector, of formats whose data comes first.
const ENDS: &[(&[u8], &str)] = &[(b"conectix", "VHD"), (b"koly", "DMG")];

/// The format of a file with these first bytes; none for a raw image or an unknown format.
#[must_use]
pub fn of_start(start: &[u8]) -> Option<&'static str> {
    if start.starts_with(b"QFI\xfb") {
        let version = start.get(QCOW_VERSION_AT..QCOW_VERSION_AT + 4);
        return Some(if version == Some(&[0, 0, 0, 1]) { "qcow" } else { "qcow2" });
    }
    if start.get(VDI_MAGIC_AT..VDI_MAGIC_AT + 4) == Some(&VDI_MAGIC) {
        return Some("VDI");
    }
    named(STARTS, start)
}

/// The format of an image of `bytes` bytes, if it is not raw.
pub(super) fn detect(file: &File, bytes: u64) -> io::Result<Option<&'static str>> {
    let mut sector = [0; SECTOR_BYTES as usize];
    file.read_exact_at(&mut sector, 0)?;
    if let Some(format) = of_start(&sector) {
        return Ok(Some(format));
    }
    file.read_exact_at(&mut sector, bytes - SECTOR_BYTES)?;
    Ok(named(ENDS, &sector))
}

fn named(table: &[(&[u8], &'static str)], bytes: &[u8]) -> Option<&'static str> {
    table.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, format)| *format)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(at: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR_BYTES as usize];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    }

    #[test]
    fn every_format_is_known_by_its_start() {
        for (bytes, format) in [
            (start(0, b"QFI\xfb\0\0\0\x01"), "qcow"),
            (start(0, b"QFI\xfb\0\0\0\x02"), "qcow2"),
            (start(0, b"QFI\xfb\0\0\0\x03"), "qcow2"),
            (start(0, b"QED\0"), "QED"),
            (start(0, b"KDMV"), "VMDK"),
            (start(0, b"# Disk DescriptorFile\nversion=1"), "VMDK"),
            (start(0, b"vhdxfile"), "VHDX"),
            (start(0, b"conectix"), "VHD"),
            (start(0x40, &[0x7f, 0x10, 0xda, 0xbe]), "VDI"),
        ] {
            assert_eq!(of_start(&bytes), Some(format));
        }
    }

    #[test]
    fn what_a_raw_disk_begins_with_is_no_format() {
        for bytes in [start(0, b""), start(510, &[0x55, 0xaa]), start(0, b"LUKS\xba\xbe"), vec![], b"QFI".to_vec()] {
            assert_eq!(of_start(&bytes), None);
        }
    }
}
