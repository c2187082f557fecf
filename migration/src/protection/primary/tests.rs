//! A primary, step by step.

use super::*;

fn plan() -> Plan {
    Plan { generation: 5, has_record: true, stops_isolated: false }
}

fn committed(epoch: u64) -> Input {
    Input::Message(ToPrimary::Committed { epoch, receive_us: 1, verify_us: 1 })
}

fn failure() -> Failure {
    Failure { device: "serial/0".to_owned(), reason: "told to fail".to_owned() }
}

fn failed(epoch: u64) -> Input {
    Input::Message(ToPrimary::CheckpointFailed { epoch, failure: failure() })
}

fn captured(epoch: u64) -> Input {
    Input::Captured { epoch, result: Ok(()) }
}

/// Whether any output lets out something that was held.
fn releases(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Release { .. } | Output::ReleaseAll))
}

fn has(outputs: &[Output], name: &str) -> bool {
    outputs.iter().any(|output| output.name() == name)
}

/// The outputs without the timer that watches over the work itself.
fn acts(outputs: Vec<Output>) -> Vec<Output> {
    let watches =
        |output: &Output| matches!(output, Output::StartTimer(Timer::Capture) | Output::StopTimer(Timer::Capture));
    outputs.into_iter().filter(|output| !watches(output)).collect()
}

/// Takes the steps in order, and returns what the last one does.
fn after(primary: &mut Primary, inputs: impl IntoIterator<Item = Input>) -> Vec<Output> {
    inputs.into_iter().map(|input| primary.step(input)).last().unwrap_or_default()
}

fn protected_by(plan: Plan) -> Primary {
    let mut primary = Primary::new(plan);
    primary.start();
    after(&mut primary, [captured(1), committed(1)]);
    if plan.has_record {
        primary.step(Input::Enrolled(Answer::Won));
    }
    assert_eq!(primary.state, State::Protected);
    primary
}

fn protected() -> Primary {
    protected_by(plan())
}

/// The reason of an end without a partner.
fn unprotected(primary: &Primary) -> &str {
    let Some(Outcome::Unprotected(reason)) = primary.outcome() else { panic!("{:?}", primary.state) };
    reason
}

#[test]
fn outputs_of_an_epoch_leave_when_its_checkpoint_is_committed() {
    let mut primary = Primary::new(plan());
    let begun = primary.start();
    assert!(begun.contains(&Output::Capture { epoch: 1, holds: true, stays: false }), "{begun:?}");
    assert!(!has(&primary.step(captured(1)), "Enrol"), "not before the commit");
    assert_eq!(primary.step(committed(1)).last(), Some(&Output::Enrol));
    let enrolled = primary.step(Input::Enrolled(Answer::Won));
    assert!(enrolled.contains(&Output::Phase(Phase::Protected)) && !releases(&enrolled), "{enrolled:?}");

    assert_eq!(
        acts(primary.step(Input::Timer(Timer::Epoch))),
        [Output::Capture { epoch: 2, holds: false, stays: false }]
    );
    let sent = primary.step(captured(2));
    assert!(has(&sent, "SendCheckpoint") && !releases(&sent), "{sent:?}");
    assert_eq!(acts(primary.step(Input::EpochEnds)), [], "one checkpoint is in flight at most");
    let outputs = primary.step(committed(2));
    assert!(outputs.contains(&Output::Release { epoch: 2 }) && outputs.contains(&Output::Forget { epoch: 2 }));
    assert_eq!(outputs.last(), Some(&Output::Capture { epoch: 3, holds: false, stays: false }), "it was due");
}

#[test]
fn before_the_enrolment_a_failure_costs_the_protection_alone() {
    let ends: [(&[Input], &str); 4] = [
        (&[Input::Captured { epoch: 1, result: Err(failure()) }], "serial/0"),
        (&[captured(1), failed(1)], "serial/0"),
        (&[captured(1), Input::LinkLost("broken".to_owned())], "broken"),
        (&[captured(1), Input::Timer(Timer::Commit)], "in time"),
    ];
    for (inputs, reason) in ends {
        let mut primary = Primary::new(plan());
        primary.start();
        let outputs = after(&mut primary, inputs.iter().cloned());
        assert!(outputs.contains(&Output::ReleaseAll) && !has(&outputs, "Solo"), "{outputs:?}");
        assert!(unprotected(&primary).contains(reason), "{primary:?}");
        assert_eq!(acts(primary.step(committed(1))), [], "it has ended");
    }
}

#[test]
fn a_first_capture_that_ends_after_the_protection_holds_nothing() {
    let mut primary = Primary::new(plan());
    primary.start();
    primary.step(Input::LinkLost("broken".to_owned()));
    assert_eq!(acts(primary.step(captured(1))), [Output::ReleaseAll, Output::Restore { epoch: 1 }]);
}

