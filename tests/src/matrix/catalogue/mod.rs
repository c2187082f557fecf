//! Which cells there are: made from the protocol's own tables, so that a new message, output or
//! ioctl brings its cells with it.
//!
//! [`frames`] has what happens while something is on its way, [`steps`] what happens when a side
//! is about to do something, [`rules`] what fails inside a process by itself, [`stalls`] links
//! that fall silent one by one, [`disk`] what others do to the disk, [`people`] what else people
//! and the guest do.

mod disk;
mod frames;
mod people;
mod rules;
pub mod stalls;
mod steps;

use ferry_migration::Handshake;

use super::cell::{Cell, Mode, What, When};
use crate::random::Random;
use crate::relay::Spot;
pub use frames::is_last_resort;

/// Handshakes that people use.
const HANDSHAKES: [Handshake; 2] = [Handshake::Setup, Handshake::Owned];

/// The part that `ci/test` runs: so many cells, spread over all of them.
pub const SMOKE: usize = 48;

/// Every cell, in the order of a migration.
#[must_use]
pub fn all() -> Vec<Cell> {
    let moments = frames::moments().into_iter().chain(steps::moments()).chain(rules::moments());
    let moments = moments.chain(stalls::moments()).chain(disk::moments()).chain(people::moments());
    let mut cells = Vec::new();
    for (moment, Moment { mode, when, whats }) in moments.enumerate() {
        for (number, what) in whats.into_iter().enumerate() {
            for (handshake, which) in HANDSHAKES.into_iter().zip(0..) {
                // What is much the same with either handshake is done with one, in turns; the
                // number of vCPUs takes turns too.
                let turn = (moment + number + which) % 2;
                if fits(handshake, what, when) && (turn == 0 || decides(what, when)) {
                    cells.push(Cell { mode, handshake, cpus: 1 + turn as u32, when, what });
                }
            }
        }
    }
    cells
}

/// A stride through all of them: some of every kind.
#[must_use]
pub fn smoke() -> Vec<Cell> {
    let quick: Vec<_> = all().into_iter().filter(|cell| !matches!(cell.what, What::Freeze(_))).collect();
    let stride = (quick.len() / SMOKE).max(1);
    let mut random = Random(0);
    quick.chunks(stride).map(|some| some[random.below(some.len() as u64) as usize].clone()).collect()
}

/// What can be done at one moment of one mode.
struct Moment {
    mode: Mode,
    when: When,
    whats: Vec<What>,
}

/// Whether it matters for who runs the guest which handshake it is: these cells are done with
/// each.
fn decides(what: What, when: When) -> bool {
    let late = matches!(
        when,
        When::Frame(Spot::Message("Ready" | "Permit" | "Started" | "NotStarted" | "Recover" | "RecoverAck"))
    );
    match what {
        What::Kill(_) | What::Reset | What::BlackHole(None) | What::Lose | What::Cancel => true,
        What::Quit(_) | What::Close | What::BlackHole(_) | What::Delay | What::Duplicate => late,
        What::DiskLocked | What::LockedOut | What::ImageOther => true,
        What::PlainRun | What::PlainRuns | What::PastRecord => true,
        What::Rule(_, rule) => rule.place == super::cell::Place::Disk,
        _ => false,
    }
}

/// Whether there is such a cell: without a record nothing happens to one.
fn fits(handshake: Handshake, what: What, when: When) -> bool {
    let of_record = match (what, when) {
        (What::RecordTorn | What::RecordLocked, _) => true,
        (What::Rule(_, rule), _) => rule.place == super::cell::Place::Record,
        (_, When::Step(_, name)) => matches!(name, "WriteNonce" | "TakeBack" | "Claim" | "GiveBack" | "Settle"),
        _ => false,
    };
    handshake == Handshake::Owned || !of_record
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_the_full_matrix_is_large() {
        let cells = all();
        let names: HashSet<_> = cells.iter().map(Cell::name).collect();
        assert_eq!(names.len(), cells.len());
        assert!(cells.len() >= 600, "{}", cells.len());
        assert!(names.iter().all(|name| !name.contains(char::is_whitespace)));
    }

    #[test]
    fn the_short_part_has_every_mode_handshake_and_place() {
        let smoke = smoke();
        let count = |wanted: &dyn Fn(&Cell) -> bool| smoke.iter().filter(|cell| wanted(cell)).count();
        for mode in [Mode::Precopy, Mode::Postcopy, Mode::Recovered] {
            assert!(count(&|cell| cell.mode == mode) > 0, "{mode}");
        }
        for handshake in HANDSHAKES {
            assert!(count(&|cell| cell.handshake == handshake) > 0, "{handshake:?}");
        }
        assert!(smoke.len() < 2 * SMOKE);
    }

    #[test]
    fn every_message_of_the_protocol_has_cells() {
        use ferry_migration::{ToDestination, ToSource};
        let cells = all();
        for name in ToDestination::NAMES.iter().chain(ToSource::NAMES) {
            let moment = When::Frame(crate::relay::Spot::Message(name));
            assert!(cells.iter().any(|cell| cell.when == moment), "{name}");
        }
    }
}
