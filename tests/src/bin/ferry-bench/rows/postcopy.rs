//! What a missing page costs the guest, what all of them cost it, and how long a postcopy takes.

use super::{Bench, RATE, switchover_limit};
use crate::account::{Case, Section};
use crate::error::BenchError;
use crate::limit::{self, Derived};
use crate::machine::Guest;
use crate::migration::TOTAL;
use crate::peer::Contender;
use crate::postcopy::{self, ALL, ONE_P50, ONE_P99, Sample, Way, When};
use crate::statistics::percentile;

const FIRST_ROUND_MIB: u64 = 4096;
const AT_ONCE_MIB: u64 = 1024;
/// Ends the title of the case that has enough missing pages for a distribution.
pub(crate) const AT_ONCE: &str = "switched at once";

pub(super) fn measure(bench: &Bench, section: &mut Section) {
    for size in bench.sizes(&[FIRST_ROUND_MIB]) {
        measure_at(bench, section, size, When::FirstRound);
    }
    for size in bench.sizes(&[AT_ONCE_MIB]) {
        measure_at(bench, section, size, When::AtOnce);
    }
}

fn measure_at(bench: &Bench, section: &mut Section, size: u64, when: When) {
    let guest = Guest::touching(size, 1, RATE).backed_by(&bench.backing);
    let words = if when == When::AtOnce { AT_ONCE } else { "switched after the first round" };
    let case = section.case(format!("{}, {words}", guest.title()));
    for run in 1..=bench.runs {
        let mut ours = None;
        for way in Way::all(&bench.peers, when) {
            let sample = case.attempt(way.contender(), run, || postcopy::measure(&way, &guest, &bench.directory));
            ours = ours.or(sample.filter(|_| way.contender() == Contender::Ferry));
        }
        limits(case, run, ours.as_ref());
    }
}

fn limits(case: &mut Case, run: u32, ours: Option<&Sample>) {
    case.attempt(Contender::Limit, run, || pages(ours));
    if let Some(ours) = ours {
        switchover_limit(case, run, ours.state_ms);
        case.attempt(Contender::Limit, run, || {
            let copy = limit::copy(ours.bytes, 1)?;
            Ok(Derived::default().and(TOTAL, "ms", Some(copy.touched_ms)))
        });
    }
}

/// A fault that another thread resolves, and a round trip in between; and that for each page that
/// Ferry's guest asked for.
fn pages(ours: Option<&Sample>) -> Result<Derived, BenchError> {
    let (faults, trips) = (limit::minor_faults_us()?, limit::round_trips_us()?);
    let both = |percent: usize| {
        let fault = percentile(faults.iter().copied(), percent)?;
        Some(fault + percentile(trips.iter().copied(), percent)?)
    };
    let all_ms = ours.and_then(|ours| Some(both(50)? * ours.requests as f64 / 1e3));
    Ok(Derived::default().and(ONE_P50, "µs", both(50)).and(ONE_P99, "µs", both(99)).and(ALL, "ms", all_ms))
}
