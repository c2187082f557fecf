//! Prints panics on standard error, without waiting for its reader.
//!
//! The standard library's own hook writes to the file at once: with a full pipe that no process
//! reads, the thread that panicked would block there, and so would every thread that joins it. Here
//! the text is queued as every other message (see [`crate::stderr`]), and the thread unwinds as
//! before.

use std::backtrace::Backtrace;
use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::panic::PanicHookInfo;
use std::time::Duration;

use crate::stderr;

/// Longest that a thread which has panicked waits for its text to be written: the panic may end the
/// process at once, as one in a destructor does.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Installs the hook. To be called before the first panic.
pub(crate) fn tell() {
    let style = Style::of(std::env::var_os("RUST_BACKTRACE").as_deref());
    std::panic::set_hook(Box::new(move |info| {
        stderr::say(Told { info, style });
        stderr::flush_within(LAST_WORD);
    }));
}

/// How a backtrace is shown; the variable is the standard library's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    None,
    Short,
    Full,
}

impl Style {
    fn of(variable: Option<&OsStr>) -> Self {
        match variable {
            None => Style::None,
            Some(text) if text == "0" => Style::None,
            Some(text) if text == "full" => Style::Full,
            Some(_) => Style::Short,
        }
    }
}

/// The text of a panic: the thread, the place, the message, and the backtrace.
struct Told<'a> {
    info: &'a PanicHookInfo<'a>,
    style: Style,
}

impl Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thread = std::thread::current();
        write!(f, "thread '{}' panicked", thread.name().unwrap_or("<unnamed>"))?;
        if let Some(place) = self.info.location() {
            write!(f, " at {place}")?;
        }
        write!(f, ":\n{}\n", self.info.payload_as_str().unwrap_or("its value is no text"))?;
        match self.style {
            Style::None => write!(f, "to see how it came to that, set RUST_BACKTRACE=1"),
            Style::Short => write!(f, "{}", Backtrace::force_capture()),
            Style::Full => write!(f, "{:#}", Backtrace::force_capture()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read, Write};
    use std::os::fd::AsFd;
    use std::process::{Child, Command, ExitStatus, Stdio};
    use std::time::Instant;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Not a test of its own: a process whose thread panics, and that goes on.
    #[test]
    #[ignore = "it changes what panics do in its process; others run it in one of its own"]
    fn panics_and_goes_on() {
        tell();
        let worker = std::thread::Builder::new().name("worker".into()).spawn(|| panic!("number {}", 7));
        worker.unwrap().join().unwrap_err();
    }

    fn panicking(backtrace: &str, stderr: io::PipeWriter) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "panics::tests::panics_and_goes_on", "--nocapture"]);
        command.env("RUST_BACKTRACE", backtrace).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        command.spawn().unwrap()
    }

    /// How the process ends; one that does not is killed.
    fn end(mut child: Child) -> Option<ExitStatus> {
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        None
    }

    #[test]
    fn a_panic_does_not_wait_for_a_reader() {
        let (_reader, mut writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(writer.as_fd(), true).unwrap();
        while writer.write(&[b'x'; 512]).is_ok() {}
        rustix::io::ioctl_fionbio(writer.as_fd(), false).unwrap();
        let status = end(panicking("0", writer)).expect("the process goes on behind the panic");
        assert!(status.success(), "{status}");
    }

    #[test]
    fn a_panic_tells_the_thread_the_place_and_the_message() {
        for (backtrace, how) in [("0", "set RUST_BACKTRACE=1"), ("1", "panics_and_goes_on"), ("full", "0x")] {
            let (mut reader, writer) = io::pipe().unwrap();
            let child = panicking(backtrace, writer);
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert!(end(child).is_some_and(|status| status.success()), "{text}");
            let place = concat!("thread 'worker' panicked at ", file!(), ":");
            assert!(text.contains(place) && text.contains("\nnumber 7\n") && text.contains(how), "{text}");
        }
    }

    #[test]
    fn the_variable_is_read_as_the_standard_library_reads_it() {
        let style = |text: &str| Style::of(Some(OsStr::new(text)));
        assert_eq!([Style::of(None), style("0")], [Style::None; 2]);
        assert_eq!([style("1"), style("yes"), style("full")], [Style::Short, Style::Short, Style::Full]);
    }
}
