//! What a protection promises.

use ferry_migration::protection::ToSecondary;
use ferry_migration::protection::secondary::Outcome;

use super::facts::Upto;
use super::record::{GENERATION, Operation, Owner};
use super::{Contents, World};

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Never are two guests visible.
    OneVisible,
    /// What was seen outside is in the history of the guest that goes on, unless no partner was
    /// named when it was seen.
    ShownIsKept,
    /// A takeover goes on from memory, devices and disk of one epoch.
    Whole,
    /// The secondary's memory is that of its last commit, once it is applied: no page is lost.
    Pages,
    /// The record names a partner only after its first commit, and a client reads "protected" only
    /// of a guest whose partner was named.
    Told,
    /// A guest that is given away does not run: not from the permit of a planned failover on.
    Stopped,
    /// What a protection is to tolerate does not end it.
    Tolerated,
    /// A living side that the record allows comes to serve the guest once nothing fails any more.
    Served,
}

impl Promise {
    /// Those that one world shows.
    pub const OF_A_WORLD: [Promise; 7] = [
        Promise::OneVisible,
        Promise::ShownIsKept,
        Promise::Whole,
        Promise::Pages,
        Promise::Told,
        Promise::Stopped,
        Promise::Tolerated,
    ];

    /// The promise in a word or two.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Promise::OneVisible => "one visible",
            Promise::ShownIsKept => "shown is kept",
            Promise::Whole => "whole",
            Promise::Pages => "pages",
            Promise::Told => "told",
            Promise::Stopped => "stopped",
            Promise::Tolerated => "tolerated",
            Promise::Served => "served",
        }
    }

    /// How the world breaks the promise, if it does.
    #[must_use]
    pub fn broken(self, world: &World) -> Option<&'static str> {
        match self {
            Promise::OneVisible => one_visible(world),
            Promise::ShownIsKept => shown_is_kept(world),
            Promise::Whole => whole(world),
            Promise::Pages => pages(world),
            Promise::Told => told(world),
            Promise::Stopped => stopped(world),
            Promise::Tolerated => tolerated(world),
            Promise::Served => None,
        }
    }
}

fn one_visible(world: &World) -> Option<&'static str> {
    let live = world.at_secondary.live.is_some() && world.at_secondary.alive;
    let both = live && world.at_primary.is_visible();
    let third = world.third_runs && (live || world.at_primary.is_visible());
    (both || third).then_some("two processes show what their guests do")
}

fn shown_is_kept(world: &World) -> Option<&'static str> {
    if world.third_took_a_partners {
        return Some("the guest was booted anew over a checkpoint that a partner holds");
    }
    let from = world.at_secondary.live?;
    (world.at_primary.shown > from).then_some("the primary has shown what the secondary's guest has not done")
}

fn whole(world: &World) -> Option<&'static str> {
    if !world.at_secondary.was_whole {
        return Some("the secondary has gone on from a mixture of epochs");
    }
    let live = world.at_secondary.live.is_some();
    (live && world.shared_disk && world.image != Contents::LIVE)
        .then_some("an old disk write has come over a newer one")
}

fn pages(world: &World) -> Option<&'static str> {
    let here = &world.at_secondary;
    let committed = world.secondary.committed() as u8;
    let rests = here.alive && here.applying.is_none() && here.live.is_none() && committed > 0;
    (rests && here.memory != Contents::of(committed)).then_some("a page of the last commit is missing")
}

fn told(world: &World) -> Option<&'static str> {
    let partner_lives = world.at_secondary.alive && world.at_secondary.live.is_none();
    if world.record.partner && partner_lives && world.secondary.committed() == 0 {
        return Some("the record names a partner that has nothing to go on from");
    }
    let primary = &world.at_primary;
    let named = world.record.partner || world.record.owner != Owner::Primary;
    if primary.alive && primary.protected && world.primary.outcome().is_none() && !named {
        return Some("a client reads that the guest is protected, and the record names no partner");
    }
    let over = world.is_unprotected() && primary.alive && world.record.partner;
    over.then_some("the protection has ended, and the record names a partner that may still take over")
}

fn stopped(world: &World) -> Option<&'static str> {
    let primary = &world.at_primary;
    let permitted = world.link.to_secondary.iter().any(|message| matches!(message, ToSecondary::Permit { .. }));
    // A permit that is on its way when the primary has won the record is worth nothing.
    let permits = permitted && world.primary.outcome().is_none();
    if primary.alive && primary.runs && (permits || primary.handed_over) {
        return Some("the guest runs on at the primary, which has given it away");
    }
    let rests = world.secondary.outcome().is_some() && world.at_secondary.alive && world.at_secondary.live.is_none();
    let busy = world.at_secondary.takes_disk || world.at_secondary.tries.is_some();
    let keeps = world.at_secondary.has_disk || world.at_secondary.entered.is_some();
    (rests && !busy && keeps).then_some("a secondary whose part has ended keeps the disk or an entered guest")
}

fn tolerated(world: &World) -> Option<&'static str> {
    let ended = world.is_unprotected() || matches!(world.secondary.outcome(), Some(Outcome::Failed(_)));
    let parts = world.asks(super::Side::Primary) == Some(Operation::Solo);
    // The first checkpoint must succeed.
    let enrolled = world.record.partner || world.record.generation > GENERATION as u8;
    (world.tolerates && enrolled && (ended || parts)).then_some("the protection has ended")
}

/// Whether the guest is served: some process may show what it does, now and later.
#[must_use]
pub fn is_served(world: &World) -> bool {
    let primary = &world.at_primary;
    let here = primary.alive && (primary.runs || primary.ended);
    let shows = here && primary.gate == Upto::All && primary.release.is_none();
    // Protected and up to date: the next epoch would be committed as those before it.
    let protected = here && primary.protected && primary.captured.is_none() && world.hears(super::Side::Primary);
    let live = world.at_secondary.alive && world.at_secondary.live.is_some();
    shows || protected || live || world.third_runs
}

/// Whether the guest may be lost: so many processes died, or could not load its state, that none
/// is left that may go on.
#[must_use]
pub fn is_excused(world: &World) -> bool {
    let (primary, secondary) = (world.at_primary.alive, world.at_secondary.alive);
    let gave_up = !secondary || world.at_secondary.lost_its_state;
    match (primary, world.record.owner) {
        (false, Owner::Primary) => gave_up || !world.record.partner,
        (_, Owner::Secondary) => gave_up,
        _ => false,
    }
}
