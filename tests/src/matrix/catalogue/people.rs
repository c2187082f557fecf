//! People and the guest at moments that [`super::frames`] does not have: `cont` at every message, and an end of the guest or of a
//! process while pages are on their way.

use super::super::cell::{Mode, Side, What, When};
use super::Moment;
use super::frames::{LATER, is_last_resort, modes_of};
use crate::relay::Spot;

const QUITS: [What; 2] = [What::Quit(Side::Source), What::Quit(Side::Destination)];

pub(super) fn moments() -> Vec<Moment> {
    let mut out = Vec::new();
    let frame = |mode, spot, whats: &[What]| Moment { mode, when: When::Frame(spot), whats: whats.to_vec() };
    for mode in [Mode::Precopy, Mode::Postcopy, Mode::Recovered] {
        let names = super::frames::messages().filter(|name| modes_of(name).contains(&mode));
        out.extend(names.map(|name| {
            // Whoever has the guest may be asked for it again after any of these.
            let whats: &[What] = if is_last_resort(name) { &[What::Cont, What::StopCont] } else { &[What::Cont] };
            frame(mode, Spot::Message(name), whats)
        }));
        out.extend([Spot::BulkPreamble, Spot::Pages(0)].map(|spot| frame(mode, spot, &QUITS)));
        if mode != Mode::Recovered {
            out.push(Moment { mode, when: When::HalfPackage, whats: QUITS.to_vec() });
        }
    }
    out.extend([Spot::Pages(LATER), Spot::Marker].map(|spot| frame(Mode::Precopy, spot, &QUITS)));
    for mode in [Mode::Postcopy, Mode::Recovered] {
        let spots = [Spot::UrgentPreamble, Spot::Request(0), Spot::UrgentPages(0)];
        out.extend(spots.map(|spot| frame(mode, spot, &QUITS)));
    }
    let ends = [What::GuestShutsDown];
    for spot in [Spot::Message("Hello"), Spot::Pages(0), Spot::Message("MarkerReached"), Spot::Message("Rehearsed")] {
        out.extend([Mode::Precopy, Mode::Postcopy].map(|mode| frame(mode, spot, &ends)));
    }
    out.extend([Spot::Pages(LATER), Spot::Message("Heartbeat")].map(|spot| frame(Mode::Precopy, spot, &ends)));
    for name in ["Started", "Drained", "DrainedAck"] {
        out.push(frame(Mode::Postcopy, Spot::Message(name), &[What::GuestShutsDown, What::GuestReboots]));
    }
    out.push(frame(Mode::Precopy, Spot::Message("Started"), &ends));
    // Not with `RecoverAck` held back: the guest stands still for its pages, and cannot shut down.
    for spot in [Spot::Message("Drained"), Spot::Message("DrainedAck")] {
        out.push(frame(Mode::Recovered, spot, &ends));
    }
    out
}
