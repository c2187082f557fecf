//! Cuts the byte stream of a QMP connection into JSON values, independent of how the stream is
//! split.
//!
//! QMP has no length prefix and does not promise one value a line: a value ends where its
//! outermost bracket closes. This is the only code that sees a client's raw bytes before a JSON
//! parser does, so it holds the limits on size and nesting. Called by the server's connections and
//! by the client.
//!
//! A byte that JSON text cannot hold outside of an escape (a control character, 0xFE, 0xFF) is an
//! error that ends the unfinished value, and the next byte begins a new one: a client sends it to
//! force the parser into a known state (QEMU's `docs/interop/qmp-spec`, 2.6). After any other
//! error the rest of the line is dropped.

use std::collections::VecDeque;

/// Brackets that may be open at once; the commands need less than ten.
pub(crate) const MAX_DEPTH: usize = 64;

/// Why the stream cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    /// A value does not end within the limit.
    #[error("JSON value is larger than {limit} bytes; send a smaller one")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// More brackets are open than [`MAX_DEPTH`].
    #[error("JSON nesting depth limit exceeded: at most {MAX_DEPTH} brackets may be open")]
    TooDeep,
    /// A closing bracket does not match the open one.
    #[error("JSON parse error, '{found}' does not close '{open}'")]
    Mismatch {
        /// The closing bracket.
        found: char,
        /// The bracket that is open.
        open: char,
    },
    /// A string holds a tab or a line break, which JSON wants escaped.
    #[error("JSON parse error, control character {0:#04x} inside of a string; escape it")]
    ControlCharacter(u8),
    /// A byte that no JSON text holds; the unfinished value has ended with it.
    #[error("JSON parse error, stray byte {0:#04x}; what follows it is read as a new request")]
    Stray(u8),
    /// The client closed its side inside of a value.
    #[error("JSON parse error, the input ends inside of a value; send the rest before closing")]
    Unfinished,
}

/// The state of the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scan {
    /// Between values.
    Outside,
    /// Inside brackets, outside of a string.
    Inside,
    /// Inside a string inside brackets; `true` right after a backslash.
    Text { escaped: bool },
    /// In something that opens no bracket: it ends with its line.
    Word,
    /// After an error: dropping the rest of the line.
    Skip,
}

/// Takes bytes in any pieces and gives whole JSON texts.
#[derive(Debug)]
pub(crate) struct Framer {
    limit: usize,
    scan: Scan,
    open: Vec<u8>,
    value: Vec<u8>,
    ready: VecDeque<Result<Vec<u8>, FramingError>>,
}

impl Framer {
    /// A framer for values of at most `limit` bytes.
    #[must_use]
    pub(crate) fn new(limit: usize) -> Self {
        Framer { limit, scan: Scan::Outside, open: Vec::new(), value: Vec::new(), ready: VecDeque::new() }
    }

