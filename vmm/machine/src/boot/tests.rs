//! Images that are damaged in every way we know, and what the protocols write for good ones.

use std::io::Write;

use ferry_memory::MemoryConfig;
use proptest::prelude::*;

use super::*;

fn boot_source(kernel: Option<&Path>, initrd: Option<&Path>, line: &str, cpus: u32) -> Result<BootSource, BootError> {
    let mut source = BootSource::open(kernel, initrd, cpus)?;
    source.set_own_command_line(line.to_owned());
    Ok(source)
}

const NOTE: &[u8] = b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\x00\x00\x10\x00";

/// An ELF64 image with these (type, offset, file length, address, memory length) headers and
/// `body` from 0x1000 on.
fn elf(headers: &[(u32, u64, u64, u64, u64)], body: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    image[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    image[18..20].copy_from_slice(&62u16.to_le_bytes());
    image[24..32].copy_from_slice(&0x10_0000u64.to_le_bytes());
    image[32..40].copy_from_slice(&64u64.to_le_bytes());
    image[54..56].copy_from_slice(&56u16.to_le_bytes());
    image[56..58].copy_from_slice(&(headers.len() as u16).to_le_bytes());
    for (at, (kind, offset, file_len, address, len)) in headers.iter().enumerate() {
        let header = &mut image[64 + at * 56..][..56];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        for (place, value) in [(8, offset), (24, address), (32, file_len), (40, len)] {
            header[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    image.extend(body);
    image
}

/// An ELF32 image of the same kind, with `body` from 0x1000 on.
fn elf32(headers: &[(u32, u32, u32, u32, u32)], body: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    image[..8].copy_from_slice(b"\x7fELF\x01\x01\x01\0");
    image[18..20].copy_from_slice(&3u16.to_le_bytes());
    image[24..28].copy_from_slice(&0x10_0000u32.to_le_bytes());
    image[28..32].copy_from_slice(&52u32.to_le_bytes());
    image[42..44].copy_from_slice(&32u16.to_le_bytes());
    image[44..46].copy_from_slice(&(headers.len() as u16).to_le_bytes());
    for (at, (kind, offset, file_len, address, len)) in headers.iter().enumerate() {
        let header = &mut image[52 + at * 32..][..32];
        for (place, value) in [(0, kind), (4, offset), (12, address), (16, file_len), (20, len)] {
            header[place..place + 4].copy_from_slice(&value.to_le_bytes());
        }
        // The virtual address, which does not count.
        header[8..12].copy_from_slice(&0xc000_0000u32.to_le_bytes());
    }
    image.extend(body);
    image
}

fn good32() -> Vec<u8> {
    elf32(&[(4, 0x1000, NOTE.len() as u32, 0, 0), (1, 0x1000, 20, 0x10_0000, 0x2000)], NOTE)
}

fn good() -> Vec<u8> {
    elf(&[(4, 0x1000, NOTE.len() as u64, 0, 0), (1, 0x1000, 20, 0x10_0000, 0x2000)], NOTE)
}

fn memory() -> Memory {
    Memory::new(&MemoryConfig { size: 16 << 20, ..MemoryConfig::default() }).unwrap()
}

fn temporary(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn load(bytes: &[u8]) -> Result<(Memory, Entry), String> {
    let (file, memory) = (temporary(bytes), memory());
    let source = boot_source(Some(file.path()), None, "a b", 2).map_err(|e| e.to_string())?;
    let entry = source.load(&memory).map_err(|e| e.to_string())?;
    Ok((memory, entry))
}

#[test]
fn a_pvh_kernel_is_loaded_with_its_start_info() {
    let (memory, entry) = load(&good()).unwrap();
    assert_eq!(entry, Entry::Pvh(0x10_0000));
    let guest = memory.guest();
    assert_eq!(guest.read_obj::<[u8; 20]>(GuestAddress(0x10_0000)).unwrap(), *NOTE);
    assert_eq!(guest.read_obj::<u32>(GuestAddress(layout::START_INFO)).unwrap(), 0x336e_c578);
    assert_eq!(guest.read_obj::<[u8; 4]>(GuestAddress(COMMAND_LINE)).unwrap(), *b"a b\0");
    // The third range of the map is RAM from 1 MiB on.
    let at = layout::MEMORY_MAP + 2 * 24;
    assert_eq!(guest.read_obj::<[u64; 2]>(GuestAddress(at)).unwrap(), [1 << 20, 15 << 20]);
}

#[test]
fn a_pvh_kernel_may_be_elf32() {
    let (memory, entry) = load(&good32()).unwrap();
    assert_eq!(entry, Entry::Pvh(0x10_0000));
    assert_eq!(memory.guest().read_obj::<[u8; 20]>(GuestAddress(0x10_0000)).unwrap(), *NOTE);
    assert_eq!(memory.guest().read_obj::<u64>(GuestAddress(0x10_1ff8)).unwrap(), 0);
    assert_eq!(memory.guest().read_obj::<u32>(GuestAddress(layout::START_INFO)).unwrap(), 0x336e_c578);
    let mut for_x86_64 = good32();
    for_x86_64[18] = 62;
    assert_eq!(load(&for_x86_64).unwrap().1, Entry::Pvh(0x10_0000));
}

#[test]
fn the_note_of_a_64_bit_kernel_may_have_8_bytes() {
    let wide = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0\x00\x00\x10\x00\0\0\0\0";
    let image = |note: &[u8]| elf(&[(4, 0x1000, 24, 0, 0), (1, 0x1000, 24, 0x10_0000, 24)], note);
    assert_eq!(load(&image(wide)).unwrap().1, Entry::Pvh(0x10_0000));
    let mut beyond = *wide;
    beyond[23] = 1;
    assert!(load(&image(&beyond)).unwrap_err().contains("not below 4 GiB"));
}

#[test]
fn loading_again_restores_what_the_guest_changed() {
    let (file, memory) = (temporary(&good()), memory());
    let source = boot_source(Some(file.path()), None, "", 1).unwrap();
    source.load(&memory).unwrap();
    memory.guest().write_slice(&[0xff; 0x2000], GuestAddress(0x10_0000)).unwrap();
    drop(file);
    source.load(&memory).unwrap();
    assert_eq!(memory.guest().read_obj::<[u8; 20]>(GuestAddress(0x10_0000)).unwrap(), *NOTE);
    assert_eq!(memory.guest().read_obj::<u64>(GuestAddress(0x10_1ff8)).unwrap(), 0, "bss is zero again");
}

#[test]
fn a_vmlinux_without_a_note_is_entered_in_64_bit_mode() {
    let image = elf(&[(1, 0x1000, 4, 0x10_0000, 4)], &[1; 4]);
    let (memory, entry) = load(&image).unwrap();
    assert_eq!(entry, Entry::Linux64(0x10_0000));
    assert_eq!(memory.guest().read_obj::<u32>(GuestAddress(layout::ZERO_PAGE + 0x228)).unwrap(), 0x2_0000);
    assert_eq!(memory.guest().read_obj::<u8>(GuestAddress(layout::ZERO_PAGE + 0x1e8)).unwrap(), 3);
}

/// A bzImage of protocol 2.15 with a kernel of 0x1000 bytes.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 0x400 + 0x1000];
    image[0x1f1] = 1;
    image[0x1f4..0x1f8].copy_from_slice(&0x100u32.to_le_bytes());
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x211] = 1;
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    image[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
    image[0x234] = 1;
    image[0x236] = 1;
    image[0x238..0x23c].copy_from_slice(&255u32.to_le_bytes());
    image[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
    image[0x400..].fill(0x90);
    image
}

#[test]
fn a_bzimage_moves_down_when_its_preferred_place_is_not_there() {
    let (memory, entry) = load(&bzimage()).unwrap();
    assert_eq!(entry, Entry::Linux64(0x20_0200));
    assert_eq!(memory.guest().read_obj::<u8>(GuestAddress(0x20_0fff)).unwrap(), 0x90);
}

#[test]
fn an_initrd_lies_at_the_top_of_low_memory() {
    let (kernel, initrd, memory) = (temporary(&bzimage()), temporary(&[7; 5000]), memory());
    let source = boot_source(Some(kernel.path()), Some(initrd.path()), "", 1).unwrap();
    source.load(&memory).unwrap();
    let start: u32 = memory.guest().read_obj(GuestAddress(layout::ZERO_PAGE + 0x218)).unwrap();
    assert_eq!(start, (16 << 20) - 0x2000);
    assert_eq!(memory.guest().read_obj::<u8>(GuestAddress(u64::from(start) + 4999)).unwrap(), 7);

    let large = temporary(&vec![7; 15 << 20]);
    let source = boot_source(Some(kernel.path()), Some(large.path()), "", 1).unwrap();
    let error = source.load(&memory).unwrap_err().to_string();
    assert!(error.contains("initrd") && error.contains("--memory"), "{error}");
}

#[test]
fn damaged_images_are_refused_by_name() {
    let patched = |mut image: Vec<u8>, at: usize, byte: u8| {
        image[at] = byte;
        image
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "is empty"),
        (b"\x7f".to_vec(), "ends before its header"),
        (b"#!/bin/sh\n".repeat(100), "neither an ELF file nor a Linux bzImage"),
        (good()[..40].to_vec(), "ends before its ELF header"),
        (good()[..100].to_vec(), "ends before its program headers"),
        (good()[..0x1008].to_vec(), "ends before its segments"),
        (patched(good(), 4, 1), "nothing to load"),
        (patched(good(), 4, 0), "neither 32-bit nor 64-bit"),
        (patched(good32(), 4, 2), "another processor"),
        (patched(good32(), 5, 2), "big-endian"),
        (good32()[..19].to_vec(), "ends before its ELF header"),
        (good32()[..51].to_vec(), "ends before its ELF header"),
        (good32()[..80].to_vec(), "ends before its program headers"),
        (good32()[..0x1008].to_vec(), "ends before its segments"),
        (patched(good32(), 42, 56), "not of 32 bytes"),
        (patched(good32(), 45, 0xff), "more than 128"),
        (patched(good32(), 44, 0), "nothing to load"),
        (patched(good32(), 31, 0xff), "ends before its program headers"),
        (elf32(&[(1, 0x1000, 4, 0x10_0000, 4)], NOTE), "without a PVH entry note"),
        (elf32(&[(4, 0x1000, 20, 0, 0), (1, 0x1000, 4, 0x8000, 4)], NOTE), "below 1 MiB"),
        (elf32(&[(4, 0x1000, 20, 0, 0), (1, 0x1000, 4, u32::MAX, u32::MAX)], NOTE), "--memory"),
        (elf32(&[(4, u32::MAX, u32::MAX, 0, 0), (1, 0x1000, 4, 0x10_0000, 4)], NOTE), "ends before its segments"),
        (elf32(&[(4, 0x1000, 18, 0, 0), (1, 0x1000, 4, 0x10_0000, 4)], NOTE), "without a PVH entry note"),
        (elf32(&[(4, 0x1000, 20, 0, 0), (1, 0x1000, 8, 0x20_0000, 8)], NOTE), "entry point at 0x100000"),
        (patched(good(), 5, 2), "big-endian"),
        (patched(good(), 18, 3), "another processor"),
        (patched(good(), 54, 32), "not of 56 bytes"),
        (patched(good(), 57, 0xff), "more than 128"),
        (patched(good(), 56, 0), "nothing to load"),
        (elf(&[(4, 0x1000, 20, 0, 0)], NOTE), "nothing to load"),
        (elf(&[(1, 0x1000, 4, 0x8000, 4)], NOTE), "below 1 MiB"),
        (elf(&[(1, 0x1000, 4, 0x100_0000, 4)], NOTE), "--memory"),
        (elf(&[(1, 0x1000, 4, 0x10_0000, 1 << 40)], NOTE), "--memory"),
        (elf(&[(1, 0x1000, 4, u64::MAX, 4)], NOTE), "overflows"),
        (elf(&[(1, u64::MAX, 4, 0x10_0000, 4)], NOTE), "overflows"),
        (elf(&[(1, 0x1000, 8, 0x10_0000, 4)], NOTE), "longer in the file"),
        (elf(&[(1, 0x1000, 8, 0x10_0000, 8), (1, 0x1000, 8, 0x10_0004, 8)], NOTE), "overlap"),
        (elf(&[(1, 0x1000, 8, 0x20_0000, 8)], NOTE), "entry point at 0x100000"),
        (elf(&[(4, 0x1000, 18, 0, 0), (1, 0x1000, 4, 0x20_0000, 4)], NOTE), "entry point"),
        (bzimage()[..0x420].to_vec(), "ends before its kernel"),
        (bzimage()[..0x900].to_vec(), "ends before its kernel"),
        (patched(bzimage(), 0x206, 2), "boot protocol 2.02"),
        (patched(bzimage(), 0x236, 0), "64-bit mode"),
        (patched(bzimage(), 0x263, 1), "--memory"),
    ];
    for (at, (image, says)) in cases.into_iter().enumerate() {
        let error = load(&image).expect_err(says);
        assert!(error.contains(says) && error.contains("kernel '/"), "case {at}: {error}");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (path, says) in [
        (directory.path().to_owned(), "not a regular file"),
        (directory.path().join("absent"), "cannot be opened"),
        ("/dev/null".into(), "not a regular file"),
    ] {
        let error = boot_source(Some(&path), None, "", 1).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_command_line_that_does_not_fit_is_refused() {
    let (file, memory) = (temporary(&bzimage()), memory());
    let error =
        |line: &str| boot_source(Some(file.path()), None, line, 1).unwrap().load(&memory).unwrap_err().to_string();
    assert!(error(&"x".repeat(256)).contains("at most 255 bytes"));
    assert!(error("a\0b").contains("zero byte"));
}

proptest! {
    #[test]
    fn arbitrary_changes_to_an_image_never_panic(
        changes in prop::collection::vec((0usize..0x1014, any::<u8>()), 1..8),
        small in prop::collection::vec((0usize..192, any::<u8>()), 1..8),
        cut in 0usize..0x1015,
    ) {
        let mut image = good();
        for (at, byte) in changes.into_iter().chain(small) {
            image[at] = byte;
        }
        let _ = load(&image);
        let _ = load(&image[..cut]);
    }

    #[test]
    fn arbitrary_changes_to_an_elf32_image_never_panic(
        changes in prop::collection::vec((0usize..0x1014, any::<u8>()), 1..8),
        small in prop::collection::vec((0usize..116, any::<u8>()), 1..8),
        cut in 0usize..0x1015,
    ) {
        let mut image = good32();
        for (at, byte) in changes.into_iter().chain(small) {
            image[at] = byte;
        }
        let _ = load(&image);
        let _ = load(&image[..cut]);
    }

    #[test]
    fn arbitrary_changes_to_a_bzimage_never_panic(changes in prop::collection::vec((0x1f1usize..0x270, any::<u8>()), 1..8)) {
        let mut image = bzimage();
        for (at, byte) in changes {
            image[at] = byte;
        }
        let _ = load(&image);
    }
}

#[test]
fn what_boots_is_told_by_its_content_and_the_command_line_of_a_guest_that_came_counts() {
    let (same, other) = (temporary(&good()), temporary(&[good(), vec![0]].concat()));
    let open = |file: &tempfile::NamedTempFile| boot_source(Some(file.path()), Some(other.path()), "a b", 2).unwrap();
    let (source, copy) = (open(&temporary(&good())), open(&same));
    assert_eq!(source.identity(), copy.identity(), "the path does not count");
    assert_eq!((source.identity().kernel.built_in, source.identity().kernel.bytes), (false, good().len() as u64));
    assert_ne!(open(&other).identity().kernel, source.identity().kernel);
    let built_in = boot_source(None, None, "", 1).unwrap().identity();
    assert!(built_in.kernel.built_in && built_in.initrd.is_none());

    copy.set_command_line(Some("came with the guest".to_owned()));
    assert_eq!(copy.identity().command_line, "came with the guest");
    let memory = memory();
    let initrd_free = boot_source(Some(same.path()), None, "a b", 2).unwrap();
    for (line, expected) in [(Some("came".to_owned()), *b"came\0"), (None, *b"a b\0\0")] {
        initrd_free.set_command_line(line);
        memory.clear().unwrap();
        initrd_free.load(&memory).unwrap();
        assert_eq!(memory.guest().read_obj::<[u8; 5]>(GuestAddress(COMMAND_LINE)).unwrap(), expected);
    }
}
