//! **story**: what the processes tell fits together, and a reader can do something with it.
//!
//! Of each process: the statuses of its migration follow one another as `docs/states.md` says;
//! `STOP` and `RESUME` take turns; an end by itself has exit status 0, or 1 with `ferry: …` as the
//! last line of standard error, and no panic. Of each migration that failed, is uncertain or
//! paused: a reason in `error-desc` that names a cause of the cell and says more than a library's
//! error code; if it waits for its operator, also what can be done. Whoever still answers has come
//! to an end, or shows that it waits.
//!
//! Where a cell says what the source's migration must have come to, it has.
//!
//! Whether a reason is true cannot be judged here, only that it names one of the causes that the
//! cell has caused.

use ferry_migration::Status;

use super::Verdict;
use crate::matrix::evidence::{Evidence, Process, Role};

/// Which status may follow which.
const FOLLOWS: [(&str, &[&str]); 13] = [
    ("none", &["setup"]),
    ("setup", &["active", "failed", "cancelling"]),
    ("active", &["device", "postcopy-setup", "failed", "cancelling"]),
    ("device", &["completed", "uncertain", "failed", "cancelling"]),
    ("postcopy-setup", &["postcopy-active", "postcopy-paused", "completed", "uncertain", "failed", "cancelling"]),
    ("postcopy-active", &["postcopy-paused", "completed", "failed"]),
    ("postcopy-paused", &["postcopy-recover", "completed", "failed"]),
    ("postcopy-recover", &["postcopy-active", "postcopy-paused", "completed", "failed"]),
    ("uncertain", &["completed", "failed", "postcopy-active", "postcopy-paused"]),
    ("cancelling", &["cancelled"]),
    ("completed", &["setup"]),
    ("failed", &["setup"]),
    ("cancelled", &["setup"]),
];

/// What is no explanation by itself.
const EMPTY_WORDS: [&str; 6] = [
    "UnexpectedEof",
    "failed to fill whole buffer",
    "BrokenPipe",
    "ConnectionReset",
    "unexpected end of file",
    "os error",
];
/// Words that a reason has at least, to say what was being done and to whom.
const WORDS: usize = 4;
/// Of these, the reason of a migration that waits for its operator names one: what can be done.
const WAYS_ON: [&str; 3] = ["x-ferry-resolve", "migrate", "record"];

/// Judges it.
#[must_use]
pub(super) fn judge(evidence: &Evidence) -> Verdict {
    let of_each = evidence.processes.iter().flat_map(|process| {
        let wrong = [order(process), turns(process), end(process), rest(process, evidence.cell.record)];
        wrong.into_iter().flatten().map(|why| format!("{}: {why}", process.label)).collect::<Vec<_>>()
    });
    let untold = evidence
        .of(Role::Source)
        .and_then(|source| reason(source, &evidence.cell.cause).err().map(|why| format!("{}: {why}", source.label)));
    Verdict::unless(of_each.chain(untold).chain(becomes(evidence)), || {
        let source = evidence.of(Role::Source);
        match source.and_then(|source| source.final_info.as_ref()?.error_desc.clone()) {
            Some(reason) => format!("the statuses, events and ends fit together; the reason given: {reason}"),
            None => "the statuses, events and ends fit together".into(),
        }
    })
}

/// What the source's migration must have come to, where the cell says that; and then the
/// destination has ended well.
fn becomes(evidence: &Evidence) -> Option<String> {
    let wanted = evidence.cell.source_becomes?;
    let source = evidence.of(Role::Source)?;
    let status = source.status();
    if status != Some(wanted) {
        let status = status.map_or("none", Status::as_str);
        return Some(format!("{} is in status {status}, and has to be in {}", source.label, wanted.as_str()));
    }
    let destination = evidence.of(Role::Destination)?;
    let exit = destination.exit.filter(|exit| exit.code != Some(0))?;
    Some(format!("{} ended with status {:?}, and has to end with 0", destination.label, exit.code))
}

