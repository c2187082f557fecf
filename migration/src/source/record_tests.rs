//! Walks about the ownership record: what it says during a migration, and an operator's word
//! beside it.

use super::*;
use crate::convergence::Decision;
use crate::message::Failure;

fn plan(handshake: Handshake) -> Plan {
    Plan { generation: 1, rehearse: false, postcopy: false, handshake, insist_on_record: false, has_record: true }
}

/// A source with a record whose destination has the permit.
fn permitted(handshake: Handshake) -> Source {
    let mut source = Source::new(plan(handshake));
    source.start();
    for input in [
        Input::Connected,
        Input::NonceWritten(Ok(())),
        Input::Message(ToSource::HelloAck { record_shared: handshake == Handshake::Owned }),
        Input::RoundDone(Decision::Switch),
        Input::Stopped(Ok(())),
        Input::Saved(Ok(())),
        Input::LastPagesSent { marker: 1 },
        Input::Message(ToSource::Ready { load_us: 1, pages_us: 1 }),
    ] {
        source.step(input);
    }
    source
}

fn uncertain(handshake: Handshake) -> Source {
    let mut source = permitted(handshake);
    source.step(Input::LinkLost("cut".into()));
    if handshake == Handshake::Owned {
        source.step(Input::TookBack(TakeBack::Unreachable));
    }
    assert!(source.uncertainty().is_some());
    source
}

fn word(owner: Owner) -> Input {
    Input::Resolve(Resolution::to(owner))
}

#[test]
fn the_record_says_with_every_handshake_that_a_migration_is_under_way() {
    for handshake in [Handshake::None, Handshake::Pong, Handshake::Setup, Handshake::Owned] {
        let mut source = Source::new(plan(handshake));
        source.start();
        assert_eq!(source.step(Input::Connected), [Output::WriteNonce], "{handshake:?}");
    }
    let mut without = Source::new(Plan { has_record: false, ..plan(Handshake::Setup) });
    without.start();
    assert!(matches!(without.step(Input::Connected)[..], [Output::Send(ToDestination::Hello { .. })]));
}

#[test]
fn a_guest_that_stays_stopped_without_its_disk_leaves_the_record_unsettled() {
    let stops = |resumed: Result<(), Failure>| {
        let mut source = Source::new(plan(Handshake::Setup));
        source.start();
        for input in [
            Input::Connected,
            Input::NonceWritten(Ok(())),
            Input::Message(ToSource::HelloAck { record_shared: false }),
            Input::RoundDone(Decision::Switch),
            Input::Stopped(Ok(())),
            Input::LinkLost("cut".into()),
            Input::Saved(Ok(())),
        ] {
            source.step(input);
        }
        source.step(Input::Resumed(resumed))
    };
    assert!(stops(Ok(())).contains(&Output::Settle));
    let busy = Failure { device: "virtio-blk/0".into(), reason: "another process holds its lock".into() };
    let outputs = stops(Err(busy));
    assert!(!outputs.contains(&Output::Settle), "{outputs:?}");
    assert!(matches!(outputs.last(), Some(Output::Finish(Outcome::Failed(_)))));
}

#[test]
fn a_migration_that_ends_before_the_stop_settles_the_record() {
    let mut source = Source::new(plan(Handshake::Setup));
    source.start();
    source.step(Input::Connected);
    let outputs = source.step(Input::Message(ToSource::Refused { reason: "busy".into() }));
    assert!(outputs.contains(&Output::Settle), "{outputs:?}");
    assert!(
        outputs
            .iter()
            .any(|o| matches!(o, Output::Finish(Outcome::Failed(why)) if why.contains("refused the migration: busy"))),
        "{outputs:?}"
    );
}

#[test]
fn an_operators_word_for_the_source_counts_once_the_record_names_it() {
    for handshake in [Handshake::Setup, Handshake::Owned] {
        let ask = || {
            let mut source = uncertain(handshake);
            assert_eq!(source.step(word(Owner::Source)).last(), Some(&Output::TakeBack), "{handshake:?}");
            assert!(source.is_resolving());
            assert!(matches!(source.step(word(Owner::Source))[..], [Output::Refuse(_)]), "one at a time");
            source
        };
        let won = ask().step(Input::TookBack(TakeBack::Won));
        assert_eq!(won.first(), Some(&Output::Resolved(Ok(()))));
        assert!(won.contains(&Output::ResumeGuest));
        for refused in [TakeBack::Lost, TakeBack::Taken, TakeBack::Claimed, TakeBack::Unreachable] {
            let mut source = ask();
            let outputs = source.step(Input::TookBack(refused));
            assert!(matches!(outputs.first(), Some(Output::Resolved(Err(_)))), "{refused:?}: {outputs:?}");
            assert!(!outputs.contains(&Output::ResumeGuest), "{refused:?}");
            let gone = matches!(refused, TakeBack::Lost | TakeBack::Taken);
            assert_eq!(outputs.contains(&Output::HandOver), gone, "{refused:?}: {outputs:?}");
            assert_eq!(source.uncertainty().is_some(), !gone);
        }
    }
}

#[test]
fn a_destination_that_never_ran_keeps_the_record_from_nothing_but_another_owner() {
    for (answer, runs) in
        [(TakeBack::Unreachable, true), (TakeBack::Claimed, true), (TakeBack::Lost, false), (TakeBack::Taken, false)]
    {
        let mut source = uncertain(Handshake::Owned);
        source.step(Input::Resolve(Resolution { owner: Owner::Source, never_ran: true }));
        assert_eq!(source.step(Input::TookBack(answer)).contains(&Output::ResumeGuest), runs, "{answer:?}");
    }
}

#[test]
fn a_word_that_comes_while_the_record_is_asked_waits_for_the_answer() {
    let asking = || {
        let mut source = permitted(Handshake::Owned);
        assert!(source.step(Input::LinkLost("cut".into())).contains(&Output::TakeBack));
        assert!(source.step(word(Owner::Destination)).is_empty());
        source
    };
    for answer in [TakeBack::Lost, TakeBack::Claimed, TakeBack::Unreachable] {
        let outputs = asking().step(Input::TookBack(answer));
        assert_eq!(outputs.first(), Some(&Output::Resolved(Ok(()))), "{answer:?}");
        assert!(outputs.contains(&Output::HandOver), "{answer:?}: {outputs:?}");
    }
    let kept = asking().step(Input::TookBack(TakeBack::Won));
    assert!(matches!(kept.first(), Some(Output::Resolved(Err(_)))), "{kept:?}");
    assert!(kept.contains(&Output::ResumeGuest));
    let started = asking().step(Input::Message(ToSource::Started { start_us: 1, permit_us: 1 }));
    assert_eq!(started.first(), Some(&Output::Resolved(Ok(()))));
}
