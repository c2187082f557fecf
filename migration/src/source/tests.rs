//! Walks of the source's state machine: the good ways, and every way back.

use super::*;
use crate::convergence::Decision;
use crate::message::Failure;

fn failure() -> Failure {
    Failure { device: "fault/0".into(), reason: "told to fail in post_load".into() }
}

fn plan(handshake: Handshake) -> Plan {
    Plan {
        generation: 1,
        rehearse: false,
        postcopy: true,
        handshake,
        insist_on_record: false,
        has_record: handshake == Handshake::Owned,
    }
}

/// The inputs of a migration without rehearsal, up to and including `Ready`.
fn way(plan: Plan, decision: Decision) -> Vec<Input> {
    let mut way = vec![Input::Connected];
    if plan.handshake == Handshake::Owned {
        way.push(Input::NonceWritten(Ok(())));
    }
    way.extend([
        Input::Message(ToSource::HelloAck { record_shared: plan.handshake == Handshake::Owned }),
        Input::RoundDone(Decision::Again),
        Input::RoundDone(decision),
        Input::Stopped(Ok(())),
        Input::Saved(Ok(())),
        Input::LastPagesSent { marker: 1 },
        Input::Message(ToSource::Ready { load_us: 1, pages_us: 1 }),
    ]);
    way
}

fn walk(plan: Plan, inputs: &[Input]) -> (Source, Vec<Output>) {
    let mut source = Source::new(plan);
    let mut last = source.start();
    for input in inputs {
        last = source.step(input.clone());
    }
    (source, last)
}

fn permitted(handshake: Handshake, decision: Decision) -> Source {
    let plan = plan(handshake);
    let (source, last) = walk(plan, &way(plan, decision));
    assert!(last.contains(&Output::Send(ToDestination::Permit { generation: 1 })), "{last:?}");
    source
}

fn finished(outputs: &[Output]) -> Option<&Outcome> {
    outputs.iter().find_map(|o| if let Output::Finish(outcome) = o { Some(outcome) } else { None })
}

#[test]
fn the_good_way_hands_over() {
    for handshake in [Handshake::Setup, Handshake::Owned] {
        let mut source = permitted(handshake, Decision::Switch);
        let end = source.step(Input::Message(ToSource::Started { start_us: 5, permit_us: 4 }));
        assert!(end.contains(&Output::HandOver));
        assert_eq!(finished(&end), Some(&Outcome::Completed));
    }
}

#[test]
fn every_trouble_before_the_permit_leaves_the_guest_running() {
    let troubles = [
        Input::LinkLost("cut".into()),
        Input::Timer(Timer::PeerSilent),
        Input::Cancel,
        Input::Message(ToSource::NotStarted(failure())),
        Input::Message(ToSource::Started { start_us: 1, permit_us: 4 }),
    ];
    for (handshake, decision) in [
        (Handshake::Setup, Decision::Switch),
        (Handshake::Setup, Decision::Postcopy),
        (Handshake::Owned, Decision::Switch),
        (Handshake::Owned, Decision::Postcopy),
    ] {
        let plan = plan(handshake);
        let way = way(plan, decision);
        let stop = way.iter().position(|input| matches!(input, Input::Stopped(_))).unwrap();
        for steps in 0..way.len() {
            for trouble in &troubles {
                if matches!(
                    (trouble, &way[steps]),
                    (Input::Timer(Timer::PeerSilent), Input::Connected | Input::NonceWritten(_))
                ) || (steps < 3 && *trouble == Input::Timer(Timer::PeerSilent))
                {
                    continue;
                }
                let (mut source, _) = walk(plan, &way[..steps]);
                let mut outputs = source.step(trouble.clone());
                // Work that was under way answers late: where the guest was being stopped that is
                // what the source waits for.
                outputs.extend(source.step(way[steps].clone()));
                let stopped = steps >= stop;
                assert_eq!(outputs.contains(&Output::ResumeGuest), stopped, "after {steps}, {trouble:?}: {outputs:?}");
                if stopped {
                    assert_eq!(finished(&outputs), None, "the end is told after the guest runs");
                    outputs.extend(source.step(Input::Resumed(Ok(()))));
                }
                let end = finished(&outputs);
                assert!(matches!(end, Some(Outcome::Failed(_) | Outcome::Cancelled)), "after {steps}, {trouble:?}");
                assert!(!outputs.iter().any(|o| matches!(o, Output::Send(ToDestination::Permit { .. }))));
                assert!(!outputs.contains(&Output::HandOver));
            }
        }
    }
}

