//! Builds the guest kernel, so that the library can embed it. Cargo calls this before it compiles
//! `ferry-guest`.
//!
//! The kernel is a bare-metal program, but it is built for the host's own target: no other target
//! needs to be installed, and the compiled `core` that comes with every toolchain serves it. Cargo
//! cannot give one package two sets of flags, hence the direct call of `rustc`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let image = Path::new(&variable("OUT_DIR")).join("ferry-guest.elf");
    for input in ["kernel", "src/lines.rs", "src/workload.rs", "build.rs"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let target = variable("TARGET");
    assert!(
        target == "x86_64-unknown-linux-gnu",
        "the guest kernel is built with the x86_64-unknown-linux-gnu toolchain, not {target}"
    );

    let status = compiler()
        .args(["--crate-name=ferry_guest_kernel", "--crate-type=bin", "--edition=2024", "--target", &target])
        .args(["-Copt-level=3", "-Cpanic=abort", "-Crelocation-model=static", "-Ccodegen-units=1", "-Cdebuginfo=0"])
        .args(["-Cforce-unwind-tables=no", "-Cstrip=symbols", "-Crelro-level=off"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static", "-Clink-arg=-no-pie"])
        .args(["-Clink-arg=-Wl,--build-id=none", "-Clink-arg=-Wl,-z,noexecstack"])
        .arg(format!("-Clink-arg=-Wl,-T,{}", root.join("kernel/link.ld").display()))
        .arg(format!("--remap-path-prefix={}=guest", root.display()))
        .arg("-o")
        .arg(&image)
        .arg(root.join("kernel/main.rs"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("the guest kernel does not build ({status}); the compiler's messages are above"),
        Err(error) => panic!("the compiler could not be started: {error}"),
    }
}

/// The compiler that Cargo uses for the workspace, under the wrapper that `cargo clippy` puts
/// around it: so the kernel is linted with everything else.
fn compiler() -> Command {
    println!("cargo::rerun-if-env-changed=RUSTC_WORKSPACE_WRAPPER");
    let rustc = variable("RUSTC");
    match env::var("RUSTC_WORKSPACE_WRAPPER") {
        Ok(wrapper) if !wrapper.is_empty() => {
            let mut command = Command::new(wrapper);
            command.arg(rustc);
            command
        }
        _ => Command::new(rustc),
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run this through cargo"))
}
