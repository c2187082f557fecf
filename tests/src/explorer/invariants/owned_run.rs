//! After the permit the record decides, whatever is said on the link: a source that runs again has
//! won a swap, and a destination that runs is named. (An operator who has fenced the other side
//! stands above the record.)

use crate::explorer::Side;
use crate::explorer::world::World;

/// How this world breaks it.
#[must_use]
pub fn broken(world: &World) -> Option<&'static str> {
    world.facts.unfenced.map(|side| match side {
        Side::Source => "the source runs after the permit without having won the record",
        Side::Destination => "the destination runs and the record does not name it",
    })
}
