//! The promises, each in a file of its own: what an explored world, or a whole exploration, must
//! not show.

pub mod both_beat;
pub mod both_stopped;
pub mod finishes;
pub mod kept;
pub mod owned_run;
pub mod pages;
pub mod stale_run;
pub mod told;
pub mod two_runners;

use super::world::World;

/// A promise of the switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// Never two runners.
    TwoRunners,
    /// Never a run from old memory or of another run's state.
    StaleRun,
    /// With a record, whoever runs after the permit is named by it.
    OwnedRun,
    /// No process boots a guest over the newest state of a living one, and none takes along what
    /// it does not own.
    Kept,
    /// The source frees, and the destination runs, only with every page here or served, or with
    /// the truth shown.
    Pages,
    /// Every end is told once, with its reason.
    Told,
    /// An active pair on a healthy link gives signs of life.
    BothBeat,
    /// A live pair stays stopped only while that is shown and cannot be helped.
    BothStopped,
    /// With the faults off, every migration ends well.
    Finishes,
}

impl Invariant {
    /// Every promise.
    pub const ALL: [Invariant; 9] = [
        Invariant::TwoRunners,
        Invariant::StaleRun,
        Invariant::OwnedRun,
        Invariant::Kept,
        Invariant::Pages,
        Invariant::Told,
        Invariant::BothBeat,
        Invariant::BothStopped,
        Invariant::Finishes,
    ];

    /// Those that one world can break.
    pub const OF_A_WORLD: [Invariant; 7] = [
        Invariant::TwoRunners,
        Invariant::StaleRun,
        Invariant::OwnedRun,
        Invariant::Kept,
        Invariant::Pages,
        Invariant::Told,
        Invariant::BothBeat,
    ];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Invariant::TwoRunners => "never two runners",
            Invariant::StaleRun => "never a stale run",
            Invariant::OwnedRun => "runs only what it owns",
            Invariant::Kept => "no guest is given up",
            Invariant::Pages => "no page is given up",
            Invariant::Told => "every end is told",
            Invariant::BothBeat => "a healthy pair stays together",
            Invariant::BothStopped => "a live pair runs",
            Invariant::Finishes => "faults off, it finishes",
        }
    }

    /// How this world breaks it, for those of [`Invariant::OF_A_WORLD`]; `quiet` when nothing
    /// happens by itself any more.
    #[must_use]
    pub fn broken(self, world: &World, quiet: bool) -> Option<&'static str> {
        match self {
            Invariant::TwoRunners => two_runners::broken(world),
            Invariant::StaleRun => stale_run::broken(world),
            Invariant::OwnedRun => owned_run::broken(world),
            Invariant::Kept => kept::broken(world),
            Invariant::Pages => pages::broken(world),
            Invariant::Told => told::broken(world, quiet),
            Invariant::BothBeat => both_beat::broken(world),
            Invariant::BothStopped | Invariant::Finishes => None,
        }
    }
}
