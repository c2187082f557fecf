//! Colour, in moderation: only on a terminal, and never against `NO_COLOR` (no-color.org) or
//! `TERM=dumb`.

use std::io::{IsTerminal, stderr, stdout};

/// Paints text, or leaves it unchanged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colour: bool,
}

impl Style {
    /// For text that goes to standard output.
    #[must_use]
    pub(super) fn stdout() -> Self {
        Style { colour: stdout().is_terminal() && wanted() }
    }

    /// For text that goes to standard error.
    #[must_use]
    pub(super) fn stderr() -> Self {
        Style { colour: stderr().is_terminal() && wanted() }
    }

    /// Never paints.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Style { colour: false }
    }

    /// Whether it paints.
    #[must_use]
    pub(super) fn is_coloured(self) -> bool {
        self.colour
    }

    /// For emphasis.
    #[must_use]
    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// For secondary text.
    #[must_use]
    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// For successes.
    #[must_use]
    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// For failures.
    #[must_use]
    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// For bars and headings.
    #[must_use]
    pub(super) fn accent(self, text: &str) -> String {
        self.paint("36", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A bar of at most `width` cells for `part` of `whole`, in eighths of a cell; something small
/// still shows.
#[must_use]
pub(super) fn bar(part: u64, whole: u64, width: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if whole == 0 || part == 0 {
        return String::new();
    }
    let eighths = (u128::from(part.min(whole)) * u128::from(width) * 8).div_ceil(u128::from(whole)) as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_in_proportion_and_never_longer_than_the_width() {
        assert_eq!([bar(0, 10, 4), bar(10, 10, 4), bar(5, 10, 4), bar(1, 1000, 4)], ["", "████", "██", "▏"]);
        assert_eq!(bar(20, 10, 2), "██");
        assert_eq!(bar(1, 0, 2), "");
    }

    #[test]
    fn without_colour_text_stays_as_it_is() {
        assert_eq!(Style { colour: false }.good("x"), "x");
        assert_eq!(Style { colour: true }.good("x"), "\x1b[32mx\x1b[0m");
    }
}
