//! **ending**: when all has settled the guest is in one known place, or its absence is admitted,
//! and the cell allows it.
//!
//! Where the guest runs is read from CPU time over the last [`Evidence::REST`]: that decides. What
//! the processes say must agree with it: a side that says `running` runs, and the other does not
//! claim the guest. Only where nobody runs does what they say decide which kind of standstill it
//! is: `uncertain` (the source says so), paused (both sides of a broken postcopy answer and say
//! so), stopped by an operator, ended by the guest itself; whatever is left is a lost guest. With
//! the handshake `owned`, the ownership record, read by code of the tests, must name the process
//! that runs the guest; a record that cannot be read decides nothing.

use ferry_guest::{Line, parse_line};
use ferry_migration::{Handshake, Status};

use super::Verdict;
use super::activity::{Activity, RUN};
use crate::matrix::evidence::{Ending, Evidence, Process, Role};

/// Judges it.
#[must_use]
pub(super) fn judge(evidence: &Evidence) -> Verdict {
    if evidence.samples.is_empty() {
        return Verdict::None("nobody looked at the vCPUs' threads".into());
    }
    match ending(evidence) {
        Err(why) => Verdict::Fail(why),
        Ok((ending, how)) if evidence.cell.may_end.contains(&ending) => Verdict::Pass(how),
        Ok((ending, how)) => {
            Verdict::Fail(format!("{how}: the ending {ending:?} is none of {:?}", evidence.cell.may_end))
        }
    }
}

/// The ending, and how it shows.
fn ending(evidence: &Evidence) -> Result<(Ending, String), String> {
    let activity = Activity::of(evidence);
    let rest = evidence.settled - Evidence::REST;
    let sides = evidence.processes.iter().enumerate().filter(|(_, process)| process.role != Role::Next);
    let (running, still): (Vec<_>, Vec<_>) =
        sides.partition(|(at, _)| activity.used(*at, rest, evidence.settled) >= RUN);
    let still: Vec<_> = still.into_iter().map(|(_, process)| process).collect();
    if let Some(liar) = still.iter().find(|process| says(process, "running") && !waits_for_pages(process)) {
        return Err(format!("{} says that the guest runs there, and its vCPUs use no CPU time", liar.label));
    }
    match *running {
        [] => standstill(&still),
        [(_, runner)] if !is_named(evidence, runner) => {
            Err(format!("the guest runs on {}, and its ownership record says {:?}", runner.label, evidence.record))
        }
        [(_, runner)] if runner.role == Role::Source => runs_on_source(runner),
        [(_, runner)] => runs_on_destination(runner, &still),
        [(_, one), (_, other), ..] => Err(format!("the guest runs on {} and on {} at the end", one.label, other.label)),
    }
}

/// Whether the record, where it decides and can be read, names this process.
fn is_named(evidence: &Evidence, runner: &Process) -> bool {
    let decides = evidence.cell.handshake == Handshake::Owned;
    let record = evidence.record.as_ref().filter(|_| decides).and_then(|record| record.as_ref().ok());
    record.is_none_or(|record| record.pid() == Some(runner.pid))
}

fn says(process: &Process, run_state: &str) -> bool {
    process.final_run_state.as_deref() == Some(run_state)
}

/// A guest whose memory is elsewhere stands still and is `running` nonetheless.
fn waits_for_pages(process: &Process) -> bool {
    matches!(process.status(), Some(Status::PostcopyActive | Status::PostcopyPaused | Status::PostcopyRecover))
}

fn runs_on_source(source: &Process) -> Result<(Ending, String), String> {
    match source.status() {
        None | Some(Status::None | Status::Failed | Status::Cancelled) => {
            Ok((Ending::SourceRuns, format!("the guest runs on {}", source.label)))
        }
        Some(status) => Err(format!("the guest runs on {}, which says {}", source.label, status.as_str())),
    }
}

fn runs_on_destination(runner: &Process, others: &[&Process]) -> Result<(Ending, String), String> {
    let source = others.iter().find(|process| process.role == Role::Source);
    if let Some(source) = source.filter(|source| matches!(source.status(), Some(Status::Failed | Status::Cancelled))) {
        return Err(format!("the guest runs on {}, and {} says that it has it", runner.label, source.label));
    }
    match runner.status() {
        Some(Status::PostcopyPaused) => paused(runner, source.copied()),
        _ => Ok((Ending::DestinationRuns, format!("the guest runs on {}", runner.label))),
    }
}

