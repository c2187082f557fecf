//! **cont**: where the source has the guest `cont` makes it run, and where it has not `cont` is
//! refused, saying why.
//!
//! The runner says it whenever a migration has come to rest and the source still answers, and also
//! while something that it put there is in the guest's way.

use super::Verdict;
use super::story::thin;
use crate::matrix::evidence::{ContTried, Evidence};

/// Judges it.
#[must_use]
pub(super) fn judge(evidence: &Evidence) -> Verdict {
    if evidence.conts.is_empty() {
        return Verdict::None("nobody said cont at the end".into());
    }
    let (ran, refused) = evidence.conts.iter().partition::<Vec<_>, _>(|cont| cont.must_run);
    Verdict::unless(evidence.conts.iter().filter_map(broken), || {
        format!("cont let the guest run {} times and was refused {} times, as it had to be", ran.len(), refused.len())
    })
}

fn broken(cont: &ContTried) -> Option<String> {
    let because = &cont.because;
    match (&cont.answer, cont.must_run) {
        (Ok(()), true) => None,
        (Err(why), true) => Some(format!("{because}, and cont did not let it run: {why}")),
        (Ok(()), false) => Some(format!("{because}, and the source took a cont")),
        (Err(why), false) => thin(why).map(|thin| format!("cont was refused with '{why}', which {thin}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::oracles::scripted::failed_migration;

    fn judged(must_run: bool, answer: Result<(), &str>) -> Verdict {
        let mut evidence = failed_migration();
        let (because, answer) = ("the guest is elsewhere".to_owned(), answer.map_err(str::to_owned));
        evidence.conts = vec![ContTried { must_run, because, answer }];
        judge(&evidence)
    }

    #[test]
    fn what_has_to_run_runs_and_what_must_not_is_refused() {
        const WHY: &str = "the guest was handed over to another process";
        assert!(matches!(judge(&failed_migration()), Verdict::None(_)));
        for (must_run, answer) in [(true, Ok(())), (false, Err(WHY))] {
            assert!(matches!(judged(must_run, answer), Verdict::Pass(_)), "{must_run} {answer:?}");
        }
        for (must_run, answer) in [(false, Ok(())), (true, Err(WHY)), (false, Err("os error 11"))] {
            assert!(judged(must_run, answer).is_fail(), "{must_run} {answer:?}");
        }
    }
}
