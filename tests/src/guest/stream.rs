//! A guest's serial output as one stream of lines, whoever passes the bytes on.

use ferry_guest::report::ParseError;
use ferry_guest::{Line, parse_line};

/// How the first line of a guest begins.
const BOOT: &str = "ferry boot ";

/// Bytes that wait for the end of their line.
#[derive(Debug, Default)]
pub struct Stream {
    waiting: Vec<u8>,
}

impl Stream {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next whole line that is one of the guest's; an error if it begins like one and does not
    /// go on so.
    pub fn next_line(&mut self) -> Option<Result<Line, ParseError>> {
        loop {
            let end = self.waiting.iter().position(|byte| *byte == b'\n')?;
            let bytes: Vec<_> = self.waiting.drain(..=end).collect();
            let text = String::from_utf8_lossy(&bytes);
            // A reset may come in the middle of a line: the first line of the next life follows it
            // directly.
            let text = text.rfind(BOOT).map_or(&*text, |at| &text[at..]);
            if let Some(line) = parse_line(text).transpose() {
                return Some(line);
            }
        }
    }
}
