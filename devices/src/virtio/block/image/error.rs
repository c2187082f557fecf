//! Why a disk cannot be offered to a guest.

use std::io;
use std::path::PathBuf;

use crate::advice;

/// A disk that cannot be offered to a guest.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The file cannot be opened or examined.
    #[error("cannot open disk image {path}: {source}; {advice}", advice = advice::opening(source))]
    Open {
        /// The image.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("disk image {path} is neither a regular file nor a block device: give the path of a raw image")]
    NotAnImage {
        /// The image.
        path: PathBuf,
    },
    /// Empty, or not made of whole sectors.
    #[error(
        "disk image {path} has {bytes} bytes, not a positive multiple of 512: is it a raw image? If so, `truncate -s %512 \
         {path}` rounds it up"
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The content is of another format than raw.
    #[error(
        "disk image {path} holds a {format} image, and the guest would see its raw bytes: convert it, `qemu-img convert -O raw \
         {path} RAW`, and give RAW; if it is a raw disk whose guest wrote these bytes, say so with --disk {path},format=raw"
    )]
    NotRaw {
        /// The image.
        path: PathBuf,
        /// The format.
        format: &'static str,
    },
    /// The host has no eventfd or thread left.
    #[error("cannot set up the disk {path}: {source}; raise this process's limits on files and threads")]
    Host {
        /// The image.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
}
