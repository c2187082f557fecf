//! Checks at the source whether a guest's memory can be handed over as a whole (`x-ferry-local`).
//!
//! Called by `migrate` before anything begins. The destination makes its own checks before it
//! answers `Hello`.

use ferry_memory::{Backing, Memory};
use ferry_migration::{Handshake, Parameters};

use ferry_link::endpoint::Endpoint;

/// Why the memory cannot be handed over as a whole.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Only a Unix socket carries a descriptor.
    #[error("memory is handed over only on one host, to unix:PATH, and not to {0}")]
    NotUnix(Endpoint),
    /// Anonymous memory has no descriptor.
    #[error(
        "the guest's memory is anonymous and cannot be handed over: that takes --memory SIZE,backing=memfd on both sides"
    )]
    Anonymous,
    /// There are no pages that could follow the guest.
    #[error("memory that is handed over is all there when the guest moves: switch the capability postcopy-ram off")]
    Postcopy,
    /// Both sides have one memory, so a second runner would destroy the first one's.
    #[error(
        "handing memory over takes a handshake that never runs the guest twice: set x-ferry-handshake to auto, setup or owned"
    )]
    Handshake,
}

/// Checks the source's part.
///
/// # Errors
/// The first obstacle.
pub(crate) fn check(to: &Endpoint, memory: &Memory, parameters: &Parameters, postcopy: bool) -> Result<(), LocalError> {
    if matches!(to, Endpoint::Tcp { .. }) {
        return Err(LocalError::NotUnix(to.clone()));
    }
    if memory.backing() != Backing::Memfd {
        return Err(LocalError::Anonymous);
    }
    if postcopy {
        return Err(LocalError::Postcopy);
    }
    match parameters.handshake {
        Some(handshake) if !is_safe(handshake) => Err(LocalError::Handshake),
        _ => Ok(()),
    }
}

/// Whether a handshake prevents two processes from running one guest, here in one memory.
#[must_use]
pub(crate) fn is_safe(handshake: Handshake) -> bool {
    matches!(handshake, Handshake::Setup | Handshake::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_memory::MemoryConfig;

    #[test]
    fn what_is_in_the_way_is_named() {
        let memory = |backing| Memory::new(&MemoryConfig { size: 16 << 20, backing, prealloc: false }).unwrap();
        let (memfd, anonymous) = (memory(Backing::Memfd), memory(Backing::Anon));
        let [unix, tcp] = ["unix:/run/m", "tcp:[::1]:5"].map(|text| text.parse::<Endpoint>().unwrap());
        let with = |handshake| Parameters { handshake, ..Parameters::default() };
        for (to, memory, handshake, postcopy, told) in [
            (&tcp, &memfd, None, false, "unix:PATH, and not to tcp:[::1]:5"),
            (&unix, &anonymous, None, false, "backing=memfd on both sides"),
            (&unix, &memfd, None, true, "postcopy-ram off"),
            (&unix, &memfd, Some(Handshake::None), false, "never runs the guest twice"),
            (&unix, &memfd, Some(Handshake::Pong), false, "never runs the guest twice"),
        ] {
            let error = check(to, memory, &with(handshake), postcopy).unwrap_err().to_string();
            assert!(error.contains(told), "`{told}` is to be in: {error}");
        }
        for handshake in [None, Some(Handshake::Setup), Some(Handshake::Owned)] {
            check(&unix, &memfd, &with(handshake), false).unwrap();
        }
    }
}
