//! A postcopy whose link breaks: both sides wait, the guest loses nothing, and a recovery goes on
//! where it was.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ferry_migration::info::Status;
use ferry_tests::postcopy::restless;
use ferry_tests::relay::{Fault, Link, Side, Spot};
use ferry_tests::wait::wait_for;
use ferry_tests::{Postcopy, SOON, Scene};
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use rustix::net::{AddressFamily, Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::json;

/// A guest with two vCPUs, in a postcopy that goes slowly.
fn stage() -> Option<Postcopy> {
    Some(Postcopy::begin(Scene::with(restless)?))
}

/// The same, with deadlines of half a second.
fn impatient_stage() -> Option<Postcopy> {
    let mut scene = Scene::with(restless)?;
    scene.source.set_parameters(json!({
        "x-ferry-setup-timeout-ms": 1000, "x-ferry-heartbeat-timeout-ms": 500,
    }));
    Some(Postcopy::begin(scene))
}

#[test]
fn a_link_that_is_cut_pauses_both_sides_and_a_recovery_goes_on() {
    let Some(mut stage) = stage() else { return };
    for link in [Some(Link::Control), Some(Link::Bulk), Some(Link::Urgent), None] {
        match link {
            Some(link) => {
                stage.relay.wait_open(link);
                stage.relay.cut_link(link);
            }
            None => stage.relay.cut_all(),
        }
        let [ours, theirs] = stage.wait_paused();
        assert!(ours.contains("link") && ours.contains("resume"), "{link:?}: {ours}");
        assert!(theirs.contains("link") && theirs.contains("migrate-recover"), "{link:?}: {theirs}");
        stage.recover();
        for side in [&mut stage.scene.source, &mut stage.destination] {
            assert_eq!(side.migration().error_desc, None, "{link:?}: {}", side.label());
        }
        stage.scene.guest.wait_reports(1);
    }
    stage.ends_well();
}

#[test]
fn a_paused_guest_stands_still_where_it_needs_a_page_and_loses_nothing() {
    let Some(mut stage) = stage() else { return };
    stage.relay.cut_all();
    stage.wait_paused();
    stage.wait_stalled();
    stage.scene.guest.read();
    let said = [0, 1].map(|cpu| stage.scene.guest.newest(cpu).sequence);
    for _ in 0..20 {
        let info = stage.destination.migration();
        assert_eq!(info.status, Some(Status::PostcopyPaused), "{info:?}");
        assert_eq!(stage.destination.run_state(), "running");
    }
    stage.scene.guest.read();
    assert_eq!([0, 1].map(|cpu| stage.scene.guest.newest(cpu).sequence), said, "nothing runs without its pages");
    stage.recover();
    stage.scene.guest.wait_reports(2);
    stage.ends_well();
}

#[test]
fn a_black_hole_is_noticed_by_its_silence() {
    let Some(mut stage) = impatient_stage() else { return };
    for silent in [None, Some(Side::Source), Some(Side::Destination)] {
        match silent {
            Some(side) => stage.relay.stall_from(side),
            None => stage.relay.stall_all(),
        }
        let [ours, theirs] = stage.wait_paused();
        if silent != Some(Side::Source) {
            assert!(ours.contains("sign of life"), "{silent:?}: {ours}");
        }
        if silent != Some(Side::Destination) {
            assert!(theirs.contains("sign of life"), "{silent:?}: {theirs}");
        }
        // Into the hole: nobody answers, and that is the same pause again.
        stage.resume_to(&stage.relay.uri());
        let [ours, _] = stage.wait_paused();
        assert!(ours.contains("did not recover in time") || silent == Some(Side::Source), "{silent:?}: {ours}");
        stage.relay.heal();
        stage.recover();
        stage.scene.guest.wait_reports(1);
    }
    stage.ends_well();
}

#[test]
fn a_source_that_comes_back_is_taken_before_the_break_is_noticed() {
    let Some(mut stage) = stage() else { return };
    for _ in 0..3 {
        stage.relay.stall_all();
        stage.scene.source.qmp("migrate-pause", json!({}));
        stage.scene.source.wait_migration(Status::PostcopyPaused);
        assert_eq!(stage.destination.migration().status, Some(Status::PostcopyActive), "it has noticed nothing");
        stage.resume_to(&stage.relay.target());
        stage.wait_active();
        stage.scene.guest.wait_reports(1);
        // What the old connection still holds arrives late, and does not matter.
        stage.relay.heal();
        stage.scene.guest.wait_reports(1);
        assert_eq!(stage.scene.source.migration().status, Some(Status::PostcopyActive));
        stage.relay.cut_all();
        stage.scene.source.qmp("migrate-pause", json!({}));
        stage.wait_paused();
        stage.recover();
    }
    stage.ends_well();
}

/// Every frame of a recovery, in the order in which they pass.
const IN_A_RECOVERY: [Spot; 8] = [
    Spot::ControlPreamble,
    Spot::Message("Recover"),
    Spot::Message("RecoverAck"),
    Spot::BulkPreamble,
    Spot::UrgentPreamble,
    Spot::Request(0),
    Spot::UrgentPages(0),
    Spot::Pages(0),
];

/// Breaks one recovery after the other.
fn break_recoveries(fault: Fault) {
    let Some(mut stage) = impatient_stage() else { return };
    stage.relay.cut_all();
    stage.wait_paused();
    for at in IN_A_RECOVERY {
        stage.relay.plan_for_new_connections(at, fault.clone());
        stage.resume_to(&stage.relay.uri());
        stage.relay.wait_fired();
        let [ours, theirs] = stage.wait_paused();
        assert!(!ours.is_empty() && !theirs.is_empty(), "{at:?}");
        stage.relay.heal();
    }
    stage.recover();
    stage.scene.guest.wait_reports(1);
    stage.ends_well();
}

#[test]
fn a_recovery_that_breaks_is_the_same_pause_again() {
    break_recoveries(Fault::Cut);
}

#[test]
fn a_recovery_that_breaks_behind_a_frame_is_the_same_pause_again() {
    break_recoveries(Fault::CutAfter);
}

#[test]
fn a_recovery_that_falls_silent_is_the_same_pause_again() {
    break_recoveries(Fault::Stall);
}

#[test]
fn a_recovery_that_carries_nonsense_is_the_same_pause_again() {
    break_recoveries(Fault::Corrupt(0));
}

#[test]
fn a_reconnect_has_the_time_outs_that_it_is_given() {
    let Some(mut stage) = stage() else { return };
    let source = &mut stage.scene.source;
    source.qmp("migrate-pause", json!({}));
    source.wait_migration(Status::PostcopyPaused);
    stage.destination.wait_migration(Status::PostcopyPaused);
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("tcp:{}", silent.local_addr().unwrap());
    let resume = |parameters| json!({ "uri": to, "resume": true, "x-ferry-parameters": parameters });
    let refused = source.refused("migrate", resume(json!({ "x-ferry-heartbeat-timeout-ms": 700 })));
    assert!(refused.contains("was agreed with the destination"), "{refused}");
    let begun = Instant::now();
    source.qmp("migrate", resume(json!({ "x-ferry-setup-timeout-ms": 500 })));
    wait_for("the end of the try", SOON, || source.migration().status == Some(Status::PostcopyPaused));
    // Without it, ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    stage.recover();
    stage.ends_well();
}

#[test]
fn either_side_can_be_paused_by_its_operator() {
    let Some(mut stage) = stage() else { return };
    for source in [true, false, true, false] {
        let (one, other) = match source {
            true => (&mut stage.scene.source, &mut stage.destination),
            false => (&mut stage.destination, &mut stage.scene.source),
        };
        one.qmp("migrate-pause", json!({}));
        let why = one.wait_migration(Status::PostcopyPaused).error_desc;
        assert!(why.is_some_and(|why| why.contains("operator")));
        other.wait_migration(Status::PostcopyPaused);
        let refused = one.refused("migrate-pause", json!({}));
        assert!(refused.contains("active"), "{refused}");
        stage.recover();
        stage.scene.guest.wait_reports(1);
    }
    stage.ends_well();
}

#[test]
fn a_destination_can_be_found_at_a_new_address() {
    let Some(mut stage) = stage() else { return };
    let unix = format!("unix:{}", stage.scene.lab.path("again.sock").display());
    let mut old = stage.relay.target();
    for new in ["tcp:127.0.0.1:0", &unix, "tcp:127.0.0.1:0"] {
        stage.scene.source.qmp("migrate-pause", json!({}));
        stage.wait_paused();
        stage.destination.qmp("migrate-recover", json!({ "uri": new }));
        let now = stage.destination.listening_at();
        assert_ne!(now, old);
        stage.resume_to(&old);
        let reason = wait_for_reason(&mut stage, "cannot connect");
        assert!(reason.contains(&old), "{reason}");
        stage.resume_to(&now);
        stage.wait_active();
        stage.scene.guest.wait_reports(1);
        old = now;
    }
    assert!(!stage.scene.lab.path("again.sock").exists(), "the socket's file goes with its listener");
    stage.ends_well();
}

/// Takes the listening TCP sockets of a process away, as a host does that is short of something
/// for good.
fn break_listening(pid: u32) {
    let pid = Pid::from_raw(pid as i32).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    // A number that is not open, or closed meanwhile, is none.
    let open = (0..512).filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok());
    let listens = |fd: &OwnedFd| {
        socket_domain(fd).is_ok_and(|family| family != AddressFamily::UNIX) && socket_acceptconn(fd) == Ok(true)
    };
    let broken = open.filter(listens).map(|fd| shutdown(fd, Shutdown::Both).unwrap()).count();
    assert_eq!(broken, 1);
}

