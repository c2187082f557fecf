//! Device state that does not load in postcopy: every device, every call to the kernel, every
//! section. The source resumes, the destination ends and both say why; with a rehearsal the guest
//! never stops.
//!
//! Each test spoils many attempts against one source, which at last moves its guest by postcopy.

use std::time::{Duration, UNIX_EPOCH};

use ferry_machine::StateCall;
use ferry_migration::Status;
use ferry_tests::failing::{REHEARSED, STOPPED, Times, working};
use ferry_tests::migration::statuses;
use ferry_tests::relay::{Fault, Plan, Spot};
use ferry_tests::scene::assert_never_ran;
use ferry_tests::{Ferry, Relay, Scene};
use serde_json::json;

/// Calls that a load makes only for a guest from another kind of processor; the machine's own
/// tests make them fail.
const NOT_MADE_HERE: [StateCall; 2] = [StateCall::SetCpuid2, StateCall::SetTscKhz];
/// How soon the guest goes on once the source knows that it must.
const RESUMES_WITHIN: Duration = Duration::from_millis(100);

/// A rule without its `do=`, and what it makes both sides say.
struct Case {
    rule: String,
    told: String,
}

/// The devices of a machine, as it tells them itself: a new one makes new cases.
fn devices(of: &mut Ferry) -> Vec<String> {
    let error = of.refused("x-ferry-fault-set", json!({ "at": "load", "do": "fail", "of": "nothing/0" }));
    let (_, known) = error.split_once("one of ").expect("the error names the devices");
    known.split(", ").map(str::to_owned).collect()
}

fn device_cases(of: &mut Ferry, steps: &[&str]) -> Vec<Case> {
    let devices = devices(of);
    let case = |step: &str, device: &String| Case {
        rule: format!("at={step},of={device}"),
        told: format!("{device}: told to fail in {step}"),
    };
    steps.iter().flat_map(|step| devices.iter().map(move |device| case(step, device))).collect()
}

/// One for each call of the table that saves, or loads; of the vCPUs', by turns for the first and
/// the second.
fn call_cases(loads: bool) -> Vec<Case> {
    let made = StateCall::ALL.iter().filter(|call| call.loads() == loads && !NOT_MADE_HERE.contains(call));
    let case = |(at, call): (usize, &StateCall)| {
        let instance = if call.part() == "vcpu" { at % 2 } else { 0 };
        let (name, part) = (call.name(), format!("{}/{instance}", call.part()));
        Case { rule: format!("at={name},of={part}"), told: format!("{part}: {name}: Invalid argument (os error 22)") }
    };
    made.enumerate().map(case).collect()
}

fn all_cases(of: &mut Ferry) -> Vec<Case> {
    let mut cases = device_cases(of, &["load", "post_load"]);
    cases.extend(call_cases(true));
    cases
}

#[test]
fn whatever_fails_to_load_the_source_resumes() {
    let Some(mut scene) = Scene::with(working) else { return };
    scene.by_postcopy(false);
    let mut times = Times::default();
    for Case { rule, told } in all_cases(&mut scene.source) {
        let mut destination = scene.destination_with(&format!("fault,{rule},do=fail,in=incoming"));
        let plan = Plan { at: Spot::Message("LoadFailed"), fault: Fault::Note };
        let relay = Relay::new(&destination.wait_listening(), Some(plan));
        scene.begin_postcopy(&relay.uri());
        let resumed = scene.both_failed_as(&mut destination, &told, &STOPPED);
        times.note(relay.fired_at(), resumed.unwrap_or(UNIX_EPOCH));
    }
    let median = times.show("from LoadFailed to RESUME");
    assert!(median < RESUMES_WITHIN, "{median:?}");
    scene.ends_well_by_postcopy();
}

#[test]
fn whatever_fails_to_load_a_rehearsal_finds_it_while_the_guest_runs() {
    let Some(mut scene) = Scene::with(working) else { return };
    scene.by_postcopy(true);
    for Case { rule, told } in all_cases(&mut scene.source) {
        let mut destination = scene.destination_with(&format!("fault,{rule},do=fail,in=incoming"));
        scene.begin_postcopy(&destination.wait_listening());
        scene.both_failed_as(&mut destination, &told, &REHEARSED);
    }
    scene.ends_well_by_postcopy();
}

