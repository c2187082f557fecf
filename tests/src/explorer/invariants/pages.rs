//! No page is given up: the source completes, and frees its memory, only when every page is at a
//! destination that lives. A destination whose guest misses pages, with nobody left to serve them,
//! shows that it is paused or that the guest is lost.

use crate::explorer::facts::End;
use crate::explorer::world::World;

/// How this world breaks it.
#[must_use]
pub fn broken(world: &World) -> Option<&'static str> {
    let (source, destination) = (&world.facts.source, &world.facts.destination);
    let misses = destination.alive && !destination.has_all_pages && world.facts.stale.is_none();
    if !misses || !world.facts.runs_at_destination() {
        return None;
    }
    if source.end == Some(End::Completed) {
        return Some("the source has completed, and the destination's guest still misses pages");
    }
    if destination.end.is_some() {
        return Some("the destination has ended its migration, and its guest still misses pages");
    }
    if !destination.faults_alive {
        return Some("nothing asks for the missing pages of the destination's guest, and nobody is told");
    }
    let told_of_the_end = !world.link.destination_reads && world.link.to_destination.is_empty();
    let working = !world.destination_jobs.is_empty();
    (told_of_the_end && !destination.paused && !working)
        .then_some("the link is gone, pages are missing, and the destination does not show that it is paused")
}
