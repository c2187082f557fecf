//! Looks whether the process that runs a guest has the very file open that the guest began with: a path may name another by now.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::matrix::evidence::Process;

/// Of the process that says that its guest runs: whether `image` is one of its open files. `None`: none says so.
#[must_use]
pub fn of_runner(image: &Path, processes: &[Process]) -> Option<Result<(), String>> {
    let runner = processes.iter().find(|process| process.final_run_state.as_deref() == Some("running"))?;
    Some(has_open(runner.pid, image).and_then(|open| match open {
        true => Ok(()),
        false => Err(format!("{} runs the guest, and has another file open as its disk", runner.label)),
    }))
}

fn has_open(pid: u32, image: &Path) -> Result<bool, String> {
    let wanted = fs::metadata(image).map_err(|error| format!("{}: {error}", image.display()))?;
    let files = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|error| format!("process {pid}: {error}"))?;
    // One may be closed meanwhile.
    let mut files = files.flatten().filter_map(|entry| fs::metadata(entry.path()).ok());
    Ok(files.any(|file| (file.dev(), file.ino()) == (wanted.dev(), wanted.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_itself_and_not_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("disk.img"), "first").unwrap();
        let _open = fs::File::open(path("disk.img")).unwrap();
        let own = std::process::id();
        assert_eq!(has_open(own, &path("disk.img")), Ok(true));
        fs::rename(path("disk.img"), path("aside")).unwrap();
        fs::copy(path("aside"), path("disk.img")).unwrap();
        assert_eq!((has_open(own, &path("aside")), has_open(own, &path("disk.img"))), (Ok(true), Ok(false)));
    }
}
