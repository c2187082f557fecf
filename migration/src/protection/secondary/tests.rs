//! A secondary, step by step.

use super::*;
use crate::ownership::partnership::Reading;
use crate::protection::Answer;
use crate::protection::primary::Survivor;

fn plan() -> Plan {
    Plan { generation: 5, has_record: true, stops_isolated: false }
}

fn announced(epoch: u64) -> Input {
    let message = ToSecondary::Checkpoint { epoch, marker: 1, pages: 1, disk_record: 0, disk_applied: epoch - 1 };
    Input::Message(message)
}

fn failure() -> Failure {
    Failure { device: "serial/0".to_owned(), reason: "told to fail".to_owned() }
}

fn lost() -> Input {
    Input::LinkLost("broken".to_owned())
}

fn has(outputs: &[Output], name: &str) -> bool {
    outputs.iter().any(|output| output.name() == name)
}

fn acknowledges(outputs: &[Output], epoch: u64) -> bool {
    let is_it =
        |output: &Output| matches!(output, Output::Send(ToPrimary::Committed { epoch: of, .. }) if *of == epoch);
    outputs.iter().any(is_it)
}

/// The outputs without the timer that watches over the work itself.
fn acts(outputs: Vec<Output>) -> Vec<Output> {
    let watches = |output: &Output| matches!(output, Output::StartTimer(Timer::Work) | Output::StopTimer(Timer::Work));
    outputs.into_iter().filter(|output| !watches(output)).collect()
}

fn after(secondary: &mut Secondary, inputs: impl IntoIterator<Item = Input>) -> Vec<Output> {
    inputs.into_iter().map(|input| secondary.step(input)).last().unwrap_or_default()
}

/// The checkpoint arrives, is committed and applied.
fn takes(secondary: &mut Secondary, epoch: u64) {
    after(secondary, [announced(epoch), Input::Whole { epoch }, Input::Verified(Ok(())), Input::Applied]);
    assert_eq!((secondary.committed(), &secondary.state), (epoch, &State::Standby));
}

fn standby_by(plan: Plan) -> Secondary {
    let mut secondary = Secondary::new(plan);
    secondary.start();
    takes(&mut secondary, 1);
    secondary.step(Input::Message(ToSecondary::Enrolled { generation: 5 }));
    secondary
}

fn standby() -> Secondary {
    standby_by(plan())
}

/// It suspects its primary, which has had its head start.
fn reading() -> Secondary {
    let mut secondary = standby();
    assert!(has(&secondary.step(lost()), "CloseLinks"));
    assert!(has(&secondary.step(Input::Timer(Timer::HeadStart)), "ReadRecord"));
    secondary
}

#[test]
fn a_checkpoint_is_acknowledged_once_it_is_verified() {
    let mut secondary = standby();
    assert!(!has(&secondary.step(announced(2)), "Send"));
    let whole = secondary.step(Input::Whole { epoch: 2 });
    assert_eq!(acts(whole), [Output::Verify { epoch: 2 }]);
    let outputs = secondary.step(Input::Verified(Ok(())));
    assert_eq!(acts(outputs.clone()).first(), Some(&Output::Commit { epoch: 2, drops_journal: 1 }));
    assert!(acknowledges(&outputs, 2) && outputs.contains(&Output::Apply { epoch: 2 }));
    // The next is whole before this one is applied.
    assert!(!has(&after(&mut secondary, [announced(3), Input::Whole { epoch: 3 }]), "Verify"));
    assert_eq!(acts(secondary.step(Input::Applied)), [Output::Verify { epoch: 3 }]);
}

