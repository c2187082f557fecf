//! Peers that are no Ferry: what a mistyped address, a stray scanner or a broken host looks like
//! to a migration.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How a false peer answers a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It takes the connection and says nothing.
    Nothing,
    /// It closes the connection at once.
    Close,
    /// It sends these bytes and stays.
    Bytes(&'static [u8]),
}

/// A listener that is no Ferry. Ends with its connections when it is dropped.
#[derive(Debug)]
pub struct FalsePeer {
    address: SocketAddr,
    ending: Arc<AtomicBool>,
    held: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl FalsePeer {
    /// Listens on a free port of loopback.
    ///
    /// # Panics
    /// When loopback gives no port.
    #[must_use]
    pub fn new(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (ending, held) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let thread = std::thread::spawn({
            let (ending, held) = (ending.clone(), held.clone());
            move || {
                for mut stream in listener.incoming().map_while(Result::ok) {
                    if ending.load(SeqCst) {
                        break;
                    }
                    if let Answer::Bytes(bytes) = answer {
                        // A client that has gone needs no answer.
                        let _ = stream.write_all(bytes);
                    }
                    if answer != Answer::Close {
                        held.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
                    }
                }
            }
        });
        FalsePeer { address, ending, held, thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("tcp:{}", self.address)
    }
}

impl Drop for FalsePeer {
    fn drop(&mut self) {
        self.ending.store(true, SeqCst);
        // Wakes the thread that accepts; when that fails it has ended.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            // It has nothing that could fail.
            let _ = thread.join();
        }
        for stream in self.held.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Connects to a destination as a stranger who sends `bytes` and stays; the connection closes when
/// it is dropped.
///
/// # Panics
/// When nobody listens there.
#[must_use]
pub fn stranger(to: &str, bytes: &[u8]) -> TcpStream {
    let address = to.strip_prefix("tcp:").expect("the destination listens on TCP");
    let mut stream = TcpStream::connect(address).expect("the destination listens");
    // It may close the connection as soon as it sees who this is.
    let _ = stream.write_all(bytes);
    stream
}
