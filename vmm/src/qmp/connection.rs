//! The thread of one client: reads requests, has its session answer them, writes replies and events.
//!
//! It waits only in `poll`, so a client that sends half a request, or never reads, costs this thread and bounded memory,
//! and nobody else anything. Started by the server.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::framing::Framer;
use super::outbox::{HIGH_WATER, Outbox, State};
use super::session::Session;
use super::wire;

/// Bytes in a request at most; the largest sensible one has a few hundred.
pub const MAX_REQUEST: usize = 64 << 10;
/// How long a client that has closed its side, or is being closed, may take to read the rest.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one client until it leaves, breaks the limits, or the server ends.
pub fn serve(stream: &UnixStream, mut session: Session, outbox: &Outbox) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut framer = Framer::new(MAX_REQUEST);
    let mut ended = false;
    let mut leave_by = None;
    outbox.reply(&wire::greeting());
    loop {
        let all_answered = answer(&mut framer, &mut session, outbox);
        outbox.write_to(stream)?;
        let state = outbox.state();
        if state.overflow {
            tracing::warn!("a QMP client does not read its events and was dropped");
            return Ok(());
        }
        if state.unsent == 0 && (state.closing || ended && all_answered) {
            return Ok(());
        }
        if state.closing || ended {
            let by = *leave_by.get_or_insert_with(|| Instant::now() + LINGER);
            if Instant::now() >= by {
                return Ok(());
            }
        }
        if wait(stream, outbox, state, !ended && all_answered, leave_by)? {
            ended = !receive(stream, &mut framer)?;
        }
    }
}

/// Answers what has arrived; false when the client must read before more is answered.
fn answer(framer: &mut Framer, session: &mut Session, outbox: &Outbox) -> bool {
    while outbox.state().unsent < HIGH_WATER {
        let Some(value) = framer.next_value() else { return true };
        let reply = session.answer(value);
        session.shared.order.await_spread();
        outbox.reply(&reply);
        if session.negotiated() {
            outbox.hear_events();
        }
    }
    false
}

/// Waits until there is something to do; returns whether the stream can be read.
fn wait(stream: &UnixStream, outbox: &Outbox, state: State, read: bool, by: Option<Instant>) -> io::Result<bool> {
    let mut interest = PollFlags::empty();
    interest.set(PollFlags::IN, read);
    interest.set(PollFlags::OUT, state.unsent > 0);
    let wake = outbox.wake_fd();
    let mut fds = [PollFd::new(stream, interest), PollFd::new(&wake, PollFlags::IN)];
    let timeout = by.map(|by| by.saturating_duration_since(Instant::now()));
    let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs() as i64, tv_nsec: i64::from(t.subsec_nanos()) });
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    if fds[1].revents().contains(PollFlags::IN) {
        outbox.woken();
    }
    let stream = fds[0].revents();
    // A peer that is gone altogether is reported whatever the interest; without this the loop would spin.
    if stream.contains(PollFlags::ERR) || stream.contains(PollFlags::HUP) && !stream.contains(PollFlags::IN) {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(stream.contains(PollFlags::IN))
}

/// Takes what has arrived; false at the end of the stream.
fn receive(mut stream: &UnixStream, framer: &mut Framer) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(count) => {
            framer.push(&buffer[..count]);
            Ok(true)
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(true),
        Err(error) => Err(error),
    }
}
