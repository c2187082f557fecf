//! Reads the lines that the guest prints. Tests, benchmarks and the demo call [`parse_line`] on
//! what comes from the serial port.

use crate::lines::{self, BUCKETS, Boot, Disk, End, Fault, Histogram, Ready, Report, Simd, Stalls, Timer, TscSource};
use crate::workload::Exit;

/// One line of the guest.
pub type Line = lines::Line<String>;

/// A line that begins like the guest's own and does not go on like one. The serial output was cut
/// or mixed up, or the kernel is of another version than this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the guest's line '{line}' does not parse: {why}; is the kernel of the same build, and the serial output whole?"
)]
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
        "ready" => {
            Line::Ready(Ready { cpu: fields.number("c")?, pages: fields.number("n")?, uptime_ms: fields.number("u")? })
        }
        "r" => Line::Report(report(fields)?),
        "error" => Line::Error(fault(rest)?),
        "fatal" => Line::Fatal(fault(rest)?),
        _ => match Exit::from_word(kind) {
            Some(exit) => Line::End(End { exit, errors: fields.number("e")?, uptime_ms: fields.number("u")? }),
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
        gaps: Histogram(fields.word("h", counts::<u64, BUCKETS>)?),
        ticks: fields.number("t")?,
        disk_requests: fields.number("d")?,
        errors: fields.number("e")?,
        uptime_ms: fields.number("u")?,
        kvmclock_ms: fields.get("k").map(|_| fields.number("k")).transpose()?,
        // Left out where there were none.
        stalls: match fields.get("w") {
            Some(_) => Stalls { total_us: fields.number("W")?, counts: fields.word("w", counts)? },
            None => Stalls::default(),
        },
    })
}

fn fault(rest: &str) -> Result<Fault<String>, String> {
    let mut parts = rest.splitn(3, ' ');
    let head = Fields(&rest[..rest.len() - rest.splitn(3, ' ').nth(2).unwrap_or("").len()]);
    let text = parts.nth(2).ok_or("the text is missing")?;
    Ok(Fault { cpu: head.number("c")?, uptime_ms: head.number("u")?, text: text.to_owned() })
}

fn counts<N: Copy + Default + std::str::FromStr, const BUCKETS: usize>(text: &str) -> Option<[N; BUCKETS]> {
    let mut counts = [N::default(); BUCKETS];
    if text == "-" {
        return Some(counts);
    }
    for part in text.split(',') {
        let (bucket, count) = part.split_once(':')?;
        *counts.get_mut(bucket.parse::<usize>().ok()?)? = count.parse().ok()?;
    }
    Some(counts)
}

impl Stalls {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// Adds those of another period or vCPU.
    pub fn merge(&mut self, other: &Stalls) {
        self.total_us = self.total_us.saturating_add(other.total_us);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
    }

    /// The longest `count` of them, their sum taken from the middles of their buckets.
    #[must_use]
    pub fn longest(&self, count: u64) -> Stalls {
        let (mut left, mut longest) = (count, Stalls::default());
        for (bucket, here) in self.counts.iter().enumerate().rev() {
            let taken = u64::from(*here).min(left);
            left -= taken;
            longest.counts[bucket] = taken as u32;
            longest.total_us += taken * u64::midpoint(Stalls::floor_us(bucket), Stalls::floor_us(bucket + 1));
        }
        longest
    }

