//! **leaks**: a migration leaves nothing behind in a process that lives on, and a process that has
//! ended leaves nothing at all.
//!
//! Three ways to look at it:
//! 1. a source, or a destination that never got the guest, holds afterwards no more than it held
//!    before: threads by name, descriptors by what they are open on, locks, children. Four things
//!    may stay: mappings up to [`MAPPINGS`] (an allocator keeps stacks and arenas: 18 more after a
//!    first migration), two descriptors on the ownership record, one that a process keeps once it
//!    has used it and one whose lock says that it has the guest, the thread that KVM itself makes
//!    when a machine runs for the first time (`kvm-nx-lpage-re`), and the one that the first
//!    message to standard error starts (`stderr`);
//! 2. a destination that got the guest holds more than before, by its nature; but no process whose
//!    migration has ended holds a thread of a migration, a TCP connection or a userfaultfd any
//!    more;
//! 3. the disk's lock is where the guest is: a process that runs a guest with a disk holds a lock
//!    to write, and one that has handed its guest over, or never got it, holds none.
//!
//! A migration that is paused or uncertain has not ended and keeps what it needs. The harness's
//! own connections (QMP) must be the same in both looks. What an ended process left in the file
//! system is in [`Evidence::left`].

use std::collections::BTreeMap;

use ferry_migration::Status;

use super::Verdict;
use crate::matrix::evidence::{Evidence, Process, Role};
use crate::procfs::Inventory;

/// Mappings that may come and stay.
const MAPPINGS: usize = 64;
/// How the names of a migration's threads begin (`docs/architecture.md`; the kernel keeps 15 bytes
/// of a name).
const THREADS: [&str; 4] = ["ferry-src-", "ferry-source", "ferry-dst-", "ferry-dest"];

/// Judges it.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let alive: Vec<_> = evidence
        .processes
        .iter()
        .filter(|process| process.exit.is_none())
        .filter_map(|process| Some((process, process.after.as_ref()?)))
        .collect();
    if alive.is_empty() && evidence.processes.iter().all(|process| process.exit.is_none()) {
        return Verdict::None("nobody looked at what the processes hold".into());
    }
    let held = alive.iter().flat_map(|(process, after)| {
        let found = leaks_of(process, after, evidence.cell.disk);
        found.into_iter().map(|what| format!("{} {what}", process.label)).collect::<Vec<_>>()
    });
    let left = evidence.left.iter().map(|what| format!("a process that has ended left {what}"));
    Verdict::unless(held.chain(left), || match &*alive {
        [] => "the processes that have ended left nothing behind".into(),
        alive => {
            let labels: Vec<_> = alive.iter().map(|(process, _)| &*process.label).collect();
            format!("nothing was left behind; looked at {}", labels.join(", "))
        }
    })
}

fn leaks_of(process: &Process, after: &Inventory, disk: bool) -> Vec<String> {
    let mut found = Vec::new();
    let ended = process.status().is_none_or(|status| !status.is_active());
    let got_guest = process.role != Role::Source && process.status() == Some(Status::Completed);
    if let Some(before) = process.before.as_ref().filter(|_| ended && !got_guest) {
        found.extend(more(before, after));
    }
    if ended && process.status().is_some() {
        found.extend(of_a_migration(after));
    }
    found.extend(after.children.iter().map(|child| format!("has a child, {child}")));
    if disk && ended {
        found.extend(lock_out_of_place(process, after));
    }
    found
}

/// What a process holds more than before. The runner may wait until this is empty: a thread needs
/// a moment to end.
#[must_use]
pub fn more(before: &Inventory, after: &Inventory) -> Vec<String> {
    let mut found = more_of("thread", &before.threads, &after.threads);
    found.extend(more_of("descriptor", &before.descriptors, &after.descriptors));
    let had = |lock: &str| before.locks.iter().any(|had| of_file(had) == of_file(lock));
    let locks = after.locks.iter().filter(|lock| !had(lock));
    found.extend(locks.map(|lock| format!("holds a lock that it did not hold before: {lock}")));
    if after.mappings > before.mappings + MAPPINGS {
        found.push(format!("has {} mappings, and had {}", after.mappings, before.mappings));
    }
    found
}

fn more_of(kind: &str, before: &BTreeMap<String, usize>, after: &BTreeMap<String, usize>) -> Vec<String> {
    let [before, after] = [before, after].map(by_file);
    let had = |name: &String| before.get(name).copied().unwrap_or(0);
    let may_stay = |name: &String| match name.as_str() {
        name if name.ends_with(".owner") => 2,
        name => usize::from(name.starts_with("kvm-nx-") || name == "stderr"),
    };
    let grown = after.iter().filter(|(name, count)| **count > had(name).max(may_stay(name)));
    grown.map(|(name, count)| format!("holds {count} of {kind} {name}, and held {}", had(name))).collect()
}

