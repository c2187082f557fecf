//! Moments of the link: a frame is on its way.

use ferry_migration::{ToDestination, ToSource};

use super::super::cell::{Mode, Side, What, When};
use super::Moment;
use crate::relay::Spot;

/// What a network does to a message.
const TO_MESSAGE: [What; 12] = [
    What::Reset,
    What::Close,
    What::BlackHole(None),
    What::BlackHole(Some(Side::Source)),
    What::BlackHole(Some(Side::Destination)),
    What::Delay,
    What::Trickle,
    What::FlipBit,
    What::Truncate,
    What::Duplicate,
    What::Lose,
    What::Replay,
];

/// What happens to a process.
const TO_PROCESS: [What; 4] = [
    What::Kill(Side::Source),
    What::Kill(Side::Destination),
    What::Freeze(Side::Source),
    What::Freeze(Side::Destination),
];

/// What people do.
const BY_PEOPLE: [What; 8] = [
    What::Cancel,
    What::Stop,
    What::StopCont,
    What::Quit(Side::Source),
    What::Quit(Side::Destination),
    What::SystemReset,
    What::SecondMigration,
    What::Stranger,
];

/// For frames that are not messages: these have many of a kind, and what one teaches the others do
/// too.
const TO_FRAME: [What; 9] = [
    What::Reset,
    What::Close,
    What::BlackHole(None),
    What::Delay,
    What::FlipBit,
    What::Truncate,
    What::Lose,
    What::Kill(Side::Source),
    What::Kill(Side::Destination),
];

/// For messages that only come when something has gone wrong already.
const ON_TOP: [What; 6] = [
    What::Reset,
    What::BlackHole(None),
    What::Duplicate,
    What::Lose,
    What::Kill(Side::Source),
    What::Kill(Side::Destination),
];

pub(super) fn moments() -> Vec<Moment> {
    let mut out = Vec::new();
    for mode in [Mode::Precopy, Mode::Postcopy, Mode::Recovered] {
        for spot in frames(mode) {
            out.push(Moment { mode, when: When::Frame(spot), whats: TO_FRAME.to_vec() });
        }
        for name in messages().filter(|name| modes_of(name).contains(&mode)) {
            let when = When::Frame(Spot::Message(name));
            let whats = match is_last_resort(name) {
                true => ON_TOP.to_vec(),
                false => [&TO_MESSAGE[..], &TO_PROCESS, &BY_PEOPLE].concat(),
            };
            out.push(Moment { mode, when, whats });
        }
        if mode != Mode::Recovered {
            let whats = [&TO_PROCESS[..2], &[What::Reset, What::Close, What::BlackHole(None), What::Cancel]].concat();
            out.push(Moment { mode, when: When::HalfPackage, whats });
            let guest = vec![What::GuestReboots, What::GuestShutsDown];
            for name in ["HelloAck", "Rehearse"] {
                out.push(Moment { mode, when: When::Frame(Spot::Message(name)), whats: guest.clone() });
            }
        }
    }
    out
}

/// The names of all messages; both sides send some.
pub(super) fn messages() -> impl Iterator<Item = &'static str> {
    let of_one_side = ToSource::NAMES.iter().filter(|name| !ToDestination::NAMES.contains(name));
    ToDestination::NAMES.iter().chain(of_one_side).copied()
}

/// In which modes a message is met. One that is not known here is looked for in all.
pub(super) fn modes_of(name: &str) -> &'static [Mode] {
    match name {
        "Recover" | "RecoverAck" | "RecoverRefused" => &[Mode::Recovered],
        "Drained" | "DrainedAck" => &[Mode::Postcopy, Mode::Recovered],
        "Hello" | "HelloAck" | "Refused" | "Heartbeat" | "Rehearse" | "Rehearsed" | "RehearsalFailed"
        | "MarkerReached" | "Package" | "Ready" | "LoadFailed" | "Permit" | "Started" | "NotStarted" | "Cancel" => {
            &[Mode::Precopy, Mode::Postcopy]
        }
        _ => &[Mode::Precopy, Mode::Postcopy, Mode::Recovered],
    }
}

/// Messages that a migration in which all goes well does not have; the stage provokes them.
pub fn is_last_resort(name: &str) -> bool {
    matches!(name, "Refused" | "RehearsalFailed" | "LoadFailed" | "NotStarted" | "Cancel" | "RecoverRefused")
}

fn frames(mode: Mode) -> Vec<Spot> {
    let mut spots = vec![Spot::ControlPreamble, Spot::BulkPreamble, Spot::Pages(0)];
    match mode {
        Mode::Precopy => spots.extend([Spot::Pages(LATER), Spot::Marker]),
        Mode::Postcopy => spots.extend([Spot::Marker, Spot::UrgentPreamble, Spot::Request(0), Spot::UrgentPages(0)]),
        Mode::Recovered => spots.extend([Spot::UrgentPreamble, Spot::Request(0), Spot::UrgentPages(0)]),
    }
    spots
}

/// A frame of pages behind those of the first round.
pub(super) const LATER: u64 = 20;
