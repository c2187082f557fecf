//! The demo's network: a byte relay on loopback that can be cut, by hand or when a chosen message
//! passes.
//!
//! It follows the frames of control links by `ferry_migration::wire`, so "the permit is on its way"
//! is a place in the stream and no race. It forwards everything else unchanged.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use ferry_migration::wire::Message;
use ferry_migration::wire::control::{HEADER_LEN, decode_header};
use ferry_migration::wire::preamble::{LinkRole, PREAMBLE_LEN, Preamble, session};
use ferry_migration::{ToDestination, ToSource};

/// A relay to one destination. It ends, with its threads and connections, when it is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    listener: TcpListener,
    /// The message at which the relay cuts by itself.
    cut_at: Option<&'static str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    streams: Vec<TcpStream>,
}

impl Relay {
    /// A relay to `target` (`tcp:ADDRESS:PORT`) that cuts everything in place of forwarding the
    /// message `cut_at`.
    pub(super) fn new(target: &str, cut_at: Option<&'static str>) -> io::Result<Self> {
        let target = target.strip_prefix("tcp:").and_then(|address| address.parse().ok());
        let target =
            target.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the target is not tcp:ADDRESS:PORT"))?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { target, listener, cut_at, state: Mutex::default() });
        let accepting = thread::Builder::new().name("relay".into()).spawn({
            let shared = shared.clone();
            move || accept_all(&shared)
        })?;
        Ok(Relay { shared, address, accepting: Some(accepting) })
    }

    /// Where to migrate to.
    #[must_use]
    pub(super) fn uri(&self) -> String {
        format!("tcp:{}", self.address)
    }

    /// Closes every connection and takes no other.
    pub(super) fn cut(&self) {
        self.shared.cut();
    }

    /// Whether it has been cut.
    #[must_use]
    pub(super) fn is_cut(&self) -> bool {
        self.shared.lock().is_cut
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        if let Some(thread) = self.accepting.take() {
            // A panic has been printed already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        let mut state = self.lock();
        state.is_cut = true;
        // Wakes the thread that accepts; one that is closed already needs no wake-up.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Records streams so that a cut closes them; false when the cut was first.
    fn note(&self, streams: [TcpStream; 2]) -> bool {
        let mut state = self.lock();
        if !state.is_cut {
            state.streams.extend(streams);
        }
        !state.is_cut
    }
}

fn accept_all(shared: &Arc<Shared>) {
    let mut pumps = Vec::new();
    while let Ok((near, _)) = shared.listener.accept() {
        match connect(shared, near) {
            Ok(threads) => pumps.extend(threads),
            // The source sees its connection close.
            Err(error) => tracing::debug!(%error, "a connection through the relay was not made"),
        }
    }
    for pump in pumps {
        // A panic has been printed already.
        let _ = pump.join();
    }
}

/// Connects `near` with the destination: one thread for each direction.
fn connect(shared: &Arc<Shared>, near: TcpStream) -> io::Result<[JoinHandle<()>; 2]> {
    let far = TcpStream::connect(shared.target)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_out, far_out) = (near.try_clone()?, far.try_clone()?);
    if !shared.note([near.try_clone()?, far.try_clone()?]) {
        return Err(ErrorKind::ConnectionAborted.into());
    }
    // Only the source's preamble names the link; the other direction waits for it.
    let (tell, told) = channel();
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| thread::Builder::new().name(name.into()).spawn(work);
    let (to_far, to_near) = (shared.clone(), shared.clone());
    let forth = spawn(
        "relay-forth",
        Box::new(move || {
            finish(from_source(&to_far, near, &far_out, |session| tell.send(session).is_ok()), &far_out);
        }),
    )?;
    let back =
        spawn("relay-back", Box::new(move || finish(from_destination(&to_near, far, &near_out, &told), &near_out)))?;
    Ok([forth, back])
}

/// Forwards the end of a stream.
fn finish(outcome: io::Result<()>, to: &TcpStream) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection through the relay ended");
    }
    // A stream that is closed already needs no end.
    let _ = to.shutdown(Shutdown::Write);
}