#[test]
fn a_lost_secondary_is_fenced_before_anything_held_is_let_out() {
    let losses = [
        Input::LinkLost("broken".to_owned()),
        Input::Timer(Timer::PeerSilent),
        Input::Timer(Timer::Commit),
        Input::Message(ToPrimary::Started),
        committed(9),
        Input::Unprotect,
        Input::LostHeartbeat,
        Input::GuestGone("the guest has shut down".to_owned()),
    ];
    for loss in losses {
        let mut primary = protected();
        after(&mut primary, [Input::EpochEnds, captured(2)]);
        let parts = primary.step(loss.clone());
        assert!(parts.contains(&Output::Solo) && parts.contains(&Output::Restore { epoch: 2 }), "{parts:?}");
        assert!(!releases(&parts) && !releases(&primary.step(committed(2))), "{loss:?}");
        assert!(!releases(&primary.step(Input::Soloed(Answer::Unreachable))));
        assert_eq!(acts(primary.step(Input::Timer(Timer::RetryRecord))), [Output::Solo]);
        let won = primary.step(Input::Soloed(Answer::Won));
        assert!(won.contains(&Output::ReleaseAll), "{won:?}");
        unprotected(&primary);
    }
}

#[test]
fn a_secondary_that_is_there_is_told_that_the_protection_ends() {
    let mut primary = protected();
    assert!(!has(&primary.step(Input::Unprotect), "CloseLinks"));
    let won = primary.step(Input::Soloed(Answer::Won));
    let told = won.iter().position(|output| matches!(output, Output::Send(ToSecondary::Dismiss { .. })));
    let closed = won.iter().position(|output| *output == Output::CloseLinks);
    assert!(told.is_some() && told < closed, "{won:?}");

    let mut primary = protected();
    primary.step(Input::Unprotect);
    assert!(has(&primary.step(Input::LinkLost("broken".to_owned())), "CloseLinks"));
    assert!(!has(&primary.step(Input::Soloed(Answer::Won)), "Send"));
}

#[test]
fn a_deposed_primary_shows_nothing_and_never_runs_the_guest_again() {
    let mut primary = protected();
    primary.step(Input::LinkLost("broken".to_owned()));
    let lost = primary.step(Input::Soloed(Answer::Lost));
    assert!(!releases(&lost), "{lost:?}");
    assert_eq!(&lost[lost.len() - 2..], [Output::DropOutputs, Output::StopGuest]);
    let stopped = primary.step(Input::GuestStopped);
    assert_eq!(stopped.first(), Some(&Output::HandOver));
    assert!(matches!(primary.outcome(), Some(Outcome::Deposed(reason)) if reason == "broken"));
}

#[test]
fn what_was_not_committed_is_sent_again_and_the_second_refusal_ends_it() {
    let mut primary = protected();
    after(&mut primary, [Input::EpochEnds, captured(2)]);
    let refused = primary.step(failed(2));
    assert!(refused.contains(&Output::Restore { epoch: 2 }) && !releases(&refused), "{refused:?}");
    after(&mut primary, [Input::EpochEnds, captured(3), committed(3)]);
    // Not two in a row.
    after(&mut primary, [Input::EpochEnds, captured(4), failed(4), Input::EpochEnds, captured(5)]);
    let second = primary.step(failed(5));
    assert!(has(&second, "Solo") && !releases(&second), "{second:?}");
    primary.step(Input::Soloed(Answer::Won));
    assert!(unprotected(&primary).contains("serial/0"));
}

#[test]
fn captures_that_fail_leave_the_guest_running_and_the_third_ends_the_protection() {
    let mut primary = protected();
    let fails = |epoch| [Input::EpochEnds, Input::Captured { epoch, result: Err(failure()) }];
    for _ in 0..2 {
        assert_eq!(acts(after(&mut primary, fails(2))), [Output::StartTimer(Timer::Epoch)]);
    }
    assert!(has(&after(&mut primary, fails(2)), "Solo"));
}

#[test]
fn an_enrolment_without_an_answer_is_asked_for_again_and_may_have_succeeded() {
    let mut primary = Primary::new(plan());
    primary.start();
    after(&mut primary, [captured(1), committed(1)]);
    let unanswered = primary.step(Input::Enrolled(Answer::Unreachable));
    assert_eq!(unanswered, [Output::Phase(Phase::Enrolling), Output::StartTimer(Timer::RetryRecord)]);
    assert_eq!(acts(primary.step(Input::Timer(Timer::RetryRecord))), [Output::Enrol]);
    assert!(primary.may_be_enrolled());
    let lost = primary.step(Input::LinkLost("broken".to_owned()));
    assert!(has(&lost, "Solo") && !releases(&lost), "{lost:?}");
    assert_eq!(acts(primary.step(Input::Enrolled(Answer::Won))), [], "it comes too late");
}

