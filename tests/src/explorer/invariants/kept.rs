//! No guest is given up: no process boots it from its disk while a living process holds its newest
//! state, unless an operator says that this may be lost; and a destination that is told to end before
//! it owns the guest leaves it to the source.

use crate::explorer::facts::GivenUp;
use crate::explorer::world::World;

/// How this world breaks it.
#[must_use]
pub fn broken(world: &World) -> Option<&'static str> {
    world.facts.given_up.map(|how| match how {
        GivenUp::Booted => "a process boots the guest while a living one holds its newest state",
        GivenUp::Left => "a destination that was told to end before it owned the guest took it along",
    })
}