#[test]
fn a_paused_destination_listens_where_it_is_told_to_by_any_name() {
    let Some(mut stage) = stage() else { return };
    stage.scene.source.qmp("migrate-pause", json!({}));
    stage.wait_paused();
    let at = stage.relay.target();
    let port: u16 = at.rsplit_once(':').unwrap().1.parse().unwrap();
    let all = format!("tcp:0.0.0.0:{port}");
    // The same address, one that includes it, and the same again, which cannot be had beside each
    // other.
    for (uri, bound) in [(&at, &at), (&format!("tcp:localhost:{port}"), &at), (&all, &all), (&at, &at)] {
        stage.destination.qmp("migrate-recover", json!({ "uri": uri }));
        assert_eq!(stage.destination.listening_at(), *bound, "{uri}");
    }
    // Where the new address cannot be had, the old one stays.
    let taken = TcpListener::bind(("127.0.0.2", port)).unwrap();
    let refused = stage.destination.refused("migrate-recover", json!({ "uri": all }));
    assert!(refused.contains("cannot listen") && refused.contains("in use"), "{refused}");
    drop(taken);
    stage.recover();
    stage.scene.guest.wait_reports(1);
    stage.ends_well();
}

#[test]
fn an_address_for_which_the_host_has_no_thread_is_refused_in_the_hosts_words() {
    let Some(mut stage) = stage() else { return };
    stage.scene.source.qmp("migrate-pause", json!({}));
    stage.wait_paused();
    let at = stage.relay.target();
    let port = at.rsplit_once(':').unwrap().1.to_owned();
    let mut refused = |threads: u32, uri: String| {
        let of = "ferry-dst-accept/0";
        stage.destination.set_fault(json!({ "at": "host:thread", "do": "errno:EAGAIN", "of": of, "times": threads }));
        let refused = stage.destination.refused("migrate-recover", json!({ "uri": uri }));
        assert!(
            refused.contains("Resource temporarily unavailable") && refused.contains("raise their limit"),
            "{refused}"
        );
        refused
    };
    // Beside the present address, which stays.
    let told = refused(1, "tcp:127.0.0.1:0".to_owned());
    assert!(!told.contains("nowhere"), "{told}");
    // In its place, and then it cannot be had again either.
    let told = refused(2, format!("tcp:0.0.0.0:{port}"));
    assert!(told.contains("awaited nowhere: give another address with migrate-recover"), "{told}");
    stage.destination.qmp("migrate-recover", json!({ "uri": at }));
    stage.recover();
    stage.scene.guest.wait_reports(1);
    stage.ends_well();
}

