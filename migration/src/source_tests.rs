//! Walks of the source's state machine: the good way, and every way back.

use super::*;

fn failure() -> Failure {
    Failure { device: "fault/0".into(), reason: "told to fail in post_load".into() }
}

/// The inputs of a migration without rehearsal, up to and including `Ready`.
fn good_way() -> Vec<Input> {
    vec![
        Input::Connected,
        Input::Message(ToSource::HelloAck),
        Input::RoundDone(Decision::Again),
        Input::RoundDone(Decision::Switch),
        Input::Stopped(Ok(())),
        Input::Saved(Ok(())),
        Input::LastPagesSent { marker: 1 },
        Input::Message(ToSource::Ready { load_us: 1, pages_us: 1 }),
    ]
}

fn walk(rehearse: bool, inputs: &[Input]) -> (Source, Vec<Output>) {
    let mut source = Source::new(1, rehearse);
    let mut last = source.start();
    for input in inputs {
        last = source.step(input.clone());
    }
    (source, last)
}

fn finished(outputs: &[Output]) -> Option<&Outcome> {
    outputs.iter().find_map(|o| if let Output::Finish(outcome) = o { Some(outcome) } else { None })
}

#[test]
fn the_good_way_hands_over() {
    let (mut source, last) = walk(false, &good_way());
    assert!(last.contains(&Output::Send(ToDestination::Permit { generation: 1 })));
    let end = source.step(Input::Message(ToSource::Started { start_us: 5 }));
    assert!(end.contains(&Output::HandOver));
    assert_eq!(finished(&end), Some(&Outcome::Completed));
}

#[test]
fn every_trouble_before_the_permit_leaves_the_guest_running() {
    let troubles = [
        Input::LinkLost("cut".into()),
        Input::Timer(Timer::PeerSilent),
        Input::Cancel,
        Input::Message(ToSource::NotStarted(failure())),
        Input::Message(ToSource::Started { start_us: 1 }),
    ];
    let way = good_way();
    for steps in 0..way.len() {
        for trouble in &troubles {
            let (mut source, _) = walk(false, &way[..steps]);
            let guest_stopped = steps > 3;
            let mut outputs = source.step(trouble.clone());
            // Work that was under way answers late; its answer must not be needed but must be harmless.
            outputs.extend(source.step(way[steps].clone()));
            assert_eq!(
                outputs.contains(&Output::ResumeGuest),
                guest_stopped || steps == 4,
                "after {steps} steps, {trouble:?}: {outputs:?}"
            );
            if guest_stopped {
                assert_eq!(finished(&outputs), None, "the end is told after the guest runs");
                outputs.extend(source.step(Input::Resumed(Ok(()))));
            }
            let end = finished(&outputs);
            assert!(
                matches!(end, Some(Outcome::Failed(_) | Outcome::Cancelled)),
                "after {steps}, {trouble:?}: {end:?}"
            );
            assert!(!outputs.iter().any(|o| matches!(o, Output::Send(ToDestination::Permit { .. }))));
            assert!(!outputs.contains(&Output::HandOver));
        }
    }
}

#[test]
fn after_the_permit_nothing_but_the_destinations_word_resumes() {
    for trouble in [
        Input::LinkLost("cut".into()),
        Input::Timer(Timer::PeerSilent),
        Input::Timer(Timer::Start),
        Input::Message(ToSource::Rehearsed),
    ] {
        let (mut source, _) = walk(false, &good_way());
        let outputs = source.step(trouble.clone());
        assert_eq!(outputs.last(), Some(&Output::Status(Status::Uncertain)), "{trouble:?}");
        assert!(!outputs.contains(&Output::ResumeGuest));
        assert!(matches!(source.step(Input::Cancel)[..], [Output::RefuseCancel(_)]));
        assert!(source.step(Input::LinkLost("again".into())).is_empty());

        let mut told = source.clone();
        assert_eq!(finished(&told.step(Input::Message(ToSource::Started { start_us: 1 }))), Some(&Outcome::Completed));
        assert!(source.step(Input::Message(ToSource::NotStarted(failure()))).contains(&Output::ResumeGuest));
    }
}

#[test]
fn a_failed_load_names_device_and_reason() {
    let way = good_way();
    let (mut source, _) = walk(false, &way[..way.len() - 1]);
    assert!(source.step(Input::Message(ToSource::LoadFailed(failure()))).contains(&Output::ResumeGuest));
    let end = source.step(Input::Resumed(Ok(())));
    let Some(Outcome::Failed(reason)) = finished(&end) else { panic!("{end:?}") };
    assert!(reason.contains("fault/0: told to fail in post_load"), "{reason}");
}

#[test]
fn the_rehearsal_comes_once_and_before_the_stop() {
    let before = [Input::Connected, Input::Message(ToSource::HelloAck), Input::RoundDone(Decision::Switch)];
    let (mut source, last) = walk(true, &before);
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
fn a_guest_that_cannot_be_resumed_is_said_so() {
    let way = good_way();
    let (mut source, _) = walk(false, &way[..6]);
    source.step(Input::LinkLost("cut".into()));
    let lock = Failure { device: "virtio-blk/0".into(), reason: "locked by another process".into() };
    let end = source.step(Input::Resumed(Err(lock)));
    assert!(
        matches!(finished(&end), Some(Outcome::Failed(reason)) if reason.contains("stays stopped here: virtio-blk/0"))
    );
}

#[test]
fn a_guest_that_shuts_down_ends_the_migration() {
    let (mut source, _) = walk(false, &good_way()[..2]);
    let outputs = source.step(Input::GuestGone("the guest shut down".into()));
    assert_eq!(finished(&outputs), Some(&Outcome::Failed("the guest shut down".into())));
}
