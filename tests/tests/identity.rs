//! Both sides of a migration mean the same guest and the same disk, or the move is refused by name
//! and the guest goes on where it is.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ferry_guest::lines::Line;
use ferry_migration::identity::{DiskFile, nonce_of};
use ferry_migration::info::Status;
use ferry_migration::message::{OLDEST_VERSION, ToDestination, ToSource};
use ferry_migration::wire::control::{self, HEADER_LEN};
use ferry_migration::wire::preamble::{LinkRole, Preamble, session};
use ferry_migration::{Greeting, Handshake, Identity};
use ferry_tests::migration::move_guest;
use ferry_tests::relay::Spot;
use ferry_tests::scene::gave_up;
use ferry_tests::wait::{poll, wait_for};
use ferry_tests::{Ferry, Lab, Relay, SOON, Scene, Spec, disk, image};
use serde_json::json;

const SIZE: u64 = 4 << 20;

fn scene() -> Option<Scene> {
    Scene::with(|lab, spec| spec.disk(&disk::image(lab, "disk.img", SIZE)))
}

/// The destination of this machine refuses the guest, which goes on at the source; returns why.
fn refused(scene: &mut Scene, spec: &Spec) -> String {
    let mut destination = scene.lab.start_destination(spec);
    let reason = scene.fails(&destination.wait_listening());
    assert_eq!(scene.source.migration_statuses(), ["setup", "failed"], "the guest was not touched");
    let error = gave_up(&mut destination);
    let told = reason.split_once(": ").map_or(reason.as_str(), |(_, told)| told);
    assert!(error.ends_with(told), "both sides say the same: {error} / {reason}");
    reason
}

#[test]
fn another_file_is_not_the_guests_disk_whatever_its_name() {
    let Some(mut scene) = scene() else { return };
    let path = scene.lab.path("disk.img");
    let is_refused = |scene: &mut Scene, at: &Path| {
        let spec = scene.spec.clone().disk(at);
        let reason = refused(scene, &spec);
        assert!(reason.contains("disk virtio-blk/0") && reason.contains("--disk-copied"), "{reason}");
        assert!(reason.contains(&at.display().to_string()), "{reason}");
    };
    // The same file name in another folder.
    fs::create_dir(scene.lab.path("elsewhere")).unwrap();
    let elsewhere = scene.lab.path("elsewhere").join("disk.img");
    disk::resize(&elsewhere, SIZE);
    is_refused(&mut scene, &elsewhere);
    // A copy, or a restored backup, under the very name that the guest's file had.
    let aside = scene.lab.path("aside.img");
    fs::rename(&path, &aside).unwrap();
    fs::copy(&aside, &path).unwrap();
    is_refused(&mut scene, &path);
    fs::rename(&aside, &path).unwrap();
    scene.ends_well();
}

#[test]
fn the_same_file_is_known_by_any_name_and_a_record_that_is_not_seen_is_told_of() {
    let Some(mut scene) = scene() else { return };
    let (hard, soft) = (scene.lab.path("hard.img"), scene.lab.path("soft.img"));
    fs::hard_link(scene.lab.path("disk.img"), &hard).unwrap();
    std::os::unix::fs::symlink(&hard, &soft).unwrap();
    // The record is beside the name: a hard link has another, a symbolic link the same.
    for (name, handshake) in [(hard, Handshake::Setup), (soft, Handshake::Owned)] {
        let mut destination = scene.lab.start_destination(&scene.spec.clone().disk(&name));
        wait_for("the guest's process to have its record", SOON, || scene.source.ownership()["owned-here"] == true);
        let info = move_guest(&mut scene.source, &mut destination, &mut scene.guest);
        assert_eq!(info.x_ferry_handshake, Some(handshake), "{}", name.display());
        let why = info.x_ferry_handshake_why;
        assert_eq!(why.is_some(), handshake == Handshake::Setup, "{why:?}");
        scene.source.quit();
        scene.source = destination;
    }
}

#[test]
fn a_copy_is_taken_by_the_operators_word() {
    let Some(mut scene) = scene() else { return };
    let copy = scene.lab.path("copy.img");
    scene.source.qmp("stop", json!({}));
    fs::copy(scene.lab.path("disk.img"), &copy).unwrap();
    let spec = scene.spec.clone().disk(&copy);
    scene.source.set_parameters(json!({ "x-ferry-disk": "copied" }));
    let mut destination = scene.lab.start_destination(&spec);
    scene.source.migrate_to(&destination.wait_listening());
    scene.guest.moved_to(&destination);
    destination.qmp("cont", json!({}));
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
    destination.quit();
    let _ = disk::assert_intact(&copy, scene.spec.workload.seed);
    assert_eq!(disk_parameter(&mut scene.lab.start(&spec.clone().paused())), json!("shared"));
}

fn disk_parameter(ferry: &mut Ferry) -> serde_json::Value {
    ferry.qmp("query-migrate-parameters", json!({}))["x-ferry-disk"].clone()
}