#[test]
fn a_planned_failover_is_a_last_checkpoint_and_a_permit() {
    let mut primary = protected();
    assert_eq!(acts(primary.step(Input::Failover)), [Output::Capture { epoch: 2, holds: false, stays: true }]);
    primary.step(captured(2));
    let releases = primary.step(committed(2));
    assert!(releases.contains(&Output::Release { epoch: 2 }) && !has(&releases, "Send"), "{releases:?}");
    assert_eq!(releases.last(), Some(&Output::ReleaseDisk), "the secondary needs the disk before it can run");
    let mut keeps = primary.clone();
    let permit = primary.step(Input::DiskReleased(Ok(())));
    assert_eq!(permit, [Output::Send(ToSecondary::Permit { generation: 5 })]);
    for refused in [Input::Unprotect, Input::Failover] {
        assert!(matches!(primary.step(refused)[..], [Output::Refuse(_)]));
    }
    let mut stays = primary.clone();
    let mut uncertain = primary.clone();

    let started = primary.step(Input::Message(ToPrimary::Started));
    assert!(started.contains(&Output::HandOver) && !has(&started, "ResumeGuest"));
    assert_eq!(primary.outcome(), Some(&Outcome::Moved));

    let kept = keeps.step(Input::DiskReleased(Err(failure())));
    assert!(kept.contains(&Output::ResumeGuest) && has(&kept, "FailoverFailed"), "{kept:?}");

    let refused = stays.step(Input::Message(ToPrimary::NotStarted(failure())));
    assert!(refused.contains(&Output::TakeDisk) && has(&refused, "FailoverFailed"), "{refused:?}");
    assert!(!has(&refused, "ResumeGuest"), "not without its disk");
    assert!(stays.step(Input::DiskTaken(Err(failure()))).contains(&Output::StartTimer(Timer::RetryDisk)));
    assert!(matches!(stays.step(Input::Failover)[..], [Output::Refuse(_)]), "it is stopped");
    assert_eq!(stays.step(Input::EpochEnds), [], "nothing has happened since the last checkpoint");
    assert_eq!(stays.step(Input::Timer(Timer::RetryDisk)), [Output::TakeDisk]);
    let runs = acts(stays.step(Input::DiskTaken(Ok(()))));
    assert_eq!(runs, [Output::ResumeGuest, Output::Capture { epoch: 3, holds: false, stays: false }]);

    let parts = uncertain.step(Input::LinkLost("broken".to_owned()));
    assert!(has(&parts, "Solo") && !has(&parts, "ResumeGuest"), "{parts:?}");
    let mut won = uncertain.clone();
    let outputs = won.step(Input::Soloed(Answer::Won));
    assert!(outputs.contains(&Output::TakeDisk) && has(&outputs, "FailoverFailed"), "{outputs:?}");
    assert_eq!(won.step(Input::DiskTaken(Ok(()))), [Output::ResumeGuest]);
    let lost = uncertain.step(Input::Soloed(Answer::Lost));
    assert!(lost.contains(&Output::HandOver) && !has(&lost, "ResumeGuest"), "{lost:?}");
}

#[test]
fn a_disk_that_is_being_released_is_waited_for() {
    let mut primary = protected();
    after(&mut primary, [Input::Failover, captured(2), committed(2), Input::LinkLost("broken".to_owned())]);
    let won = primary.step(Input::Soloed(Answer::Won));
    assert!(!has(&won, "ResumeGuest") && !has(&won, "TakeDisk"), "{won:?}");
    let mut kept = primary.clone();
    assert_eq!(primary.step(Input::DiskReleased(Ok(()))), [Output::TakeDisk]);
    assert_eq!(kept.step(Input::DiskReleased(Err(failure()))), [Output::ResumeGuest]);
}

#[test]
fn a_failover_that_is_requested_during_a_capture_waits_for_the_next_one() {
    let mut primary = protected();
    primary.step(Input::EpochEnds);
    assert_eq!(primary.step(Input::Failover), []);
    primary.step(captured(2));
    let mut deposed = primary.clone();
    let outputs = acts(primary.step(committed(2)));
    assert_eq!(outputs.last(), Some(&Output::Capture { epoch: 3, holds: false, stays: true }));
    // The guest runs: it is stopped before it is given away.
    deposed.step(Input::LinkLost("broken".to_owned()));
    let lost = deposed.step(Input::Soloed(Answer::Lost));
    assert!(lost.contains(&Output::StopGuest) && !has(&lost, "HandOver"), "{lost:?}");
}

