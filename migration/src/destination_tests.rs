//! Walks of the destination's state machine: the good way, and every clean way out.

use super::*;

fn good_way() -> Vec<Input> {
    vec![
        Input::Message(ToDestination::Hello { version: PROTOCOL_VERSION, generation: 1 }),
        Input::Checked(Ok(())),
        Input::Message(ToDestination::Rehearse),
        Input::Loaded(Ok(LoadTimes::default())),
        Input::Message(ToDestination::Package { generation: 1, marker: 2 }),
        Input::MarkerReached(2),
        Input::Loaded(Ok(LoadTimes::default())),
        Input::Message(ToDestination::Permit { generation: 1 }),
        Input::Started(Ok(3)),
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
fn the_good_way_starts_once() {
    let way = good_way();
    let mut destination = Destination::new();
    let mut starts = 0;
    let mut end = None;
    for input in way {
        let outputs = destination.step(input);
        starts += outputs.iter().filter(|o| **o == Output::Start).count();
        end = finished(&outputs).cloned().or(end);
    }
    assert_eq!((starts, end), (1, Some(Outcome::Completed)));
}

#[test]
fn the_marker_may_come_before_the_package() {
    let mut way = good_way();
    way.swap(4, 5);
    let (_, last) = walk(&way[..6]);
    assert!(last.contains(&Output::Load { rehearsal: false }), "{last:?}");
}

#[test]
fn no_load_before_the_last_pages() {
    let (mut destination, last) = walk(&good_way()[..5]);
    assert!(!last.iter().any(|o| matches!(o, Output::Load { .. })), "{last:?}");
    assert!(destination.step(Input::MarkerReached(1)).is_empty());
}

#[test]
fn every_trouble_before_the_permit_ends_without_a_start() {
    let way = good_way();
    for steps in 0..7 {
        for trouble in [
            Input::LinkLost("cut".into()),
            Input::Timer(Timer::PeerSilent),
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

#[test]
fn the_permit_counts_whatever_becomes_of_the_link() {
    for trouble in [
        Input::LinkLost("cut".into()),
        Input::Timer(Timer::PeerSilent),
        Input::Cancel,
        Input::Message(ToDestination::Cancel { reason: "late".into() }),
    ] {
        let (mut destination, last) = walk(&good_way()[..8]);
        assert!(last.contains(&Output::Start));
        assert!(destination.step(trouble).is_empty());
        assert_eq!(finished(&destination.step(Input::Started(Ok(1)))), Some(&Outcome::Completed));
    }
}

#[test]
fn a_start_that_fails_gives_the_guest_back() {
    let (mut destination, _) = walk(&good_way()[..8]);
    let lock = Failure { device: "virtio-blk/0".into(), reason: "locked".into() };
    let outputs = destination.step(Input::Started(Err(lock.clone())));
    assert!(outputs.contains(&Output::Send(ToSource::NotStarted(lock))));
    assert!(matches!(finished(&outputs), Some(Outcome::Failed(_))));
}

#[test]
fn another_version_is_refused() {
    let (_, last) = walk(&[Input::Message(ToDestination::Hello { version: 99, generation: 1 })]);
    assert!(matches!(&last[0], Output::Send(ToSource::Refused { reason }) if reason.contains("99")), "{last:?}");
}
