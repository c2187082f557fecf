//! Every failure ends in a state that a client can read, with its reason: an end is told once,
//! agrees with the status, and agrees with where the guest is; and what only waits shows what it
//! waits for.

use ferry_migration::{Status, Timer};

use crate::explorer::facts::{DestinationGuest, End};
use crate::explorer::world::World;

/// How this world breaks it.
#[must_use]
pub fn broken(world: &World, quiet: bool) -> Option<&'static str> {
    let (source, destination) = (&world.facts.source, &world.facts.destination);
    if source.end == Some(End::Botched) || destination.end == Some(End::Botched) {
        return Some("an end was told twice, or without a reason");
    }
    let agrees = match source.end {
        None => source.shown.is_active() || !world.begun,
        Some(End::Completed) => source.shown == Status::Completed,
        Some(End::Cancelled) => source.shown == Status::Cancelled,
        Some(_) => source.shown == Status::Failed,
    };
    if source.alive && !agrees {
        return Some("the source's status and its end disagree");
    }
    let runs = destination.guest == DestinationGuest::Running;
    if destination.alive && destination.end == Some(End::Failed) && runs {
        return Some("the destination says that it failed, and its guest runs");
    }
    let ended = destination.guest == DestinationGuest::Ended;
    if destination.alive && destination.end == Some(End::Completed) && !runs && !ended {
        return Some("the destination says that it completed, and its guest does not run");
    }
    if quiet { waits_unseen(world) } else { None }
}

/// Nothing happens by itself any more: both sides must have ended, or show what they wait for.
fn waits_unseen(world: &World) -> Option<&'static str> {
    let (source, destination) = (&world.facts.source, &world.facts.destination);
    let shown = matches!(source.shown, Status::PostcopyPaused | Status::Uncertain);
    if source.alive && world.begun && source.end.is_none() && !shown {
        return Some("the source waits for nothing and shows neither an end, nor a pause, nor uncertainty");
    }
    let retries = world.destination_timers.has(Timer::RetryRecord);
    if destination.alive && world.arrived && destination.end.is_none() && !destination.paused && !retries {
        return Some("the destination waits for nothing and shows neither an end nor a pause");
    }
    None
}
