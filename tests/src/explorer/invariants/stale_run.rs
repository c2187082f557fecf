//! Never a stale resume: once the destination's guest has run, the source's never runs again, even
//! if the destination died. Its memory is older than its disk. In the same spirit the destination
//! never runs from what another run of the guest sent.

use crate::explorer::facts::Stale;
use crate::explorer::world::World;

/// How this world breaks it.
#[must_use]
pub fn broken(world: &World) -> Option<&'static str> {
    world.facts.stale.map(|stale| match stale {
        Stale::Resume => "the source runs again after the destination ran",
        Stale::Fork => "a side runs after another process has run the guest from its disk",
        Stale::ForeignState => "the destination runs the state of another run of the guest",
        Stale::ForeignPages => "the destination takes pages of another run of the guest",
    })
}