fn from_source(
    shared: &Shared,
    mut from: TcpStream,
    mut to: &TcpStream,
    tell: impl Fn(Option<u32>) -> bool,
) -> io::Result<()> {
    let mut bytes = [0; PREAMBLE_LEN];
    from.read_exact(&mut bytes)?;
    to.write_all(&bytes)?;
    let control = Preamble::decode(&bytes).ok().filter(|preamble| preamble.link == LinkRole::Control);
    let control = control.map(|preamble| session(preamble.migration_id));
    tell(control);
    match control {
        Some(session) => pass_messages::<ToDestination>(shared, from, to, session),
        None => io::copy(&mut from, &mut to).map(drop),
    }
}

fn from_destination(
    shared: &Shared,
    mut from: TcpStream,
    mut to: &TcpStream,
    told: &Receiver<Option<u32>>,
) -> io::Result<()> {
    match told.recv() {
        Ok(Some(session)) => pass_messages::<ToSource>(shared, from, to, session),
        Ok(None) => io::copy(&mut from, &mut to).map(drop),
        // The other direction has ended before the preamble.
        Err(_) => Ok(()),
    }
}

fn pass_messages<M: Message>(shared: &Shared, mut from: TcpStream, mut to: &TcpStream, session: u32) -> io::Result<()> {
    for sequence in 0.. {
        let mut head = [0; HEADER_LEN];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            other => other?,
        }
        let header = decode_header::<M>(&head, session, sequence).map_err(io::Error::other)?;
        if shared.cut_at == Some(header.name) {
            shared.cut();
            break;
        }
        to.write_all(&head)?;
        let rest = (header.body_len + header.attachment_len) as u64;
        io::copy(&mut (&mut from).take(rest), &mut to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ferry_migration::wire::control::encode;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A connection through a relay, from both ends.
    fn connected(cut_at: Option<&'static str>) -> (Relay, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::new(&format!("tcp:{}", listener.local_addr().unwrap()), cut_at).unwrap();
        let source = TcpStream::connect(relay.uri().strip_prefix("tcp:").unwrap()).unwrap();
        let (destination, _) = listener.accept().unwrap();
        for stream in [&source, &destination] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        (relay, source, destination)
    }

    fn passes(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) -> bool {
        let mut got = vec![0; bytes.len()];
        from.write_all(bytes).is_ok() && to.read_exact(&mut got).is_ok() && got == bytes
    }

    #[test]
    fn the_chosen_message_does_not_arrive_and_nothing_after_it() {
        let (relay, mut source, mut destination) = connected(Some("Permit"));
        let preamble = Preamble { migration_id: 7, connection: 0, link: LinkRole::Control }.encode();
        assert!(passes(&mut source, &mut destination, &preamble));
        let rehearse = encode(&ToDestination::Rehearse, &[1; 9], 7, 0).unwrap();
        assert!(passes(&mut source, &mut destination, &[&rehearse[..], &[1; 9]].concat()));
        let ready = encode(&ToSource::Rehearsed, &[], 7, 0).unwrap();
        assert!(passes(&mut destination, &mut source, &ready));
        assert!(!relay.is_cut());
        let permit = encode(&ToDestination::Permit { generation: 1 }, &[], 7, 1).unwrap();
        assert!(!passes(&mut source, &mut destination, &permit));
        assert!(relay.is_cut());
        assert!(TcpStream::connect(relay.address).is_err(), "a relay that was cut takes no connection");
    }

    #[test]
    fn other_links_pass_as_they_are_until_the_cut() {
        let (relay, mut source, mut destination) = connected(None);
        assert!(passes(
            &mut source,
            &mut destination,
            &Preamble { migration_id: 7, connection: 0, link: LinkRole::Urgent }.encode()
        ));
        assert!(passes(&mut source, &mut destination, b"pages"));
        assert!(passes(&mut destination, &mut source, b"requests"));
        relay.cut();
        assert_eq!((source.read(&mut [0]).ok(), destination.read(&mut [0]).ok()), (Some(0), Some(0)));
    }
}