#[test]
fn an_address_that_lets_no_connection_in_any_more_is_listened_at_again() {
    let Some(mut stage) = stage() else { return };
    stage.scene.source.qmp("migrate-pause", json!({}));
    stage.wait_paused();
    break_listening(stage.destination.pid());
    wait_for("the destination to say so", SOON, || {
        stage.destination.migration().error_desc.is_some_and(|why| why.contains("cannot take connections"))
    });
    let at = stage.relay.target();
    stage.destination.qmp("migrate-recover", json!({ "uri": at }));
    stage.recover();
    // The same with a path: its file was removed, and nothing leads there.
    stage.scene.source.qmp("migrate-pause", json!({}));
    stage.wait_paused();
    let path = stage.scene.lab.path("again.sock");
    let unix = format!("unix:{}", path.display());
    for _ in 0..2 {
        stage.destination.qmp("migrate-recover", json!({ "uri": unix }));
        std::fs::remove_file(&path).expect("it is listened at");
    }
    stage.destination.qmp("migrate-recover", json!({ "uri": unix }));
    stage.resume_to(&unix);
    stage.wait_active();
    stage.scene.guest.wait_reports(1);
    stage.ends_well();
}

/// Waits until the source is paused for a reason with this text.
fn wait_for_reason(stage: &mut Postcopy, text: &str) -> String {
    let mut reason = String::new();
    wait_for(&format!("the source to be paused because of '{text}'"), SOON, || {
        let info = stage.scene.source.migration();
        reason = info.error_desc.unwrap_or_default();
        info.status == Some(Status::PostcopyPaused) && reason.contains(text)
    });
    reason
}
