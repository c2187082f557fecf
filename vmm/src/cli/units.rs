//! Numbers as people read and write them on the command line: bytes, rates, times, large counts.

use ferry_migration::parameters::MAX_BANDWIDTH_LEAST;

/// `1536` as `1.5 KiB`, `1073741824` as `1.0 GiB`.
#[must_use]
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 || unit == "GiB" {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    unreachable!("the last unit takes every value")
}

/// Microseconds as `950 µs`, `12.3 ms` or `4.56 s`.
#[must_use]
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..100_000 => format!("{:.1} ms", us as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// Milliseconds, as [`micros`].
#[must_use]
pub(super) fn millis(ms: u64) -> String {
    if ms < 1_000 { format!("{ms} ms") } else { micros(ms.saturating_mul(1_000)) }
}

/// `1234567` as `1,234,567`.
#[must_use]
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Reads `1000`, `64K`, `10M` or `2G` (powers of 1024).
///
/// # Errors
/// When the text is none of these, with what would be right.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a number of bytes; write for example 500K, 100M or 1G");
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let value: u64 = digits.parse().map_err(|_| wrong())?;
    value.checked_mul(1 << shift).ok_or_else(wrong)
}

/// As [`parse_bytes`], for a limit of bytes a second: 0, or a value that QMP accepts.
///
/// # Errors
/// As [`parse_bytes`], and when the limit is so low that another unit was meant.
pub(super) fn parse_bandwidth(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        limit @ 1..MAX_BANDWIDTH_LEAST => Err(format!(
            "'{text}' is {limit} bytes a second, and the least limit is {}/s; write for example 100M, or 0 for no limit",
            bytes(MAX_BANDWIDTH_LEAST)
        )),
        limit => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 1023, 1536, 200 << 20, 5 << 40].map(bytes), ["0 B", "1023 B", "1.5 KiB", "200 MiB", "5120 GiB"]);
        assert_eq!([0, 12_345, 123_456, 4_560_000].map(micros), ["0 µs", "12.3 ms", "123 ms", "4.56 s"]);
        assert_eq!([7, 2_500].map(millis), ["7 ms", "2.50 s"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_bandwidth_that_was_meant_in_mebibytes_is_refused() {
        assert_eq!(["0", "64K", "100M"].map(|text| parse_bandwidth(text).unwrap()), [0, 64 << 10, 100 << 20]);
        for text in ["1", "100", "63K"] {
            let error = parse_bandwidth(text).unwrap_err();
            assert!(error.contains("least limit is 64.0 KiB/s; write for example 100M"), "{error}");
        }
        assert!(parse_bandwidth("fast").is_err());
    }

    #[test]
    fn sizes_are_powers_of_1024_and_nothing_else() {
        assert_eq!(["12", "3K", "2m", "1G"].map(|t| parse_bytes(t).unwrap()), [12, 3072, 2 << 20, 1 << 30]);
        for text in ["", "G", "1T", "-1", "1.5G", "99999999999G", "1ä"] {
            assert!(parse_bytes(text).unwrap_err().contains("write for example"), "{text}");
        }
    }
}
