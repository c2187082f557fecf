//! Measures a start: from the start of the process to the guest's first serial byte, and the
//! memory that the VMM itself takes.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::account::{Measured, Reading};
use crate::error::BenchError;
use crate::machine::Guest;
use crate::peer::{Console, Peer, Role};
use crate::process::spawn;

/// Guest memory: large, so that it cannot be confused with a mapping of the VMM's own. Little of
/// it is touched.
const MEMORY: u64 = 1 << 30;
/// How long a guest may take to say something.
const FIRST_BYTE: Duration = Duration::from_secs(20);
/// Output of a guest that runs: its first line and some reports.
const RUNNING_BYTES: usize = 1000;

/// What one start took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// Milliseconds from just before the process was made to the guest's first serial byte.
    pub first_byte_ms: f64,
    /// KiB that are resident outside of guest memory, while the guest runs.
    pub overhead_kib: u64,
}

impl Measured for Sample {
    fn readings(&self) -> Vec<Reading> {
        vec![
            Reading::new("first serial byte", "ms", self.first_byte_ms),
            Reading::new("memory of the VMM", "MiB", self.overhead_kib as f64 / 1024.0),
        ]
    }
}

/// Starts one process, reads its guest's first output, looks at its memory, and ends it.
pub(crate) fn measure(peer: &Peer, cpus: u32, directory: &Path) -> Result<Sample, BenchError> {
    let guest = Guest::small_load(MEMORY, cpus);
    let (qmp, kernel) = (directory.join("start.qmp"), directory.join("kernel"));
    // What an earlier process has left would make this one fail.
    let _ = std::fs::remove_file(&qmp);
    std::fs::write(&kernel, ferry_guest::ELF).map_err(BenchError::system("write the guest's kernel"))?;
    let mut command = peer.command(&guest, Role::Source, Console::Stdout, &qmp, &kernel);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = spawn(command)?;
    let mut output = child.0.stdout.take().expect("its output was asked for");
    let (send, receive) = channel();
    // Ends with the process's output, at the latest when the process is killed below.
    std::thread::spawn(move || {
        let first = output.read_exact(&mut [0]).map(|()| began.elapsed());
        let running = output.read_exact(&mut [0; RUNNING_BYTES]);
        // Nobody listens when this took too long.
        let _ = send.send(first.and_then(|first| running.map(|()| first)));
    });
    let what = || format!("the first output of the guest under {}", peer.name());
    let first = receive
        .recv_timeout(FIRST_BYTE)
        .map_err(|_| BenchError::Late { what: what(), seconds: FIRST_BYTE.as_secs() })?
        .map_err(BenchError::system(format!("read {}", what())))?;
    let path = format!("/proc/{}/smaps", child.0.id());
    let smaps = std::fs::read_to_string(&path).map_err(BenchError::system(format!("read {path}")))?;
    Ok(Sample { first_byte_ms: first.as_secs_f64() * 1e3, overhead_kib: resident_beyond_kib(&smaps, MEMORY / 1024) })
}

/// The resident KiB of all mappings that are too small to be guest memory: less than half of it.
fn resident_beyond_kib(smaps: &str, guest_kib: u64) -> u64 {
    let value =
        |line: &str, name: &str| -> Option<u64> { line.strip_prefix(name)?.split_whitespace().next()?.parse().ok() };
    let (mut size, mut total) = (0, 0);
    for line in smaps.lines() {
        size = value(line, "Size:").unwrap_or(size);
        if let Some(resident) = value(line, "Rss:").filter(|_| size < guest_kib / 2) {
            total += resident;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_left_out() {
        let smaps = "\
7f00-7f40 rw-p 00000000 00:00 0
Size:            1048576 kB
Rss:              500000 kB
5500-5600 r-xp 00000000 00:00 0    /usr/bin/ferry
Size:               4000 kB
Rss:                3000 kB
7ff0-7ff1 rw-p 00000000 00:00 0    [stack]
Size:                132 kB
Rss:                  20 kB
";
        assert_eq!(resident_beyond_kib(smaps, 1 << 20), 3020);
    }
}