#[test]
fn without_a_record_nothing_but_a_word_resumes_after_the_permit() {
    for trouble in [
        Input::LinkLost("cut".into()),
        Input::Timer(Timer::PeerSilent),
        Input::Timer(Timer::Start),
        Input::Message(ToSource::Rehearsed),
    ] {
        let mut source = permitted(Handshake::Setup, Decision::Switch);
        let outputs = source.step(trouble.clone());
        assert!(outputs.contains(&Output::Status(Status::Uncertain)), "{trouble:?}: {outputs:?}");
        assert!(!outputs.contains(&Output::ResumeGuest));
        assert!(matches!(source.step(Input::Cancel)[..], [Output::Refuse(_)]));
        assert!(source.step(Input::LinkLost("again".into())).is_empty());
        assert!(source.step(Input::Timer(Timer::RetryRecord)).is_empty(), "there is no record to ask");

        let mut told = source.clone();
        assert_eq!(
            finished(&told.step(Input::Message(ToSource::Started { start_us: 1, permit_us: 4 }))),
            Some(&Outcome::Completed)
        );
        let mut resolved = source.clone();
        assert!(resolved.step(Input::Resolve(Resolution::to(Owner::Source))).contains(&Output::ResumeGuest));
        let mut resolved = source.clone();
        assert_eq!(
            finished(&resolved.step(Input::Resolve(Resolution::to(Owner::Destination)))),
            Some(&Outcome::Completed)
        );
        assert!(source.step(Input::Message(ToSource::NotStarted(failure()))).contains(&Output::ResumeGuest));
    }
}

#[test]
fn with_a_record_the_record_decides_after_the_permit() {
    for trouble in
        [Input::LinkLost("cut".into()), Input::Timer(Timer::Start), Input::Message(ToSource::NotStarted(failure()))]
    {
        let mut source = permitted(Handshake::Owned, Decision::Switch);
        let outputs = source.step(trouble.clone());
        assert!(outputs.contains(&Output::TakeBack) && !outputs.contains(&Output::ResumeGuest), "{trouble:?}");

        let mut won = source.clone();
        assert!(won.step(Input::TookBack(TakeBack::Won)).contains(&Output::ResumeGuest));
        let mut lost = source.clone();
        let end = lost.step(Input::TookBack(TakeBack::Lost));
        assert_eq!(finished(&end), Some(&Outcome::Completed));
        assert!(!end.contains(&Output::ResumeGuest));

        let unreachable = source.step(Input::TookBack(TakeBack::Unreachable));
        assert!(unreachable.contains(&Output::Status(Status::Uncertain)));
        assert_eq!(source.step(Input::Timer(Timer::RetryRecord)), [Output::TakeBack]);
    }
}

#[test]
fn a_record_that_the_destination_does_not_see_means_setup_or_the_end() {
    let plan = plan(Handshake::Owned);
    let unshared = Input::Message(ToSource::HelloAck { record_shared: false });
    let before = [Input::Connected, Input::NonceWritten(Ok(())), unshared];
    let (source, last) = walk(plan, &before);
    assert!(last.contains(&Output::Handshake(Handshake::Setup)));
    assert_eq!(source.handshake(), Handshake::Setup);
    let (_, last) = walk(Plan { insist_on_record: true, ..plan }, &before);
    assert!(matches!(finished(&last), Some(Outcome::Failed(reason)) if reason.contains("--ownership")), "{last:?}");
}

#[test]
fn a_failed_load_names_device_and_reason() {
    let plan = plan(Handshake::Setup);
    let way = way(plan, Decision::Postcopy);
    let (mut source, _) = walk(plan, &way[..way.len() - 1]);
    assert!(source.step(Input::Message(ToSource::LoadFailed(failure()))).contains(&Output::ResumeGuest));
    let end = source.step(Input::Resumed(Ok(())));
    let Some(Outcome::Failed(reason)) = finished(&end) else { panic!("{end:?}") };
    assert!(reason.contains("fault/0: told to fail in post_load"), "{reason}");
}

#[test]
fn the_rehearsal_comes_once_and_before_the_stop() {
    let plan = Plan { rehearse: true, ..plan(Handshake::Setup) };
    let before = [
        Input::Connected,
        Input::Message(ToSource::HelloAck { record_shared: false }),
        Input::RoundDone(Decision::Switch),
    ];
    let (mut source, last) = walk(plan, &before);
    assert!(last.contains(&Output::Snapshot));
    assert_eq!(source.step(Input::Snapshotted(Ok(()))), [Output::Send(ToDestination::Rehearse)]);
    let mut failing = source.clone();
    assert!(source.step(Input::Message(ToSource::Rehearsed)).contains(&Output::SendRound));
    assert!(source.step(Input::RoundDone(Decision::Switch)).contains(&Output::StopGuest));

    let outputs = failing.step(Input::Message(ToSource::RehearsalFailed(failure())));
    assert!(!outputs.contains(&Output::ResumeGuest), "the guest never stopped");
    assert!(matches!(finished(&outputs), Some(Outcome::Failed(reason)) if reason.contains("rehearsal")));
}

