//! How links come to a destination: among strangers, in crowds, more than were announced, and at
//! an address that a process has left behind.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use ferry_migration::info::Status;
use ferry_migration::wire::preamble::{LinkRole, Preamble};
use ferry_tests::lab::binary;
use ferry_tests::migration::move_guest;
use ferry_tests::peer::stranger;
use ferry_tests::procfs::Holdings;
use ferry_tests::stranger::opens_many;
use ferry_tests::wait::wait_for;
use ferry_tests::{Lab, SOON, Scene, Spec};
use serde_json::json;

/// As many bulk links as there may be.
const CHANNELS: u8 = 32;
/// Between one stranger and the next.
const PACE: Duration = Duration::from_millis(5);

/// Runs `act` while strangers come to `to`, stay for a moment and leave again.
fn among_strangers<T>(to: &str, act: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut held: Vec<TcpStream> = Vec::new();
                while !done.load(SeqCst) {
                    // The destination closes its port at the end.
                    let Ok(mut one) = TcpStream::connect(to.strip_prefix("tcp:").unwrap()) else { break };
                    // Nothing comes: this paces the strangers.
                    one.set_read_timeout(Some(PACE)).unwrap();
                    let _ = one.read(&mut [0; 1]);
                    held.push(one);
                    if held.len() > 20 {
                        held.clear();
                    }
                }
            });
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, SeqCst);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_source_with_many_links_comes_in_among_strangers() {
    let Some(mut scene) = Scene::new() else { return };
    for _ in 0..4 {
        let mut destination = scene.destination();
        scene.source.use_channels(CHANNELS);
        let to = destination.wait_listening();
        let info = among_strangers(&to, || move_guest(&mut scene.source, &mut destination, &mut scene.guest));
        assert_eq!(info.status, Some(Status::Completed), "{info:?}");
        scene.source.quit();
        scene.source = destination;
    }
    scene.ends_well();
}

#[test]
fn a_source_with_many_links_comes_in_past_a_crowd() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.use_channels(CHANNELS);
    let mut destination = scene.destination();
    let to = destination.wait_listening();
    let _crowds = [opens_many(&to), opens_many(&to)];
    let info = move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    assert_eq!(info.status, Some(Status::Completed), "{info:?}");
}

#[test]
fn links_that_were_not_announced_leave_nothing_behind() {
    let Some(lab) = Lab::new() else { return };
    let mut destination = lab.start(&Spec::new().memory("32M").incoming("defer"));
    // The greeting never comes, and is awaited for longer than this test takes.
    destination.set_parameters(json!({ "x-ferry-setup-timeout-ms": 60_000 }));
    destination.qmp("migrate-incoming", json!({ "uri": "tcp:127.0.0.1:0" }));
    let to = destination.listening_at();
    let introduced = |link| stranger(&to, &Preamble { migration_id: 7, connection: 0, link }.encode());
    let _control = introduced(LinkRole::Control);
    let before = Holdings::of(destination.pid());
    let urgent = (0..100).map(|_| introduced(LinkRole::Urgent));
    let bulk = (0..200).map(|number| introduced(LinkRole::Bulk(number)));
    let again = (0..100).map(|_| introduced(LinkRole::Bulk(0)));
    let links: Vec<TcpStream> = urgent.chain(bulk).chain(again).collect();
    // One urgent link and a bulk link of each number that there may be are kept until the greeting
    // says how many come.
    let kept = 1 + usize::from(CHANNELS);
    let mut closed = 0;
    for link in &links {
        link.set_nonblocking(true).unwrap();
    }
    wait_for("all others to be closed", SOON, || {
        let is_closed = |mut link: &TcpStream| match link.read(&mut [0; 1]) {
            Ok(0) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            Ok(_) => panic!("nothing is said on a page link"),
        };
        closed = links.iter().filter(|link| is_closed(link)).count();
        closed == links.len() - kept
    });
    let after = Holdings::of(destination.pid());
    assert!(after.threads <= before.threads + 4, "{before}, then {after}");
    assert!(after.fds <= before.fds + kept as u64 + 8, "{before}, then {after}");
}

#[test]
fn a_unix_socket_that_a_killed_process_has_left_is_replaced() {
    let Some(mut scene) = Scene::new() else { return };
    let path = scene.lab.path("incoming.sock");
    let at = format!("unix:{}", path.display());
    let spec = scene.spec.clone().incoming(&at);
    let mut killed = scene.lab.start(&spec);
    let _ = killed.wait_listening();
    killed.kill();
    assert!(path.exists(), "it is left behind");
    let mut destination = scene.lab.start(&spec);
    assert_eq!(destination.wait_listening(), at);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(destination.qmp_path())), (0o600, 0o600));
    // Neither one that a process listens on nor a file of another kind is replaced.
    let refused = |at: &str| {
        let arguments = ["run", "--memory", "32M", "--serial", "null", "--incoming", at];
        let ended = Command::new(binary()).args(arguments).output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        String::from_utf8(ended.stderr).unwrap()
    };
    let error = refused(&at);
    assert!(error.contains(&at) && error.contains("another process is listening"), "{error}");
    let file = scene.lab.path("file");
    std::fs::write(&file, "precious").unwrap();
    let error = refused(&format!("unix:{}", file.display()));
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    move_guest(&mut scene.source, &mut destination, &mut scene.guest);
    wait_for("the socket's file to go with its listener", SOON, || !path.exists());
}