#[test]
fn a_checkpoint_that_is_refused_leaves_the_one_before_good() {
    let mut secondary = standby();
    let bad = after(&mut secondary, [announced(2), Input::Whole { epoch: 2 }, Input::Verified(Err(failure()))]);
    assert_eq!(acts(bad), [Output::Reload { epoch: 1 }]);
    let told = secondary.step(Input::Reloaded(Ok(())));
    assert_eq!(acts(told), [Output::Send(ToPrimary::CheckpointFailed { epoch: 2, failure: failure() })]);
    assert_eq!(secondary.committed(), 1);
    takes(&mut secondary, 3);

    // The first has none before it; nor can the one before be loaded again.
    let mut first = Secondary::new(plan());
    first.start();
    let outputs = after(&mut first, [announced(1), Input::Whole { epoch: 1 }, Input::Verified(Err(failure()))]);
    assert!(has(&outputs, "Send") && matches!(first.outcome(), Some(Outcome::Failed(_))), "{outputs:?}");
    after(&mut secondary, [announced(4), Input::Whole { epoch: 4 }, Input::Verified(Err(failure()))]);
    let outputs = secondary.step(Input::Reloaded(Err(failure())));
    assert!(has(&outputs, "Send") && matches!(secondary.outcome(), Some(Outcome::Failed(_))), "{outputs:?}");
}

#[test]
fn a_primary_that_is_lost_before_the_first_commit_keeps_its_guest() {
    for before in [vec![], vec![announced(1)], vec![announced(1), Input::Whole { epoch: 1 }]] {
        let mut secondary = Secondary::new(plan());
        secondary.start();
        after(&mut secondary, before);
        let outputs = secondary.step(lost());
        assert!(has(&outputs, "Discard") && has(&outputs, "CloseLinks"), "{outputs:?}");
        assert!(matches!(secondary.outcome(), Some(Outcome::Failed(_))));
    }
}

#[test]
fn a_takeover_is_tried_in_full_before_the_swap_and_shown_after_it() {
    let mut secondary = reading();
    assert!(has(&secondary.step(Input::Read(Some(Reading::Partner))), "TakeDisk"));
    assert_eq!(acts(secondary.step(Input::DiskTaken(Ok(())))), [Output::Try { epoch: 1 }]);
    assert_eq!(acts(secondary.step(Input::Tried(Ok(())))), [Output::Claim]);
    assert_eq!(acts(secondary.step(Input::Claimed(Answer::Unreachable))), [Output::StartTimer(Timer::RetryRecord)]);
    assert_eq!(acts(secondary.step(Input::Timer(Timer::RetryRecord))), [Output::Claim]);
    assert!(matches!(secondary.clone().step(Input::Leave("quit".to_owned()))[..], [Output::Refuse(_)]));
    let mut loses = secondary.clone();
    let won = secondary.step(Input::Claimed(Answer::Won));
    assert!(has(&won, "GoLive") && secondary.outcome() == Some(&Outcome::TookOver), "{won:?}");
    let lost = loses.step(Input::Claimed(Answer::Lost));
    assert!(has(&lost, "Discard") && !has(&lost, "GoLive"), "{lost:?}");
    assert!(matches!(loses.outcome(), Some(Outcome::Superseded(_))));
}

#[test]
fn only_a_record_that_names_it_lets_a_secondary_take_over() {
    for unknown in [Some(Reading::NoPartner), None] {
        let mut secondary = reading();
        assert_eq!(acts(secondary.step(Input::Read(unknown))), [Output::StartTimer(Timer::RetryRecord)]);
        assert_eq!(acts(secondary.step(Input::Timer(Timer::RetryRecord))), [Output::ReadRecord]);
        // One that does not answer may name it; one that names no partner is not asked for ever.
        assert_eq!(acts(secondary.step(Input::Timer(Timer::KeepStale))), [Output::ReadRecord]);
        let mut named = secondary.clone();
        assert!(has(&named.step(Input::Read(Some(Reading::Partner))), "TakeDisk"));
        let over = secondary.step(Input::Read(unknown));
        assert_eq!(has(&over, "Finish"), unknown.is_some(), "{over:?}");
    }
    let mut secondary = reading();
    assert!(has(&secondary.step(Input::Read(Some(Reading::Other))), "Discard"));
}

