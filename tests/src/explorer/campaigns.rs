//! Which bounds are explored for the handshakes that are used: small ones in `cargo test`, large
//! ones in `ci/explore`.
//!
//! Every fault together, twice, would be more worlds than any machine has seen; what breaks
//! protocols is two or three faults that meet. So each campaign combines some faults that have to
//! do with each other, and together they cover all.

use ferry_migration::message::Handshake;

use super::bounds::Fault::{self, *};
use super::scenario::Scenario;

/// One exploration of a handshake that must keep every promise.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// What it is about.
    pub name: String,
    /// What is explored.
    pub scenario: Scenario,
}

/// Faults with how often each may happen (false timeouts: any number of times).
type Faults = &'static [(Fault, u128)];

const SMALL: [(&str, Faults); 7] = [
    ("links", &[(Break, 2), (BulkBreak, 1), (Garble, 1), (StartFailure, 1)]),
    ("time", &[(Break, 1), (FalseTimeout, 1), (StartFailure, 1)]),
    ("deaths", &[(Break, 1), (SourceCrash, 1), (DestinationCrash, 1), (FalseTimeout, 1)]),
    ("record", &[(Break, 1), (Outage, 1), (LostReply, 1), (StartFailure, 1)]),
    ("machine", &[(Break, 1), (LoadFailure, 1), (SaveFailure, 1), (StartFailure, 1), (FaultsDeath, 1), (Cancel, 1)]),
    ("operators", &[(Break, 1), (Cancel, 1), (Pause, 1), (StartPostcopy, 1), (RashResolve, 1)]),
    ("strangers", &[(Break, 1), (Foreign, 1), (FalseTimeout, 1)]),
];

const LARGE: [(&str, Faults); 9] = [
    ("links", &[(Break, 3), (BulkBreak, 2), (Garble, 2), (FalseTimeout, 1), (StartFailure, 1), (Pause, 1)]),
    ("time", &[(Break, 3), (FalseTimeout, 1), (StartFailure, 1), (LoadFailure, 1), (Cancel, 1), (BulkBreak, 1)]),
    (
        "deaths",
        &[(Break, 2), (SourceCrash, 1), (DestinationCrash, 1), (FalseTimeout, 1), (Outage, 1), (StartFailure, 1)],
    ),
    ("record", &[(Break, 2), (Outage, 2), (LostReply, 2), (StartFailure, 1), (FalseTimeout, 1)]),
    ("record and deaths", &[(Break, 1), (Outage, 2), (LostReply, 2), (SourceCrash, 1), (DestinationCrash, 1)]),
    (
        "machine",
        &[
            (Break, 2),
            (LoadFailure, 1),
            (SaveFailure, 2),
            (StartFailure, 1),
            (FaultsDeath, 1),
            (Cancel, 2),
            (FalseTimeout, 1),
        ],
    ),
    (
        "operators",
        &[(Break, 2), (Cancel, 2), (Pause, 2), (StartPostcopy, 1), (RashResolve, 1), (FalseTimeout, 1), (Outage, 1)],
    ),
    ("strangers", &[(Break, 2), (Foreign, 2), (FalseTimeout, 1), (Garble, 1), (LostReply, 1)]),
    (
        "everything that happens to machines, once",
        &[
            (Break, 1),
            (Garble, 1),
            (SourceCrash, 1),
            (DestinationCrash, 1),
            (FalseTimeout, 1),
            (LoadFailure, 1),
            (StartFailure, 1),
            (Outage, 1),
            (LostReply, 1),
            (Cancel, 1),
        ],
    ),
];

/// With other processes that want the guest, operators who stop it, and several migrations in a
/// row: where the source has a record, with every handshake.
const SMALL_OTHERS: [(&str, Faults); 7] = [
    ("boots", &[(Break, 1), (Boot, 2), (FalseTimeout, 1)]),
    ("locks", &[(Break, 1), (LockHeld, 1), (Boot, 1), (Cancel, 1)]),
    ("stops", &[(Break, 1), (Stop, 1), (LockHeld, 1), (Boot, 1), (RunFailure, 1)]),
    ("in a row", &[(Break, 1), (Again, 1), (Boot, 1), (Cancel, 1)]),
    ("in a row without its disk", &[(LoadFailure, 2), (LockHeld, 1), (RunFailure, 1), (Again, 1), (Boot, 1)]),
    ("a rash boot", &[(Break, 1), (RashTake, 1), (LockHeld, 1), (FalseTimeout, 1)]),
    ("an arrival", &[(Break, 1), (Arrival, 1), (Boot, 1), (RunFailure, 1)]),
];

