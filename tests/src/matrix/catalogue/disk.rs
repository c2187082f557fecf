//! Other processes and people who touch the guest's disk: a plain `ferry run` beside the
//! migration, a boot that does not look at the record, a third process that has the lock when the source wants it back, an image that
//! grows, is replaced, or is another one.

use super::super::cell::{Mode, Side, What, When};
use super::Moment;
use super::frames::{is_last_resort, modes_of};
use crate::relay::Spot;

/// Steps before which a plain run finds the disk's lock and the record in every state that there
/// is.
const STEPS: [(Side, &str); 11] = [
    (Side::Source, "WriteNonce"),
    (Side::Source, "StopGuest"),
    (Side::Source, "Save"),
    (Side::Source, "SendLastPages"),
    (Side::Source, "HandOver"),
    (Side::Source, "ResumeGuest"),
    (Side::Destination, "CheckGreeting"),
    (Side::Destination, "Load"),
    (Side::Destination, "Claim"),
    (Side::Destination, "Start"),
    (Side::Destination, "GiveBack"),
];
/// Messages around which a source loses its disk's lock.
const SWITCHOVER: [&str; 5] = ["Package", "Ready", "LoadFailed", "Permit", "NotStarted"];
/// Messages at which an image grows: either side has opened it, is about to, or goes back to it.
const GROWS: [&str; 8] = ["Hello", "Rehearse", "Package", "Ready", "LoadFailed", "Permit", "NotStarted", "Started"];
/// Messages at which an image is replaced.
const REPLACED: [&str; 5] = ["Hello", "HelloAck", "Rehearse", "Package", "Permit"];

pub(super) fn moments() -> Vec<Moment> {
    let mut out = Vec::new();
    let message =
        |mode, name, whats: &[What]| Moment { mode, when: When::Frame(Spot::Message(name)), whats: whats.to_vec() };
    for mode in [Mode::Precopy, Mode::Postcopy, Mode::Recovered] {
        let names = super::frames::messages().filter(|name| modes_of(name).contains(&mode));
        // A migration that is refused or given up is one end, whichever message says so.
        let names = names.filter(|name| !is_last_resort(name) || matches!(*name, "LoadFailed" | "NotStarted"));
        out.extend(names.map(|name| message(mode, name, &[What::PlainRun, What::PastRecord])));
        let whats = vec![What::PlainRuns];
        out.push(Moment { mode, when: When::Throughout, whats });
    }
    for mode in [Mode::Precopy, Mode::Postcopy] {
        out.extend(STEPS.map(|(side, name)| Moment {
            mode,
            when: When::Step(side, name),
            whats: vec![What::PlainRun, What::PastRecord],
        }));
        let whats = vec![What::ImageGrows, What::ImageReplaced, What::ImageOther];
        out.push(Moment { mode, when: When::Throughout, whats });
        out.extend(SWITCHOVER.map(|name| message(mode, name, &[What::LockedOut])));
        out.extend(GROWS.map(|name| message(mode, name, &[What::ImageGrows])));
        out.extend(REPLACED.map(|name| message(mode, name, &[What::ImageReplaced])));
    }
    out
}
