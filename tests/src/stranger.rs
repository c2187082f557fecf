//! What a stranger does to a port where a destination listens: a scanner, a browser, a source that
//! has mistyped an address. The fault matrix lets each come at each moment ([`STRANGERS`]); none
//! may disturb a migration that is awaited or goes on.
//!
//! Each returns the connections that it holds; they close when they are dropped.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ferry_migration::wire::preamble::{LinkRole, Preamble};

use crate::peer::stranger;

/// What comes to an address (`tcp:ADDRESS:PORT`), and the connections that it leaves open.
pub type Stranger = fn(&str) -> Vec<TcpStream>;

/// Every stranger that may come at any moment.
pub const STRANGERS: &[(&str, Stranger)] = &[
    ("is silent", is_silent),
    ("closes at once", closes),
    ("speaks HTTP", speaks_http),
    ("opens links of another migration", opens_links_of_another_migration),
    ("opens 200 connections", opens_many),
];

/// Connections that [`opens_many`] opens.
const MANY: usize = 200;
/// Longest that each of them may take: a process that is frozen lets in as many as its backlog
/// holds.
const PATIENCE: Duration = Duration::from_secs(2);

/// The id of a migration that nobody else makes.
const ANOTHER: u128 = 7;

/// Whether a stranger would be let in at an address (`tcp:ADDRESS:PORT`).
#[must_use]
pub fn somebody_listens(at: &str) -> bool {
    let address: Option<SocketAddr> = at.strip_prefix("tcp:").and_then(|at| at.parse().ok());
    address.is_some_and(|address| TcpStream::connect_timeout(&address, PATIENCE).is_ok())
}

/// Connects and says nothing.
///
/// # Panics
/// When nobody listens there, as all of these.
#[must_use]
pub fn is_silent(to: &str) -> Vec<TcpStream> {
    vec![stranger(to, b"")]
}

/// Connects and closes the connection.
#[must_use]
pub fn closes(to: &str) -> Vec<TcpStream> {
    drop(stranger(to, b""));
    vec![]
}

/// Asks for a page of another kind.
#[must_use]
pub fn speaks_http(to: &str) -> Vec<TcpStream> {
    vec![stranger(to, b"GET / HTTP/1.1\r\nHost: guest\r\nAccept: everything\r\n\r\n")]
}

/// Opens a bulk and an urgent link with valid preambles, of a migration that has no control link
/// there.
#[must_use]
pub fn opens_links_of_another_migration(to: &str) -> Vec<TcpStream> {
    [LinkRole::Bulk(0), LinkRole::Urgent].map(|link| introduced(to, link)).into()
}

/// Opens a control link with a valid preamble and says no more. A destination that awaits a source
/// takes it for one; only one that has a source refuses it, so it is none of [`STRANGERS`].
#[must_use]
pub fn opens_another_migration(to: &str) -> Vec<TcpStream> {
    vec![introduced(to, LinkRole::Control)]
}

/// Opens many silent connections, as many as are let in.
#[must_use]
pub fn opens_many(to: &str) -> Vec<TcpStream> {
    let address: SocketAddr = to.strip_prefix("tcp:").and_then(|to| to.parse().ok()).expect("it listens on TCP");
    let opened = (0..MANY).map_while(|_| TcpStream::connect_timeout(&address, PATIENCE).ok());
    let opened: Vec<_> = opened.collect();
    assert!(!opened.is_empty(), "nobody listens on {to}");
    opened
}

fn introduced(to: &str, link: LinkRole) -> TcpStream {
    stranger(to, &Preamble { migration_id: ANOTHER, connection: 0, link }.encode())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::TcpListener;

    use ferry_migration::wire::preamble::PREAMBLE_LEN;

    use super::*;
    use crate::SOON;

    /// What one of them says on each of its connections, and how many of these have ended.
    fn heard(stranger: Stranger, connections: usize) -> (Vec<Vec<u8>>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = format!("tcp:{}", listener.local_addr().unwrap());
        let accepting = std::thread::spawn(move || (0..connections).map(|_| listener.accept().unwrap().0).collect());
        let held = stranger(&to);
        let accepted: Vec<TcpStream> = accepting.join().unwrap();
        let (mut said, mut ended) = (vec![], 0);
        for mut stream in accepted {
            let mut bytes = [0; 100];
            // What was said is there before the stranger returns.
            stream.set_nonblocking(true).unwrap();
            match stream.read(&mut bytes) {
                Ok(0) => ended += 1,
                Ok(len) => said.push(bytes[..len].to_vec()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        assert_eq!(held.len(), connections - ended);
        (said, ended)
    }

    #[test]
    fn each_does_what_it_says() {
        assert_eq!(heard(is_silent, 1), (vec![], 0));
        assert_eq!(heard(closes, 1), (vec![], 1));
        assert!(heard(speaks_http, 1).0[0].starts_with(b"GET / HTTP/1.1\r\n"));
        assert_eq!(heard(opens_many, MANY), (vec![], 0));
    }

    #[test]
    fn links_of_another_migration_are_valid() {
        let links = |stranger, connections| {
            let said = heard(stranger, connections).0;
            let preambles = said.iter().map(|said| <[u8; PREAMBLE_LEN]>::try_from(&said[..]).unwrap());
            preambles.map(|said| Preamble::decode(&said).unwrap().link).collect::<Vec<_>>()
        };
        assert_eq!(links(opens_links_of_another_migration, 2), [LinkRole::Bulk(0), LinkRole::Urgent]);
        assert_eq!(links(opens_another_migration, 1), [LinkRole::Control]);
    }

    #[test]
    fn a_full_backlog_is_no_reason_to_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let begun = std::time::Instant::now();
        let held = opens_many(&format!("tcp:{}", listener.local_addr().unwrap()));
        assert!(held.len() < MANY && begun.elapsed() < SOON);
    }
}