#[test]
fn postcopy_begins_when_asked_also_before_the_first_round_ends() {
    let plan = plan(Handshake::Setup);
    let rounds = [Input::Connected, Input::Message(ToSource::HelloAck { record_shared: false })];
    let (mut source, _) = walk(plan, &rounds);
    assert_eq!(source.step(Input::StartPostcopy), [Output::EndRound]);
    assert!(source.step(Input::RoundDone(Decision::Again)).contains(&Output::StopGuest));
    assert!(source.step(Input::Stopped(Ok(()))).contains(&Output::Status(Status::PostcopySetup)));
    assert!(source.step(Input::Saved(Ok(()))).contains(&Output::SendLastPages { postcopy: true }));
    assert!(source.step(Input::LastPagesSent { marker: 1 }).contains(&Output::ServePages));

    let (mut refused, _) = walk(Plan { postcopy: false, ..plan }, &rounds);
    assert!(matches!(refused.step(Input::StartPostcopy)[..], [Output::Refuse(_)]));
}

#[test]
fn postcopy_that_is_asked_for_before_the_first_round_does_not_wait_for_its_end() {
    let (mut early, asked) = walk(plan(Handshake::Setup), &[Input::StartPostcopy, Input::Connected]);
    assert!(matches!(asked[..], [Output::Send(ToDestination::Hello { .. })]), "{asked:?}");
    let outputs = early.step(Input::Message(ToSource::HelloAck { record_shared: false }));
    assert!(
        outputs.ends_with(&[Output::SendRound, Output::EndRound, Output::StartTimer(Timer::PeerSilent)]),
        "{outputs:?}"
    );
}

#[test]
fn postcopy_that_is_not_allowed_never_stops_the_guest() {
    let plan = Plan { postcopy: false, ..plan(Handshake::Setup) };
    let rounds = [Input::Connected, Input::Message(ToSource::HelloAck { record_shared: false })];
    let (mut source, _) = walk(plan, &rounds);
    assert_eq!(source.step(Input::RoundDone(Decision::Postcopy)), [Output::SendRound]);
}

#[test]
fn a_broken_postcopy_pauses_and_recovers_any_number_of_times() {
    let mut source = permitted(Handshake::Setup, Decision::Postcopy);
    assert!(
        source
            .step(Input::Message(ToSource::Started { start_us: 1, permit_us: 4 }))
            .contains(&Output::Status(Status::PostcopyActive))
    );
    for _ in 0..3 {
        let lost = source.step(Input::LinkLost("cut".into()));
        assert!(lost.contains(&Output::Status(Status::PostcopyPaused)) && !lost.contains(&Output::ResumeGuest));
        assert!(matches!(source.step(Input::Cancel)[..], [Output::Refuse(_)]));
        assert!(source.step(Input::Recover).contains(&Output::Connect));
        assert!(source.step(Input::Connected).contains(&Output::Send(ToDestination::Recover { generation: 1 })));
        assert!(source.step(Input::Timer(Timer::Recover)).contains(&Output::Status(Status::PostcopyPaused)));
        source.step(Input::Recover);
        source.step(Input::Connected);
        assert!(source.step(Input::Message(ToSource::RecoverAck)).contains(&Output::ServeMissingPages));
    }
    assert_eq!(source.step(Input::AllSent), [Output::Send(ToDestination::Drained)]);
    assert_eq!(finished(&source.step(Input::Message(ToSource::DrainedAck))), Some(&Outcome::Completed));
}

#[test]
fn the_end_of_the_link_is_never_taken_for_drained() {
    let mut source = permitted(Handshake::Setup, Decision::Postcopy);
    source.step(Input::Message(ToSource::Started { start_us: 1, permit_us: 4 }));
    source.step(Input::AllSent);
    let outputs = source.step(Input::LinkLost("the peer closed the control link".into()));
    assert!(outputs.contains(&Output::Status(Status::PostcopyPaused)));
    assert_eq!(finished(&outputs), None);
}

