//! Reads the lines that the guest prints. Tests, benchmarks and the demo call [`parse_line`] on what comes from the serial
//! port.

use crate::lines::{self, BUCKETS, Boot, Disk, End, Fault, Histogram, Ready, Report, Simd, Timer, TscSource};
use crate::workload::Exit;

/// One line of the guest.
pub type Line = lines::Line<String>;

/// A line that begins like the guest's own and does not go on like one. The serial output was cut or mixed up, or the
/// kernel is of another version than this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's line '{line}' does not parse: {why}; is the kernel of the same build, and the serial output whole?")]
pub struct ParseError {
    /// The line.
    pub line: String,
    /// What is wrong with it.
    pub why: String,
}

/// Reads one line, without or with its line end. `None`: it is not one of the guest's lines.
///
/// # Errors
///
/// [`ParseError`] when the line begins with `ferry ` and is none that the guest prints.
pub fn parse_line(line: &str) -> Result<Option<Line>, ParseError> {
    let line = line.trim_end_matches(['\r', '\n']);
    let Some(rest) = line.strip_prefix("ferry ") else { return Ok(None) };
    let (kind, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    parse(kind, rest).map(Some).map_err(|why| ParseError { line: line.to_owned(), why })
}

fn parse(kind: &str, rest: &str) -> Result<Line, String> {
    let fields = Fields(rest);
    Ok(match kind {
        "boot" => Line::Boot(Boot {
            cpus: fields.number("cpus")?,
            memory_bytes: fields.number("mem")?,
            working_set_bytes: fields.number("ws")?,
            tsc_khz: fields.number("khz")?,
            tsc_source: fields.word("tsc", TscSource::from_word)?,
            simd: fields.word("simd", Simd::from_word)?,
            kvmclock: fields.number::<u8>("kvmclock")? != 0,
            timer: fields.word("timer", Timer::from_word)?,
            disk: fields.word("disk", Disk::from_word)?,
        }),
        "ready" => Line::Ready(Ready {
            cpu: fields.number("c")?,
            pages: fields.number("n")?,
            uptime_ms: fields.number("u")?,
        }),
        "r" => Line::Report(report(fields)?),
        "error" => Line::Error(fault(rest)?),
        "fatal" => Line::Fatal(fault(rest)?),
        _ => match Exit::from_word(kind) {
            Some(exit) => {
                Line::End(End { exit, errors: fields.number("e")?, uptime_ms: fields.number("u")? })
            }
            None => return Err(format!("'{kind}' is no kind of line")),
        },
    })
}

fn report(fields: Fields<'_>) -> Result<Report, String> {
    Ok(Report {
        cpu: fields.number("c")?,
        sequence: fields.number("s")?,
        pages: fields.number("p")?,
        gap_us: fields.number("g")?,
        worst_gap_us: fields.number("G")?,
        gaps: fields.word("h", histogram)?,
        ticks: fields.number("t")?,
        disk_requests: fields.number("d")?,
        errors: fields.number("e")?,
        uptime_ms: fields.number("u")?,
        kvmclock_ms: fields.get("k").map(|_| fields.number("k")).transpose()?,
    })
}

fn fault(rest: &str) -> Result<Fault<String>, String> {
    let mut parts = rest.splitn(3, ' ');
    let head = Fields(&rest[..rest.len() - rest.splitn(3, ' ').nth(2).unwrap_or("").len()]);
    let text = parts.nth(2).ok_or("the text is missing")?;
    Ok(Fault { cpu: head.number("c")?, uptime_ms: head.number("u")?, text: text.to_owned() })
}

fn histogram(text: &str) -> Option<Histogram> {
    let mut histogram = Histogram::default();
    if text == "-" {
        return Some(histogram);
    }
    for part in text.split(',') {
        let (bucket, count) = part.split_once(':')?;
        let bucket = bucket.parse::<usize>().ok().filter(|bucket| *bucket < BUCKETS)?;
        histogram.0[bucket] = count.parse().ok()?;
    }
    Some(histogram)
}

/// The `key=value` pairs of a line.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn get(self, key: &str) -> Option<&'a str> {
        self.0.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }

    fn word<T>(self, key: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let value = self.get(key).ok_or_else(|| format!("{key}= is missing"))?;
        read(value).ok_or_else(|| format!("{key}={value} is out of place"))
    }

    fn number<T: std::str::FromStr>(self, key: &str) -> Result<T, String> {
        self.word(key, |value| value.parse().ok())
    }
}
