//! The escape key: Ctrl-A, and the meaning of the key after it.

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// The action of a key press.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Wait for the next key.
    Nothing,
    /// Give this byte to the guest.
    Send(u8),
    /// Show the help.
    Help,
    /// End the guest and leave.
    Leave,
}

/// Remembers whether the escape key was pressed.
#[derive(Debug, Default)]
pub(super) struct Keys {
    escaped: bool,
}

impl Keys {
    /// The next byte from the terminal.
    pub(super) fn press(&mut self, byte: u8) -> Action {
        match (std::mem::take(&mut self.escaped), byte) {
            (false, ESCAPE) => {
                self.escaped = true;
                Action::Nothing
            }
            (false, _) => Action::Send(byte),
            (true, b'x' | b'X') => Action::Leave,
            (true, b'h' | b'H' | b'?') => Action::Help,
            (true, ESCAPE) => Action::Send(ESCAPE),
            // An unknown escape is not sent to the guest.
            (true, _) => Action::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_after_the_escape_are_the_consoles() {
        let mut keys = Keys::default();
        let mut press = |bytes: &[u8]| bytes.iter().map(|byte| keys.press(*byte)).collect::<Vec<_>>();
        assert_eq!(press(b"xh"), [Action::Send(b'x'), Action::Send(b'h')]);
        assert_eq!(press(b"\x01x\x01h"), [Action::Nothing, Action::Leave, Action::Nothing, Action::Help]);
        assert_eq!(press(b"\x01\x01a"), [Action::Nothing, Action::Send(1), Action::Send(b'a')]);
        assert_eq!(press(b"\x01qx"), [Action::Nothing, Action::Nothing, Action::Send(b'x')]);
    }
}