/// A broken postcopy, as its destination sees it.
fn paused(destination: &Process, source: Option<&Process>) -> Result<(Ending, String), String> {
    match source {
        Some(source) if source.answers() && source.status() == Some(Status::PostcopyPaused) => {
            Ok((Ending::Paused, "both sides say that the postcopy is paused".into()))
        }
        Some(source) if source.answers() => Err(format!(
            "{} says that the postcopy is paused, and {} says {:?}",
            destination.label,
            source.label,
            source.status()
        )),
        _ => Ok((Ending::Lost, format!("the guest on {} waits for pages that nobody has any more", destination.label))),
    }
}

/// Nobody runs the guest: which kind of standstill this is.
fn standstill(sides: &[&Process]) -> Result<(Ending, String), String> {
    if let Some(place) = sides.iter().find(|process| has_ended_guest(process)) {
        return Ok((Ending::GuestEnded, format!("the guest has ended by itself on {}", place.label)));
    }
    let source = sides.iter().find(|process| process.role == Role::Source).copied();
    let answering = sides.iter().filter(|process| process.answers());
    let of_status = |wanted| answering.clone().find(|process| process.status() == Some(wanted));
    if let Some(uncertain) = of_status(Status::Uncertain) {
        return Ok((
            Ending::Uncertain,
            format!("the guest is stopped, and {} says that it is uncertain", uncertain.label),
        ));
    }
    let pausing =
        |process: &&&Process| process.role == Role::Destination && process.status() == Some(Status::PostcopyPaused);
    if let Some(destination) = answering.clone().find(pausing) {
        return paused(destination, source);
    }
    let stopped: Vec<_> = answering.clone().filter(|process| says(process, "paused")).collect();
    match *stopped {
        [one] => return Ok((Ending::Stopped, format!("the guest is stopped on {}", one.label))),
        [one, other, ..] => return Err(format!("{} and {} both say that they have the guest", one.label, other.label)),
        [] => {}
    }
    let at_rest = |process: &Process| {
        process.status().is_none_or(|status| !status.is_active() || status == Status::PostcopyPaused)
    };
    if let Some(busy) = answering.clone().find(|process| !at_rest(process)) {
        let status = busy.status().map_or("nothing", Status::as_str);
        return Err(format!("nobody runs the guest, and {} says {status} without an end", busy.label));
    }
    Ok((Ending::Lost, "nobody runs the guest, and nobody has it".into()))
}

/// Whether a guest has ended by itself here. Its last line says so; if that line went to the
/// source's serial port, the event `SHUTDOWN` of this process does.
fn has_ended_guest(process: &Process) -> bool {
    let last = process.serial.lines().last().and_then(|line| parse_line(line).ok().flatten());
    let told = process.events.iter().any(|event| event.name == "SHUTDOWN" && event.data["guest"] == true);
    process.exit.is_some_and(|exit| exit.code == Some(0)) && (told || matches!(last, Some(Line::End(_))))
}

#[cfg(test)]
mod tests {
    use ferry_guest::lines::End;
    use ferry_guest::workload;

    use super::*;
    use crate::matrix::evidence::{Event, Exit};
    use crate::matrix::oracles::scripted::{Script, at, failed_migration, moved};

    /// What comes of evidence in which nobody runs at the end.
    fn still(change: impl FnOnce(&mut Process, &mut Process)) -> Result<Ending, String> {
        let mut evidence = moved();
        evidence.samples = Script::default().runs(0, 0, 495).samples();
        let [source, destination, _] = &mut *evidence.processes else { panic!("three processes") };
        change(source, destination);
        ending(&evidence).map(|(ending, _)| ending)
    }

    fn becomes(process: &mut Process, run_state: &str, status: Status) {
        process.final_run_state = Some(run_state.into());
        process.final_info.as_mut().unwrap().status = Some(status);
    }

    fn dies(process: &mut Process, code: Option<i32>) {
        process.final_run_state = None;
        process.exit = Some(Exit { code, signal: code.is_none().then_some(9), at: at(600) });
    }

