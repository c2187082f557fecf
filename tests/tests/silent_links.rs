//! Links that fall silent without breaking: each alone, in each direction, in precopy and in postcopy; peers that talk without
//! end; and what had arrived before a process was paused.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ferry_migration::info::Status;
use ferry_migration::wire::bulk::{self, Frame};
use ferry_migration::wire::preamble::{PREAMBLE_LEN, Preamble, session};
use ferry_tests::postcopy::restless;
use ferry_tests::procfs::Holdings;
use ferry_tests::relay::{Fault, Link, Side, Spot};
use ferry_tests::scene::{assert_never_ran, gave_up};
use ferry_tests::wait::{LONG, wait_for};
use ferry_tests::{Postcopy, SOON, Scene};
use serde_json::json;

/// What says that a link was lost for its silence.
const SILENT: &str = "x-ferry-heartbeat-timeout-ms";

/// A guest with two vCPUs in a postcopy that goes slowly, with short deadlines.
fn stage() -> Option<Postcopy> {
    let mut scene = Scene::with(restless)?;
    scene.source.set_parameters(json!({ "x-ferry-heartbeat-timeout-ms": 1000 }));
    Some(Postcopy::begin(scene))
}

/// A guest whose memory is more than sockets hold on their way.
fn large() -> Option<Scene> {
    Scene::with(|_, spec| spec.memory("128M").workload(|load| load.working_set = 64 << 20))
}

/// Both sides are paused, and say that this link was silent.
fn paused_for(stage: &mut Postcopy, link: &str, what: &str) {
    for why in stage.wait_paused() {
        assert!(why.contains(link) && why.contains(SILENT), "{what}: {why}");
    }
}

fn goes_on(stage: &mut Postcopy) {
    stage.relay.heal();
    stage.scene.slow_down();
    stage.recover();
    stage.scene.guest.wait_reports(1);
}

#[test]
fn a_silent_urgent_link_pauses_both_sides_and_a_recovery_goes_on() {
    let Some(mut stage) = stage() else { return };
    for from in [Some(Side::Source), Some(Side::Destination), None] {
        stage.relay.wait_open(Link::Urgent);
        stage.relay.stall(from, Some(Link::Urgent));
        paused_for(&mut stage, "urgent", &format!("{from:?}"));
        goes_on(&mut stage);
    }
    stage.ends_well();
}

#[test]
fn a_bulk_link_that_takes_nothing_pauses_both_sides_and_a_recovery_goes_on() {
    let Some(mut scene) = large() else { return };
    scene.source.set_parameters(json!({ "x-ferry-heartbeat-timeout-ms": 1000 }));
    let mut stage = Postcopy::begin(scene);
    stage.relay.stall(Some(Side::Source), Some(Link::Bulk));
    stage.scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
    paused_for(&mut stage, "bulk", "more than sockets hold");
    goes_on(&mut stage);
    stage.ends_well();
}

#[test]
fn pages_that_were_sent_and_do_not_come_pause_both_sides_although_none_is_awaited() {
    let Some(mut scene) = Scene::new() else { return };
    scene.source.set_parameters(json!({ "x-ferry-heartbeat-timeout-ms": 1000 }));
    let mut stage = Postcopy::begin(scene);
    // What remains fits into the sockets' buffers: the source has sent everything, and says so.
    stage.relay.stall(Some(Side::Source), Some(Link::Bulk));
    stage.scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
    paused_for(&mut stage, "bulk", "all was sent");
    goes_on(&mut stage);
    stage.ends_well();
}

#[test]
fn a_silent_control_link_pauses_both_sides() {
    let Some(mut stage) = stage() else { return };
    for from in [Side::Source, Side::Destination] {
        stage.relay.wait_open(Link::Urgent);
        stage.relay.stall(Some(from), Some(Link::Control));
        let reasons = stage.wait_paused();
        assert!(reasons.iter().any(|why| why.contains("sign of life")), "{from:?}: {reasons:?}");
        goes_on(&mut stage);
    }
    stage.ends_well();
}

#[test]
fn a_slow_postcopy_is_not_taken_for_a_silent_one() {
    let Some(mut scene) = Scene::with(restless) else { return };
    scene.source.set_parameters(json!({ "x-ferry-heartbeat-timeout-ms": 1000 }));
    let mut stage = Postcopy::begin(scene);
    // A frame of the bulk link in many heartbeat timeouts.
    stage.scene.source.set_parameters(json!({ "max-bandwidth": 64 << 10 }));
    let until = Instant::now() + Duration::from_secs(4);
    wait_for("a slow postcopy to stay active", LONG, || {
        for side in [&mut stage.scene.source, &mut stage.destination] {
            let info = side.migration();
            assert_eq!(info.status, Some(Status::PostcopyActive), "{info:?}");
        }
        Instant::now() >= until
    });
    stage.scene.guest.wait_reports(1);
    stage.ends_well();
}

#[test]
fn a_silent_bulk_link_ends_a_precopy_in_the_middle_of_a_round() {
    let Some(mut scene) = large() else { return };
    scene.be_impatient();
    for (channels, what) in [(1, "the only one"), (4, "all of them")] {
        scene.source.use_channels(channels);
        let (mut destination, relay) =
            scene.destination_behind(Spot::Pages(1), Fault::StallOnly(Some(Side::Source), Some(Link::Bulk)));
        let reason = scene.fails(&relay.uri());
        assert!(reason.contains("bulk") && reason.contains(SILENT), "{what}: {reason}");
        let error = gave_up(&mut destination);
        assert!(error.contains("bulk") && error.contains(SILENT), "{what}: {error}");
    }
    scene.ends_well();
}