#[test]
fn another_guest_by_name_is_refused_with_the_name_to_start_it_with() {
    let Some(mut scene) = Scene::with(|lab, spec| spec.name("alpha").disk(&disk::image(lab, "disk.img", SIZE))) else {
        return;
    };
    let spec = scene.spec.clone().name("beta");
    let reason = refused(&mut scene, &spec);
    assert!(reason.contains("'alpha'") && reason.ends_with("--name alpha"), "{reason}");
    scene.ends_well();
}

#[test]
fn another_kernel_or_initrd_is_refused_and_the_same_from_a_file_is_taken() {
    let Some(mut scene) = Scene::new() else { return };
    let other = image::write(&scene.lab, "other.elf", &image::Elf::new(image::halt()).bytes());
    let spec = scene.spec.clone().kernel(&other);
    let reason = refused(&mut scene, &spec);
    assert!(reason.contains("kernel: ") && reason.ends_with("start the destination without --kernel"), "{reason}");
    let same = image::write(&scene.lab, "same.elf", ferry_guest::ELF);
    let mut spec = scene.spec.clone().kernel(&same);
    spec.more = vec!["--initrd".into(), other.display().to_string()];
    let reason = refused(&mut scene, &spec);
    assert!(reason.contains("initrd: the source's guest boots none"), "{reason}");
    spec.more.clear();
    let mut destination = scene.lab.start_destination(&spec);
    move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    scene.source.quit();
}

#[test]
fn a_guest_takes_its_command_line_along_and_boots_with_it_again() {
    let Some(mut scene) = Scene::with(|_, spec| spec.workload(|load| load.working_set = 6 << 20)) else { return };
    let other = scene.spec.clone().workload(|load| load.working_set = 3 << 20);
    for boots in 2..4 {
        let mut destination = scene.lab.start_destination(&other);
        move_guest(&mut scene.source, &mut destination, &mut scene.guest);
        scene.source.quit();
        scene.source = destination;
        scene.source.qmp("system_reset", json!({}));
        let boot = scene.guest.wait("the guest to boot again", SOON, |log| {
            let mut all =
                log.lines().iter().filter_map(|line| if let Line::Boot(boot) = line { Some(boot) } else { None });
            all.nth(boots - 1).cloned()
        });
        assert_eq!(boot.working_set_bytes, 6 << 20, "as its command line at the first source said");
        scene.guest.wait_reports(1);
    }
}

/// The greeting of a real source of this machine, which its destination has refused for the sake
/// of its name.
fn greeting(scene: &mut Scene) -> (Greeting, Identity) {
    let destination = scene.lab.start_destination(&scene.spec.clone().name("nobody"));
    let relay = Relay::new(&destination.wait_listening(), None);
    let _ = scene.fails(&relay.uri());
    let frame = relay.recorded(Spot::Message("Hello"));
    let length = |at: usize| u32::from_le_bytes(frame[at..at + 4].try_into().unwrap()) as usize;
    let attachment = &frame[HEADER_LEN + length(12)..];
    assert_eq!(attachment.len(), length(16));
    let (greeting, passed, identity) = Greeting::decode(attachment).unwrap();
    assert_eq!(passed, None);
    (greeting, identity.expect("a source says what it means"))
}

/// Says `Hello` as a source of the version before would; returns the answer, and the connection.
fn older_hello(to: &str, greeting: &Greeting) -> (ToSource, TcpStream) {
    let id = 7 << 100 | 9;
    let mut preamble = Preamble { migration_id: id, connection: 0, link: LinkRole::Control }.encode();
    preamble[8..10].copy_from_slice(&OLDEST_VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&preamble[..36]);
    preamble[36..].copy_from_slice(&crc.to_le_bytes());
    let handshake = Handshake::Setup;
    let hello = ToDestination::Hello { version: OLDEST_VERSION, generation: 1, postcopy: false, handshake };
    let attachment = greeting.encode(None, None);
    let mut stream = TcpStream::connect(to.strip_prefix("tcp:").unwrap()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&preamble).unwrap();
    stream.write_all(&control::encode(&hello, &attachment, session(id), 0).unwrap()).unwrap();
    stream.write_all(&attachment).unwrap();
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).unwrap();
    let header = control::decode_header::<ToSource>(&header, session(id), 0).unwrap();
    let mut rest = vec![0; header.body_len + header.attachment_len];
    stream.read_exact(&mut rest).unwrap();
    (control::decode_body::<ToSource>(&header, &rest[..header.body_len], &rest[header.body_len..]).unwrap(), stream)
}

