//! **disk-log**: the disk is written by one process at a time, and by the one that the ownership
//! record names.
//!
//! Three rules over the writes as the kernel told them ([`crate::matrix::watch::disk`] says what
//! it can and cannot see):
//! 1. once another process has written, the former never writes again, unless the record gave the
//!    guest back to it in a later generation;
//! 2. the generations that the record names never go back;
//! 3. a writer is the process that the record names. A write becomes known a few milliseconds
//!    late, so it is charged only if the record did not name its writer at any of the looks around
//!    it. A record that could not be read at those looks charges nobody.

use std::collections::BTreeMap;

use super::Verdict;
use crate::matrix::evidence::{Evidence, Write};

/// Judges it.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let writes = match &evidence.writes {
        None => return Verdict::None("the guest has no disk".into()),
        Some(Err(why)) => return Verdict::None(why.clone()),
        Some(Ok(writes)) if writes.is_empty() => return Verdict::None("nobody wrote to the disk".into()),
        Some(Ok(writes)) => writes,
    };
    let known: Vec<_> = evidence.processes.iter().map(|process| (process.pid, process.label.clone())).collect();
    let name = |pid: u32| name_of(pid, &known);
    Verdict::unless(broken(writes, &known), || {
        let mut writers: Vec<_> = writes.iter().map(|write| name(write.pid)).collect();
        writers.dedup();
        format!("the disk was written by one process at a time: {}", writers.join(", then "))
    })
}

/// What is wrong with these writes, of processes of which these may have the guest; `None`:
/// nothing.
#[must_use]
pub fn broken(writes: &[Write], known: &[(u32, String)]) -> Option<String> {
    let name = |pid: u32| name_of(pid, known);
    let stranger = writes.iter().find(|write| known.iter().all(|(pid, _)| *pid != write.pid));
    let unnamed =
        || unnamed(writes).map(|write| format!("{} wrote while the record named {:?}", name(write.pid), write.named));
    let returned = || {
        returned(writes).map(|(write, other)| {
            let (writer, other) = (name(write.pid), name(other));
            format!("{writer} wrote again after {other} had written, and was not given the guest back")
        })
    };
    stranger
        .map(|write| format!("{} wrote to the disk", name(write.pid)))
        .or_else(|| generations_back(writes))
        .or_else(unnamed)
        .or_else(returned)
}

fn name_of(pid: u32, known: &[(u32, String)]) -> String {
    let label = known.iter().find(|(known, _)| *known == pid).map(|(_, label)| label.clone());
    label.unwrap_or_else(|| format!("a stranger (process {pid})"))
}

fn generations_back(writes: &[Write]) -> Option<String> {
    let mut newest = 0;
    for write in writes {
        if !write.named.is_sorted_by_key(|named| named.generation) {
            return Some(format!("the record's generation went back: {:?}", write.named));
        }
        let Some(last) = write.named.last() else { continue };
        if last.generation < newest {
            return Some(format!("the record's generation went back from {newest} to {}", last.generation));
        }
        newest = last.generation;
    }
    None
}

/// A write by a process that the record did not name around then.
fn unnamed(writes: &[Write]) -> Option<&Write> {
    let named = |write: &Write| write.named.iter().any(|named| named.pid == Some(write.pid));
    writes.iter().find(|write| !write.named.is_empty() && !named(write))
}

/// A write by a process after another one had written, and that other one.
fn returned(writes: &[Write]) -> Option<(&Write, u32)> {
    // Of each writer: the highest generation in which it was named, and the place of its newest
    // write.
    let mut last: BTreeMap<u32, (u64, usize)> = BTreeMap::new();
    for (at, write) in writes.iter().enumerate() {
        let own = write.named.iter().filter(|named| named.pid == Some(write.pid)).map(|named| named.generation).max();
        let before = last.insert(write.pid, (own.unwrap_or(0), at));
        let Some((_, before)) = before else { continue };
        let since = last.iter().filter(|(pid, (_, place))| **pid != write.pid && *place > before);
        let overtaken = since.into_iter().find(|(_, (generation, _))| own.is_none_or(|own| own <= *generation));
        if let Some((other, _)) = overtaken {
            return Some((write, *other));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::evidence::Named;
    use crate::matrix::oracles::scripted::{PIDS, failed_migration, moved, write};

    fn judged(writes: Vec<Write>) -> Verdict {
        let mut evidence = moved();
        evidence.writes = Some(Ok(writes));
        judge(&evidence)
    }

    fn without_record(pid: u32) -> Write {
        Write { named: vec![], ..write(0, pid, 0, 0) }
    }

    const A: u32 = PIDS[0];
    const B: u32 = PIDS[1];

    #[test]
    fn clean_logs_pass() {
        for evidence in [moved(), failed_migration()] {
            assert!(matches!(judge(&evidence), Verdict::Pass(_)), "{:?}", judge(&evidence));
        }
        assert!(matches!(judged(vec![without_record(A), without_record(A), without_record(B)]), Verdict::Pass(_)));
        // The record gave it back in a later generation.
        let back = judged(vec![write(1, A, 1, A), write(2, B, 2, B), write(3, A, 3, A), write(4, A, 3, A)]);
        assert!(matches!(back, Verdict::Pass(says) if says.ends_with("source, then destination, then source")));
    }

    #[test]
    fn a_former_writer_that_writes_again_is_caught() {
        let verdict = judged(vec![without_record(A), without_record(B), without_record(A)]);
        assert!(matches!(verdict, Verdict::Fail(says) if says.starts_with("source wrote again after destination")));
        let alternating = judged(vec![without_record(A), without_record(B), without_record(B), without_record(A)]);
        assert!(alternating.is_fail());
    }

    #[test]
    fn a_writer_that_the_record_does_not_name_is_caught() {
        let verdict = judged(vec![write(1, A, 1, A), write(2, B, 1, A)]);
        assert!(matches!(verdict, Verdict::Fail(says) if says.starts_with("destination wrote while the record named")));
    }

    #[test]
    fn a_write_around_a_change_of_the_record_is_not_charged() {
        let named = vec![Named { generation: 1, pid: Some(A) }, Named { generation: 2, pid: Some(B) }];
        let around = |pid| Write { named: named.clone(), ..without_record(pid) };
        assert!(matches!(judged(vec![around(A), around(B)]), Verdict::Pass(_)));
    }

    #[test]
    fn generations_that_go_back_are_caught() {
        assert!(judged(vec![write(1, A, 3, A), write(2, A, 2, A)]).is_fail());
        let named = vec![Named { generation: 2, pid: Some(A) }, Named { generation: 1, pid: Some(A) }];
        assert!(judged(vec![Write { named, ..without_record(A) }]).is_fail());
    }

    #[test]
    fn a_stranger_is_caught() {
        assert!(
            matches!(judged(vec![write(1, 4711, 1, 4711)]), Verdict::Fail(says) if says.contains("stranger (process 4711)"))
        );
    }

    #[test]
    fn without_a_watch_there_is_no_judgement() {
        let mut evidence = moved();
        evidence.writes = Some(Err("nobody can watch who writes the disk: Operation not permitted".into()));
        assert!(matches!(judge(&evidence), Verdict::None(says) if says.contains("not permitted")));
    }
}
