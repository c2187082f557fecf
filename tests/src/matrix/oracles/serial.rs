//! **serial**: the guest's output goes on across processes without a gap and without a repetition.
//!
//! A guest may leave in the middle of a line, so the outputs of all processes are one stream in
//! the order of its visits: source, destination, next. Each vCPU numbers its reports; a line that
//! was lost, came twice, or was cut shows as a number out of place or as a line that does not
//! parse. So does a process that says anything after the guest has left it: its words then stand
//! before those of the process that the guest went to, and the numbers do not fit. A boot that no
//! reset explains is a guest that lost its life on the way.
//!
//! It sees only what was printed: a second runner that is stopped before its next report escapes
//! it.

use super::{Verdict, words};
use crate::guest::account::Finding;
use crate::matrix::evidence::Evidence;

/// Judges it.
#[must_use]
pub(super) fn judge(evidence: &Evidence) -> Verdict {
    let said = words::of(evidence);
    if said.reports == 0 {
        return Verdict::None("the guest reported nothing".into());
    }
    let resets = evidence.processes.iter().flat_map(|process| &process.events).filter(|event| event.name == "RESET");
    let lives = 1 + resets.count();
    let mangled = said.mangled.into_iter().map(|(place, why)| format!("on {place}: {why}"));
    let out_of_place = said.findings.into_iter().filter_map(|(place, finding)| match finding {
        Finding::Sequence(why) => Some(format!("on {place}: {why}")),
        Finding::Fault(_) | Finding::Backwards(_) => None,
    });
    let reborn = (said.boots > lives && !evidence.cell.reboots)
        .then(|| format!("the guest booted {} times, and {lives} are explained", said.boots));
    let spoke = evidence.processes.iter().filter(|process| !process.serial.is_empty()).count();
    Verdict::unless(mangled.chain(out_of_place).chain(reborn), || {
        format!("{} reports through {spoke} process(es), each in its place", said.reports)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted::{event, failed_migration, moved, report, reports};

    const BOOT: &str =
        "ferry boot cpus=1 mem=1 ws=1 khz=1 tsc=unknown simd=off kvmclock=0 timer=deadline disk=none\r\n";

    fn fails_with(told: &str, change: impl FnOnce(&mut Evidence)) {
        let mut evidence = moved();
        change(&mut evidence);
        let verdict = judge(&evidence);
        assert!(matches!(&verdict, Verdict::Fail(says) if says.contains(told)), "{told}: {verdict:?}");
    }

    #[test]
    fn a_line_may_begin_in_one_process_and_end_in_the_next() {
        for evidence in [moved(), failed_migration()] {
            assert!(matches!(judge(&evidence), Verdict::Pass(_)), "{:?}", judge(&evidence));
        }
    }

    #[test]
    fn gaps_repetitions_and_holes_are_caught() {
        fails_with("lost or repeated", |evidence| evidence.processes[2].serial = reports(22..=25));
        fails_with("lost or repeated", |evidence| evidence.processes[2].serial = reports(20..=25));
        fails_with("does not parse", |evidence| drop(evidence.processes[1].serial.drain(2..8)));
    }

    #[test]
    fn a_process_that_speaks_after_the_guest_has_left_is_caught() {
        // It finished the line in which the guest left, and said one more.
        fails_with("lost or repeated", |evidence| evidence.processes[0].serial = reports(1..=6));
        // It said half a line.
        fails_with("does not parse", |evidence| evidence.processes[0].serial += &report(5)[9..14]);
    }

    #[test]
    fn a_guest_that_boots_anew_must_have_been_reset() {
        let reborn = |evidence: &mut Evidence| {
            evidence.processes[0].serial.insert_str(0, BOOT);
            evidence.processes[2].serial = BOOT.to_owned() + &reports(1..=3);
        };
        fails_with("booted 2 times", reborn);
        let mut evidence = moved();
        reborn(&mut evidence);
        evidence.processes[1].events.push(event(900, "RESET"));
        assert!(matches!(judge(&evidence), Verdict::Pass(_)), "{:?}", judge(&evidence));
    }
}