#[test]
fn a_source_of_the_version_before_is_taken_but_proves_no_disk() {
    let Some(mut scene) = Scene::new() else { return };
    let (own, _) = greeting(&mut scene);
    let destination = scene.destination();
    let (answer, stream) = older_hello(&destination.wait_listening(), &own);
    assert_eq!(answer, ToSource::HelloAck { record_shared: false });
    drop((stream, destination));

    let Some(mut scene) = self::scene() else { return };
    let (own, identity) = greeting(&mut scene);
    assert!(matches!(identity.disks[..], [disk] if matches!(disk.file, DiskFile::Locked { .. })), "{identity:?}");
    let mut destination = scene.destination();
    let (answer, _stream) = older_hello(&destination.wait_listening(), &own);
    let ToSource::Refused { reason } = answer else { panic!("{answer:?}") };
    assert!(reason.contains("older version") && reason.contains("x-ferry-disk"), "{reason}");
    let _ = gave_up(&mut destination);
    // The operator of the destination says that it is the right one.
    let mut destination = scene.lab.start(&scene.spec.clone().incoming("defer"));
    destination.set_parameters(json!({ "x-ferry-disk": "copied" }));
    destination.qmp("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }));
    let (answer, stream) = older_hello(&destination.listening_at(), &own);
    assert_eq!(answer, ToSource::HelloAck { record_shared: false });
    drop(stream);
    let _ = gave_up(&mut destination);
    scene.ends_well();
}

#[test]
fn the_proof_is_new_for_each_migration_and_gone_after_it() {
    let Some(mut scene) = scene() else { return };
    let nonce = |identity: &Identity| match identity.disks[..] {
        [disk] => disk.file,
        _ => panic!("{identity:?}"),
    };
    let (first, second) = (greeting(&mut scene).1, greeting(&mut scene).1);
    assert_ne!(nonce(&first), nonce(&second));
    assert_ne!(nonce(&first), DiskFile::Locked { nonce: nonce_of(0) });
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(scene.lab.path("disk.img")).unwrap());
    // Storage is not waited for: a thread gives it back.
    wait_for("only the main lock to be left", SOON, || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let held: Vec<_> = locks.lines().filter(|line| line.contains(&format!(":{inode} "))).collect();
        matches!(held[..], [main] if main.ends_with(" 0 4611686018427387903"))
    });
    scene.ends_well();
}

#[test]
fn storage_that_hangs_at_the_proof_holds_up_neither_guest_nor_migration() {
    let Some(mut scene) = scene() else { return };
    scene.source.set_fault(json!({ "at": "disk:prove", "do": "hang", "times": 1 }));
    let spec = scene.spec.clone();
    let reason = refused(&mut scene, &spec);
    assert!(reason.contains("disk virtio-blk/0"), "the greeting does not wait for the proof: {reason}");
    // The destination's look at its disk ends before the source's own time for the greeting.
    let mut blind = scene.lab.start_destination(&spec.device("fault,at=disk:prove,do=hang,times=1,in=incoming"));
    let reason = scene.fails(&blind.wait_listening());
    let image = scene.lab.path("disk.img").display().to_string();
    assert!(reason.contains(&format!("the destination's image {image} gives no answer")), "{reason}");
    assert!(reason.ends_with("then try again"), "{reason}");
    assert!(blind.stderr().contains("WARN") && blind.stderr().contains("gives no answer"), "{}", blind.stderr());
    let theirs = gave_up(&mut blind);
    assert!(theirs.contains(&image) && !theirs.contains("introduce itself"), "{theirs}");
    scene.ends_well();
}

/// A loop device that goes when it is dropped. `None` where this process may not make one.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let made = made.ok().filter(|output| output.status.success());
        let Some(output) = made else {
            eprintln!("skipped: no loop device can be made here");
            return None;
        };
        Some(Loop(String::from_utf8(output.stdout).unwrap().trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Starts a process that must not come up, and returns why not.
fn does_not_start(image: &Path) -> String {
    let mut child = Command::new(ferry_tests::lab::binary())
        .args(["run", "--serial", "null", "--disk"])
        .arg(image)
        .args(["--ownership", "none", "--memory", "32M"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = poll(SOON, || child.try_wait().unwrap());
    if ended.is_none() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{} is in use: {output:?}", image.display());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_loop_device_and_the_file_behind_it_are_one_disk() {
    let Some(lab) = Lab::new() else { return };
    let file = disk::image(&lab, "disk.img", SIZE);
    let (Some(device), Some(other)) = (Loop::over(&file), Loop::over(&file)) else { return };
    let without_record = |image: &Path| {
        let mut spec = Spec::new().memory("32M").disk(image);
        spec.more = vec!["--ownership".into(), "none".into()];
        spec
    };
    for (runs, does_not) in [(&device.0, &file), (&file, &device.0), (&device.0, &other.0)] {
        let mut ferry = lab.start(&without_record(runs));
        let error = does_not_start(does_not);
        assert!(error.contains("is in use") && error.contains(&does_not.display().to_string()), "{error}");
        ferry.quit();
    }
    // Mounted, partitioned or claimed by anything else: the kernel knows.
    let claim = File::options().read(true).custom_flags(libc::O_EXCL).open(&device.0).unwrap();
    let error = does_not_start(&device.0);
    assert!(error.contains("mounted, or claimed by another process"), "{error}");
    drop(claim);
    // The claim goes with the guest.
    let mut source = lab.start(&without_record(&device.0));
    let mut destination = lab.start_destination(&without_record(&device.0));
    source.migrate_to(&destination.wait_listening());
    destination.wait_run_state("running");
    destination.wait_migration(Status::Completed);
    source.quit();
    let error = does_not_start(&file);
    assert!(error.contains("is in use"), "{error}");
    destination.quit();
    lab.start(&without_record(&file)).quit();
}
