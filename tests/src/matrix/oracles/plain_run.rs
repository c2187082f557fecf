//! **plain-run**: a `ferry run` of the guest beside its migration, plain or past its record, is
//! refused, says why, and leaves the record to those who move the guest.
//!
//! That it changes neither the disk nor how the migration ends is judged by `disk-log`,
//! `disk-stamps` and `ending`. Whether the record changed under it is seen only as whom it names
//! before and after.

use super::Verdict;
use super::story::thin;
use crate::matrix::evidence::{Evidence, PlainRun};

/// Of these, a refusal has one: the lock, or the record.
const CAUSES: [&str; 3] = ["lock", "record", "owner"];
/// The same of a run past the record: the lock, or the sign of a hand-over.
const PAST_RECORD: [&str; 2] = ["is in use", "is in a hand-over"];

/// Judges it.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    if evidence.plain.is_empty() {
        return Verdict::None("nobody started a plain run".into());
    }
    Verdict::unless(evidence.plain.iter().filter_map(|run| broken(run, evidence)), || {
        let last = &evidence.plain[evidence.plain.len() - 1];
        format!("{} plain runs were refused; the last one: {}", evidence.plain.len(), last.says)
    })
}

fn broken(run: &PlainRun, evidence: &Evidence) -> Option<String> {
    let says = &run.says;
    if run.booted {
        return Some(format!("a plain run booted the guest beside its migration: {says}"));
    }
    if run.code != Some(1) {
        return Some(format!("a plain run ended with status {:?}, not 1: {says}", run.code));
    }
    if !is_refusal(run) {
        return Some(format!(
            "a plain run was refused without a word of the lock, a hand-over or the record: '{says}'"
        ));
    }
    let ours = |pid: Option<u32>| evidence.processes.iter().any(|process| Some(process.pid) == pid);
    let foreign = run.named.iter().flatten().find(|named| !ours(named.pid));
    foreign.map(|named| format!("around a plain run the record named a stranger: {named:?}"))
}

/// Whether it was refused by the lock, the sign of a hand-over or the record, and says so.
#[must_use]
pub fn is_refusal(run: &PlainRun) -> bool {
    let says = &run.says;
    let causes: &[&str] = if run.past_record { &PAST_RECORD } else { &CAUSES };
    let named = causes.iter().any(|cause| says.contains(cause));
    run.code == Some(1) && says.starts_with("ferry: ") && thin(says).is_none() && named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::evidence::Named;
    use crate::matrix::oracles::scripted::{PIDS, at, failed_migration};

    fn judged(change: impl FnOnce(&mut PlainRun)) -> Verdict {
        let named = Some(Named { generation: 1, pid: Some(PIDS[0]) });
        let says = "ferry: cannot lock /t/disk.img: another process uses it".to_owned();
        let (at, ended) = (at(500), at(600));
        let named = [named, named];
        let mut run = PlainRun { pid: 4711, past_record: false, at, ended, code: Some(1), booted: false, says, named };
        change(&mut run);
        let mut evidence = failed_migration();
        evidence.plain = vec![run];
        judge(&evidence)
    }

    #[test]
    fn a_refusal_with_its_reason_passes() {
        assert!(matches!(judge(&failed_migration()), Verdict::None(_)));
        assert!(matches!(judged(|_| {}), Verdict::Pass(_)), "{:?}", judged(|_| {}));
    }

    #[test]
    fn a_boot_a_crash_a_thin_reason_and_a_changed_record_are_caught() {
        assert!(matches!(judged(|run| run.booted = true), Verdict::Fail(says) if says.contains("booted")));
        for code in [None, Some(0), Some(101)] {
            assert!(judged(|run| run.code = code).is_fail(), "{code:?}");
        }
        assert!(judged(|run| run.says = "ferry: no such thing there is".into()).is_fail());
        // What is past the record cannot have been refused by it.
        let says = "ferry: the ownership record of /t/disk.link cannot be made: permission denied";
        assert!(!judged(|run| run.says = says.into()).is_fail());
        let past = judged(|run| (run.past_record, run.says) = (true, says.into()));
        assert!(past.is_fail());
        let refused = "ferry: disk image /t/disk.link is in a hand-over: let the migration end, or end that process";
        assert!(!judged(|run| (run.past_record, run.says) = (true, refused.into())).is_fail());
        let stranger = Some(Named { generation: 2, pid: Some(4711) });
        assert!(matches!(judged(|run| run.named[1] = stranger), Verdict::Fail(says) if says.contains("stranger")));
    }
}
