//! Faults off, it finishes: from every world, whatever went wrong before, a good end is within
//! reach when nothing more goes wrong, storage heals, and an operator does what the state asks for
//! (recover a pause, resolve an uncertainty truthfully). So no state machine can be stuck.

use crate::explorer::facts::{DestinationGuest, End, Facts, SourceGuest};
use crate::explorer::world::World;

/// Whether this world is a good end.
#[must_use]
pub fn ended_well(world: &World) -> bool {
    facts_ended_well(&world.facts, world.arrived)
}

/// The same of the facts alone; `arrived` when a source had connected to the destination.
#[must_use]
pub fn facts_ended_well(facts: &Facts, arrived: bool) -> bool {
    let (source, destination) = (&facts.source, &facts.destination);
    match (source.alive, destination.alive) {
        (true, true) => pair_ended_well(facts, arrived),
        // The source has ended, or holds the memory of a guest that was lost over there, and says
        // so.
        (true, false) => source.end.is_some(),
        // The destination has ended, or shows that its guest waits for pages that nobody has any
        // more.
        (false, true) => !arrived || destination.end.is_some() || destination.paused,
        (false, false) => true,
    }
}

fn pair_ended_well(facts: &Facts, arrived: bool) -> bool {
    let (source, destination) = (&facts.source, &facts.destination);
    let over = source.end.is_some() && (destination.end.is_some() || !arrived);
    let runs_there = source.end == Some(End::Completed) && facts.runs_at_destination() && destination.has_all_pages;
    let lost_there = matches!(destination.guest, DestinationGuest::Lost | DestinationGuest::Ended);
    let runs_here = matches!(source.end, Some(End::Failed | End::Cancelled))
        && (facts.runs_at_source()
            || matches!(source.guest, SourceGuest::StoppedForGood | SourceGuest::Held)
            || facts.forked);
    over && (runs_there || lost_there || runs_here)
}
