//! A live pair never stays stopped: from every world in which both processes live, the guest comes
//! to run on one side by itself, without an operator and without storage that heals. With a
//! record, the only excuse is that the record is out of the reach of the side that it names;
//! without one, that `uncertain` is shown.
//!
//! It speaks of what can still come, so the search checks it when the whole graph is known
//! ([`super::super::graph`]).

use ferry_migration::Status;
use ferry_migration::message::Handshake;

use crate::explorer::facts::{DestinationGuest, SourceGuest};
use crate::explorer::world::World;

/// Whether the guest runs, or nothing is promised any more because a process has died.
#[must_use]
pub fn runs(world: &World) -> bool {
    let facts = &world.facts;
    let live_pair = facts.source.alive && facts.destination.alive;
    // That the guest is lost, or does not run again, has been told with its reason.
    let ended = matches!(facts.destination.guest, DestinationGuest::Lost | DestinationGuest::Ended);
    let told = ended || matches!(facts.source.guest, SourceGuest::StoppedForGood | SourceGuest::Held);
    // A process that was told to end does not count among the living.
    let leaves = facts.destination.leaving && facts.destination.end.is_some();
    // So did one whose operator has had it booted elsewhere.
    !live_pair
        || leaves
        || facts.forked
        || told
        || facts.runs_at_third()
        || facts.runs_at_source()
        || facts.runs_at_destination()
}

/// Whether a live pair may stand still here.
#[must_use]
pub fn excused(world: &World) -> bool {
    let facts = &world.facts;
    match world.source.handshake() {
        Handshake::Owned => facts.record.keeps_waiting(),
        _ => facts.source.shown == Status::Uncertain,
    }
}
