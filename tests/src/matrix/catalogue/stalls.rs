//! One link of several stays open and moves nothing, in one direction.

use super::super::cell::{Mode, Side, What, When};
use super::Moment;
use crate::relay::{Lane, Spot};

/// Links that carry something before the switchover. Nothing of Ferry's comes back on a bulk link, so one of these is enough.
const ROUNDS: [What; 6] = [
    What::Stall(Lane::Control, Side::Source),
    What::Stall(Lane::Control, Side::Destination),
    What::Stall(Lane::Bulk(0), Side::Source),
    What::Stall(Lane::Bulk(1), Side::Source),
    What::Stall(Lane::Bulk(2), Side::Source),
    What::Stall(Lane::Bulk(0), Side::Destination),
];

/// Behind it there is an urgent link too.
const URGENT: [What; 2] = [What::Stall(Lane::Urgent, Side::Source), What::Stall(Lane::Urgent, Side::Destination)];

/// Bulk links of a migration in which one of them stalls.
pub const BULK_LINKS: u8 = 3;

pub(super) fn moments() -> Vec<Moment> {
    let both = || [&ROUNDS[..], &URGENT].concat();
    let frame = |mode, spot, whats| Moment { mode, when: When::Frame(spot), whats };
    let last_pages = When::Step(Side::Source, "SendLastPages");
    vec![
        frame(Mode::Precopy, Spot::Pages(0), ROUNDS.to_vec()),
        frame(Mode::Precopy, Spot::Pages(super::frames::LATER), ROUNDS.to_vec()),
        Moment { mode: Mode::Precopy, when: last_pages, whats: ROUNDS.to_vec() },
        frame(Mode::Postcopy, Spot::Pages(0), ROUNDS.to_vec()),
        // Pages follow in the background from here on.
        frame(Mode::Postcopy, Spot::Message("Started"), both()),
        frame(Mode::Postcopy, Spot::Request(0), both()),
        frame(Mode::Postcopy, Spot::Message("Drained"), both()),
        frame(Mode::Recovered, Spot::Pages(0), both()),
        frame(Mode::Recovered, Spot::Request(0), both()),
    ]
}