#[test]
fn a_limit_of_time_ends_a_precopy_in_the_middle_of_a_round() {
    let Some(mut scene) = large() else { return };
    scene.source.set_parameters(json!({ "x-ferry-max-precopy-ms": 1000, "x-ferry-heartbeat-timeout-ms": 60_000 }));
    // A link that takes nothing, and one that is slow.
    let fault = Fault::StallOnly(Some(Side::Source), Some(Link::Bulk));
    let (mut destination, relay) = scene.destination_behind(Spot::Pages(1), fault);
    let reason = scene.fails(&relay.uri());
    assert!(reason.contains("x-ferry-max-precopy-ms"), "{reason}");
    let _ = gave_up(&mut destination);
    scene.slow_down();
    let mut destination = scene.destination();
    let reason = scene.fails(&destination.wait_listening());
    assert!(reason.contains("x-ferry-max-precopy-ms"), "{reason}");
    let _ = gave_up(&mut destination);
    // Where the operator wants it, it switches in place of that.
    scene.source.set_parameters(json!({ "x-ferry-on-limit": "switch", "x-ferry-load-timeout-ms": 60_000 }));
    let mut destination = scene.destination();
    scene.source.migrate_to(&destination.wait_listening());
    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
}

#[test]
fn a_bandwidth_that_is_raised_holds_at_once() {
    let Some(mut scene) = large() else { return };
    // The first frames of all links together keep them for minutes.
    scene.source.use_channels(8);
    scene.source.set_parameters(json!({ "max-bandwidth": 64 << 10 }));
    let mut destination = scene.destination();
    scene.source.begin_migration(&destination.wait_listening());
    wait_for("the first pages to be sent", SOON, || {
        scene.source.migration().ram.is_some_and(|ram| ram.transferred > 10 << 20)
    });
    scene.source.set_parameters(json!({ "max-bandwidth": 1u64 << 40 }));
    assert_eq!(scene.source.wait_migration_end().status, Some(Status::Completed));
    scene.guest.moved_to(&destination);
    destination.wait_run_state("running");
    scene.guest.wait_reports(2);
    scene.guest.assert_ran_in_one_place();
}

#[test]
fn what_had_arrived_when_a_source_was_paused_counts_before_its_lost_links_and_timers() {
    let Some(mut scene) = Scene::with(restless) else { return };
    scene.source.set_parameters(json!({ "x-ferry-heartbeat-timeout-ms": 2000 }));
    let mut stage = Postcopy::begin(scene);
    stage.relay.set_plan(Spot::Message("DrainedAck"), Fault::Hold);
    stage.scene.source.set_parameters(json!({ "max-bandwidth": 0 }));
    stage.relay.wait_fired();
    stage.scene.source.freeze();
    let frozen = Instant::now();
    stage.relay.release();
    // The word is in the source's socket, behind it the end of every link, and every timer has run out.
    assert_eq!(stage.destination.wait_migration_end().status, Some(Status::Completed));
    wait_for("the timers of the source to be due", SOON, || frozen.elapsed() > Duration::from_millis(2500));
    stage.scene.source.thaw();
    let info = stage.scene.source.wait_migration_end_or(Status::PostcopyPaused);
    assert_eq!(info.status, Some(Status::Completed), "{info:?}");
    stage.go_on().ends_well();
}

/// The first words of a migration, as a source that is up to something would say them again.
struct Words {
    control: Vec<u8>,
    hello: Vec<u8>,
    bulk: Vec<u8>,
}

impl Words {
    fn of_a_migration(scene: &mut Scene) -> Self {
        let (mut destination, relay) = scene.destination_behind(Spot::Pages(2), Fault::Cut);
        let _ = scene.fails(&relay.uri());
        let _ = gave_up(&mut destination);
        Words {
            control: relay.recorded(Spot::ControlPreamble),
            hello: relay.recorded(Spot::Message("Hello")),
            bulk: relay.recorded(Spot::BulkPreamble),
        }
    }

    fn session(&self) -> u32 {
        let bytes: [u8; PREAMBLE_LEN] = self.bulk.as_slice().try_into().expect("a preamble is so long");
        session(Preamble::decode(&bytes).expect("a real one").migration_id)
    }
}

/// Connects and says this.
fn link(to: &str, words: &[&[u8]]) -> TcpStream {
    let mut stream = TcpStream::connect(to.strip_prefix("tcp:").expect("TCP")).expect("the destination listens");
    words.iter().for_each(|word| stream.write_all(word).expect("it reads"));
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a socket takes a timeout");
    stream
}

#[test]
fn a_flood_of_markers_takes_no_memory_and_does_not_hold_up_the_end() {
    let Some(mut scene) = Scene::new() else { return };
    let words = Words::of_a_migration(&mut scene);
    let mut destination = scene.destination();
    let to = destination.wait_listening();
    let control = link(&to, &[&words.control, &words.hello]);
    wait_for("the destination to take pages", SOON, || destination.migration().status == Some(Status::Active));
    let mut flood = link(&to, &[&words.bulk]);
    let before = Holdings::of(destination.pid()).rss_kib;
    let until = Instant::now() + Duration::from_secs(4);
    let mut number = 0;
    // Markers and nothing else, and no answer is read. The destination may end it at any time.
    while Instant::now() < until {
        let frames: Vec<u8> = (number..number + 1000)
            .flat_map(|number| bulk::encode(&Frame::Marker(number + 1), words.session(), number))
            .collect();
        number += 1000;
        if flood.write_all(&frames).is_err() {
            break;
        }
    }
    if destination.exit_status().is_none() {
        let grown = Holdings::of(destination.pid()).rss_kib.saturating_sub(before);
        assert!(grown < 32 << 10, "{number} markers have made it grow by {grown} KiB");
    }
    drop((flood, control));
    let _ = gave_up(&mut destination);
    assert_never_ran(&destination);
    scene.ends_well();
}