    /// How long the stall took that is longer than `percent` of 100 others, in µs, to within half
    /// a bucket (6 %). `None` without stalls.
    #[must_use]
    pub fn percentile_us(&self, percent: u32) -> Option<f64> {
        let rank = (self.count() * u64::from(percent)).div_ceil(100).max(1);
        let mut before = 0;
        let found = self.counts.iter().position(|count| {
            before += u64::from(*count);
            before >= rank
        })?;
        let [low, high] = [found, found + 1].map(|bucket| Stalls::floor_us(bucket) as f64);
        Some(f64::midpoint(low, high))
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::{STALL_BUCKETS, STALL_STEPS, STALL_US};

    fn report() -> Report {
        let mut gaps = Histogram::default();
        for us in [0, 1, 2, 3, 900, 45_000, u64::MAX] {
            gaps.add(us);
        }
        Report {
            cpu: 3,
            sequence: 12,
            pages: 123_456,
            gap_us: 45_000,
            worst_gap_us: 1_200_000,
            gaps,
            ticks: 998,
            disk_requests: 7,
            errors: 1,
            uptime_ms: 12_345,
            kvmclock_ms: Some(12_399),
            stalls: Stalls::default(),
        }
    }

    fn stalls(times_us: &[u64]) -> Stalls {
        let mut stalls = Stalls::default();
        times_us.iter().for_each(|us| stalls.add(*us));
        stalls
    }

    fn lines() -> Vec<Line> {
        let boot = Boot {
            cpus: 16,
            memory_bytes: 16 << 30,
            working_set_bytes: 512 << 20,
            tsc_khz: 2_500_000,
            tsc_source: TscSource::Kvmclock,
            simd: Simd::Avx,
            kvmclock: true,
            timer: Timer::Deadline,
            disk: Disk::ReadWrite,
        };
        let fault = Fault { cpu: 1, uptime_ms: 9, text: "page 7 at 0x1000:  c=2 u=3 = odd ".to_owned() };
        vec![
            Line::Boot(Boot {
                simd: Simd::Off,
                kvmclock: false,
                timer: Timer::OneShot,
                disk: Disk::None,
                ..boot.clone()
            }),
            Line::Boot(boot),
            Line::Ready(Ready { cpu: 2, pages: 65_536, uptime_ms: 17 }),
            Line::Report(report()),
            Line::Report(Report::default()),
            Line::Report(Report { stalls: stalls(&[16, 47, 47, 3_000_000]), ..report() }),
            Line::Report(Report { kvmclock_ms: None, stalls: stalls(&[u64::MAX]), ..report() }),
            Line::Error(fault.clone()),
            Line::Fatal(fault),
            Line::End(End { exit: Exit::Shutdown, errors: 0, uptime_ms: 3000 }),
            Line::End(End { exit: Exit::Reboot, errors: u64::MAX, uptime_ms: 0 }),
        ]
    }

    #[test]
    fn every_line_reads_back_as_printed() {
        for line in lines() {
            for end in ["", "\n", "\r\n"] {
                assert_eq!(parse_line(&format!("{line}{end}")), Ok(Some(line.clone())));
            }
        }
    }

    #[test]
    fn a_report_looks_as_documented() {
        let text = "ferry r c=3 s=12 p=123456 g=45000 G=1200000 h=0:2,1:2,9:1,15:1,23:1 t=998 d=7 e=1 u=12345 k=12399";
        assert_eq!(Line::Report(report()).to_string(), text);
        let stalled = Report { stalls: stalls(&[15, 16, 40, 41]), ..report() };
        assert_eq!(Line::Report(stalled).to_string(), format!("{text} W=97 w=0:1,10:2"));
    }

    #[test]
    fn other_peoples_lines_are_left_alone() {
        for line in ["", "Linux version 6.1", "ferry", "ferryman c=1", " ferry ready c=0 n=1 u=1"] {
            assert_eq!(parse_line(line), Ok(None), "{line}");
        }
    }

    #[test]
    fn a_damaged_line_says_what_is_wrong() {
        for (line, why) in [
            ("ferry ", "'' is no kind of line"),
            ("ferry sinks c=0", "'sinks' is no kind of line"),
            ("ferry ready c=0 n=5", "u= is missing"),
            ("ferry ready c=0 n=-5 u=1", "n=-5 is out of place"),
            ("ferry ready c=4294967296 n=5 u=1", "c=4294967296 is out of place"),
            ("ferry r c=0 s=1 p=1 g=1 G=1 h=24:1 t=1 d=0 e=0 u=1", "h=24:1 is out of place"),
            ("ferry r c=0 s=1 p=1 g=1 G=1 h=1 t=1 d=0 e=0 u=1", "h=1 is out of place"),
            ("ferry r c=0 s=1 p=1 g=1 G=1 h=- t=1 d=0 e=0 u=1 k=x", "k=x is out of place"),
            ("ferry r c=0 s=1 p=1 g=1 G=1 h=- t=1 d=0 e=0 u=1 W=9 w=128:1", "w=128:1 is out of place"),
            ("ferry r c=0 s=1 p=1 g=1 G=1 h=- t=1 d=0 e=0 u=1 w=1:1", "W= is missing"),
            ("ferry boot cpus=1 mem=1 ws=1 khz=1 tsc=sundial simd=off", "tsc=sundial is out of place"),
            ("ferry error c=0 u=1", "the text is missing"),
            ("ferry fatal hello to you all", "c= is missing"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert_eq!(error.why, why, "{line}");
            assert_eq!(error.line, line);
        }
    }

    #[test]
    fn no_cut_of_a_line_makes_the_parser_stumble() {
        for line in lines() {
            let text = line.to_string();
            for cut in 0..=text.len() {
                let _ = parse_line(&text[..cut]);
            }
        }
    }

    #[test]
    fn buckets_are_powers_of_two() {
        let buckets = [0, 1, 2, 3, 4, 1023, 1024, (1 << 23) - 1, 1 << 23, u64::MAX].map(Histogram::bucket);
        assert_eq!(buckets, [0, 0, 1, 1, 2, 9, 10, 22, 23, 23]);
    }

    #[test]
    fn stalls_are_counted_in_eighths_of_a_power_of_two() {
        for us in (STALL_US..5000).chain([1 << 19, (1 << 20) - 1]) {
            let bucket = Stalls::bucket(us);
            let (low, high) = (Stalls::floor_us(bucket), Stalls::floor_us(bucket + 1));
            assert!((low..high).contains(&us) && (high - low) * STALL_STEPS <= low, "{us}: {low}..{high}");
        }
        assert_eq!(Stalls::bucket(u64::MAX), STALL_BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_found_across_reports() {
        assert_eq!(Stalls::default().percentile_us(50), None);
        let mut all = stalls(&[3, 40, 40, 40]);
        all.merge(&stalls(&[1000; 1]));
        assert_eq!((all.count(), all.total_us), (4, 1120));
        assert_eq!(all.percentile_us(50), Some(42.0));
        assert_eq!(all.percentile_us(75), Some(42.0));
        assert_eq!(all.percentile_us(99), Some(992.0));
        let longest = all.longest(2);
        assert_eq!((longest.count(), longest.total_us), (2, 992 + 42));
        assert_eq!(longest.percentile_us(50), Some(42.0));
        assert_eq!(all.longest(9).count(), 4);
    }
}
