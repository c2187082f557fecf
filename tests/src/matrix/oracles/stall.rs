//! **stall**: a link that moves nothing while others do is lost in time, and named.
//!
//! The loss shows as the first status after the stall that a broken migration has: `failed`,
//! `postcopy-paused`, `uncertain`. A link that had nothing more to carry need not be missed; the
//! cell says where that may be so.

use std::time::{Duration, SystemTime};

use super::Verdict;
use crate::matrix::evidence::{Evidence, Reason, Stalled};

/// What a migration comes to when a link of it is lost.
const LOST: [&str; 3] = ["failed", "postcopy-paused", "uncertain"];

/// Judges it.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let (Some(stalled), Some(since)) = (&evidence.cell.stalled, evidence.broken) else {
        return Verdict::None("no link was made to stall".into());
    };
    let Some(lost) = lost(evidence, since) else {
        return match stalled.may_pass {
            true => Verdict::None(format!("the {} link had nothing more to carry", stalled.link)),
            false => Verdict::Fail(format!("the {} link moved nothing, and no side lost it", stalled.link)),
        };
    };
    let late = (lost > stalled.within).then(|| {
        format!(
            "the stalled {} link was lost after {} ms, of {}",
            stalled.link,
            lost.as_millis(),
            stalled.within.as_millis()
        )
    });
    let unnamed = (!is_named(evidence, stalled)).then(|| {
        let reasons: Vec<_> = told(evidence).collect();
        format!("the {} link stalled, and no reason names it: {reasons:?}", stalled.link)
    });
    Verdict::unless(late.into_iter().chain(unnamed), || {
        format!("the stalled {} link was lost after {} ms, and named", stalled.link, lost.as_millis())
    })
}

fn lost(evidence: &Evidence, since: SystemTime) -> Option<Duration> {
    let events = evidence.processes.iter().flat_map(|process| process.migration_events());
    let losses = events.filter(|(at, status)| LOST.contains(status) && *at >= since);
    losses.map(|(at, _)| at.duration_since(since).unwrap_or_default()).min()
}

fn told(evidence: &Evidence) -> impl Iterator<Item = &str> {
    let last = evidence.processes.iter().filter_map(|process| process.final_info.as_ref()?.error_desc.as_deref());
    evidence.reasons.iter().map(|Reason { text, .. }| &**text).chain(last)
}

fn is_named(evidence: &Evidence, stalled: &Stalled) -> bool {
    let word = format!("{} link", stalled.link);
    // `bulk link 2`, or `the bulk links`.
    told(evidence).any(|text| text.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted::{at, failed_migration, moved};

    fn stalls(mut evidence: Evidence, link: &str, may_pass: bool) -> Verdict {
        let (link, within) = (link.to_owned(), Duration::from_secs(5));
        evidence.cell.stalled = Some(Stalled { link, within, may_pass });
        evidence.broken = Some(at(500));
        judge(&evidence)
    }

    #[test]
    fn a_link_that_is_lost_and_named_passes() {
        // The scripted reason is of the control link.
        assert!(matches!(stalls(failed_migration(), "control", false), Verdict::Pass(_)));
        assert!(matches!(stalls(moved(), "bulk", true), Verdict::None(_)));
        assert!(matches!(judge(&moved()), Verdict::None(_)));
    }

    #[test]
    fn a_loss_without_its_name_a_late_one_and_none_are_caught() {
        assert!(matches!(stalls(failed_migration(), "urgent", true), Verdict::Fail(says) if says.contains("names it")));
        assert!(matches!(stalls(moved(), "urgent", false), Verdict::Fail(says) if says.contains("no side lost it")));
        let mut evidence = failed_migration();
        evidence.processes[0].events[5].at = at(6000);
        assert!(matches!(stalls(evidence, "control", false), Verdict::Fail(says) if says.contains("5500 ms")));
    }
}
