//! Descriptors on their way over a Unix socket: with the first byte of a message, and nowhere else.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::{Allowance, Link};

fn pair() -> (Link, Link) {
    let (near, far) = UnixStream::pair().unwrap();
    (Link::new(near.into()).unwrap(), Link::new(far.into()).unwrap())
}

fn write_all(link: &Link, descriptor: BorrowedFd<'_>, slices: &mut [IoSlice<'_>]) -> io::Result<usize> {
    link.write_within_with(descriptor, slices, &mut Allowance::of_message(0))
}

fn read(link: &Link, buffer: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
    link.read_within_with(buffer, &mut Allowance::of_message(0))
}

fn open() -> File {
    tempfile::tempfile().unwrap()
}

/// Which file a descriptor is, as the kernel tells them apart.
fn identity(fd: impl AsFd) -> (u64, u64) {
    let stat = rustix::fs::fstat(fd).unwrap();
    (stat.st_dev, stat.st_ino)
}

#[test]
fn a_descriptor_comes_with_the_first_byte() {
    let (near, far) = pair();
    let file = open();
    near.write_all(b"before").unwrap();
    write_all(&near, file.as_fd(), &mut [IoSlice::new(b"he"), IoSlice::new(b"ad"), IoSlice::new(b"body")]).unwrap();
    let mut bytes = [0; 6];
    far.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"before");
    let mut head = [0; 4];
    let found = read(&far, &mut head).unwrap();
    assert_eq!((&head, found.len()), (b"head", 1));
    assert_eq!(identity(&found[0]), identity(&file));
    assert!(rustix::io::fcntl_getfd(&found[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let mut body = [0; 4];
    assert!(read(&far, &mut body).unwrap().is_empty());
    assert_eq!(&body, b"body");
}

#[test]
fn a_descriptor_that_nobody_asks_for_is_closed() {
    let (near, far) = pair();
    let (reader, writer) = std::io::pipe().unwrap();
    write_all(&near, writer.as_fd(), &mut [IoSlice::new(b"frame")]).unwrap();
    drop(writer);
    far.read_exact(&mut [0; 5]).unwrap();
    // The writing end is closed everywhere: the pipe has ended.
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
}

#[test]
fn one_for_each_byte_is_not_kept() {
    let (near, far) = pair();
    let (reader, writer) = std::io::pipe().unwrap();
    for _ in 0..20 {
        write_all(&near, writer.as_fd(), &mut [IoSlice::new(b"x")]).unwrap();
    }
    drop(writer);
    let found = read(&far, &mut [0; 20]).unwrap();
    assert_eq!(found.len(), 2);
    drop(found);
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0), "{} is still written to", reader.as_raw_fd());
}

#[test]
fn a_peer_that_leaves_is_seen() {
    let (near, far) = pair();
    near.write_all(b"ha").unwrap();
    drop(near);
    assert_eq!(read(&far, &mut [0; 4]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}
