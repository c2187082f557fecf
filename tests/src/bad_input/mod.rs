//! What Ferry says to bad input: one table of inputs and answers, which a test checks and
//! `ferry-bad-input` prints.
//!
//! Every row does the real thing with the real binary. An answer is an exit status and a line, a
//! QMP error, or the `error-desc` of a migration; it must hold the text that the row expects,
//! which names the item and says what would be right.

pub mod command_line;
pub mod files;
pub mod qmp;
pub mod stream;

use std::fmt::Write as _;
use std::fs::File;
use std::process::{Command, Stdio};

use crate::lab::{Lab, binary};
use crate::wait::{SOON, poll};

/// One input and what became of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// What kind of input.
    pub group: &'static str,
    /// The input, for people.
    pub input: String,
    /// What Ferry answered; paths of the test's directory are shortened.
    pub answer: String,
    /// Text that the answer must hold.
    pub expected: String,
}

impl Row {
    fn new(lab: &Lab, group: &'static str, input: impl Into<String>, answer: &str, expected: &str) -> Self {
        let directory = lab.directory().display().to_string();
        let shorten = |text: &str| {
            let text = text.replace(&format!("{directory}/"), "").replace(&directory, "DIRECTORY");
            without_sessions(&text)
        };
        Row { group, input: shorten(&input.into()), answer: shorten(answer), expected: expected.into() }
    }

    /// The row as a line of its table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ").chars().map(plain).collect::<String>();
        format!("| `{}` | {} |", cell(&self.input), cell(&self.answer))
    }

    /// Whether the answer holds what is expected.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.answer.contains(&self.expected)
    }
}

/// Numbers of migrations differ from run to run.
fn without_sessions(text: &str) -> String {
    let mut parts = text.split("0x");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match out.ends_with("(session ") || out.ends_with("this one is ") {
            true => out.extend(["…", part.trim_start_matches(|c: char| c.is_ascii_hexdigit())]),
            false => out.extend(["0x", part]),
        }
    }
    out
}

/// The lines of `docs/bad-input.md`.
///
/// # Panics
/// When the page cannot be read.
#[must_use]
pub fn page() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bad-input.md");
    std::fs::read_to_string(path).expect("the page is in the repository")
}

/// Tries every bad input.
///
/// # Panics
/// When a process does not answer at all.
#[must_use]
pub fn all(lab: &Lab) -> Vec<Row> {
    [
        command_line::rows(lab),
        files::kernels(lab),
        files::disks(lab),
        files::outputs(lab),
        qmp::rows(lab),
        stream::rows(lab),
    ]
    .concat()
}

/// Rows as tables in Markdown, one for each group.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = row.group;
            // Writing to a string does not fail.
            let _ = write!(out, "\n## {group}\n\n| Input | Answer |\n|---|---|\n");
        }
        let _ = writeln!(out, "{}", row.markdown());
    }
    out
}

/// Runs `ferry` to its end with nothing on standard input, and returns its exit status and
/// standard error. A process that takes bad input and runs on is killed, and returned as such.
///
/// # Panics
/// When the process cannot be started.
#[must_use]
pub fn run_to_end(lab: &Lab, arguments: &[String]) -> (i32, String) {
    let path = lab.path("bad-input.stderr");
    let stderr = File::create(&path).expect("a file of the test can be made");
    let mut child = Command::new(binary())
        .args(arguments)
        .env_remove("FERRY_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .expect("the ferry binary can be started");
    let status = poll(SOON, || child.try_wait().expect("a child can be waited for"));
    let Some(status) = status else {
        // It runs on with input that it should have refused.
        let _ = child.kill();
        let _ = child.wait();
        return (0, "it runs on".into());
    };
    (status.code().unwrap_or(-1), std::fs::read_to_string(path).unwrap_or_default())
}

/// The answer of a process, for the table: what follows the usage hint is left out.
fn answer((code, stderr): (i32, String)) -> String {
    let text: Vec<_> = stderr.lines().take_while(|line| !line.starts_with("Usage:")).collect();
    let text = text.join(" ").replace("  ", " ");
    let text = text.trim().trim_end_matches("For more information, try '--help'.").trim();
    format!("exit {code}: {text}")
}
