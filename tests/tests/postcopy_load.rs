//! The load of postcopy: a destination that dies, freezes or hangs before its guest's state is
//! loaded, and a source that dies meanwhile.

use std::time::Duration;

use ferry_migration::Status;
use ferry_tests::SOON;
use ferry_tests::failing::{STOPPED, Times, behind, with_both};
use ferry_tests::relay::{Fault, Spot};
use ferry_tests::scene::{assert_never_ran, gave_up};
use ferry_tests::wait::wait_for;
use serde_json::json;

/// Short, and yet longer than a busy host takes to stop a guest and to load its state.
const LOAD_TIMEOUT: Duration = Duration::from_millis(1500);

#[test]
fn a_destination_that_dies_or_freezes_before_it_loads_leaves_the_guest_at_the_source() {
    with_both(|mut scene, _| {
        for frozen in [false, true] {
            scene.be_impatient();
            let mut destination = scene.destination();
            let relay = behind(&destination, Spot::Message("Package"), Fault::Stall);
            scene.begin_slow_postcopy(&relay.uri());
            relay.wait_fired();
            assert_eq!(scene.source.migration().status, Some(Status::PostcopySetup));
            match frozen {
                true => destination.freeze(),
                false => destination.kill(),
            }
            relay.heal();
            scene.failed_as("", &STOPPED);
            if frozen {
                destination.thaw();
                let _ = gave_up(&mut destination);
            }
            assert_never_ran(&destination);
        }
        scene.ends_well_by_postcopy();
    });
}

#[test]
fn a_load_that_hangs_is_given_up_after_the_load_timeout() {
    with_both(|mut scene, _| {
        scene.source.set_parameters(json!({ "x-ferry-load-timeout-ms": LOAD_TIMEOUT.as_millis() as u64 }));
        let mut times = Times::default();
        for at in ["load,of=serial/0", "post_load", "KVM_SET_MSRS,of=vcpu/1", "KVM_SET_IRQCHIP"] {
            let mut destination = scene.destination_with(&format!("fault,at={at},do=hang,in=incoming"));
            scene.begin_postcopy(&destination.wait_listening());
            let resumed = scene.both_failed_as(&mut destination, "in time", &STOPPED).expect("the guest was stopped");
            let events = scene.source.events();
            let stopped = events.iter().find(|event| event["event"] == "STOP").map(ferry_tests::failing::moment);
            times.note(stopped.expect("the guest was stopped"), resumed);
        }
        let median = times.show("from STOP to RESUME with a load timeout of 1500 ms");
        assert!(median >= LOAD_TIMEOUT, "{median:?}");
        wait_for("the guest to go on", SOON, || scene.source.run_state() == "running");
        scene.ends_well_by_postcopy();
    });
}

#[test]
fn a_source_that_dies_before_the_permit_ends_its_destination_even_in_a_load_that_hangs() {
    for at in ["load", "post_load", "KVM_SET_LAPIC,of=vcpu/1"] {
        with_both(|mut scene, _| {
            let mut destination = scene.destination_with(&format!("fault,at={at},do=hang,in=incoming"));
            scene.begin_slow_postcopy(&destination.wait_listening());
            destination.wait_migration(Status::PostcopySetup);
            scene.source.kill();
            let error = gave_up(&mut destination);
            assert!(error.contains("link"), "{at}: {error}");
        });
    }
}