#[test]
fn a_suspicious_secondary_is_deaf_and_waits_for_what_is_under_way() {
    // Being applied.
    let mut secondary = standby();
    after(&mut secondary, [announced(2), Input::Whole { epoch: 2 }, Input::Verified(Ok(()))]);
    secondary.step(lost());
    assert_eq!(acts(secondary.step(announced(3))), []);
    assert!(!has(&secondary.step(Input::Timer(Timer::HeadStart)), "ReadRecord"));
    assert!(has(&secondary.step(Input::Applied), "ReadRecord"));

    // Being verified: committed and not acknowledged.
    let mut secondary = standby();
    after(&mut secondary, [announced(2), Input::Whole { epoch: 2 }]);
    assert!(has(&secondary.step(lost()), "CloseLinks"));
    let outputs = secondary.step(Input::Verified(Ok(())));
    assert!(!has(&outputs, "Send") && has(&outputs, "Commit"), "{outputs:?}");
    assert_eq!((secondary.committed(), &secondary.state), (2, &State::Suspecting));

    // Being verified, and bad: from the one before.
    let mut secondary = standby();
    after(&mut secondary, [announced(2), Input::Whole { epoch: 2 }, lost(), Input::Verified(Err(failure()))]);
    let outputs = secondary.step(Input::Reloaded(Ok(())));
    assert!(!has(&outputs, "Send"), "{outputs:?}");
    assert_eq!((secondary.committed(), &secondary.state), (1, &State::Suspecting));

    // Whole, and waiting for the one before to be applied.
    let mut secondary = standby();
    after(&mut secondary, [announced(2), Input::Whole { epoch: 2 }, Input::Verified(Ok(())), announced(3)]);
    after(&mut secondary, [Input::Whole { epoch: 3 }, lost()]);
    assert_eq!(acts(secondary.step(Input::Applied)), [Output::Verify { epoch: 3 }]);

    // Not whole: dropped.
    let mut secondary = standby();
    after(&mut secondary, [announced(2), lost()]);
    assert_eq!(acts(secondary.step(Input::Whole { epoch: 2 })), []);
}

#[test]
fn a_trial_that_fails_is_undone_and_made_again() {
    for disk_fails in [true, false] {
        let mut secondary = reading();
        secondary.step(Input::Read(Some(Reading::Partner)));
        let outputs = match disk_fails {
            true => secondary.step(Input::DiskTaken(Err(failure()))),
            false => after(&mut secondary, [Input::DiskTaken(Ok(())), Input::Tried(Err(failure()))]),
        };
        assert!(has(&outputs, "UndoTrial") && !has(&outputs, "Claim"), "{outputs:?}");
        assert!(has(&secondary.step(Input::Timer(Timer::RetryTrial)), "ReadRecord"));
    }
}

#[test]
fn a_planned_failover_needs_no_suspicion_and_outlives_the_link() {
    let mut secondary = standby();
    let permit = Input::Message(ToSecondary::Permit { generation: 5 });
    assert!(has(&secondary.step(permit.clone()), "ReadRecord"));
    let mut cut = secondary.clone();
    let mut fails = secondary.clone();
    after(&mut secondary, [Input::Read(Some(Reading::Partner)), Input::DiskTaken(Ok(())), Input::Tried(Ok(()))]);
    let won = secondary.step(Input::Claimed(Answer::Won));
    assert!(won.contains(&Output::Send(ToPrimary::Started)), "{won:?}");

    cut.step(lost());
    after(&mut cut, [Input::Read(Some(Reading::Partner)), Input::DiskTaken(Ok(()))]);
    assert_eq!(acts(cut.step(Input::Tried(Ok(())))), [Output::Claim]);

    after(&mut fails, [Input::Read(Some(Reading::Partner)), Input::DiskTaken(Ok(())), Input::Tried(Err(failure()))]);
    assert_eq!(acts(fails.step(Input::Reloaded(Ok(())))), [Output::Send(ToPrimary::NotStarted(failure()))]);
    takes(&mut fails, 2);

    // Of a secondary that is not enrolled, or of another generation, it is a violation.
    for wrong in [4, 5] {
        let mut early = Secondary::new(plan());
        early.start();
        takes(&mut early, 1);
        let outputs = early.step(Input::Message(ToSecondary::Permit { generation: wrong }));
        assert!(has(&outputs, "CloseLinks"), "{outputs:?}");
    }
}

