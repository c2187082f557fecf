//! `ci/setup` tries what it needs: stand-ins on the path look right and do not work. A stand-in for `apt-get` notes what is asked
//! of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of stand-ins in front of the path, and a target folder of its own.
struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Machine { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.path("bin")).unwrap();
        machine.stand_in("apt-get", &format!("echo \"$@\" >>{}", machine.path("installed").display()));
        // No test may become root by another way.
        machine.stand_in("sudo", "exec \"${@:2}\"");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A program that does only this.
    fn stand_in(&self, name: &str, does: &str) {
        let file = self.path("bin").join(name);
        fs::write(&file, format!("#!/bin/bash\n{does}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn setup(&self, purpose: &str) -> Output {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        Command::new(root.join("ci/setup"))
            .arg(purpose)
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("CARGO_TARGET_DIR", self.path("target"))
            .env("FERRY_TEST_VENV", self.path("venv"))
            .output()
            .unwrap()
    }

    /// What `apt-get` was asked for.
    fn installed(&self) -> String {
        fs::read_to_string(self.path("installed")).unwrap_or_default()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_machine_that_has_all_is_left_alone() {
    let machine = Machine::new();
    let output = machine.setup("compile");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
    assert_eq!(machine.installed(), "");
}

#[test]
fn a_compiler_that_cannot_link_is_installed() {
    let machine = Machine::new();
    // Finds the start files and has no linker.
    machine.stand_in("cc", "case $1 in -print-file-name=*) echo /dev/null ;; *) exit 1 ;; esac");
    let output = machine.setup("compile");
    assert!(machine.installed().contains("gcc libc6-dev"), "{}", said(&output));
    // The stand-in is still first on the path, so Rust cannot link either, which must be said and not be left to cargo.
    assert!(!output.status.success() && said(&output).contains("rustc cannot build"), "{}", said(&output));
}

#[test]
fn rust_without_a_toolchain_is_told_from_none() {
    let machine = Machine::new();
    machine.stand_in("cargo", "echo 'rustup could not choose a version of cargo to run' >&2; exit 1");
    let output = machine.setup("compile");
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("could not choose") && said.contains("rustup toolchain install stable"), "{said}");
}

#[test]
fn a_folder_that_only_looks_like_the_client_is_not_believed() {
    let machine = Machine::new();
    fs::create_dir_all(machine.path("venv/lib/python3.11/site-packages/qemu/qmp")).unwrap();
    fs::write(machine.path("venv/lib/python3.11/site-packages/qemu/qmp/__init__.py"), "").unwrap();
    machine.stand_in("python3", "exit 1");
    let output = machine.setup("tests");
    assert!(machine.installed().contains("python3 python3-venv"), "{}", said(&output));
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no virtual environment"), "{}", said(&output));
}
