//! The machine on the real KVM with the built-in guest: stopping, throttling, holding, saving,
//! loading, moving, resetting, ending.

mod ending;
mod moving;
mod running;
mod throttling;

use std::io::{Read, Write};
use std::time::Instant;

use ferry_guest::lines::Line;
use ferry_memory::{Backing, MemoryConfig};
use ferry_observe::events::{Event, Subscription};

use super::*;
use crate::testing::has_kvm;

/// Longer than any healthy step takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    machine: Arc<Machine>,
    events: Subscription,
    output: tempfile::NamedTempFile,
}

impl Rig {
    fn new(command_line: &str, change: impl FnOnce(&mut MachineConfig)) -> Self {
        let output = tempfile::NamedTempFile::new().unwrap();
        let mut config = MachineConfig {
            memory: MemoryConfig { size: 32 << 20, ..MemoryConfig::default() },
            cpus: 2,
            command_line: command_line.to_owned(),
            serial: SerialSink::File(output.path().to_owned()),
            ..Default::default()
        };
        change(&mut config);
        let publisher = Arc::new(Events::default());
        let events = publisher.subscribe();
        let machine = Arc::new(Machine::build(&config, publisher).unwrap());
        Rig { machine, events, output }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        self.output.reopen().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Waits until `what` is in the guest's output at least `times` times.
    fn wait_for(&self, what: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.text().matches(what).count() < times {
            assert!(Instant::now() < deadline, "no {times} times '{what}' in:\n{}", self.text());
            std::thread::yield_now();
        }
    }

    fn wait_event(&self, wanted: &Event) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.next_within(left).unwrap_or_else(|| panic!("no {wanted:?} in:\n{}", self.text()));
            if event.event == *wanted {
                return;
            }
        }
    }

    /// Ends the guest and waits for it, with a deadline.
    fn exit_reason(&self) -> ExitReason {
        let machine = self.machine.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(machine.wait_exit()));
        receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the guest does not end:\n{}", self.text()))
    }

    fn assert_no_errors(&self) {
        let text = self.text();
        for line in text.lines() {
            let bad = matches!(ferry_guest::parse_line(line), Ok(Some(Line::Error(_) | Line::Fatal(_))));
            assert!(!bad, "{line}\nin:\n{text}");
        }
    }
}

/// A PVH kernel that consists of this 32-bit code.
fn kernel(code: &[u8]) -> tempfile::NamedTempFile {
    const NOTE: &[u8] = b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\x00\x00\x10\x00";
    let mut image = vec![0; 0x200];
    image[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    image[18..20].copy_from_slice(&62u16.to_le_bytes());
    image[32..40].copy_from_slice(&64u64.to_le_bytes());
    image[54..58].copy_from_slice(&[56, 0, 2, 0]);
    let segments = [(4u32, 0x200u64, NOTE.len(), 0u64), (1, 0x200 + NOTE.len() as u64, code.len(), 0x10_0000)];
    for (at, (kind, offset, len, address)) in segments.into_iter().enumerate() {
        let header = &mut image[64 + at * 56..][..56];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        for (place, value) in [(8, offset), (24, address), (32, len as u64), (40, len as u64)] {
            header[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    image.extend(NOTE);
    image.extend(code);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&image).unwrap();
    file
}
