//! Walks of the destination's state machine: the good ways, and every clean way out.

use super::*;
use crate::message::PROTOCOL_VERSION;

fn hello(handshake: Handshake) -> Input {
    Input::Message(ToDestination::Hello { version: PROTOCOL_VERSION, generation: 1, postcopy: true, handshake })
}

/// Up to and including the permit.
fn way(handshake: Handshake, postcopy: bool) -> Vec<Input> {
    vec![
        hello(handshake),
        Input::Checked(Ok(handshake == Handshake::Owned)),
        Input::Message(ToDestination::Rehearse),
        Input::Loaded(Ok(LoadTimes::default())),
        Input::Message(ToDestination::Package { generation: 1, marker: 2, postcopy }),
        Input::MarkerReached(2),
        Input::Loaded(Ok(LoadTimes::default())),
        Input::Message(ToDestination::Permit { generation: 1 }),
    ]
}

fn walk(inputs: &[Input]) -> (Destination, Vec<Output>) {
    let mut destination = Destination::new();
    let mut last = destination.start();
    for input in inputs {
        last = destination.step(input.clone());
    }
    (destination, last)
}

fn finished(outputs: &[Output]) -> Option<&Outcome> {
    outputs.iter().find_map(|o| if let Output::Finish(outcome) = o { Some(outcome) } else { None })
}

#[test]
fn precopy_starts_once_and_is_done() {
    let (mut destination, last) = walk(&way(Handshake::Setup, false));
    assert!(last.contains(&Output::Start));
    assert_eq!(finished(&destination.step(Input::Started(Ok(3)))), Some(&Outcome::Completed));
}

#[test]
fn with_a_record_nothing_starts_before_it_is_won() {
    let (destination, last) = walk(&way(Handshake::Owned, false));
    assert!(last.contains(&Output::Claim) && !last.contains(&Output::Start));
    let mut won = destination.clone();
    assert!(won.step(Input::Claimed(Claim::Won)).contains(&Output::Start));
    let mut lost = destination.clone();
    let end = lost.step(Input::Claimed(Claim::Lost));
    assert!(matches!(finished(&end), Some(Outcome::Failed(_))) && !end.contains(&Output::Start));
    let mut unsure = destination;
    let closed = unsure.step(Input::Claimed(Claim::Unreachable));
    assert!(closed.contains(&Output::CloseLinks) && !closed.contains(&Output::Start));
    assert_eq!(unsure.step(Input::Timer(Timer::RetryRecord)), [Output::Claim]);
    assert!(unsure.step(Input::Claimed(Claim::Won)).contains(&Output::Start));
}

#[test]
fn a_won_record_is_given_back_when_the_start_fails() {
    let (mut destination, _) = walk(&way(Handshake::Owned, false));
    destination.step(Input::Claimed(Claim::Won));
    let lock = Failure { device: "virtio-blk/0".into(), reason: "locked".into() };
    assert_eq!(destination.step(Input::Started(Err(lock.clone()))), [Output::GiveBack]);
    assert_eq!(destination.step(Input::GaveBack(GiveBack::Unreachable)), [Output::StartTimer(Timer::RetryRecord)]);
    assert_eq!(destination.step(Input::Timer(Timer::RetryRecord)), [Output::GiveBack]);
    let end = destination.step(Input::GaveBack(GiveBack::Done));
    assert!(end.contains(&Output::Send(ToSource::NotStarted(lock))), "said only once the record is the source's");
}

#[test]
fn the_marker_may_come_before_the_package() {
    let mut way = way(Handshake::Setup, false);
    way.swap(4, 5);
    let (_, last) = walk(&way[..6]);
    assert!(last.contains(&Output::Load { rehearsal: false, postcopy: false }), "{last:?}");
}

#[test]
fn no_load_before_the_last_pages() {
    let (mut destination, last) = walk(&way(Handshake::Setup, false)[..5]);
    assert!(!last.iter().any(|o| matches!(o, Output::Load { .. })), "{last:?}");
    assert!(destination.step(Input::MarkerReached(1)).is_empty());
}