    /// Takes the bytes that were read. Memory held afterwards is at most the limit plus `bytes`,
    /// until [`Framer::next_value`] is called.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Err(error) = self.take(*byte) {
                let begins_anew = *byte == b'\n' || matches!(error, FramingError::Stray(_));
                self.give_up(error, if begins_anew { Scan::Outside } else { Scan::Skip });
            }
        }
    }

    /// The stream has ended: a value that has begun, and not ended, is an error.
    pub(crate) fn end(&mut self) {
        if !self.value.is_empty() {
            self.give_up(FramingError::Unfinished, Scan::Outside);
        }
    }

    fn give_up(&mut self, error: FramingError, scan: Scan) {
        self.value.clear();
        self.open.clear();
        self.scan = scan;
        self.ready.push_back(Err(error));
    }

    /// The next whole value, in order of arrival. It may still be bad JSON: only its extent is
    /// known.
    pub(crate) fn next_value(&mut self) -> Option<Result<Vec<u8>, FramingError>> {
        self.ready.pop_front()
    }

    fn take(&mut self, byte: u8) -> Result<(), FramingError> {
        match self.scan {
            scan if is_stray(byte, scan) => return Err(FramingError::Stray(byte)),
            Scan::Skip => {
                if byte == b'\n' {
                    self.scan = Scan::Outside;
                }
                return Ok(());
            }
            Scan::Outside if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') => return Ok(()),
            Scan::Word if byte == b'\n' => {
                self.finish();
                return Ok(());
            }
            _ => {}
        }
        if self.value.len() == self.limit {
            return Err(FramingError::TooLarge { limit: self.limit });
        }
        self.value.push(byte);
        match self.scan {
            Scan::Outside if byte == b'{' || byte == b'[' => self.bracket(byte),
            Scan::Outside => {
                self.scan = Scan::Word;
                Ok(())
            }
            Scan::Inside => self.bracket(byte),
            Scan::Text { escaped } => self.text(byte, escaped),
            Scan::Word | Scan::Skip => Ok(()),
        }
    }

    fn bracket(&mut self, byte: u8) -> Result<(), FramingError> {
        self.scan = Scan::Inside;
        match byte {
            b'"' => self.scan = Scan::Text { escaped: false },
            b'{' | b'[' if self.open.len() == MAX_DEPTH => return Err(FramingError::TooDeep),
            b'{' | b'[' => self.open.push(byte),
            b'}' | b']' => {
                // Inside means that a bracket is open.
                let open = self.open.pop().unwrap_or(b'{');
                if (open == b'{') != (byte == b'}') {
                    return Err(FramingError::Mismatch { found: byte.into(), open: open.into() });
                }
                if self.open.is_empty() {
                    self.finish();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, byte: u8, escaped: bool) -> Result<(), FramingError> {
        self.scan = match byte {
            0..0x20 => return Err(FramingError::ControlCharacter(byte)),
            b'"' if !escaped => Scan::Inside,
            _ => Scan::Text { escaped: byte == b'\\' && !escaped },
        };
        Ok(())
    }

    fn finish(&mut self) {
        self.scan = Scan::Outside;
        self.ready.push_back(Ok(std::mem::take(&mut self.value)));
    }
}

/// Whether QEMU's lexer flags `byte` in any place, so that a client may send it to begin anew. DEL
/// is text inside of a string.
fn is_stray(byte: u8, scan: Scan) -> bool {
    match byte {
        b'\t' | b'\r' | b'\n' => false,
        0..0x20 | 0xfe | 0xff => true,
        0x7f => !matches!(scan, Scan::Text { .. }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(limit: usize, pieces: &[&[u8]]) -> Vec<Result<String, FramingError>> {
        let mut framer = Framer::new(limit);
        for piece in pieces {
            framer.push(piece);
        }
        std::iter::from_fn(|| framer.next_value())
            .map(|v| v.map(|v| String::from_utf8_lossy(&v).into_owned()))
            .collect()
    }

    #[test]
    fn brackets_inside_of_strings_do_not_count() {
        let text = br#"{"a": "}]\"}\\"} {"b": [1, {}]}"#;
        assert_eq!(cut(100, &[text]), [Ok(r#"{"a": "}]\"}\\"}"#.into()), Ok(r#"{"b": [1, {}]}"#.into())]);
    }

    #[test]
    fn a_value_may_span_lines_and_two_may_share_one() {
        assert_eq!(cut(100, &[b"{\r\n\"a\":\n1}{}\n"]), [Ok("{\r\n\"a\":\n1}".into()), Ok("{}".into())]);
    }

    #[test]
    fn what_opens_no_bracket_ends_with_its_line() {
        assert_eq!(cut(100, &[b"quit\n{}"]), [Ok("quit".into()), Ok("{}".into())]);
    }

    #[test]
    fn after_an_error_the_next_line_is_read_again() {
        let at_limit = format!("{{{}}}", " ".repeat(8));
        assert_eq!(cut(10, &[at_limit.as_bytes()]), [Ok(at_limit.clone())]);
        let above = format!("{{{}}} {{}}\n{{}}", " ".repeat(9));
        assert_eq!(cut(10, &[above.as_bytes()]), [Err(FramingError::TooLarge { limit: 10 }), Ok("{}".into())]);
        let deep = format!("{}\n{{}}", "[".repeat(1000));
        assert_eq!(cut(2000, &[deep.as_bytes()]), [Err(FramingError::TooDeep), Ok("{}".into())]);
        assert_eq!(
            cut(100, &[b"{\"a\": ]} {}\n{}"]),
            [Err(FramingError::Mismatch { found: ']', open: '{' }), Ok("{}".into())]
        );
        assert_eq!(cut(100, &[b"{\"a\n{}"]), [Err(FramingError::ControlCharacter(b'\n')), Ok("{}".into())]);
    }

    #[test]
    fn a_byte_that_json_cannot_hold_begins_anew() {
        let control = (0..0x20).filter(|byte| !b"\t\r\n".contains(byte));
        for stray in control.chain([0x7f, 0xfe, 0xff]) {
            for before in
                [&b""[..], b"{\"execute\":", b"{\"a\": [1, {", b"nonsense ", b"[}", b"[} \xc3", b"{\"a\": 1}}"]
            {
                let cut = cut(100, &[before, &[stray], b"{\"b\": 1}"]);
                assert_eq!(cut.last(), Some(&Ok("{\"b\": 1}".into())), "{stray:#04x} after {before:?}");
                assert_eq!(cut[cut.len() - 2], Err(FramingError::Stray(stray)), "after {before:?}");
            }
        }
        for stray in [0, 1, 0x0b, 0x0c, 0x1b, 0xfe, 0xff] {
            let cut = cut(100, &[b"{\"execute\": \"a\\", &[stray], b"{}"]);
            assert_eq!(cut, [Err(FramingError::Stray(stray)), Ok("{}".into())]);
        }
        assert_eq!(cut(100, &[b"{\"a\x7f\": 1}"]), [Ok("{\"a\x7f\": 1}".into())], "text may hold DEL");
        assert_eq!(cut(100, &[b"\t\r\n {}"]), [Ok("{}".into())], "what is between values is no error");
    }

    #[test]
    fn input_that_ends_inside_of_a_value_is_an_error() {
        for (text, error) in [
            (&b"{\"execute\": "[..], Some(FramingError::Unfinished)),
            (b"quit", Some(FramingError::Unfinished)),
            (b"{} \r\n", None),
            (b"", None),
        ] {
            let mut framer = Framer::new(100);
            framer.push(text);
            framer.end();
            let last = std::iter::from_fn(|| framer.next_value()).last();
            assert_eq!(last.and_then(Result::err), error, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_garbage_swallows_what_follows_a_stray_byte(
            garbage in proptest::collection::vec(any::<u8>(), 0..200),
            stray in prop_oneof![0u8..9, 0x0bu8..0x0d, 0x0eu8..0x20, 0xfeu8..],
        ) {
            let cut = cut(100, &[&garbage, &[stray], b"{\"b\": 1}"]);
            prop_assert_eq!(&cut[cut.len() - 2..], [Err(FramingError::Stray(stray)), Ok("{\"b\": 1}".into())]);
        }

        #[test]
        fn pieces_do_not_change_the_cut(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..400) {
            let (a, b) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(cut(64, &[&bytes]), cut(64, &[a, b]));
        }

        #[test]
        fn any_object_is_cut_whole(key in ".*", value in ".*") {
            let text = serde_json::json!({ key: [value] }).to_string();
            prop_assert_eq!(cut(1 << 20, &[text.as_bytes()]), [Ok(text)]);
        }
    }
}
