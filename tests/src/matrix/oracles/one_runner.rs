//! **one-runner**: the guest never runs in two processes, and never again in one that it has left.
//!
//! A guest visits processes in one order: source, destination, next. A process that could not
//! start it has never run it, so giving it back is no visit. Hence one rule: **once a later
//! process has run the guest, no earlier one uses CPU time for its vCPUs.** Two that run at the
//! same time break it, and so does a source that resumes on stale memory.
//!
//! The judgement rests on accounts of CPU time, taken every few milliseconds
//! ([`crate::matrix::watch::Sampler`]), and counts only what it can prove from them
//! ([`super::activity`]): the later process had used at least [`RUN`] by some sample, and the
//! earlier one used at least [`RUN`] in stretches that began after that sample. It therefore
//! misses an overlap of less than about 2 × [`RUN`]; a guest that goes on running twice shows at
//! once, and what it says and writes twice is judged by `serial` and `disk-log`. A vCPU that
//! stands still for a missing page uses nothing, and is not running.

use super::Verdict;
use super::activity::{Activity, RUN};
use crate::matrix::evidence::Evidence;

/// Judges it.
#[must_use]
pub(super) fn judge(evidence: &Evidence) -> Verdict {
    if evidence.samples.is_empty() {
        return Verdict::None("nobody looked at the vCPUs' threads".into());
    }
    let activity = Activity::of(evidence);
    let ran: Vec<_> = (0..evidence.processes.len()).filter_map(|at| Some((at, activity.had_run_by(at)?))).collect();
    let label = |at: usize| &*evidence.processes[at].label;
    let mut twice = Vec::new();
    for (later, by) in &ran {
        for (earlier, _) in ran.iter().filter(|(earlier, _)| earlier < later) {
            if activity.had_run_since(*earlier, *by).is_some() {
                let used = activity.used(*earlier, *by, evidence.samples[evidence.samples.len() - 1].at);
                twice.push(format!(
                    "the guest ran for {} ms on {} after it had begun to run on {}",
                    used.as_millis(),
                    label(*earlier),
                    label(*later)
                ));
            }
        }
    }
    Verdict::unless(twice, || match &*ran {
        [] => format!("no process used {} ms for its vCPUs", RUN.as_millis()),
        ran => {
            let places: Vec<_> = ran.iter().map(|(at, _)| label(*at)).collect();
            format!("the guest ran in one place at a time: {}", places.join(", then "))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted::{self, Script};

    #[test]
    fn a_hand_over_and_a_give_back_are_in_order() {
        for evidence in [scripted::failed_migration(), scripted::moved()] {
            assert!(matches!(judge(&evidence), Verdict::Pass(_)), "{:?}", judge(&evidence));
        }
    }

    #[test]
    fn two_that_run_at_the_same_time_are_caught() {
        let mut evidence = scripted::moved();
        evidence.samples = Script::default().runs(0, 0, 1000).runs(1, 600, 1500).samples();
        assert!(matches!(judge(&evidence), Verdict::Fail(says) if says.contains("on source after")));
    }

    #[test]
    fn a_source_that_resumes_later_is_caught() {
        let mut evidence = scripted::moved();
        evidence.samples = Script::default().runs(0, 0, 500).runs(1, 600, 700).runs(0, 900, 950).samples();
        assert!(judge(&evidence).is_fail());
    }

    #[test]
    fn threads_that_only_wake_up_are_no_runners() {
        let mut evidence = scripted::moved();
        evidence.samples = Script::default().runs(0, 0, 500).wakes(1, 100).runs(1, 600, 900).wakes(0, 800).samples();
        assert!(matches!(judge(&evidence), Verdict::Pass(_)), "{:?}", judge(&evidence));
    }

    #[test]
    fn a_sampler_that_slept_through_the_hand_over_proves_nothing() {
        let mut evidence = scripted::moved();
        evidence.samples = Script::default().runs(0, 0, 500).runs(1, 510, 900).blind(490, 600).samples();
        assert!(matches!(judge(&evidence), Verdict::Pass(_)), "{:?}", judge(&evidence));
    }

    #[test]
    fn without_samples_there_is_no_judgement() {
        let mut evidence = scripted::moved();
        evidence.samples.clear();
        assert!(matches!(judge(&evidence), Verdict::None(_)));
    }
}