    #[test]
    fn the_place_must_be_allowed() {
        for (mut evidence, other) in [(failed_migration(), Ending::DestinationRuns), (moved(), Ending::SourceRuns)] {
            assert!(matches!(judge(&evidence), Verdict::Pass(_)), "{:?}", judge(&evidence));
            evidence.cell.may_end = vec![other];
            assert!(judge(&evidence).is_fail());
        }
    }

    #[test]
    fn two_runners_at_the_end_are_caught() {
        let mut evidence = moved();
        evidence.samples = Script::default().runs(0, 0, 3000).runs(1, 555, 3000).samples();
        assert!(matches!(judge(&evidence), Verdict::Fail(says) if says.contains("at the end")));
    }

    #[test]
    fn a_runner_that_the_record_does_not_name_is_caught() {
        let mut evidence = moved();
        evidence.record = failed_migration().record;
        assert!(matches!(judge(&evidence), Verdict::Fail(says) if says.contains("ownership record says")));
        evidence.cell.handshake = Handshake::Setup;
        assert!(matches!(judge(&evidence), Verdict::Pass(_)), "without the handshake owned it decides nothing");
    }

    #[test]
    fn whoever_says_that_the_guest_runs_must_run_it() {
        let found = still(|_, _| ());
        assert!(found.unwrap_err().contains("use no CPU time"));
    }

    #[test]
    fn a_source_that_claims_what_runs_elsewhere_is_caught() {
        let mut evidence = moved();
        becomes(&mut evidence.processes[0], "paused", Status::Failed);
        assert!(matches!(judge(&evidence), Verdict::Fail(says) if says.contains("says that it has it")));
        let mut evidence = failed_migration();
        becomes(&mut evidence.processes[0], "running", Status::Uncertain);
        assert!(matches!(judge(&evidence), Verdict::Fail(says) if says.contains("uncertain")));
    }

    #[test]
    fn standstills_are_told_apart() {
        let uncertain = still(|source, destination| {
            becomes(source, "finish-migrate", Status::Uncertain);
            dies(destination, Some(1));
        });
        assert_eq!(uncertain, Ok(Ending::Uncertain));
        let paused = still(|source, destination| {
            becomes(source, "postmigrate", Status::PostcopyPaused);
            becomes(destination, "running", Status::PostcopyPaused);
        });
        assert_eq!(paused, Ok(Ending::Paused));
        let stopped = still(|_, destination| becomes(destination, "paused", Status::Completed));
        assert_eq!(stopped, Ok(Ending::Stopped));
        let ended = still(|_, destination| {
            let line: Line = Line::End(End { exit: workload::Exit::Shutdown, errors: 0, uptime_ms: 1 });
            destination.serial += &format!("{line}\r\n");
            dies(destination, Some(0));
        });
        assert_eq!(ended, Ok(Ending::GuestEnded));
        // It had said so at the source, and was stopped before it did so.
        let ended = |guest: bool| {
            still(|_, destination| {
                destination.events.push(Event {
                    at: at(600),
                    name: "SHUTDOWN".into(),
                    data: serde_json::json!({ "guest": guest, "reason": "any" }),
                });
                dies(destination, Some(0));
            })
        };
        assert_eq!(ended(true), Ok(Ending::GuestEnded));
        assert_ne!(ended(false), Ok(Ending::GuestEnded));
        let halves = still(|source, destination| {
            becomes(source, "paused", Status::Failed);
            becomes(destination, "paused", Status::Completed);
        });
        assert!(halves.unwrap_err().contains("both say"));
        let hanging = still(|source, destination| {
            becomes(source, "finish-migrate", Status::Device);
            dies(destination, None);
        });
        assert!(hanging.unwrap_err().contains("says device without an end"));
    }

    #[test]
    fn lost_guests_are_seen_whoever_has_died() {
        // The handshake `none`: the source has let go, and the destination could not load.
        let stranded = still(|source, destination| {
            becomes(source, "postmigrate", Status::Failed);
            dies(destination, Some(1));
        });
        let host_lost = still(|source, destination| {
            becomes(source, "postmigrate", Status::PostcopyPaused);
            dies(destination, None);
        });
        let pages_lost = still(|source, destination| {
            dies(source, None);
            becomes(destination, "running", Status::PostcopyPaused);
        });
        assert_eq!([stranded, host_lost, pages_lost], [Ok(Ending::Lost), Ok(Ending::Lost), Ok(Ending::Lost)]);
    }
}
