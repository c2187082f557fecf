//! Kernel and disk images that cannot be used. A file is an input, not usage: exit status 1, and
//! the file is named.

use std::path::Path;

use super::{Row, answer, run_to_end};
use crate::image::{self, Elf};
use crate::{Lab, Spec, disk};

/// Images that are no kernel.
pub fn kernels(lab: &Lab) -> Vec<Row> {
    let good = Elf::new(image::halt());
    let bytes = good.bytes();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let noise: Vec<u8> = (0..1 << 16)
        .map(|_| {
            // Xorshift: noise that is the same every time.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as u8
        })
        .collect();
    let with = |change: &dyn Fn(&mut Elf)| {
        let mut elf = good.clone();
        change(&mut elf);
        elf.bytes()
    };
    let files: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "empty"),
        ("one-byte", vec![0x7f], "one-byte"),
        ("magic-only.elf", b"\x7fELF".to_vec(), "magic-only.elf"),
        ("header-cut.elf", bytes[..40].to_vec(), "header-cut.elf"),
        ("program-headers-cut.elf", bytes[..100].to_vec(), "program-headers-cut.elf"),
        ("segment-cut.elf", bytes[..bytes.len() - 2].to_vec(), "segment-cut.elf"),
        ("class32.elf", with(&|elf| elf.class = 1), "nothing to load"),
        ("machine.elf", with(&|elf| elf.machine = 183), "machine.elf"),
        ("outside.elf", with(&|elf| elf.load_at = 0x4000_0000), "outside.elf"),
        ("wraps.elf", with(&|elf| elf.load_at = u64::MAX - 1), "wraps.elf"),
        ("huge.elf", with(&|elf| elf.memory_bytes = u64::MAX / 2), "huge.elf"),
        ("entry.elf", with(&|elf| elf.entry = 0xffff_0000), "entry.elf"),
        ("noise", noise, "noise"),
        ("text", b"#!/bin/sh\necho I am no kernel\n".repeat(100), "text"),
    ];
    let mut rows: Vec<_> = files
        .into_iter()
        .map(|(name, bytes, expected)| {
            let path = image::write(lab, name, &bytes);
            kernel(lab, &path, &Spec::new(), expected)
        })
        .collect();
    rows.push(kernel(lab, &lab.path("missing.elf"), &Spec::new(), "No such file"));
    rows.push(kernel(lab, lab.directory(), &Spec::new(), "not a regular file"));
    let good = image::write(lab, "good.elf", &bytes);
    let long = "x".repeat(1 << 16);
    let spec = Spec { more: vec!["--cmdline".into(), long], workload: ferry_guest::Workload::default(), ..Spec::new() };
    let mut row = kernel(lab, &good, &spec, "command line");
    row.input = "--cmdline of 65536 bytes".into();
    rows.push(row);
    let initrd = lab.path("missing.initrd");
    let spec = Spec { more: vec!["--initrd".into(), initrd.display().to_string()], ..Spec::new() };
    let mut row = kernel(lab, &good, &spec, "missing.initrd");
    row.input = "--initrd missing.initrd".into();
    rows.push(row);
    rows
}

fn kernel(lab: &Lab, path: &Path, spec: &Spec, expected: &str) -> Row {
    run(lab, "Kernel images", format!("--kernel {}", path.display()), &spec.clone().kernel(path), expected)
}

/// Files that are no disk.
pub fn disks(lab: &Lab) -> Vec<Row> {
    let try_disk = |path: &Path, expected: &str| {
        run(lab, "Disk images", format!("--disk {}", path.display()), &Spec::new().disk(path), expected)
    };
    let odd = disk::image(lab, "odd.img", 1000);
    let locked = disk::image(lab, "locked.img", 1 << 20);
    // Without a record: with one, the answer also names the owner, which is another process each
    // time.
    let unrecorded = |spec: Spec| Spec { more: vec!["--ownership".to_owned(), "none".to_owned()], ..spec };
    let holder = lab.start(&unrecorded(Spec::new().disk(&locked)));
    let mut rows = vec![
        try_disk(&lab.path("missing.img"), "missing.img"),
        try_disk(&disk::image(lab, "empty.img", 0), "empty.img"),
        try_disk(&odd, "512"),
        try_disk(lab.directory(), "directory"),
        try_disk(Path::new("/dev/null"), "/dev/null"),
        run(
            lab,
            "Disk images",
            format!("--disk {}", locked.display()),
            &unrecorded(Spec::new().disk(&locked)),
            "another process holds its lock",
        ),
    ];
    let read_only = Spec { disk: Some((locked.clone(), true)), ..Spec::new() };
    let input = format!("--disk {},readonly", locked.display());
    rows.push(run(lab, "Disk images", input, &read_only, "another process holds its lock"));
    drop(holder);
    rows.extend(formats(lab));
    rows
}

