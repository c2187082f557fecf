//! Never two runners: at no moment do the vCPUs of both sides run. The promise that everything else may cost.

use crate::explorer::world::World;

/// How this world breaks it.
#[must_use]
pub fn broken(world: &World) -> Option<&'static str> {
    (world.facts.runs_at_source() && world.facts.runs_at_destination()).then_some("the guest runs on both sides")
}