#[test]
fn whatever_fails_to_save_the_source_resumes() {
    let Some(mut scene) = Scene::with(working) else { return };
    scene.by_postcopy(false);
    let mut cases = device_cases(&mut scene.source, &["save"]);
    cases.extend(call_cases(false));
    let mut unused = Vec::new();
    for Case { rule, told } in cases {
        let rule: serde_json::Map<_, _> = rule
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        let mut arguments = json!({ "do": "fail", "times": 1 });
        arguments.as_object_mut().expect("an object").extend(rule);
        scene.source.set_fault(arguments);
        let mut destination = scene.destination();
        scene.begin_postcopy(&destination.wait_listening());
        // A host reads the vector registers by one of two calls.
        if told.contains("XSAVE") && scene.source.wait_migration_end().status == Some(Status::Completed) {
            unused.push(told);
            scene.arrived(&mut destination);
            scene.lives_in(destination);
            scene.by_postcopy(false);
            continue;
        }
        scene.both_failed_as(&mut destination, &told, &STOPPED);
    }
    assert_eq!(unused.len(), 1, "{unused:?}");
    scene.ends_well_by_postcopy();
}

#[test]
fn a_device_that_refuses_its_state_is_named_and_the_source_resumes() {
    let Some(mut scene) = Scene::with(working) else { return };
    scene.by_postcopy(false);
    let mut refused = Vec::new();
    for section in 0.. {
        let mut destination = scene.destination();
        let plan = Plan { at: Spot::Message("Package"), fault: Fault::Spoil(section) };
        let relay = Relay::new(&destination.wait_listening(), Some(plan));
        scene.begin_postcopy(&relay.uri());
        relay.wait_fired();
        let spoiled = relay.spoiled();
        scene.both_failed_as(&mut destination, &format!("{}: ", spoiled.name), &STOPPED);
        refused.push(spoiled.name);
        if refused.len() == spoiled.of {
            break;
        }
    }
    for device in devices(&mut scene.source) {
        assert!(refused.contains(&device), "{device}: {refused:?}");
    }
    scene.ends_well_by_postcopy();
}

#[test]
fn calls_that_only_another_processor_needs_are_not_made_here() {
    let Some(mut scene) = Scene::with(working) else { return };
    scene.by_postcopy(false);
    let mut spec = scene.spec.clone();
    for call in NOT_MADE_HERE {
        spec = spec.device(&format!("fault,at={},do=fail", call.name()));
    }
    let mut destination = scene.lab.start_destination(&spec);
    scene.begin_postcopy(&destination.wait_listening());
    scene.arrived(&mut destination);
}

#[test]
fn a_destination_that_lives_through_a_failed_load_takes_the_guest_at_the_next_try() {
    let Some(mut scene) = Scene::with(working) else { return };
    let mut destination = scene.lab.start(&scene.spec.clone().incoming("defer"));
    let uri = format!("unix:{}", scene.lab.path("m.sock").display());
    for (at, told) in [
        ("load", "fault/0: told to fail in load"),
        ("post_load", "fault/0: told to fail in post_load"),
        ("KVM_SET_MSRS", "vcpu/0: KVM_SET_MSRS: Invalid argument"),
        ("KVM_SET_CLOCK", "kvmclock/0: KVM_SET_CLOCK: Invalid argument"),
    ] {
        for (rehearsal, walk) in [(false, &STOPPED[..]), (true, &REHEARSED)] {
            scene.by_postcopy(rehearsal);
            destination.set_fault(json!({ "at": at, "do": "fail", "times": 1, "in": "incoming" }));
            destination.forget_events();
            destination.qmp("migrate-incoming", json!({ "uri": uri, "exit-on-error": false }));
            scene.begin_postcopy(&uri);
            scene.failed_as(told, walk);
            let info = destination.wait_migration_end();
            assert_eq!(info.status, Some(Status::Failed), "{info:?}");
            let reason = info.error_desc.expect("a failed migration says why");
            assert!(reason.contains(told), "{reason}");
            destination.migration_statuses();
            assert_eq!(statuses(destination.events()), walk);
            assert_eq!(destination.run_state(), "inmigrate", "it waits for the next try");
            assert_never_ran(&destination);
        }
    }
    scene.by_postcopy(true);
    destination.qmp("migrate-incoming", json!({ "uri": uri, "exit-on-error": false }));
    scene.begin_postcopy(&uri);
    scene.arrived(&mut destination);
    scene.lives_in(destination);
    scene.ends_well_by_postcopy();
}
