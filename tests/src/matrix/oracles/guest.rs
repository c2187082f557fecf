//! **guest**: the guest itself has nothing to complain about, through every process that it
//! visits.
//!
//! It checks its memory, its registers, its disk, its timer and its clocks all the time, and
//! counts what is wrong. Here its words are taken from the serial output of all processes in the
//! order of its visits: no error line, no counted error, no count and no clock that goes back.
//! Whether the words are complete is judged by `serial`.

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
    let wrong = said.findings.into_iter().filter_map(|(place, finding)| match finding {
        Finding::Fault(why) | Finding::Backwards(why) => Some(format!("on {place}: {why}")),
        Finding::Sequence(_) => None,
    });
    Verdict::unless(wrong, || format!("{} reports of the guest's own checks, and none found an error", said.reports))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted::{moved, report};

    #[test]
    fn a_guest_without_complaints_passes() {
        assert!(matches!(judge(&moved()), Verdict::Pass(says) if says.starts_with("25 reports")));
    }

    #[test]
    fn an_error_line_a_counted_error_and_a_count_that_goes_back_are_caught() {
        for (line, told) in [
            ("ferry error c=0 u=17 page 7 is torn\r\n".to_owned(), "page 7 is torn"),
            (report(21).replace("e=0", "e=3"), "3 errors"),
            (report(21).replace("p=210", "p=10"), "pages went back"),
            ("ferry fatal c=0 u=17 no memory\r\n".to_owned(), "no memory"),
        ] {
            let mut evidence = moved();
            evidence.processes[2].serial.clear();
            evidence.processes[1].serial += &line;
            let verdict = judge(&evidence);
            assert!(matches!(&verdict, Verdict::Fail(says) if says.contains(told)), "{line}: {verdict:?}");
        }
    }

    #[test]
    fn a_silent_guest_is_not_judged() {
        let mut evidence = moved();
        evidence.processes.iter_mut().for_each(|process| process.serial.clear());
        assert!(matches!(judge(&evidence), Verdict::None(_)));
    }
}
