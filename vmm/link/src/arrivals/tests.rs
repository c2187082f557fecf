//! The address of a destination, with connections that introduce themselves late or never.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use ferry_devices::fault::Direction;

use crate::listener::Bound;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

struct Fixture {
    listening: Listening,
    thread: Option<JoinHandle<()>>,
    events: Receiver<News>,
    address: SocketAddr,
    /// The listening socket, as the thread has it.
    socket: Option<OwnedFd>,
}

fn fixture(most: usize) -> Fixture {
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
    let Bound::Tcp(address) = *listener.bound() else { panic!("{listener:?}") };
    let socket = listener.as_fd().try_clone_to_owned().ok();
    let (listening, stop) = Listening::new().unwrap();
    let (sender, events) = channel();
    let faults = Arc::new(FaultControl::new(Direction::Incoming));
    let thread = Some(
        Acceptor::new(listener, stop, Box::new(move |news| sender.send(news).unwrap()), faults, most).start().unwrap(),
    );
    Fixture { listening, thread, events, address, socket }
}

impl Fixture {
    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    fn introduced(&self, link: u8) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(&preamble(link)).unwrap();
        stream
    }

    /// Which bulk link has arrived.
    fn arrival(&self) -> (u8, Arrival) {
        match self.events.recv_timeout(PATIENCE).unwrap() {
            News::Arrived(arrival) => match arrival.preamble.link {
                LinkRole::Bulk(number) => (number, arrival),
                link => panic!("{link:?}"),
            },
            event => panic!("{event:?}"),
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.listening.end();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn preamble(link: u8) -> [u8; PREAMBLE_LEN] {
    Preamble { migration_id: 7, connection: 0, link: LinkRole::Bulk(link) }.encode()
}

fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
        Ok(_) => panic!("nothing is sent to a pending connection"),
    }
}

#[test]
fn links_that_come_in_one_burst_all_arrive() {
    let fixture = fixture(ROOM);
    let mut links: Vec<_> = (0..34).map(|_| fixture.connect()).collect();
    for (number, link) in links.iter_mut().enumerate() {
        link.write_all(&preamble(number as u8)).unwrap();
    }
    let mut arrived: Vec<_> = links.iter().map(|_| fixture.arrival().0).collect();
    arrived.sort_unstable();
    assert_eq!(arrived, (0..34).collect::<Vec<_>>());
}

#[test]
fn connections_without_end_keep_no_link_out_and_none_is_closed_for_another() {
    let fixture = fixture(8);
    let crowd: Vec<_> = (0..40).map(|_| fixture.connect()).collect();
    let _link = fixture.introduced(3);
    // It waits in the queue, behind connections that leave one by one.
    assert_eq!(fixture.arrival().0, 3);
    for mut connection in crowd {
        assert!(is_closed(&mut connection, PATIENCE));
    }
}

#[test]
fn a_link_that_takes_its_time_is_not_closed_for_the_ones_behind_it() {
    let fixture = fixture(2);
    let mut slow = fixture.connect();
    slow.write_all(&preamble(0)[..7]).unwrap();
    let _crowd: Vec<_> = (0..20).map(|_| fixture.connect()).collect();
    slow.write_all(&preamble(0)[7..]).unwrap();
    assert_eq!(fixture.arrival().0, 0);
}

#[test]
fn a_preamble_in_drops_has_one_deadline() {
    let fixture = fixture(ROOM);
    let mut dripping = fixture.connect();
    let closed = preamble(0)[..PREAMBLE_LEN - 1]
        .iter()
        .any(|byte| dripping.write_all(&[*byte]).is_err() || is_closed(&mut dripping, Duration::from_millis(500)));
    assert!(closed, "one byte at a time keeps a place for ever");
}

#[test]
fn a_place_is_free_when_the_driver_has_the_link() {
    let fixture = fixture(4);
    let _links: Vec<_> = (0..9).map(|link| fixture.introduced(link)).collect();
    let mut held: Vec<_> = (0..4).map(|_| fixture.arrival()).collect();
    assert!(fixture.events.recv_timeout(Duration::from_millis(100)).is_err(), "more than there is room for");
    for _ in 0..5 {
        held.pop();
        held.insert(0, fixture.arrival());
    }
}

#[test]
fn another_version_is_answered_and_what_is_no_preamble_is_closed() {
    let fixture = fixture(ROOM);
    let mut other = fixture.connect();
    let mut bytes = preamble(0);
    bytes[8] ^= 0xff;
    other.write_all(&bytes).unwrap();
    other.write_all(b"a word that comes with it").unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    other.read_to_end(&mut answer).unwrap();
    assert!(Preamble::decode(answer.as_slice().try_into().unwrap()).is_ok());
    let mut web = fixture.connect();
    web.write_all(&[b'G'; PREAMBLE_LEN]).unwrap();
    assert!(is_closed(&mut web, PATIENCE));
    assert!(fixture.events.try_recv().is_err());
}

#[test]
fn an_address_that_has_failed_is_free_when_that_is_told() {
    let mut fixture = fixture(ROOM);
    assert!(fixture.listening.is_live());
    // As a socket that the system takes away.
    rustix::net::shutdown(fixture.socket.take().unwrap(), rustix::net::Shutdown::Both).unwrap();
    assert!(matches!(fixture.events.recv_timeout(PATIENCE), Ok(News::Failed(_))));
    assert!(!fixture.listening.is_live());
    let at = fixture.address;
    Listener::bind(&crate::endpoint::Endpoint::from(at)).unwrap();
}