/// With a process that boots the guest past its record, also of a guest that has none.
const SMALL_PAST: (&str, Faults) =
    ("boots past the record", &[(Break, 1), (BootPast, 1), (FalseTimeout, 1), (SourceCrash, 1)]);

/// The same.
const LARGE_PAST: (&str, Faults) = (
    "boots past the record",
    &[
        (Break, 2),
        (BootPast, 2),
        (FalseTimeout, 1),
        (SourceCrash, 1),
        (DestinationCrash, 1),
        (StartFailure, 1),
        (LockHeld, 1),
    ],
);

/// Of a guest that has come to the source by `setup` a moment ago.
const COME: (&str, Faults) = ("come by setup", &[(Break, 1), (Cancel, 1), (Boot, 1), (RunFailure, 1)]);

const LARGE_OTHERS: [(&str, Faults); 7] = [
    ("boots", &[(Break, 2), (Boot, 2), (FalseTimeout, 1), (StartFailure, 1), (SourceCrash, 1)]),
    ("boots and the record", &[(Break, 1), (Boot, 2), (Outage, 1), (LostReply, 1), (DestinationCrash, 1)]),
    ("locks", &[(Break, 2), (LockHeld, 2), (Boot, 2), (Cancel, 1), (FalseTimeout, 1)]),
    ("stops", &[(Break, 2), (Stop, 2), (LockHeld, 1), (Boot, 1), (SaveFailure, 1)]),
    ("in a row", &[(Break, 2), (Again, 2), (Boot, 1), (LockHeld, 1), (Cancel, 1)]),
    ("in a row and the record", &[(Break, 1), (Again, 2), (LockHeld, 1), (LostReply, 1), (Cancel, 1)]),
    ("a rash boot", &[(Break, 2), (RashTake, 2), (LockHeld, 1), (FalseTimeout, 1), (StartFailure, 1)]),
];

/// For `cargo test`.
#[must_use]
pub fn small() -> Vec<Campaign> {
    let mut come = others(&[COME], false);
    come.iter_mut().for_each(|campaign| campaign.scenario.has_come = true);
    let rest = others(&SMALL_OTHERS, false).into_iter().chain(past(SMALL_PAST, false)).chain(come);
    campaigns(&SMALL, false).into_iter().chain(rest).collect()
}

/// For `ci/explore`.
#[must_use]
pub fn large() -> Vec<Campaign> {
    let rest = others(&LARGE_OTHERS, true).into_iter().chain(past(LARGE_PAST, true));
    campaigns(&LARGE, true).into_iter().chain(rest).collect()
}

fn past(about: (&str, Faults), rehearse: bool) -> impl Iterator<Item = Campaign> {
    let without = campaigns(&[about], rehearse).into_iter();
    let without = without.filter(|campaign| !campaign.scenario.has_record);
    others(&[about], rehearse).into_iter().chain(without)
}

fn campaigns(about: &[(&str, Faults)], rehearse: bool) -> Vec<Campaign> {
    let mut out = Vec::new();
    for (name, faults) in about {
        for handshake in [Handshake::Setup, Handshake::Owned] {
            for postcopy in [false, true] {
                let bare = Scenario { rehearse, ..Scenario::new(handshake, postcopy) };
                let scenario = faults.iter().fold(bare, |scenario, (fault, times)| scenario.with(*fault, *times));
                let name = format!("{name}, {handshake:?}, {}", super::variants::mode(postcopy));
                out.push(Campaign { name, scenario });
            }
        }
    }
    out
}

fn others(about: &[(&str, Faults)], rehearse: bool) -> Vec<Campaign> {
    let setup = |postcopy| Scenario { has_record: true, ..Scenario::new(Handshake::Setup, postcopy) };
    let mut out = Vec::new();
    for (name, faults) in about {
        for postcopy in [false, true] {
            let kinds = [
                ("Setup with a record", setup(postcopy)),
                ("Setup with a record that is not shared", Scenario { record_shared: false, ..setup(postcopy) }),
                ("Owned", Scenario::new(Handshake::Owned, postcopy)),
            ];
            for (kind, bare) in kinds {
                let bare = Scenario { rehearse, ..bare };
                let scenario = faults.iter().fold(bare, |scenario, (fault, times)| scenario.with(*fault, *times));
                out.push(Campaign { name: format!("{name}, {kind}, {}", super::variants::mode(postcopy)), scenario });
            }
        }
    }
    out
}