#[test]
fn a_dismissed_secondary_ends_and_a_message_out_of_place_is_a_loss() {
    let mut secondary = standby();
    let outputs = secondary.step(Input::Message(ToSecondary::Dismiss { reason: "unprotect".to_owned() }));
    assert!(has(&outputs, "Discard"), "{outputs:?}");
    for wrong in [announced(1), announced(3), Input::Message(ToSecondary::Enrolled { generation: 6 })] {
        let mut secondary = standby();
        let outputs = secondary.step(wrong.clone());
        assert!(has(&outputs, "CloseLinks") && secondary.state == State::Suspecting, "{wrong:?}: {outputs:?}");
    }
}

#[test]
fn without_a_record_an_operator_decides() {
    let mut secondary = standby_by(Plan { has_record: false, ..plan() });
    assert!(matches!(secondary.step(Input::LostHeartbeat)[..], [Output::Refuse(_)]));
    secondary.step(lost());
    let outputs = secondary.step(Input::Timer(Timer::HeadStart));
    assert!(matches!(outputs[..], [Output::Phase(Phase::Isolated(_))]), "{outputs:?}");
    let mut loses = secondary.clone();
    secondary.step(Input::Resolve(Survivor::Secondary));
    let outputs = after(&mut secondary, [Input::DiskTaken(Ok(())), Input::Tried(Ok(()))]);
    assert!(has(&outputs, "GoLive") && !has(&outputs, "Claim"), "{outputs:?}");
    assert!(has(&loses.step(Input::Resolve(Survivor::Primary)), "Discard"));
}

#[test]
fn work_that_ends_after_its_end_is_undone_and_brings_it_not_back() {
    let quit = || Input::Leave("quit".to_owned());
    let mut disk = reading();
    after(&mut disk, [Input::Read(Some(Reading::Partner)), quit()]);
    assert_eq!(disk.step(Input::DiskTaken(Ok(()))), [Output::UndoTrial]);
    let mut trial = reading();
    after(&mut trial, [Input::Read(Some(Reading::Partner)), Input::DiskTaken(Ok(())), quit()]);
    assert_eq!(trial.step(Input::Tried(Ok(()))), [Output::UndoTrial]);
    let mut reloads = standby();
    let bad = [announced(2), Input::Whole { epoch: 2 }, Input::Verified(Err(failure())), quit()];
    after(&mut reloads, bad);
    assert_eq!(reloads.step(Input::Reloaded(Ok(()))), []);
    assert!(reloads.outcome().is_some() && reloads.step(lost()).is_empty());
}

#[test]
fn work_that_hangs_is_interrupted() {
    let mut secondary = standby();
    after(&mut secondary, [announced(2), Input::Whole { epoch: 2 }]);
    assert_eq!(secondary.step(Input::Timer(Timer::Work)), [Output::InterruptWork]);
}

#[test]
fn an_operator_decides_in_the_place_of_a_record_that_does_not_answer() {
    let mut secondary = reading();
    secondary.step(Input::Read(None));
    let mut gives_way = secondary.clone();
    assert!(has(&secondary.step(Input::Resolve(Survivor::Secondary)), "TakeDisk"));
    let outputs = after(&mut secondary, [Input::DiskTaken(Ok(())), Input::Tried(Ok(()))]);
    assert!(has(&outputs, "GoLive") && outputs.contains(&Output::ClaimLater) && !has(&outputs, "Claim"), "{outputs:?}");
    assert!(has(&gives_way.step(Input::Resolve(Survivor::Primary)), "Discard"));
}

#[test]
fn without_a_record_a_trial_that_fails_leaves_the_decision_to_the_operator() {
    let mut secondary = standby_by(Plan { has_record: false, ..plan() });
    after(&mut secondary, [lost(), Input::Timer(Timer::HeadStart), Input::Resolve(Survivor::Secondary)]);
    let outputs = after(&mut secondary, [Input::DiskTaken(Ok(())), Input::Tried(Err(failure()))]);
    assert!(has(&outputs, "UndoTrial") && matches!(outputs.last(), Some(Output::Phase(Phase::Isolated(_)))));
    assert!(has(&secondary.step(Input::Resolve(Survivor::Primary)), "Discard"));
}
