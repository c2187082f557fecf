//! **stall**: a link that moves nothing while others do is lost in time, and named.
//!
//! The loss shows as the first status after the stall that a broken migration has: `failed`,
//! `postcopy-paused`, `uncertain`. A link on which nothing was to pass, by what the relay saw,
//! need not be missed, and neither need one without which the migration was completed before its
//! silence had lasted as long as it may. In postcopy a page that one link does not bring may come
//! by another: a page link is not missed while others bring pages, nor when the guest waited for
//! none of them as long as a silence may last.

use std::time::{Duration, SystemTime};

use super::Verdict;
use crate::matrix::evidence::{Evidence, Process, Reason, Role, Stalled};

/// What a migration comes to when a link of it is lost.
const LOST: [&str; 3] = ["failed", "postcopy-paused", "uncertain"];

/// A control link without heartbeats cannot be told from a peer without life.
const SILENT_PEER: &str = "no sign of life";

/// Once the guest is stopped, one deadline is for all that the destination does to take it, also
/// for the last pages, and for those that it asks for while it loads. Here that deadline is as long
/// as a page link may be silent, so it may end the migration first.
const LOAD_TIMEOUT: &str = "did not take the guest in time";

/// Judges it.
#[must_use]
pub(super) fn judge(evidence: &Evidence) -> Verdict {
    let (Some(stalled), Some(since)) = (&evidence.cell.stalled, evidence.broken) else {
        return Verdict::None("no link was made to stall".into());
    };
    let lost = first(evidence, since, &LOST);
    let over = first(evidence, since, &["completed"]);
    if over.is_some_and(|over| over <= stalled.silent && lost.is_none_or(|lost| lost >= over)) {
        return Verdict::None(format!("all was over before the {} link was missed", stalled.link));
    }
    let Some(lost) = lost else {
        return match stalled.owed && waited_long(evidence, stalled) {
            false => Verdict::None(format!("no side waited for what was to pass on the {} link", stalled.link)),
            true => Verdict::Fail(format!("the {} link moved nothing, and no side lost it", stalled.link)),
        };
    };
    // Its pages are missed when the others bring none any more.
    let before = stalled.others.iter().filter_map(|at| at.duration_since(since).ok()).filter(|after| *after <= lost);
    let lost = lost - before.max().unwrap_or_default();
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

/// Whether what stalled kept a side waiting longer than a link may be silent. Pages that were
/// asked for may come with the others.
fn waited_long(evidence: &Evidence, stalled: &Stalled) -> bool {
    let destination = evidence.of(Role::Destination).and_then(|process| process.final_info.as_ref());
    let waits =
        destination.and_then(|info| info.x_ferry_postcopy.as_ref()).and_then(|postcopy| postcopy.waits.as_ref());
    let longest = waits.map(|waits| Duration::from_micros(waits.longest_us));
    let elsewhere = evidence.cell.postcopy && stalled.link != "control";
    !elsewhere || longest.is_none_or(|longest| longest > stalled.within)
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

/// `the control link`, `bulk link 2`, `the bulk links`, `urgent: no page for …`; and what stands
/// for a link where it cannot be told.
fn is_named(evidence: &Evidence, stalled: &Stalled) -> bool {
    let stands_for = match &*stalled.link {
        "control" => Some(SILENT_PEER),
        _ => load_timed_out(evidence, stalled).then_some(LOAD_TIMEOUT),
    };
    let names = [format!("{} link", stalled.link), format!("{}: ", stalled.link)];
    let words: Vec<_> = names.iter().map(String::as_str).chain(stands_for).collect();
    told(evidence).any(|text| words.iter().any(|word| text.contains(word)))
}

/// Whether the guest was stopped at the source for as long as the destination had to take it.
fn load_timed_out(evidence: &Evidence, stalled: &Stalled) -> bool {
    let events = evidence.of(Role::Source).into_iter().flat_map(Process::migration_events);
    let mut stopped = None;
    for (at, status) in events {
        match status {
            "device" | "postcopy-setup" => stopped = Some(at),
            "failed" => return stopped.is_some_and(|stopped| at >= stopped + stalled.silent),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted::{at, failed_migration, moved, status};

    fn stalls(mut evidence: Evidence, link: &str, owed: bool) -> Verdict {
        let (link, within, silent) = (link.to_owned(), Duration::from_secs(5), Duration::from_millis(20));
        evidence.cell.stalled = Some(Stalled { link, others: vec![], within, silent, owed });
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
        let mut late = failed_migration();
        late.processes[0].events[5].at = at(6000);
        late.cell.stalled = Some(Stalled {
            link: "control".into(),
            others: vec![at(2000), at(7000)],
            within: Duration::from_secs(5),
            silent: Duration::from_millis(20),
            owed: true,
        });
        assert!(matches!(judge(&late), Verdict::Pass(_)), "it owed nothing before: {:?}", judge(&late));
    }

    #[test]
    fn a_load_that_waits_for_a_page_may_end_before_the_link_is_missed() {
        let mut evidence = failed_migration();
        let reason = "the destination did not take the guest in time (while the destination loaded the device state)";
        evidence.processes[0].final_info.as_mut().expect("the source has a last word").error_desc = Some(reason.into());
        evidence.reasons.clear();
        assert!(matches!(stalls(evidence.clone(), "bulk", true), Verdict::Pass(_)));
        // Only postcopy has an urgent link, and this status for the stop.
        evidence.processes[0].events[3] = status(496, "postcopy-setup");
        assert!(matches!(stalls(evidence.clone(), "urgent", true), Verdict::Pass(_)));
        assert!(matches!(stalls(evidence.clone(), "bulk", true), Verdict::Pass(_)));
        assert!(matches!(stalls(evidence.clone(), "control", true), Verdict::Fail(says) if says.contains("names it")));
        // The scripted guest was stopped at 496 ms: a deadline of 20 ms was not over at 515 ms.
        evidence.processes[0].events[5].at = at(515);
        assert!(matches!(stalls(evidence, "urgent", true), Verdict::Fail(says) if says.contains("names it")));
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
