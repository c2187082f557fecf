//! **resume**: a guest that a break has stopped runs again soon, and how soon.
//!
//! The time begins with the break. It begins with the guest's stop if that came later, or if the
//! moment of the break is not known; and with the operator's word where the guest waited for that.
//! It ends with `RESUME` on either side; where neither said so, with the sample by which a vCPU had
//! used [`RUN`](super::activity::RUN) of CPU time. The bound is the cell's: the time in which the
//! break is noticed, and the 100 ms that a source may take from there. The number is reported even
//! where there is no bound.
//!
//! A guest that nobody stopped, and one that never runs again, are not on trial here: `ending` has
//! the latter.

use std::time::{Duration, SystemTime};

use super::Verdict;
use super::activity::Activity;
use crate::matrix::evidence::{Evidence, Process, Role};

/// How long it took, since when, and who says so.
struct Taken {
    time: Duration,
    since: &'static str,
    how: String,
}

/// Judges it.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let Taken { time, since, how } = match taken(evidence) {
        Ok(taken) => taken,
        Err(why) => return Verdict::None(why.into()),
    };
    let says = format!("the guest ran again {:.1} ms after {since} ({how})", time.as_secs_f64() * 1000.0);
    match evidence.cell.resume_within {
        None => Verdict::None(format!("{says}; no bound was set")),
        Some(bound) if time > bound => Verdict::Fail(format!("{says}, and {} ms were allowed", bound.as_millis())),
        Some(bound) => Verdict::Pass(format!("{says}, of {} ms", bound.as_millis())),
    }
}

/// How long it took, for the report.
#[must_use]
pub fn time(evidence: &Evidence) -> Option<Duration> {
    taken(evidence).ok().map(|taken| taken.time)
}

fn taken(evidence: &Evidence) -> Result<Taken, &'static str> {
    let stopped =
        evidence.of(Role::Source).and_then(|source| last(source, "STOP")).ok_or("the guest was not stopped")?;
    let from = evidence.broken.map_or(stopped, |broken| broken.max(stopped));
    let (resumed, how, thawed) = resumed(evidence, from).ok_or("the guest did not run again")?;
    let ends = [(thawed, "the process went on"), (evidence.resolved, "the operator's word")];
    let waits = ends.into_iter().filter_map(|(at, what)| Some((at?, what)));
    let last = waits.filter(|(at, _)| *at > from && *at <= resumed).max_by_key(|(at, _)| *at);
    let (begin, since) = last.unwrap_or((from, if from == stopped { "it was stopped" } else { "the break" }));
    let time = resumed.duration_since(begin).unwrap_or(Duration::ZERO);
    Ok(Taken { time, since, how })
}

fn last(process: &Process, name: &str) -> Option<SystemTime> {
    process.events.iter().rev().find(|event| event.name == name).map(|event| event.at)
}

/// When the guest ran again, who says so, and until when the process had been frozen before that.
fn resumed(evidence: &Evidence, from: SystemTime) -> Option<(SystemTime, String, Option<SystemTime>)> {
    let sides = || evidence.processes.iter().enumerate().filter(|(_, process)| process.role != Role::Next);
    let told = sides().filter_map(|(at, process)| {
        let event = process.events.iter().find(|event| event.name == "RESUME" && event.at >= from)?;
        Some((event.at, at, "RESUME"))
    });
    let activity = Activity::of(evidence);
    let seen = sides().filter_map(|(at, _)| Some((activity.had_run_since(at, from)?, at, "CPU time")));
    let (resumed, at, how) = told.min().or_else(|| seen.min())?;
    let process = &evidence.processes[at];
    let thawed = process.frozen.iter().map(|(_, thawed)| *thawed).filter(|thawed| *thawed <= resumed).max();
    Some((resumed, format!("{how} of {}", process.label), thawed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted::{Script, at, event, failed_migration};

    #[test]
    fn a_resume_within_the_bound_passes_and_tells_the_time() {
        let verdict = judge(&failed_migration());
        assert!(
            matches!(&verdict, Verdict::Pass(says) if says.contains("50.0 ms after the break (RESUME of source)")),
            "{verdict:?}"
        );
    }

    #[test]
    fn a_late_resume_is_caught() {
        let mut evidence = failed_migration();
        evidence.processes[0].events[4] = event(651, "RESUME");
        assert!(matches!(judge(&evidence), Verdict::Fail(says) if says.contains("151.0 ms")));
    }

    #[test]
    fn a_break_before_the_stop_counts_from_the_stop() {
        let mut evidence = failed_migration();
        evidence.broken = Some(at(100));
        assert!(matches!(judge(&evidence), Verdict::Pass(says) if says.contains("55.0 ms after it was stopped")));
    }

    #[test]
    fn where_nobody_says_so_cpu_time_does() {
        let mut evidence = failed_migration();
        evidence.processes[0].events.remove(4);
        assert!(matches!(judge(&evidence), Verdict::Pass(says) if says.contains("CPU time of source")));
        evidence.samples = Script::default().runs(0, 0, 495).runs(0, 800, 900).samples();
        assert!(judge(&evidence).is_fail());
        evidence.samples = Script::default().runs(0, 0, 495).samples();
        assert!(matches!(judge(&evidence), Verdict::None(says) if says.contains("did not run again")));
    }

    #[test]
    fn time_in_which_the_process_is_frozen_does_not_count() {
        let mut evidence = failed_migration();
        evidence.processes[0].events[4] = event(1651, "RESUME");
        evidence.processes[0].frozen = vec![(at(500), at(1600))];
        assert!(matches!(judge(&evidence), Verdict::Pass(says) if says.contains("51.0 ms after the process went on")));
    }

    #[test]
    fn time_in_which_the_guest_waits_for_its_operator_does_not_count() {
        let mut evidence = failed_migration();
        evidence.processes[0].events[4] = event(1651, "RESUME");
        evidence.resolved = Some(at(1600));
        assert!(matches!(judge(&evidence), Verdict::Pass(says) if says.contains("51.0 ms after the operator's word")));
        evidence.resolved = Some(at(1000));
        assert!(judge(&evidence).is_fail());
    }

    #[test]
    fn a_guest_that_was_not_stopped_is_not_judged() {
        let mut evidence = failed_migration();
        evidence.processes[0].events.retain(|event| event.name == "MIGRATION");
        assert!(matches!(judge(&evidence), Verdict::None(_)));
    }
}
