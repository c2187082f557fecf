//! Tells a cell that the machine did not let happen from one in which something is wrong.
//!
//! Two things are needed for that. The failure must be one that time alone can explain: a moment
//! that did not come, a deadline that passed, a migration that a deadline ended. And the machine
//! must have been measured ([`super::watch::strain`]) to have kept the cell's own threads from
//! running for a good part of those deadlines. What no lack of time explains (two runners, a guest
//! with an error, a torn sector, a plain run that booted, a panic) is never excused, and neither
//! is a process that hangs in its own code.

use super::run::Ran;
use super::stage::DEADLINE;
use super::watch::strain::Denied;
use ferry_report::matrix::{Finding, Oracle, Verdict};

/// Oracles whose promises hold for any length of time.
const TIMELESS: [&str; 7] = ["one-runner", "guest", "serial", "disk-log", "disk-stamps", "image", "plain-run"];
/// What an end of a process or a guest says that no lack of time explains.
const CRIMES: [&str; 5] = ["panicked", "signal ", "and on ", "nobody has it", "and yet"];

/// Why this try says nothing, if so.
#[must_use]
pub fn excuse(ran: &Ran, denied: &Denied) -> Option<String> {
    if ran.cell.verdict != Verdict::Fail || !ran.cell.oracles.iter().all(is_a_matter_of_time) {
        return None;
    }
    if ran.cell.why.as_ref().is_some_and(|why| CRIMES.iter().any(|crime| why.contains(crime))) {
        return None;
    }
    // The guest did too little for its moment to come, and nothing was done to it.
    let slow_guest = || if ran.missed { denied.guest.excuse() } else { None };
    denied.excuse(DEADLINE).or_else(slow_guest)
}

fn is_a_matter_of_time(oracle: &Oracle) -> bool {
    oracle.verdict != Finding::Fail || !TIMELESS.contains(&oracle.name.as_str())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::matrix::catalogue;
    use crate::matrix::run::unplayed;
    use crate::matrix::watch::strain::{Share, Worst};

    fn ran(why: &str, failing: &[&str]) -> Ran {
        let mut cell = unplayed(&catalogue::all()[0], 1);
        (cell.verdict, cell.why) = (Verdict::Fail, Some(why.to_owned()));
        let oracle = |name: &&str| Oracle { name: (*name).to_owned(), verdict: Finding::Fail, says: why.to_owned() };
        cell.oracles = failing.iter().map(oracle).collect();
        Ran { cell, missed: false }
    }

    fn starved(ms: u64) -> Denied {
        let worst = Worst { time: Duration::from_millis(ms), what: "thread ferry-dest of the destination".into() };
        Denied { processor: worst, ..Denied::default() }
    }

    #[test]
    fn a_late_end_on_a_starved_machine_is_excused_and_on_a_quiet_one_it_is_not() {
        let late =
            ran("ending: the guest runs on source: the ending SourceRuns is none of [DestinationRuns]", &["ending"]);
        assert!(excuse(&late, &starved(900)).is_some());
        assert_eq!(excuse(&late, &starved(90)), None);
        assert!(excuse(&ran("waited 20000 ms in vain for source to end", &[]), &starved(900)).is_some());
    }

    #[test]
    fn what_no_lack_of_time_explains_is_never_excused() {
        for name in TIMELESS {
            assert_eq!(excuse(&ran("broken", &["ending", name]), &starved(60_000)), None, "{name}");
        }
        for why in
            ["story: source: it panicked: at x", "ending: the guest runs on source and on destination at the end"]
        {
            assert_eq!(excuse(&ran(why, &["story"]), &starved(60_000)), None, "{why}");
        }
    }

    #[test]
    fn a_moment_that_a_starved_guest_did_not_reach_is_excused() {
        let mut missed = ran("the moment never came", &[]);
        let of_guest = |ran, waited| Denied {
            guest: Share { ran: Duration::from_millis(ran), waited: Duration::from_millis(waited) },
            ..Denied::default()
        };
        assert_eq!(excuse(&missed, &of_guest(1000, 9000)), None, "something was wrong with the migration too");
        missed.missed = true;
        assert!(excuse(&missed, &of_guest(1000, 9000)).is_some());
        assert_eq!(excuse(&missed, &of_guest(9000, 1000)), None);
    }
}