#[test]
fn markers_of_rounds_are_answered() {
    let (mut destination, _) = walk(&way(Handshake::Setup, false)[..2]);
    assert_eq!(destination.step(Input::MarkerReached(1)), [Output::Send(ToSource::MarkerReached { marker: 1 })]);
}

#[test]
fn every_trouble_before_the_permit_ends_without_a_start() {
    for handshake in [Handshake::Setup, Handshake::Owned] {
        let way = way(handshake, true);
        for steps in 0..7 {
            for trouble in [
                Input::LinkLost("cut".into()),
                Input::Message(ToDestination::Cancel { reason: "no".into() }),
                Input::Message(ToDestination::Permit { generation: 9 }),
            ] {
                let (mut destination, _) = walk(&way[..steps]);
                let outputs = destination.step(trouble.clone());
                assert!(matches!(finished(&outputs), Some(Outcome::Failed(_))), "after {steps}, {trouble:?}");
                for late in &way {
                    assert!(destination.step(late.clone()).is_empty(), "nothing happens after the end");
                }
            }
        }
    }
}

#[test]
fn the_permit_counts_whatever_becomes_of_the_link() {
    for trouble in [
        Input::LinkLost("cut".into()),
        Input::Timer(Timer::PeerSilent),
        Input::Ends("told to end".into()),
        Input::Message(ToDestination::Cancel { reason: "late".into() }),
    ] {
        let (mut destination, last) = walk(&way(Handshake::Setup, false));
        assert!(last.contains(&Output::Start));
        assert!(destination.step(trouble).is_empty());
        assert_eq!(finished(&destination.step(Input::Started(Ok(1)))), Some(&Outcome::Completed));
    }
}

#[test]
fn postcopy_pauses_recovers_and_ends_when_every_page_is_here() {
    let (mut destination, _) = walk(&way(Handshake::Setup, true));
    destination.step(Input::Started(Ok(1)));
    for _ in 0..3 {
        let lost = destination.step(Input::LinkLost("cut".into()));
        assert!(lost.contains(&Output::Paused) && finished(&lost).is_none());
        let wrong = destination.step(Input::Message(ToDestination::Recover { generation: 9 }));
        assert!(matches!(wrong[0], Output::Send(ToSource::RecoverRefused { .. })), "{wrong:?}");
        let right = destination.step(Input::Message(ToDestination::Recover { generation: 1 }));
        assert!(right.contains(&Output::Send(ToSource::RecoverAck)));
    }
    let end = destination.step(Input::AllReceived);
    assert!(end.contains(&Output::Send(ToSource::DrainedAck)));
    assert_eq!(finished(&end), Some(&Outcome::Completed));
}

#[test]
fn a_link_lost_while_starting_pauses_at_once() {
    let (mut destination, _) = walk(&way(Handshake::Setup, true));
    destination.step(Input::LinkLost("cut".into()));
    assert!(destination.step(Input::Started(Ok(1))).contains(&Output::Paused));
}

#[test]
fn a_dead_fault_handler_is_an_event_with_a_consequence() {
    let (mut destination, _) = walk(&way(Handshake::Setup, true));
    destination.step(Input::Started(Ok(1)));
    let outputs = destination.step(Input::FaultsDied("it ran out of memory".into()));
    assert!(matches!(outputs[0], Output::LoseGuest(_)));
    assert!(matches!(finished(&outputs), Some(Outcome::Failed(_))));
}

#[test]
fn the_version_before_is_taken_and_any_other_is_refused() {
    for (version, taken) in [(3, false), (4, true), (PROTOCOL_VERSION, true), (99, false)] {
        let hello = ToDestination::Hello { version, generation: 1, postcopy: false, handshake: Handshake::Setup };
        let (_, last) = walk(&[Input::Message(hello)]);
        match &last[0] {
            Output::CheckGreeting => assert!(taken, "{version}"),
            Output::Send(ToSource::Refused { reason }) => {
                assert!(!taken && reason.contains(&format!("has {version},")), "{reason}");
            }
            other => panic!("{version}: {other:?}"),
        }
    }
}

