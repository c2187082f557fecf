//! The ways out: power off and reset.

use crate::workload::Exit;
use crate::{gate, port, time};

/// Ferry's exit port; QEMU's `isa-debug-exit` can be put there.
const EXIT_PORT: u16 = 0x501;
const EXIT_SHUTDOWN: u8 = 0;
const EXIT_REBOOT: u8 = 1;
/// The keyboard controller's command port, and its reset command.
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;
/// How long the VMM may take to act before the next way is tried.
const PATIENCE_US: u64 = 100_000;

/// Ends the guest as it was asked to.
pub fn exit(exit: Exit) -> ! {
    match exit {
        Exit::Shutdown => off(),
        Exit::Reboot => reboot(),
    }
}

/// Powers off. Where the VMM has no exit port, it halts for good.
pub fn off() -> ! {
    port::write(EXIT_PORT, EXIT_SHUTDOWN);
    gate::stop()
}

/// Resets, by a triple fault if nothing else helps.
fn reboot() -> ! {
    port::write(EXIT_PORT, EXIT_REBOOT);
    time::spin(time::cycles_of_us(PATIENCE_US));
    port::write(KEYBOARD_COMMAND, KEYBOARD_RESET);
    time::spin(time::cycles_of_us(PATIENCE_US));
    gate::triple_fault()
}
