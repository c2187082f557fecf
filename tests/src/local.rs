//! The stage of a local hand-over: two processes on one host, a Unix socket between them, and
//! guest memory that goes as a whole.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use ferry_migration::info::{MigrationInfo, Status};
use ferry_migration::message::{ToDestination, ToSource};
use ferry_migration::wire::control::{self, HEADER_LEN};
use ferry_migration::wire::preamble::{PREAMBLE_LEN, Preamble, session};
use serde_json::json;

use crate::failing::working;
use crate::{Ferry, Lab, Scene, Spec, disk};

/// Who is killed leaves its socket's file behind: each has one of its own.
static NEIGHBOURS: AtomicU32 = AtomicU32::new(0);

/// What both sides need.
pub const MEMFD: &str = "48M,backing=memfd";

/// A guest with two vCPUs that works on memory and on a small disk, and so has an ownership
/// record.
#[must_use]
pub fn with_record(lab: &Lab, spec: Spec) -> Spec {
    working(lab, spec).memory(MEMFD)
}

/// The same without a disk.
#[must_use]
pub fn without_record(lab: &Lab, spec: Spec) -> Spec {
    crate::failing::diskless(lab, spec).memory(MEMFD)
}

impl Scene {
    /// A guest whose memory goes as a whole from now on. `None` where tests that need KVM are
    /// skipped.
    #[must_use]
    pub fn local(describe: impl FnOnce(&Lab, Spec) -> Spec) -> Option<Self> {
        let mut scene = Scene::with(describe)?;
        scene.source.set_parameters(json!({ "x-ferry-local": true }));
        Some(scene)
    }

    /// Where the guest is awaited over a Unix socket, and who awaits it.
    #[must_use]
    pub fn neighbour(&self) -> (Ferry, String) {
        self.neighbour_with(&[])
    }

    /// The same with some `--device`s.
    #[must_use]
    pub fn neighbour_with(&self, devices: &[&str]) -> (Ferry, String) {
        let spec = devices.iter().fold(self.spec.clone(), |spec, device| spec.device(device));
        let name = format!("m{}", NEIGHBOURS.fetch_add(1, Ordering::Relaxed));
        let neighbour = self.lab.start(&spec.incoming(&address(&self.lab, &name)));
        let to = neighbour.wait_listening();
        (neighbour, to)
    }

    /// A process that can await the guest again and again.
    #[must_use]
    pub fn patient_neighbour(&self) -> (Ferry, String) {
        (self.lab.start(&self.spec.clone().incoming("defer")), address(&self.lab, "again"))
    }

    /// Moves the guest to a neighbour, which is the next source.
    ///
    /// # Panics
    /// When it does not arrive, or something but its state was sent.
    pub fn moves_next_door(&mut self) -> MigrationInfo {
        let (mut neighbour, to) = self.neighbour();
        let info = self.source.migrate_to(&to);
        self.lives_next_door(&mut neighbour, &info);
        assert_nothing_shared(&self.source, &neighbour);
        self.lives_in(neighbour);
        self.source.set_parameters(json!({ "x-ferry-local": true }));
        // The one whose memory it was has ended.
        self.guest.wait_reports(2);
        info
    }

    /// The guest has moved by a local hand-over: both sides say so, and it works on.
    ///
    /// # Panics
    /// When any of this is not so.
    pub fn lives_next_door(&mut self, neighbour: &mut Ferry, info: &MigrationInfo) {
        for info in [info.clone(), neighbour.wait_migration_end()] {
            assert_eq!((info.status, info.x_ferry_local), (Some(Status::Completed), true), "{info:?}");
            let ram = info.ram.expect("page counters");
            assert_eq!((ram.transferred, ram.normal, ram.duplicate, ram.remaining), (0, 0, 0, 0), "{ram:?}");
        }
        self.guest.moved_to(neighbour);
        neighbour.wait_run_state("running");
        self.guest.wait_reports(2);
        self.guest.assert_ran_in_one_place();
    }