#[test]
fn a_start_with_a_record_settles_it() {
    for (handshake, settles) in [(Handshake::Setup, false), (Handshake::Owned, true)] {
        let (mut destination, _) = walk(&way(handshake, true));
        destination.step(Input::Claimed(Claim::Won));
        let outputs = destination.step(Input::Started(Ok(1)));
        assert_eq!(outputs.contains(&Output::Settle), settles, "{handshake:?}: {outputs:?}");
    }
}

#[test]
fn a_fault_handler_that_dies_before_the_start_is_not_forgotten() {
    let dead = Input::FaultsDied("it ran out of memory".into());
    let (mut destination, _) = walk(&way(Handshake::Owned, true));
    assert!(destination.step(dead.clone()).is_empty());
    assert_eq!(destination.step(Input::Claimed(Claim::Won)), [Output::GiveBack]);
    let end = destination.step(Input::GaveBack(GiveBack::Done));
    let word = end.iter().find_map(|o| if let Output::Send(ToSource::NotStarted(f)) = o { Some(f) } else { None });
    assert_eq!(word.map(|failure| failure.device.as_str()), Some("userfaultfd"), "{end:?}");

    let (mut destination, _) = walk(&way(Handshake::Setup, true));
    assert!(destination.step(dead).is_empty(), "the start's own answer decides");
    let outputs = destination.step(Input::Started(Ok(1)));
    assert!(outputs.iter().any(|o| matches!(o, Output::LoseGuest(_))), "{outputs:?}");
    assert!(matches!(finished(&outputs), Some(Outcome::Failed(_))));
}

#[test]
fn a_connection_that_loses_a_link_before_the_recover_is_closed() {
    let (mut destination, _) = walk(&way(Handshake::Setup, true));
    destination.step(Input::Started(Ok(1)));
    destination.step(Input::LinkLost("cut".into()));
    assert_eq!(destination.step(Input::LinkLost("the new bulk link failed".into())), [Output::CloseLinks]);
}

#[test]
fn a_guest_that_ends_in_postcopy_needs_no_more_pages() {
    let (mut destination, _) = walk(&way(Handshake::Setup, true));
    destination.step(Input::Started(Ok(1)));
    let mut paused = destination.clone();
    let end = destination.step(Input::Ends("the guest shut down".into()));
    assert!(end.contains(&Output::Send(ToSource::DrainedAck)), "{end:?}");
    assert_eq!(finished(&end), Some(&Outcome::Completed));

    paused.step(Input::LinkLost("cut".into()));
    assert_eq!(finished(&paused.step(Input::Ends("quit".into()))), Some(&Outcome::Completed));

    let (mut starting, _) = walk(&way(Handshake::Setup, true));
    assert!(starting.step(Input::Ends("quit".into())).is_empty(), "what was begun ends first");
    let started = starting.step(Input::Started(Ok(1)));
    assert!(started.contains(&Output::Send(ToSource::DrainedAck)), "{started:?}");
}

#[test]
fn a_process_that_is_told_to_end_gives_a_guest_back_that_it_has_claimed_and_not_run() {
    let (mut destination, last) = walk(&way(Handshake::Owned, false)[..8]);
    assert!(last.contains(&Output::Claim), "{last:?}");
    assert!(destination.step(Input::Ends("quit".into())).is_empty());
    assert_eq!(destination.step(Input::Claimed(Claim::Won)), [Output::GiveBack]);
    let end = destination.step(Input::GaveBack(GiveBack::Done));
    assert!(matches!(finished(&end), Some(Outcome::Failed(_))), "{end:?}");
}

#[test]
fn a_destination_that_takes_too_long_to_look_at_its_machine_does_not_blame_the_source() {
    let late = |inputs: &[Input]| {
        let end = walk(inputs).0.step(Input::Timer(Timer::Setup));
        let Some(Outcome::Failed(reason)) = finished(&end) else { panic!("{end:?}") };
        reason.clone()
    };
    let here = late(&[hello(Handshake::Setup)]);
    assert!(here.contains("the destination did not get ready in time") && here.contains("storage"), "{here}");
    let there = late(&[]);
    assert!(there.contains("the source did not introduce itself in time"), "{there}");
}
