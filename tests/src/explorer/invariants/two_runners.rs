//! Never two runners: at no moment do the vCPUs of two processes run. The promise that everything else may cost.

use crate::explorer::world::World;

/// How this world breaks it.
#[must_use]
pub fn broken(world: &World) -> Option<&'static str> {
    if world.facts.runs_at_source() && world.facts.runs_at_destination() {
        return Some("the guest runs on both sides");
    }
    (world.facts.runners() > 1).then_some("another process runs the guest beside one of the two sides")
}