/// The statuses in order.
fn order(process: &Process) -> Option<String> {
    let mut before = "none";
    for status in process.statuses() {
        let may_follow = FOLLOWS.iter().find(|(from, _)| *from == before).map_or(&[][..], |(_, to)| to);
        // A destination that is told to end before the greeting has failed without a beginning.
        let was_told = process.role != Role::Source && (before, status) == ("none", "failed");
        if !may_follow.contains(&status) && !was_told {
            return Some(format!("status {status} came after {before}"));
        }
        before = status;
    }
    None
}

/// `STOP` and `RESUME`, by turns.
fn turns(process: &Process) -> Option<String> {
    let mut names = process.events.iter().map(|event| &*event.name).filter(|name| ["STOP", "RESUME"].contains(name));
    let mut before = names.next()?;
    for name in names {
        if name == before {
            return Some(format!("{name} came twice in a row"));
        }
        before = name;
    }
    None
}

/// Exit status, signal and last words.
fn end(process: &Process) -> Option<String> {
    if let Some(line) = process.stderr.lines().find(|line| line.contains("panicked at")) {
        return Some(format!("it panicked: {line}"));
    }
    let exit = process.exit?;
    let last = process.stderr.lines().last().unwrap_or_default();
    let told = last.starts_with("ferry: ");
    match (exit.code, exit.signal) {
        (_, Some(signal)) if process.killed.is_some() && signal == libc::SIGKILL => None,
        (_, Some(signal)) => Some(format!("signal {signal} ended it, which nobody sent")),
        (Some(0), _) if told => Some(format!("it ended with status 0 and the error '{last}'")),
        (Some(0), _) => None,
        (Some(1), _) if told => thin(last).map(|why| format!("its last words '{last}' {why}")),
        (Some(1), _) => Some(format!("it ended with status 1, and its last words are no error: '{last}'")),
        (code, _) => Some(format!("it ended with status {code:?}")),
    }
}

/// Whoever answers has come to an end, or shows what it waits for. A destination whose permit is
/// out and whose record does not answer waits in `device` or `postcopy-setup`.
fn rest(process: &Process, record: bool) -> Option<String> {
    let status = process.status().filter(|_| process.answers())?;
    let shown = matches!(status, Status::Uncertain | Status::PostcopyPaused);
    let asks = record && process.role == Role::Destination && matches!(status, Status::Device | Status::PostcopySetup);
    (status.is_active() && !shown && !asks).then(|| format!("it is in status {} without an end", status.as_str()))
}

/// The reason of a migration that did not succeed.
fn reason(source: &Process, causes: &[String]) -> Result<(), String> {
    let Some(info) = &source.final_info else { return Ok(()) };
    let needed = matches!(info.status, Some(Status::Failed | Status::Uncertain | Status::PostcopyPaused));
    let Some(reason) = &info.error_desc else {
        let status = info.status.map_or("none", Status::as_str);
        return if needed { Err(format!("it is in status {status} and gives no reason")) } else { Ok(()) };
    };
    if let Some(why) = thin(reason) {
        return Err(format!("the reason '{reason}' {why}"));
    }
    let waits = matches!(info.status, Some(Status::Uncertain | Status::PostcopyPaused));
    if waits && !WAYS_ON.iter().any(|way| reason.contains(way)) {
        return Err(format!("the reason '{reason}' does not say what can be done about it"));
    }
    let named = causes.is_empty() || causes.iter().any(|cause| reason.contains(cause.as_str()));
    if needed && !named {
        return Err(format!("the reason '{reason}' names none of {causes:?}"));
    }
    Ok(())
}

