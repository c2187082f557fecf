//! The thread of one client: reads requests, has its session answer them, writes replies and
//! events.
//!
//! It waits only in `poll`, so a client that sends half a request, or never reads, costs this
//! thread and bounded memory, and does not affect other clients. Started by the server.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::framing::Framer;
use super::outbox::{HIGH_WATER, Outbox, State};
use super::session::Session;
use super::wire;

/// Bytes in a request at most; the largest sensible one has a few hundred.
pub(crate) const MAX_REQUEST: usize = 64 << 10;
/// How long a client that has closed its side, or is being closed, may go without reading any of
/// the rest.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one client until it leaves, breaks the limits, or the server ends.
pub(crate) fn serve(stream: &UnixStream, mut session: Session, outbox: &Outbox) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut framer = Framer::new(MAX_REQUEST);
    let mut ended = false;
    let mut linger = Linger::default();
    outbox.reply(&wire::greeting());
    loop {
        let all_answered = answer(&mut framer, &mut session, outbox);
        let has_read = outbox.write_to(stream)?;
        let state = outbox.state();
        if state.overflow {
            tracing::warn!("a QMP client does not read its events and was dropped");
            return Ok(());
        }
        if state.unsent == 0 && (state.closing || ended && all_answered) {
            return Ok(());
        }
        if (state.closing || ended) && linger.is_over(Instant::now(), has_read) {
            return Ok(());
        }
        // The socket has taken the bytes that stopped the answers: no other event may come.
        if !all_answered && state.unsent < HIGH_WATER {
            continue;
        }
        if wait(stream, outbox, state, !ended && all_answered, linger.by)? {
            ended = !receive(stream, &mut framer)?;
            if ended {
                framer.end();
            }
        }
    }
}

/// How long a connection that ends waits for its client to read.
#[derive(Debug, Default)]
struct Linger {
    by: Option<Instant>,
}

impl Linger {
    /// Whether the client has read nothing for [`LINGER`]. A command may take longer than that to
    /// be answered, so each byte that the client takes begins the wait anew.
    fn is_over(&mut self, now: Instant, has_read: bool) -> bool {
        let by = self.by.take_if(|_| !has_read).unwrap_or(now + LINGER);
        self.by = Some(by);
        now >= by
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
    // `poll` reports a peer that has closed both directions with any interest; without this the
    // loop would spin.
    if stream.contains(PollFlags::ERR) || stream.contains(PollFlags::HUP) && !stream.contains(PollFlags::IN) {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(stream.contains(PollFlags::IN))
}

/// Reads the bytes that have arrived; false at the end of the stream.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_ends_waits_for_a_client_that_reads() {
        let (mut linger, began) = (Linger::default(), Instant::now());
        let at = |tenths| began + LINGER * tenths / 10;
        for (tenths, has_read, is_over) in
            [(0, true, false), (9, false, false), (10, true, false), (19, false, false), (20, false, true)]
        {
            assert_eq!(linger.is_over(at(tenths), has_read), is_over, "after {tenths} tenths");
        }
    }
}
