//! A healthy pair stays together: while both sides are in an active postcopy and the link is up,
//! both give signs of life, so that neither takes the other for dead.

use ferry_migration::Status;

use crate::explorer::Side;
use crate::explorer::link::Health;
use crate::explorer::world::World;

/// How this world breaks it.
#[must_use]
pub fn broken(world: &World) -> Option<&'static str> {
    let (source, destination, link) = (&world.facts.source, &world.facts.destination, &world.link);
    let active = source.alive
        && source.shown == Status::PostcopyActive
        && world.facts.runs_at_destination()
        && destination.end.is_none()
        && !destination.paused;
    let both_hold = link.source_reads && link.destination_reads && link.source_writes && link.destination_writes;
    let healthy = link.health == Health::Up && both_hold && link.to_destination.is_empty() && link.to_source.is_empty();
    let both_beat = world.beats(Side::Source) && world.beats(Side::Destination);
    (active && healthy && !both_beat).then_some("both are in an active postcopy, and one gives no signs of life")
}
