//! Making a small record durable: what a hand-over of ownership costs on this storage.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::statistics::median;

/// Writes that are timed.
const WRITES: u64 = 15;
/// Between two of them: one right behind the other waits for what the storage still does with the
/// one before.
const PAUSE: Duration = Duration::from_millis(20);
/// A record is smaller than a sector.
const RECORD: [u8; 512] = [0x5a; 512];

/// The median time of one write of a small file and its `fdatasync`, in ms, in `directory`.
pub(crate) fn fdatasync_ms(directory: &Path) -> Result<f64, BenchError> {
    measure(directory).map_err(BenchError::system(format!("write and sync a file in {}", directory.display())))
}

fn measure(directory: &Path) -> io::Result<f64> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(directory.join("sync"))?;
    // Later writes change no metadata, as those of a record do not.
    file.write_all_at(&RECORD, 0)?;
    file.sync_all()?;
    let mut times = vec![];
    for _ in 0..WRITES {
        std::thread::sleep(PAUSE);
        let began = Instant::now();
        file.write_all_at(&RECORD, 0)?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    median(times).ok_or_else(|| io::Error::other("nothing was timed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_takes_some_time_and_a_missing_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        assert!(fdatasync_ms(directory.path()).unwrap() > 0.0);
        let error = fdatasync_ms(&directory.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }
}
