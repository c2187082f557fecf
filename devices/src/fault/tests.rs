//! The fault device fails, hangs and waits exactly when told, and is an ordinary device otherwise.

use super::*;
use proptest::prelude::*;
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

fn device(rules: &[&str]) -> (FaultDevice, Arc<FaultControl>) {
    let control = Arc::new(FaultControl::new(Direction::Outgoing));
    for rule in rules {
        control.set(rule.parse().unwrap()).unwrap();
    }
    (FaultDevice::new(0, Arc::clone(&control)), control)
}

fn wait_until_waiting(control: &FaultControl) {
    let deadline = Instant::now() + SOON;
    while !control.is_waiting() {
        assert!(Instant::now() < deadline, "the step never began to wait");
        thread::yield_now();
    }
}

#[test]
fn without_rules_it_saves_and_loads_like_any_device() {
    let (mut first, _) = device(&[]);
    first.acquire().unwrap();
    first.acquire().unwrap();
    let state = first.save().unwrap();
    let (mut second, _) = device(&[]);
    let empty = second.save().unwrap();
    for payload in [&state, &empty, &state] {
        second.load(1, payload).unwrap();
        second.post_load().unwrap();
        assert_eq!(second.save().unwrap(), *payload);
    }
    assert_eq!(second.starts(), 2);
}

#[test]
fn it_fails_in_the_step_it_was_told_as_often_as_it_was_told() {
    let (mut fault, control) = device(&["at=post_load,do=fail,times=2", "at=save,do=fail,times=1"]);
    assert_eq!(format!("{}: {}", fault.id(), fault.post_load().unwrap_err()), "fault/0: told to fail in post_load");
    assert_eq!(fault.save().unwrap_err().to_string(), "told to fail in save");
    let state = fault.save().unwrap();
    fault.load(1, &state).unwrap();
    fault.post_load().unwrap_err();
    fault.post_load().unwrap();
    assert_eq!([FaultStep::Save, FaultStep::Load, FaultStep::PostLoad].map(|step| control.fired(step)), [1, 0, 2]);
}

#[test]
fn a_rule_for_the_other_direction_waits_until_the_direction_changes() {
    let (mut fault, control) = device(&["at=post_load,do=fail,in=incoming"]);
    fault.post_load().unwrap();
    control.set_direction(Direction::Incoming);
    fault.post_load().unwrap_err();
}

#[test]
fn a_rule_for_a_part_or_a_call_applies_to_nothing_else() {
    let [serial, disk, first, second] = ["serial/0", "virtio-blk/0", "vcpu/0", "vcpu/1"].map(|name| {
        let (name, instance) = name.split_once('/').unwrap();
        DeviceId { name, instance: instance.parse().unwrap() }
    });
    let rules = ["at=load,do=fail,of=serial/0,times=1", "at=KVM_A,do=fail,of=vcpu/1", "at=KVM_B,do=fail,times=2"];
    let (mut fault, control) = device(&rules);
    fault.post_load().unwrap();
    let state = fault.save().unwrap();
    fault.load(1, &state).unwrap();
    control.before_step(FaultStep::Load, &disk).unwrap();
    control.before_step(FaultStep::PostLoad, &serial).unwrap();
    assert_eq!(control.before_step(FaultStep::Load, &serial), Err(Injected::Failed));
    control.before_step(FaultStep::Load, &serial).unwrap();
    control.before_call("KVM_A", &first).unwrap();
    assert_eq!(control.before_call("KVM_A", &second), Err(Injected::Failed));
    assert_eq!([&first, &second, &first].map(|part| control.before_call("KVM_B", part).is_err()), [true, true, false]);
    control.clear();
    control.before_call("KVM_A", &second).unwrap();
}

#[test]
fn a_hang_ends_in_an_error_when_interrupted_and_the_next_step_hangs_anew() {
    let (mut fault, control) = device(&["at=save,do=hang"]);
    for _ in 0..2 {
        let hung = thread::spawn(move || (fault.save(), fault));
        wait_until_waiting(&control);
        control.interrupt();
        let (result, back) = hung.join().unwrap();
        assert!(matches!(result, Err(SaveError::Injected)));
        fault = back;
    }
    assert_eq!(control.fired(FaultStep::Save), 2);
}

