//! Explores the switchover protocol from the command line: for `ci/explore`, for the
//! documentation, and for an author who changes the protocol and wants to see what that does.

use std::process::ExitCode;

use ferry_tests::explorer::campaigns::{self, Campaign};
use ferry_tests::explorer::variants::{self, compare, table, traces};
use ferry_tests::explorer::{Limits, explore, results};

const USAGE: &str = "usage: ferry-explore table      the handshakes compared, as a table with the shortest ways
       ferry-explore results    the same as docs/protocol-results.md
       ferry-explore large [N [NAME]]
                                setup and owned within large bounds, at most N million worlds each (default 60);
                                with NAME, the campaigns whose names begin so
       ferry-explore protection [N]
                                continuous checkpoints within large bounds, at most N million worlds each";

/// A small exploration needs far less.
const MOST_WORLDS: usize = 20_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["table"] => {
            let rows = compare(variants::table_bounds(), MOST_WORLDS);
            print!("{}\n{}", table(&rows), traces(&rows));
            ExitCode::SUCCESS
        }
        ["results"] => {
            print!("{}", results::document(&compare(variants::table_bounds(), MOST_WORLDS)));
            ExitCode::SUCCESS
        }
        ["protection"] => protection(60),
        ["protection", millions] => millions.parse().map_or_else(|_| usage(), protection),
        ["large"] => large(60, ""),
        ["large", millions] => match millions.parse() {
            Ok(millions) => large(millions, ""),
            Err(_) => usage(),
        },
        ["large", millions, about] => match millions.parse() {
            Ok(millions) => large(millions, about),
            Err(_) => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Explores every large campaign whose name begins with `about`; fails when a promise breaks, or
/// there is none of that name.
fn large(millions: usize, about: &str) -> ExitCode {
    let wanted: Vec<_> = campaigns::large().into_iter().filter(|campaign| campaign.name.starts_with(about)).collect();
    if wanted.is_empty() {
        eprintln!("no large campaign has a name that begins with {about:?}; docs/explorer.md lists them");
        return ExitCode::from(2);
    }
    let mut broken = false;
    for campaign in wanted {
        broken |= !holds(&campaign, millions * 1_000_000);
    }
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Explores every large campaign of a protection; fails when a promise breaks.
fn protection(millions: usize) -> ExitCode {
    use ferry_tests::protection::{Limits, campaigns, explore};
    let (mut worlds, mut transitions, mut broken) = (0, 0, false);
    let campaigns = campaigns::large();
    for campaign in &campaigns {
        let report = explore(&campaign.scenario, Limits { worlds: millions * 1_000_000, until: None });
        let partly = if report.is_complete { "" } else { " (stopped there: not everything was seen)" };
        println!("{}: {} worlds, {} transitions{partly}", campaign.name, report.worlds, report.transitions);
        for (promise, finding) in &report.findings {
            println!("  \"{}\" is broken: {}\n{}", promise.name(), finding.why, finding.trace);
        }
        (worlds, transitions) = (worlds + report.worlds, transitions + report.transitions);
        broken |= !report.findings.is_empty();
    }
    println!("{} campaigns: {worlds} worlds, {transitions} transitions", campaigns.len());
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn holds(campaign: &Campaign, worlds: usize) -> bool {
    let report = explore(&campaign.scenario, Limits::whole(worlds));
    println!(
        "{}: {} worlds, {} transitions, at most {} steps, {:.1} s, {} MiB{}",
        campaign.name,
        report.worlds,
        report.transitions,
        report.depth,
        report.elapsed.as_secs_f64(),
        report.memory_bytes >> 20,
        if report.is_complete { "" } else { " (stopped there: not everything was seen)" }
    );
    for (invariant, finding) in &report.findings {
        println!("  \"{}\" is broken: {}\n{}", invariant.name(), finding.why, finding.trace);
    }
    report.findings.is_empty()
}
