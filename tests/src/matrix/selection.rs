//! Which cells a run has, and the seed of each: what the environment asks for.

use std::collections::HashSet;

use super::catalogue;
use super::cell::Cell;
use crate::random::Random;

/// A cell that was chosen.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Unique in the run.
    pub name: String,
    /// The cell.
    pub cell: Cell,
    /// What it leaves open comes from this.
    pub seed: u64,
}

/// Which cells.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Smoke,
    Full,
    Random(usize),
    One(Cell),
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    part: Part,
    seed: u64,
}

/// The environment asks for what there is not.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// No such part.
    #[error("FERRY_MATRIX={0}: write smoke, full, random:COUNT or cell:NAME")]
    Part(String),
    /// No such cell.
    #[error("FERRY_MATRIX=cell:{0}: there is no such cell; ci/matrix --list says which there are")]
    Cell(String),
    /// No such seed.
    #[error("FERRY_MATRIX_SEED={0}: write a number")]
    Seed(String),
}

impl Selection {
    /// Reads `FERRY_MATRIX` and `FERRY_MATRIX_SEED`.
    ///
    /// # Errors
    /// When one of them says what it cannot.
    pub fn from_environment() -> Result<Self, SelectionError> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let seed = match variable("FERRY_MATRIX_SEED").as_str() {
            "" => 1,
            text => text.parse().map_err(|_| SelectionError::Seed(text.to_owned()))?,
        };
        Ok(Selection { part: part(&variable("FERRY_MATRIX"))?, seed })
    }

    /// The cells, each with its seed.
    #[must_use]
    pub fn cells(self) -> Vec<Selected> {
        let fixed = |cells: Vec<Cell>| {
            cells.into_iter().map(|cell| Selected { name: cell.name(), cell, seed: self.seed }).collect()
        };
        match self.part {
            Part::Smoke => fixed(catalogue::smoke()),
            Part::Full => fixed(catalogue::all()),
            Part::Random(count) => self.at_random(count),
            Part::One(cell) => fixed(vec![cell]),
        }
    }

    fn at_random(self, count: usize) -> Vec<Selected> {
        let all = catalogue::all();
        let mut random = Random(self.seed);
        let mut seen = HashSet::new();
        let drawn = std::iter::repeat_with(|| {
            let mut cell = all[random.below(all.len() as u64) as usize].clone();
            cell.cpus = random.one_of(&[1, 2]);
            let seed = random.below(1 << 32);
            Selected { name: format!("{}/seed-{seed}", cell.name()), cell, seed }
        });
        drawn.filter(|selected| seen.insert(selected.name.clone())).take(count).collect()
    }
}

fn part(text: &str) -> Result<Part, SelectionError> {
    match text.split_once(':') {
        None if text.is_empty() || text == "smoke" => Ok(Part::Smoke),
        None if text == "full" => Ok(Part::Full),
        Some(("cell", name)) => one(name).map(Part::One).ok_or_else(|| SelectionError::Cell(name.to_owned())),
        Some(("random", count)) => count.parse().map(Part::Random).map_err(|_| SelectionError::Part(text.to_owned())),
        _ => Err(SelectionError::Part(text.to_owned())),
    }
}

/// The cell of this name, with either number of vCPUs, as random ones have.
fn one(name: &str) -> Option<Cell> {
    let of = |cpus| catalogue::all().into_iter().map(move |cell| Cell { cpus, ..cell });
    of(1).chain(of(2)).find(|cell| cell.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_draws_the_same_cells() {
        let draw = |seed| {
            let cells = Selection { part: Part::Random(50), seed }.cells();
            cells.into_iter().map(|selected| selected.name).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_eq!(draw(7).len(), 50);
    }

    #[test]
    fn every_random_cell_can_be_run_again_by_its_name() {
        for selected in (Selection { part: Part::Random(200), seed: 3 }).cells() {
            let again =
                Selection { part: part(&format!("cell:{}", selected.cell.name())).unwrap(), seed: selected.seed };
            let again = again.cells();
            assert_eq!((again.len(), again[0].seed), (1, selected.seed), "{}", selected.name);
            assert_eq!(again[0].cell, selected.cell, "{}", selected.name);
        }
    }

    #[test]
    fn what_there_is_not_is_refused() {
        assert_eq!(part("").unwrap(), Part::Smoke);
        assert_eq!(part("random:12").unwrap(), Part::Random(12));
        for text in ["fast", "random", "random:", "full:2", "cell:", "cell:precopy"] {
            assert!(part(text).is_err(), "{text}");
        }
    }
}
