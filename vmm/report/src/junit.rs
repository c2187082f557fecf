//! The verdicts as JUnit XML, the form in which continuous integration takes the outcome of tests.
//!
//! One suite, one test case for each cell: `time` in seconds, the fault and the ending as its
//! output.

use std::fmt::Write;

use super::matrix::{Cell, Matrix, Verdict};

/// The whole document.
pub(super) fn render(matrix: &Matrix) -> String {
    let with = |verdict| matrix.cells.iter().filter(|cell| cell.verdict == verdict).count();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    let suite = [
        ("name", "ferry fault matrix".to_owned()),
        ("tests", matrix.cells.len().to_string()),
        ("failures", with(Verdict::Fail).to_string()),
        ("errors", "0".to_owned()),
        ("skipped", with(Verdict::Skip).to_string()),
        ("time", format!("{:.3}", matrix.seconds)),
        ("timestamp", matrix.made.clone()),
        ("hostname", matrix.host.clone()),
    ];
    out.push_str(&tag("testsuite", &suite));
    out.push_str(">\n");
    for cell in &matrix.cells {
        case(&mut out, cell);
    }
    out.push_str("</testsuite>\n</testsuites>\n");
    out
}

fn case(out: &mut String, cell: &Cell) {
    let attributes = [
        ("classname", format!("{}.{}.{}", cell.mode.as_str(), cell.handshake, cell.place.as_str())),
        ("name", cell.name.clone()),
        ("time", format!("{:.3}", cell.millis as f64 / 1000.0)),
    ];
    let why = cell.why.clone().unwrap_or_else(|| cell.ending.clone());
    let verdict = match cell.verdict {
        Verdict::Pass => String::new(),
        Verdict::Skip => tag("skipped", &[("message", why)]) + "/>\n",
        Verdict::Fail => format!("{}>{}</failure>\n", tag("failure", &[("message", why)]), escaped(&findings(cell))),
    };
    let said = format!("{}\n{}\nrun again: {}", cell.injected, cell.ending, cell.rerun);
    let case = tag("testcase", &attributes);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{case}>\n{verdict}<system-out>{}</system-out>\n</testcase>", escaped(&said));
}

/// The finding of each oracle, one a line.
fn findings(cell: &Cell) -> String {
    cell.oracles.iter().map(|oracle| format!("{} {:?}: {}\n", oracle.name, oracle.verdict, oracle.says)).collect()
}

/// An element's beginning, left open for `>` or `/>`.
fn tag(name: &str, attributes: &[(&str, String)]) -> String {
    attributes.iter().fold(format!("<{name}"), |tag, (key, value)| tag + &format!(" {key}=\"{}\"", escaped(value)))
}

/// Text for content and attributes. XML 1.0 has no way to write most control characters: they
/// become U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' | '\r' => out.push_str(&format!("&#{};", character as u32)),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}
