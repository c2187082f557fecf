//! The text of `docs/protocol-results.md`: written by the explorer, so that it cannot say what is
//! not so.

use super::lessons;
use super::variants::{Row, table};

const HEAD: &str = "# What each handshake does when things go wrong

This page is written by `cargo run -p ferry-tests --bin ferry-explore -- results`, and a test compares it with what the explorer
finds. How it finds it, and what is modelled, is in [explorer.md](explorer.md).

Within one migration each of these may happen once, at any moment and in any combination: the link breaks (or falls silent),
the destination dies, a load fails, a start fails, the ownership record goes out of one side's reach. Besides, timers may fire
too early, any number of times.
Every interleaving was tried. A promise that holds, holds in every world; one that is broken shows the number of steps of
the shortest way to it. `ferry-explore table` prints every such way; the instructive ones are below.

";

const BETWEEN: &str = "
What the promises mean is at the top of each file in `tests/src/explorer/invariants/`. *A live pair may wait* says when both
processes can live while the guest runs on neither side until somebody helps: with `setup` the source shows `uncertain` and an
operator resolves it; with `owned` only the record's return is waited for, while it is out of the reach of the side that it
names. Decided by the disk's lock, a destination that ran and died frees the lock, and the source runs memory that is older
than the disk: that is why there is a record.

## The shortest ways

One fault or two are enough for each. A line is one step: who runs the guest after it, who acts, what came, and what it did about
it.

";

/// The whole page.
#[must_use]
pub fn document(rows: &[Row]) -> String {
    format!("{HEAD}{}{BETWEEN}{}", table(rows), lessons::traces().trim_end()) + "\n"
}
