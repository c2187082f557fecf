//! Disk images that tests make.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::Lab;

/// Makes a sparse raw image of this many bytes in the test's directory.
///
/// # Panics
/// When the file cannot be made.
#[must_use]
pub fn image(lab: &Lab, name: &str, bytes: u64) -> PathBuf {
    let path = lab.path(name);
    resize(&path, bytes);
    path
}

/// Gives an image another size.
///
/// # Panics
/// When the file cannot be made.
pub fn resize(path: &Path, bytes: u64) {
    let file = File::options().create(true).truncate(false).write(true).open(path).expect("an image can be made");
    file.set_len(bytes).expect("an image can be resized");
}