#[test]
fn a_hang_or_delay_ends_well_when_the_rules_are_cleared() {
    for rule in ["at=post_load,do=hang", "at=post_load,do=delay:600000"] {
        let (mut fault, control) = device(&[rule]);
        let hung = thread::spawn(move || fault.post_load());
        wait_until_waiting(&control);
        control.clear();
        hung.join().unwrap().unwrap();
        assert!(control.rules().is_empty());
    }
}

#[test]
fn a_delay_takes_its_time_and_then_succeeds() {
    let (mut fault, _) = device(&["at=save,do=delay:30"]);
    let begin = Instant::now();
    fault.save().unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_place_fails_as_the_host_would() {
    let (_, control) = device(&[
        "at=disk:flush,do=errno:ENOSPC,times=1",
        "at=record:sync,do=fail",
        "at=host:accept,do=errno:EMFILE,in=incoming",
    ]);
    assert_eq!(control.before(Place::DiskFlush).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    control.before(Place::DiskFlush).unwrap();
    assert_eq!(control.before(Place::RecordSync).unwrap_err().raw_os_error(), Some(libc::EIO));
    control.before(Place::RecordWrite).unwrap();
    control.before(Place::HostAccept).unwrap();
    control.set_direction(Direction::Incoming);
    assert_eq!(control.before(Place::HostAccept).unwrap_err().raw_os_error(), Some(libc::EMFILE));
}

#[test]
fn a_thread_may_be_named() {
    let (_, control) = device(&["at=host:thread,do=errno:EAGAIN,of=ferry-dest/0"]);
    control.before_thread("ferry-dst-load").unwrap();
    assert_eq!(control.before_thread("ferry-dest").unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    control.set("at=host:thread,do=fail".parse().unwrap()).unwrap();
    control.before_thread("ferry-dst-load").unwrap_err();
}

#[test]
fn a_place_that_hangs_goes_on_when_interrupted() {
    let (_, control) = device(&["at=record:sync,do=hang"]);
    let own = Arc::clone(&control);
    let hung = thread::spawn(move || own.before(Place::RecordSync));
    wait_until_waiting(&control);
    control.interrupt();
    hung.join().unwrap().unwrap();
}

#[test]
fn a_moment_is_of_one_name_and_of_the_side_that_reaches_it() {
    let (_, control) = device(&["at=step:Finish,do=hang,in=incoming"]);
    control.reach(Direction::Outgoing, Moment::Step, "Finish");
    control.reach(Direction::Incoming, Moment::Step, "Start");
    control.reach(Direction::Incoming, Moment::Sent, "Finish");
    let own = Arc::clone(&control);
    // The process runs a guest by now, but it is the destination that finishes.
    let hung = thread::spawn(move || own.reach(Direction::Incoming, Moment::Step, "Finish"));
    wait_until_waiting(&control);
    control.clear();
    hung.join().unwrap();
}

#[test]
fn a_clock_is_off_as_often_as_told() {
    let (_, control) = device(&["at=clock:realtime,do=skew:-250,times=2"]);
    assert_eq!([(); 3].map(|()| control.clock_skew_ms()), [-250, -250, 0]);
    control.set("at=clock:realtime,do=skew:3600000,in=incoming".parse().unwrap()).unwrap();
    assert_eq!(control.clock_skew_ms(), 0);
    control.set_direction(Direction::Incoming);
    assert_eq!(control.clock_skew_ms(), 3_600_000);
}

#[test]
fn a_damaged_state_is_refused() {
    let (mut fault, _) = device(&[]);
    let mut state = fault.save().unwrap();
    *state.last_mut().unwrap() ^= 1;
    assert!(fault.load(1, &state).is_err());
    state.pop();
    assert!(fault.load(1, &state).is_err());
}

#[test]
fn rules_have_a_limit() {
    let (_, control) = device(&vec!["at=save,do=fail"; MAX_RULES]);
    assert_eq!(control.set("at=save,do=fail".parse().unwrap()), Err(TooManyRules));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_or_load(payload in prop::collection::vec(any::<u8>(), 0..200), version in 0u32..3) {
        let (mut fault, _) = device(&[]);
        prop_assert!(fault.load(version, &payload).is_err());
        prop_assert_eq!(fault.starts(), 0);
    }
}