/// Images of other formats, by what they begin with.
fn formats(lab: &Lab) -> Vec<Row> {
    let formats: [(&str, u64, &[u8], &str); 7] = [
        ("qcow2.img", 0, b"QFI\xfb\0\0\0\x03", "holds a qcow2 image"),
        ("qcow.img", 0, b"QFI\xfb\0\0\0\x01", "holds a qcow image"),
        ("qed.img", 0, b"QED\0", "holds a QED image"),
        ("vmdk.img", 0, b"KDMV", "holds a VMDK image"),
        ("vhdx.img", 0, b"vhdxfile", "holds a VHDX image"),
        ("vhd.img", (1 << 20) - 512, b"conectix", "holds a VHD image"),
        ("vdi.img", 0x40, b"\x7f\x10\xda\xbe", "holds a VDI image"),
    ];
    formats
        .into_iter()
        .map(|(name, at, magic, expected)| {
            let path = disk::image(lab, name, 1 << 20);
            let file = std::fs::File::options().write(true).open(&path).expect("the image was made");
            std::os::unix::fs::FileExt::write_all_at(&file, magic, at).expect("the image takes its magic");
            run(lab, "Disk images", format!("--disk {}", path.display()), &Spec::new().disk(&path), expected)
        })
        .collect()
}

/// Files that are not to be written.
pub fn outputs(lab: &Lab) -> Vec<Row> {
    let image = disk::image(lab, "image.img", 1 << 20);
    let record = image::write(lab, "image.owner", b"FERRYOWN and the rest of a record");
    let letter = image::write(lab, "letter", b"not a trace");
    let mut rows = vec![];
    for (path, in_serial, in_trace) in [
        (&image, "holds a disk image", "holds a disk image"),
        (&record, "holds an ownership record", "holds an ownership record"),
        (&lab.directory().to_owned(), "Is a directory", "Is a directory"),
        (&lab.path("missing/file"), "No such file", "No such file"),
    ] {
        rows.push(output(lab, "--serial", "file:", path, in_serial));
        rows.push(output(lab, "--trace", "", path, in_trace));
    }
    let locked = disk::image(lab, "running.img", 1 << 20);
    let holder = lab.start(&Spec::new().disk(&locked));
    for (option, prefix) in [("--serial", "file:"), ("--trace", "")] {
        rows.push(output(lab, option, prefix, &locked, "another process has locked it"));
    }
    drop(holder);
    rows.push(output(lab, "--trace", "", &letter, "something else than a trace"));
    rows.push(output(lab, "--trace", "", Path::new("/dev/null"), "is no regular file"));
    rows
}

fn output(lab: &Lab, option: &str, prefix: &str, path: &Path, expected: &str) -> Row {
    let value = format!("{prefix}{}", path.display());
    let serial: &[&str] = if option == "--serial" { &[] } else { &["--serial", "null"] };
    let arguments = ["run", "--memory", "64M"].iter().chain(serial).copied().chain([option, &value]);
    let (code, text) = run_to_end(lab, &arguments.map(str::to_owned).collect::<Vec<_>>());
    let expected = if code == 1 { expected } else { "exit 1" };
    Row::new(lab, "Files to write", format!("{option} {value}"), &answer((code, text)), expected)
}

/// Runs a machine that must not come up.
fn run(lab: &Lab, group: &'static str, input: String, spec: &Spec, expected: &str) -> Row {
    let arguments = spec.arguments(&lab.path("bad-input.qmp"), &lab.path("bad-input.serial"));
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let (code, text) = run_to_end(lab, &arguments);
    let expected = if code == 1 { expected } else { "exit 1" };
    Row::new(lab, group, input, &answer((code, text)), expected)
}