/// The first image has another path while a copy is in its place, and is the same file.
fn by_file(counts: &BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    let mut files = BTreeMap::new();
    for (name, count) in counts {
        *files.entry(of_file(name).to_owned()).or_default() += count;
    }
    files
}

fn of_file(name: &str) -> &str {
    name.strip_suffix(".first").unwrap_or(name)
}

/// What only a migration that goes on may hold.
fn of_a_migration(after: &Inventory) -> Vec<String> {
    let threads = after.threads.keys().filter(|name| THREADS.iter().any(|begin| name.starts_with(begin)));
    let links = after.descriptors.keys().filter(|target| target.starts_with("tcp ") || target.contains("userfaultfd"));
    threads.chain(links).map(|what| format!("still holds {what}, and its migration has ended")).collect()
}

fn lock_out_of_place(process: &Process, after: &Inventory) -> Option<String> {
    let lock = after.locks.iter().find(|lock| lock.starts_with("write "));
    match (process.final_run_state.as_deref(), lock) {
        (Some("running"), None) => Some("runs the guest and does not hold its disk's lock".into()),
        (Some("postmigrate" | "inmigrate"), Some(lock)) => Some(format!("has no guest and holds a lock: {lock}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::evidence::Exit;
    use crate::matrix::oracles::scripted::{at, failed_migration, holds, moved};

    fn source_with(change: impl FnOnce(&mut Inventory)) -> Verdict {
        let mut evidence = failed_migration();
        change(evidence.processes[0].after.as_mut().unwrap());
        judge(&evidence)
    }

    fn fails_with(verdict: &Verdict, told: &str) {
        assert!(matches!(verdict, Verdict::Fail(says) if says.contains(told)), "{told}: {verdict:?}");
    }

    #[test]
    fn processes_that_hold_what_they_held_pass() {
        for evidence in [failed_migration(), moved()] {
            assert!(matches!(judge(&evidence), Verdict::Pass(_)), "{:?}", judge(&evidence));
        }
        let verdict = source_with(|after| {
            after.mappings += MAPPINGS;
            after.descriptors.insert("/t/disk.img.owner".into(), 2);
            after.threads.insert("kvm-nx-lpage-re".into(), 1);
        });
        assert!(matches!(verdict, Verdict::Pass(_)), "these may stay: {verdict:?}");
    }

    #[test]
    fn anything_more_than_before_is_caught() {
        let one_more = |counts: &mut BTreeMap<String, usize>, name: &str| *counts.entry(name.into()).or_default() += 1;
        fails_with(
            &source_with(|after| one_more(&mut after.descriptors, "[eventfd]")),
            "holds 3 of descriptor [eventfd]",
        );
        fails_with(
            &source_with(|after| *after.descriptors.entry("/t/disk.img.owner".into()).or_default() += 3),
            "holds 3 of descriptor /t/disk.img.owner",
        );
        fails_with(&source_with(|after| one_more(&mut after.threads, "odd-one")), "thread odd-one, and held 0");
        fails_with(
            &source_with(|after| after.locks.push("read /t/other".into())),
            "did not hold before: read /t/other",
        );
        fails_with(&source_with(|after| after.mappings += MAPPINGS + 1), "mappings");
        fails_with(&source_with(|after| after.children.push("sh".into())), "has a child, sh");
    }

    #[test]
    fn what_belongs_to_a_migration_goes_with_it() {
        for (name, socket) in [("ferry-dst-fault", "[userfaultfd]"), ("ferry-dest", "tcp listening")] {
            let mut evidence = moved();
            evidence.processes[1].after.as_mut().unwrap().threads.insert(name.into(), 1);
            fails_with(&judge(&evidence), name);
            let mut evidence = moved();
            evidence.processes[1].after.as_mut().unwrap().descriptors.insert(socket.into(), 1);
            fails_with(&judge(&evidence), socket);
            let paused = Some(Status::PostcopyPaused);
            evidence.processes[1].final_info.as_mut().unwrap().status = paused;
            assert!(matches!(judge(&evidence), Verdict::Pass(_)), "what is paused keeps what it needs");
        }
    }

    #[test]
    fn the_lock_goes_with_the_guest() {
        let mut evidence = moved();
        evidence.processes[0].after = Some(holds(true));
        fails_with(&judge(&evidence), "source has no guest and holds a lock");
        let mut evidence = moved();
        evidence.processes[1].after = Some(holds(false));
        fails_with(&judge(&evidence), "destination runs the guest and does not hold");
    }

    #[test]
    fn what_ended_processes_left_is_caught() {
        let mut evidence = failed_migration();
        evidence.left = vec!["the socket /t/qmp".into()];
        fails_with(&judge(&evidence), "left the socket /t/qmp");
        evidence.left.clear();
        evidence.processes.iter_mut().for_each(|process| {
            process.exit = Some(Exit { code: Some(0), signal: None, at: at(1) });
        });
        assert!(matches!(judge(&evidence), Verdict::Pass(says) if says.contains("left nothing")));
    }
}
