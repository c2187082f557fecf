//! **stall**: a link that moves nothing while others do is lost in time, and named.
//!
//! The loss shows as the first status after the stall that a broken migration has: `failed`, `postcopy-paused`, `uncertain`. A link on
//! which nothing was to pass, by what the relay saw, need not be missed, and neither need one without which the migration was completed before
//! its silence had lasted as long as it may.

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
    let Some(lost) = first(evidence, since, &LOST) else {
        let over = first(evidence, since, &["completed"]).is_some_and(|after| after <= stalled.silent);
        return match (stalled.owed, over) {
            (false, _) => Verdict::None(format!("nothing was to pass on the {} link", stalled.link)),
            (true, true) => Verdict::None(format!("all was over before the {} link was missed", stalled.link)),
            (true, false) => Verdict::Fail(format!("the {} link moved nothing, and no side lost it", stalled.link)),
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

/// How long after the stall one of these statuses came first.
fn first(evidence: &Evidence, since: SystemTime, wanted: &[&str]) -> Option<Duration> {
    let events = evidence.processes.iter().flat_map(|process| process.migration_events());
    let found = events.filter(|(at, status)| wanted.contains(status) && *at >= since);
    found.map(|(at, _)| at.duration_since(since).unwrap_or_default()).min()
}

fn told(evidence: &Evidence) -> impl Iterator<Item = &str> {
    let last = evidence.processes.iter().filter_map(|process| process.final_info.as_ref()?.error_desc.as_deref());
    evidence.reasons.iter().map(|Reason { text, .. }| &**text).chain(last)
}

/// `the control link`, `bulk link 2`, `the bulk links`. A control link without heartbeats cannot be told from a peer without life.
fn is_named(evidence: &Evidence, stalled: &Stalled) -> bool {
    let word = format!("{} link", stalled.link);
    let lifeless = stalled.link == "control";
    told(evidence).any(|text| text.contains(&word) || lifeless && text.contains("no sign of life"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted::{at, failed_migration, moved};

    fn stalls(mut evidence: Evidence, link: &str, owed: bool) -> Verdict {
        let (link, within, silent) = (link.to_owned(), Duration::from_secs(5), Duration::from_millis(20));
        evidence.cell.stalled = Some(Stalled { link, within, silent, owed });
        evidence.broken = Some(at(500));
        judge(&evidence)
    }

    #[test]
    fn a_link_that_is_lost_and_named_passes() {
        // The scripted reason is of the control link.
        assert!(matches!(stalls(failed_migration(), "control", true), Verdict::Pass(_)));
        assert!(matches!(stalls(moved(), "bulk", false), Verdict::None(_)));
        assert!(matches!(judge(&moved()), Verdict::None(_)));
        let mut quick = moved();
        quick.processes[0].events[4].at = at(510);
        assert!(matches!(stalls(quick, "bulk", true), Verdict::None(says) if says.contains("over before")));
    }

    #[test]
    fn a_loss_without_its_name_a_late_one_and_none_are_caught() {
        assert!(
            matches!(stalls(failed_migration(), "urgent", false), Verdict::Fail(says) if says.contains("names it"))
        );
        assert!(matches!(stalls(moved(), "urgent", true), Verdict::Fail(says) if says.contains("no side lost it")));
        let mut evidence = failed_migration();
        evidence.processes[0].events[5].at = at(6000);
        assert!(matches!(stalls(evidence, "control", true), Verdict::Fail(says) if says.contains("5500 ms")));
    }
}
