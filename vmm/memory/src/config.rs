//! How much memory a guest has and what backs it, as `--memory` gives it.
//!
//! The command line parses a [`MemoryConfig`]; [`Memory::new`](super::Memory::new) builds memory
//! from it.

use std::fmt;
use std::str::FromStr;

/// RAM sizes are multiples of this, so that every chunk of 2 MiB lies whole in one range.
pub const SIZE_UNIT: u64 = 2 << 20;
/// The least RAM that a guest may have, in bytes.
pub const SIZE_MIN: u64 = 16 << 20;
/// The most RAM that a guest may have, in bytes.
pub const SIZE_MAX: u64 = 16 << 30;

/// How guest memory is backed by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backing {
    /// A memfd, mapped shared: another process or a second mapping can see the same pages.
    Memfd,
    /// Anonymous memory with transparent huge pages: the cheapest first touch, hence the default.
    Anon,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backing::Memfd => "memfd",
            Backing::Anon => "anon",
        })
    }
}

/// Size and backing of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryConfig {
    /// RAM in bytes: from [`SIZE_MIN`] to [`SIZE_MAX`], a multiple of [`SIZE_UNIT`].
    pub size: u64,
    /// Its backing.
    pub backing: Backing,
    /// The host allocates all of it at the start, so that no first touch costs time later.
    pub prealloc: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        MemoryConfig { size: 256 << 20, backing: Backing::Anon, prealloc: false }
    }
}

/// The text or the size is no memory configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryConfigError {
    /// The size is no number with an optional K, M or G.
    #[error("memory size '{0}' is not a number of bytes; write for example 256M or 2G")]
    NotASize(String),
    /// The size lies outside of what a machine can have.
    #[error("memory size {0} bytes is not possible: give 16M to 16G, a multiple of 2M")]
    Size(u64),
    /// The backing is not known.
    #[error("memory backing '{0}' is not known: give backing=memfd or backing=anon")]
    Backing(String),
    /// The value of `prealloc` is neither on nor off.
    #[error("prealloc '{0}' is not known: give prealloc=on or prealloc=off")]
    Prealloc(String),
    /// A key after the size is not known.
    #[error("memory option '{0}' is not known: only backing=memfd|anon and prealloc=on|off may follow the size")]
    Option(String),
}

impl MemoryConfig {
    /// Checks the size.
    ///
    /// # Errors
    /// [`MemoryConfigError::Size`] when it is too small, too large or no multiple of 2 MiB.
    pub fn check(&self) -> Result<(), MemoryConfigError> {
        if (SIZE_MIN..=SIZE_MAX).contains(&self.size) && self.size.is_multiple_of(SIZE_UNIT) {
            Ok(())
        } else {
            Err(MemoryConfigError::Size(self.size))
        }
    }
}

impl FromStr for MemoryConfig {
    type Err = MemoryConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(',');
        let size = parse_size(parts.next().unwrap_or_default())?;
        let mut config = MemoryConfig { size, ..Default::default() };
        for part in parts {
            match part.split_once('=') {
                Some(("backing", "memfd")) => config.backing = Backing::Memfd,
                Some(("backing", "anon")) => config.backing = Backing::Anon,
                Some(("backing", other)) => return Err(MemoryConfigError::Backing(other.to_owned())),
                Some(("prealloc", "on")) => config.prealloc = true,
                Some(("prealloc", "off")) => config.prealloc = false,
                Some(("prealloc", other)) => return Err(MemoryConfigError::Prealloc(other.to_owned())),
                _ => return Err(MemoryConfigError::Option(part.to_owned())),
            }
        }
        config.check()?;
        Ok(config)
    }
}

fn parse_size(text: &str) -> Result<u64, MemoryConfigError> {
    let error = || MemoryConfigError::NotASize(text.to_owned());
    let (digits, shift) = match text.char_indices().last().ok_or_else(error)? {
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error());
    }
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_backings_parse() {
        let parsed = |text: &str| text.parse::<MemoryConfig>().unwrap();
        assert_eq!(parsed("256M"), MemoryConfig { size: 256 << 20, backing: Backing::Anon, prealloc: false });
        let memfd = MemoryConfig { size: 2 << 30, backing: Backing::Memfd, prealloc: false };
        assert_eq!(parsed("2g,backing=memfd"), memfd);
        assert_eq!(parsed("2g,prealloc=on,backing=memfd"), MemoryConfig { prealloc: true, ..memfd });
        assert_eq!(parsed("2g,backing=memfd,prealloc=off"), memfd);
        assert_eq!(parsed("16384K").size, SIZE_MIN);
        assert_eq!(parsed("16777216,backing=anon").size, SIZE_MIN);
    }

    #[test]
    fn what_is_no_memory_says_what_would_be() {
        for (text, hint) in [
            ("", "256M"),
            ("M", "256M"),
            ("-1M", "256M"),
            ("+64M", "256M"),
            ("99999999999999999999G", "256M"),
            ("14M", "16M to 16G"),
            ("17M", "multiple of 2M"),
            ("16386M", "16M to 16G"),
            ("64M,backing=disk", "backing=memfd or backing=anon"),
            ("64M,prealloc", "only backing"),
            ("64M,prealloc=yes", "prealloc=on or prealloc=off"),
            ("64M,huge", "only backing"),
            ("64M,", "only backing"),
        ] {
            let error = text.parse::<MemoryConfig>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