#[test]
fn the_old_handshakes_are_what_they_were() {
    let none = plan(Handshake::None);
    let walk_to_package = way(none, Decision::Postcopy);
    let (mut source, _) = walk(none, &walk_to_package[..walk_to_package.len() - 1]);
    let end = source.step(Input::Message(ToSource::LoadFailed(failure())));
    assert!(matches!(finished(&end), Some(Outcome::Stranded(_))) && !end.contains(&Output::ResumeGuest), "{end:?}");

    let pong = plan(Handshake::Pong);
    let walk_to_package = way(pong, Decision::Postcopy);
    let (mut source, _) = walk(pong, &walk_to_package[..walk_to_package.len() - 1]);
    let mut lost = source.clone();
    assert!(lost.step(Input::LinkLost("cut".into())).contains(&Output::ResumeGuest), "even if the destination runs");
    let ready = Input::Message(ToSource::Ready { load_us: 0, pages_us: 0 });
    assert!(source.step(ready).contains(&Output::Status(Status::PostcopyActive)));
}

#[test]
fn a_guest_that_cannot_be_resumed_is_said_so() {
    let plan = plan(Handshake::Setup);
    let (mut source, _) = walk(plan, &way(plan, Decision::Switch)[..6]);
    source.step(Input::LinkLost("cut".into()));
    let lock = Failure { device: "virtio-blk/0".into(), reason: "locked by another process".into() };
    let end = source.step(Input::Resumed(Err(lock)));
    let Some(Outcome::Failed(reason)) = finished(&end) else { panic!("{end:?}") };
    assert!(reason.contains("stays stopped here: virtio-blk/0"), "{reason}");
}

#[test]
fn a_guest_that_shuts_down_ends_the_migration() {
    let plan = plan(Handshake::Setup);
    let (mut source, _) = walk(plan, &way(plan, Decision::Switch)[..2]);
    let outputs = source.step(Input::GuestGone("the guest shut down".into()));
    assert_eq!(finished(&outputs), Some(&Outcome::Failed("the guest shut down".into())));
}

#[test]
fn a_claim_that_may_be_given_back_is_waited_for() {
    for decision in [Decision::Switch, Decision::Postcopy] {
        let mut source = permitted(Handshake::Owned, decision);
        source.step(Input::LinkLost("cut".into()));
        let outputs = source.step(Input::TookBack(TakeBack::Claimed));
        assert!(outputs.contains(&Output::Status(Status::Uncertain)), "{outputs:?}");
        assert!(!outputs.contains(&Output::HandOver) && !outputs.contains(&Output::ResumeGuest));
        assert_eq!(source.step(Input::Timer(Timer::RetryRecord)), [Output::TakeBack]);
        let given_back = source.step(Input::TookBack(TakeBack::Won));
        assert!(given_back.contains(&Output::ResumeGuest), "{given_back:?}");
    }
}

#[test]
fn an_operator_ends_a_pause_for_the_destination_and_never_for_the_source() {
    let mut source = permitted(Handshake::Owned, Decision::Postcopy);
    source.step(Input::Message(ToSource::Started { start_us: 1, permit_us: 4 }));
    source.step(Input::LinkLost("the last word was lost".into()));
    assert!(matches!(source.step(Input::Resolve(Resolution::to(Owner::Source)))[..], [Output::Refuse(_)]));
    assert_eq!(finished(&source.step(Input::Resolve(Resolution::to(Owner::Destination)))), Some(&Outcome::Completed));
}

#[test]
fn signs_of_life_go_again_after_an_uncertainty() {
    let mut source = permitted(Handshake::Setup, Decision::Postcopy);
    source.step(Input::Timer(Timer::Start));
    assert!(source.step(Input::Timer(Timer::Heartbeat)).is_empty(), "none while it is uncertain");
    let outputs = source.step(Input::Message(ToSource::Started { start_us: 1, permit_us: 4 }));
    assert!(outputs.contains(&Output::StartTimer(Timer::Heartbeat)), "{outputs:?}");
}

#[test]
fn a_bulk_link_lost_before_the_word_came_pauses_when_it_comes() {
    for handshake in [Handshake::Setup, Handshake::Owned] {
        let mut source = permitted(handshake, Decision::Postcopy);
        source.step(Input::LinkLost("the bulk link failed".into()));
        let outputs = source.step(Input::Message(ToSource::Started { start_us: 1, permit_us: 4 }));
        assert!(outputs.contains(&Output::Status(Status::PostcopyPaused)), "{handshake:?}: {outputs:?}");
        assert!(outputs.contains(&Output::CloseLinks) && outputs.contains(&Output::HandOver));
        source.step(Input::Recover);
        source.step(Input::Connected);
        assert!(source.step(Input::Message(ToSource::RecoverAck)).contains(&Output::ServeMissingPages));
    }
}
