//! Drives both state machines of a migration by hand: no guest, no socket, no thread.
//!
//! ```text
//! cargo run -p ferry-migration --example by_hand
//! ```
//!
//! Every output is printed. What a driver would do for it is left out, and the answer is given at
//! once: the round leaves nothing over, the state loads, the guest starts.

use ferry_migration::convergence::Decision;
use ferry_migration::destination::{self, Destination, LoadTimes};
use ferry_migration::source::{self, Plan, Source};
use ferry_migration::{Handshake, ToDestination, ToSource};

/// What the source's driver answers; a message goes to the destination.
fn at_source(output: source::Output) -> (Option<source::Input>, Option<ToDestination>) {
    println!("source       {output:?}");
    let answer = match output {
        source::Output::Send(message) => return (None, Some(message)),
        source::Output::Connect => source::Input::Connected,
        source::Output::SendRound => source::Input::RoundDone(Decision::Switch),
        source::Output::StopGuest => source::Input::Stopped(Ok(())),
        source::Output::Save => source::Input::Saved(Ok(())),
        source::Output::SendLastPages { .. } => source::Input::LastPagesSent { marker: 1 },
        _ => return (None, None),
    };
    (Some(answer), None)
}

/// What the destination's driver answers; a message goes to the source.
fn at_destination(output: destination::Output) -> (Option<destination::Input>, Option<ToSource>) {
    println!("destination  {output:?}");
    let answer = match output {
        destination::Output::Send(message) => return (None, Some(message)),
        destination::Output::CheckGreeting => destination::Input::Checked(Ok(true)),
        destination::Output::Load { .. } => destination::Input::Loaded(Ok(LoadTimes::default())),
        destination::Output::Start => destination::Input::Started(Ok(0)),
        _ => return (None, None),
    };
    (Some(answer), None)
}

fn main() {
    let mut source = Source::new(Plan {
        generation: 1,
        rehearse: false,
        postcopy: false,
        handshake: Handshake::Setup,
        insist_on_record: false,
        has_record: false,
    });
    let mut destination = Destination::new();
    let (mut left, mut right) = (source.start(), destination.start());
    let mut completed = 0;
    // One output after the other, until neither side has any.
    while !left.is_empty() || !right.is_empty() {
        for output in std::mem::take(&mut left) {
            completed += u32::from(matches!(output, source::Output::Finish(source::Outcome::Completed)));
            let (input, message) = at_source(output);
            left.extend(input.into_iter().flat_map(|input| source.step(input)));
            if let Some(message) = message {
                // The last pages came ahead of it, on other links.
                let marker = if let ToDestination::Package { marker, .. } = message { Some(marker) } else { None };
                right.extend(destination.step(destination::Input::Message(message)));
                let marker = marker.map(destination::Input::MarkerReached);
                right.extend(marker.into_iter().flat_map(|marker| destination.step(marker)));
            }
        }
        for output in std::mem::take(&mut right) {
            completed += u32::from(matches!(output, destination::Output::Finish(destination::Outcome::Completed)));
            let (input, message) = at_destination(output);
            right.extend(input.into_iter().flat_map(|input| destination.step(input)));
            left.extend(message.into_iter().flat_map(|message| source.step(source::Input::Message(message))));
        }
    }
    assert_eq!(completed, 2, "both sides have ended well");
}

#[test]
fn both_sides_complete() {
    main();
}