    /// The last act: the guest works on the source without an error, once more next door, and
    /// after that as [`Scene::ends_well`], by a migration that copies its memory.
    ///
    /// # Panics
    /// When any of this is not so.
    pub fn ends_well_locally(mut self) {
        self.source.qmp("x-ferry-fault-set", json!({ "clear": true }));
        self.be_patient();
        self.source.set_parameters(json!({ "x-ferry-local": true, "x-ferry-handshake": "auto" }));
        self.moves_next_door();
        if let Some((image, _)) = &self.spec.disk {
            self.source.qmp("stop", json!({}));
            assert!(disk::assert_intact(image, self.spec.workload.seed) > 0, "the guest has written to its disk");
            self.source.qmp("cont", json!({}));
        }
        self.source.set_parameters(json!({ "x-ferry-local": false }));
        self.ends_well();
    }
}

/// An address in a test's directory.
#[must_use]
pub fn address(lab: &Lab, name: &str) -> String {
    format!("unix:{}", lab.path(name).display())
}

fn path_of(address: &str) -> PathBuf {
    PathBuf::from(address.strip_prefix("unix:").expect("a local hand-over takes a Unix socket"))
}

/// Which files of memory a process has open or mapped, by inode.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn memory_files(ferry: &Ferry) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", ferry.pid())).expect("a living process has mappings");
    let mapped = maps.lines().filter(|line| line.contains("memfd:ferry-ram"));
    let mut found: Vec<_> = mapped.filter_map(|line| line.split_whitespace().nth(4)).map(str::to_owned).collect();
    let open = fs::read_dir(format!("/proc/{}/fd", ferry.pid())).expect("a living process has descriptors");
    for entry in open.flatten() {
        use std::os::unix::fs::MetadataExt;
        let is_memory = fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("memfd:ferry-ram"));
        if let (true, Ok(file)) = (is_memory, fs::metadata(entry.path())) {
            found.push(file.ino().to_string());
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Two processes that have dealt with each other hold no memory in common, each has one file of
/// it, and nobody can tell from it that there was another.
///
/// # Panics
/// When it is not so.
pub fn assert_nothing_shared(one: &Ferry, other: &Ferry) {
    let (ours, theirs) = (memory_files(one), memory_files(other));
    assert_eq!((ours.len(), theirs.len()), (1, 1), "{ours:?}, {theirs:?}");
    assert_ne!(ours, theirs, "{} and {} share memory", one.label(), other.label());
}

/// A destination that was written before memory could be handed over: it takes the guest, and
/// waits for its pages. Ends with the connection.
///
/// # Panics
/// When it cannot listen there; its thread, when the source says something else than `Hello`.
#[must_use]
pub fn who_knows_nothing_of_it(at: &str) -> JoinHandle<Vec<u8>> {
    let listener = UnixListener::bind(path_of(at)).expect("the address is free");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a source connects");
        let mut preamble = [0; PREAMBLE_LEN];
        stream.read_exact(&mut preamble).expect("a preamble");
        let session = session(Preamble::decode(&preamble).expect("a valid preamble").migration_id);
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head).expect("a frame");
        let header = control::decode_header::<ToDestination>(&head, session, 0).expect("a valid frame");
        stream.read_exact(&mut vec![0; header.body_len + header.attachment_len]).expect("all of Hello");
        let ack = ToSource::HelloAck { record_shared: false };
        stream.write_all(&control::encode(&ack, &[], session, 0).expect("it is small")).expect("the source listens");
        let mut rest = Vec::new();
        // Until the source gives up.
        let _ = stream.read_to_end(&mut rest);
        rest
    })
}

/// Something between the two sides that copies bytes, and nothing but bytes.
///
/// # Panics
/// When it cannot listen there; its threads, when the destination is gone.
pub fn go_between(at: &str, to: &str) {
    let listener = UnixListener::bind(path_of(at)).expect("the address is free");
    let to = path_of(to);
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = UnixStream::connect(Path::new(&to)) else { return };
            for (from, into) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))] {
                let (mut from, mut into) = (from.expect("a descriptor"), into.expect("a descriptor"));
                std::thread::spawn(move || {
                    // Either end may go at any time.
                    let _ = std::io::copy(&mut from, &mut into);
                    let _ = into.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
}
