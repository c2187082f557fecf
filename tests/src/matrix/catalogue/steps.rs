//! Moments of a process: a side is about to do something that outlives it.

use ferry_migration::{destination, source};

use super::super::cell::{Mode, Side, What, When};
use super::Moment;

/// Outputs that do nothing which a fault could come before.
const BOOKKEEPING: [&str; 8] =
    ["Status", "Handshake", "Send", "StartTimer", "StopTimer", "Interrupt", "Refuse", "Resolved"];

pub(super) fn moments() -> Vec<Moment> {
    let mut out = Vec::new();
    for mode in [Mode::Precopy, Mode::Postcopy, Mode::Recovered] {
        for (side, names) in [(Side::Source, source::Output::NAMES), (Side::Destination, destination::Output::NAMES)] {
            let steps = names.iter().filter(|name| !BOOKKEEPING.contains(name));
            for name in steps.filter(|name| modes(side, name).contains(&mode)) {
                let whats = vec![What::Kill(side), What::Freeze(side), What::Reset];
                out.push(Moment { mode, when: When::Step(side, name), whats });
            }
        }
    }
    out
}

/// In which modes a step is met. One that is not known here is looked for in all.
fn modes(side: Side, name: &str) -> &'static [Mode] {
    const ROUNDS: &[Mode] = &[Mode::Precopy, Mode::Postcopy];
    match (side, name) {
        (_, "CloseLinks" | "Finish") => &[Mode::Precopy, Mode::Postcopy, Mode::Recovered],
        (Side::Source, "ServePages") => &[Mode::Postcopy],
        (Side::Source, "ServeMissingPages") | (Side::Destination, "Paused" | "Resumed") => &[Mode::Recovered],
        (Side::Source, "EndRound") => &[Mode::Postcopy],
        // Only when something has gone wrong already; the stage provokes it.
        (Side::Source, "TakeBack" | "ResumeGuest" | "Settle") | (Side::Destination, "GiveBack") => ROUNDS,
        (Side::Destination, "LoseGuest") => &[Mode::Postcopy],
        (Side::Source, "Connect") => &[Mode::Precopy, Mode::Postcopy, Mode::Recovered],
        (
            Side::Source,
            "WriteNonce" | "SendRound" | "Snapshot" | "StopGuest" | "Save" | "SendLastPages" | "HandOver",
        )
        | (Side::Destination, "CheckGreeting" | "ReceivePages" | "Rehearse" | "Load" | "Claim" | "Settle" | "Start") => {
            ROUNDS
        }
        _ => &[Mode::Precopy, Mode::Postcopy, Mode::Recovered],
    }
}