/// What is missing in a text that is to explain something.
pub(super) fn thin(text: &str) -> Option<&'static str> {
    let bare = EMPTY_WORDS.iter().fold(text.to_owned(), |text, empty| text.replace(empty, " "));
    let words = bare.split(|c: char| !c.is_alphabetic()).filter(|word| word.len() > 1 && *word != "ferry").count();
    (words < WORDS).then_some("does not say what was being done, nor what can be done")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::evidence::Exit;
    use crate::matrix::oracles::scripted::{at, event, failed_migration, moved, status};

    fn fails_with(told: &str, change: impl FnOnce(&mut Evidence)) {
        let mut evidence = failed_migration();
        change(&mut evidence);
        let verdict = judge(&evidence);
        assert!(matches!(&verdict, Verdict::Fail(says) if says.contains(told)), "{told}: {verdict:?}");
    }

    fn reason(evidence: &mut Evidence, text: Option<&str>) {
        evidence.processes[0].final_info.as_mut().unwrap().error_desc = text.map(str::to_owned);
    }

    #[test]
    fn clean_stories_pass() {
        assert!(matches!(judge(&failed_migration()), Verdict::Pass(says) if says.contains("the peer closed")));
        assert!(matches!(judge(&moved()), Verdict::Pass(_)), "{:?}", judge(&moved()));
    }

    #[test]
    fn statuses_out_of_order_are_caught() {
        fails_with("status completed came after failed", |e| e.processes[0].events.push(status(600, "completed")));
        fails_with("status device came after setup", |e| drop(e.processes[0].events.remove(1)));
        fails_with("status unheard-of came after failed", |e| e.processes[0].events.push(status(600, "unheard-of")));
    }

    #[test]
    fn stops_and_resumes_take_turns() {
        fails_with("RESUME came twice", |evidence| evidence.processes[0].events.push(event(600, "RESUME")));
        fails_with("STOP came twice", |evidence| evidence.processes[0].events.insert(0, event(1, "STOP")));
    }

    #[test]
    fn ends_that_nobody_caused_are_caught() {
        let end = |code, signal| Some(Exit { code, signal, at: at(600) });
        fails_with("signal 6 ended it", |evidence| evidence.processes[1].exit = end(None, Some(6)));
        fails_with("signal 9 ended it", |evidence| evidence.processes[1].exit = end(None, Some(9)));
        fails_with("ended with status Some(101)", |evidence| evidence.processes[1].exit = end(Some(101), None));
        fails_with("status 0 and the error", |evidence| evidence.processes[1].exit = end(Some(0), None));
        fails_with("are no error", |evidence| evidence.processes[1].stderr = "listening on tcp:127.0.0.1:1\n".into());
        fails_with("it panicked", |evidence| evidence.processes[0].stderr = "thread 'x' panicked at y\n".into());
        let mut killed = failed_migration();
        (killed.processes[1].exit, killed.processes[1].killed) = (end(None, Some(9)), Some(at(500)));
        assert!(matches!(judge(&killed), Verdict::Pass(_)), "{:?}", judge(&killed));
    }

    #[test]
    fn reasons_that_help_nobody_are_caught() {
        fails_with("gives no reason", |evidence| reason(evidence, None));
        fails_with("what was being done", |evidence| reason(evidence, Some("UnexpectedEof")));
        fails_with("what was being done", |evidence| {
            reason(evidence, Some("link: failed to fill whole buffer (os error 104), closed"));
        });
        fails_with("what can be done about it", |evidence| {
            evidence.processes[0].final_info.as_mut().unwrap().status = Some(Status::Uncertain);
        });
        fails_with("names none of", |evidence| evidence.cell.cause = vec!["fault/0".into()]);
        fails_with("its last words", |evidence| evidence.processes[1].stderr = "ferry: BrokenPipe\n".into());
    }

    #[test]
    fn a_source_whose_guest_has_ended_elsewhere_is_completed() {
        fails_with("is in status failed, and has to be in completed", |evidence| {
            evidence.cell.source_becomes = Some(Status::Completed);
        });
        fails_with("has to end with 0", |evidence| {
            evidence.cell.source_becomes = Some(Status::Failed);
        });
    }

    #[test]
    fn whoever_waits_must_say_so() {
        fails_with("status device without an end", |evidence| {
            evidence.processes[0].final_info.as_mut().unwrap().status = Some(Status::Device);
        });
    }
}
