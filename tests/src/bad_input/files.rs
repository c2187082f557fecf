//! Kernel and disk images that cannot be used. A file is an input, not usage: exit status 1, and the file is named.

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
    let holder = lab.start(&Spec::new().disk(&locked));
    let mut rows = vec![
        try_disk(&lab.path("missing.img"), "missing.img"),
        try_disk(&disk::image(lab, "empty.img", 0), "empty.img"),
        try_disk(&odd, "512"),
        try_disk(lab.directory(), "directory"),
        try_disk(Path::new("/dev/null"), "/dev/null"),
        try_disk(&locked, "another process holds its lock"),
    ];
    let read_only = Spec { disk: Some((locked.clone(), true)), ..Spec::new() };
    let input = format!("--disk {},readonly", locked.display());
    rows.push(run(lab, "Disk images", input, &read_only, "another process holds its lock"));
    drop(holder);
    rows
}

/// Runs a machine that must not come up.
fn run(lab: &Lab, group: &'static str, input: String, spec: &Spec, expected: &str) -> Row {
    let arguments = spec.arguments(&lab.path("bad-input.qmp"), &lab.path("bad-input.serial"));
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let (code, text) = run_to_end(lab, &arguments);
    let expected = if code == 1 { expected } else { "exit 1" };
    Row::new(lab, group, input, &answer((code, text)), expected)
}