#[test]
fn a_capture_that_hangs_is_interrupted() {
    let mut primary = protected();
    assert!(primary.step(Input::EpochEnds).contains(&Output::StartTimer(Timer::Capture)));
    assert_eq!(primary.step(Input::Timer(Timer::Capture)), [Output::InterruptCapture]);
}

#[test]
fn a_planned_failover_that_fails_early_leaves_a_protected_guest() {
    for fails in [failed(2), Input::Captured { epoch: 2, result: Err(failure()) }] {
        let mut primary = protected();
        primary.step(Input::Failover);
        if matches!(fails, Input::Message(_)) {
            primary.step(captured(2));
        }
        let outputs = primary.step(fails.clone());
        assert!(has(&outputs, "FailoverFailed"), "{outputs:?}");
        // A capture that fails lets the guest go on by itself.
        assert_eq!(has(&outputs, "ResumeGuest"), matches!(fails, Input::Message(_)), "{outputs:?}");
        assert_eq!(primary.state, State::Protected);
    }
}

#[test]
fn a_guest_that_was_stopped_meanwhile_runs_again_when_the_solo_swap_is_won() {
    // By `x-ferry-isolated=stop`; the stop ends before or after the answer.
    for stopped_first in [true, false] {
        let mut primary = protected_by(Plan { stops_isolated: true, ..plan() });
        primary.step(Input::LinkLost("broken".to_owned()));
        assert!(has(&primary.step(Input::Soloed(Answer::Unreachable)), "StopGuest"));
        let mut inputs = [Input::Soloed(Answer::Won), Input::GuestStopped];
        if stopped_first {
            inputs.reverse();
        }
        let outputs: Vec<_> = inputs.into_iter().flat_map(|input| primary.step(input)).collect();
        assert!(outputs.contains(&Output::ResumeGuest), "{outputs:?}");
    }
    // By the last capture of a planned failover, which ends after the link.
    for captured_first in [true, false] {
        let mut primary = protected();
        after(&mut primary, [Input::Failover, Input::LinkLost("broken".to_owned())]);
        let mut inputs = [Input::Soloed(Answer::Won), captured(2)];
        if captured_first {
            inputs.reverse();
        }
        let outputs: Vec<_> = inputs.into_iter().flat_map(|input| primary.step(input)).collect();
        assert!(outputs.contains(&Output::ResumeGuest), "{outputs:?}");
        assert!(outputs.contains(&Output::Restore { epoch: 2 }), "{outputs:?}");
    }
}

#[test]
fn without_a_record_an_operator_decides() {
    let mut primary = protected_by(Plan { has_record: false, ..plan() });
    assert!(matches!(primary.step(Input::Resolve(Survivor::Primary))[..], [Output::Refuse(_)]));
    let isolated = primary.step(Input::LinkLost("broken".to_owned()));
    assert!(!has(&isolated, "Solo") && !releases(&isolated), "{isolated:?}");
    assert_eq!(acts(primary.step(Input::Timer(Timer::RetryRecord))), []);
    let mut deposed = primary.clone();
    let decided = primary.step(Input::Resolve(Survivor::Primary));
    assert!(releases(&decided) && !has(&decided, "SoloLater"), "{decided:?}");
    assert!(unprotected(&primary).contains("the operator"));
    assert!(deposed.step(Input::Resolve(Survivor::Secondary)).contains(&Output::StopGuest));
}

#[test]
fn an_operator_decides_in_the_place_of_a_record_that_does_not_answer() {
    let mut primary = protected();
    after(&mut primary, [Input::LinkLost("broken".to_owned()), Input::Soloed(Answer::Unreachable)]);
    let decided = primary.step(Input::Resolve(Survivor::Primary));
    // The record still names the partner, and is told as soon as it answers.
    assert!(decided.contains(&Output::SoloLater) && releases(&decided), "{decided:?}");
    assert_eq!(primary.step(Input::Soloed(Answer::Lost)), [], "it comes too late");
}

#[test]
fn a_protection_that_ends_before_its_enrolment_settles_what_the_greeting_has_announced() {
    let mut primary = Primary::new(plan());
    primary.start();
    assert!(has(&primary.step(Input::LinkLost("broken".to_owned())), "Settle"));
    let mut primary = protected();
    primary.step(Input::LinkLost("broken".to_owned()));
    assert!(!has(&primary.step(Input::Soloed(Answer::Won)), "Settle"), "the swap has settled it");
}
