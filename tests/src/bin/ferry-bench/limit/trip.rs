//! A round trip over loopback TCP: what any handshake between two processes costs at least.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::error::BenchError;

/// Trips that are timed, and before them those that are not: caches and the scheduler settle
/// meanwhile.
const TRIPS: usize = 2000;
const UNTIMED: usize = 200;
/// A connection that stands still for so long is broken.
const STALL: Duration = Duration::from_secs(10);

/// How long single round trips of one byte take, in µs, from one thread to another.
pub(crate) fn round_trips_us() -> Result<Vec<f64>, BenchError> {
    measure().map_err(BenchError::system("make round trips over loopback TCP"))
}

fn measure() -> io::Result<Vec<f64>> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALL))?;
    }
    std::thread::scope(|scope| {
        scope.spawn(move || echo(far));
        let mut times = vec![];
        let mut byte = [0];
        for trip in 0..UNTIMED + TRIPS {
            let began = Instant::now();
            near.write_all(&byte)?;
            near.read_exact(&mut byte)?;
            if trip >= UNTIMED {
                times.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        near.shutdown(std::net::Shutdown::Both)?;
        Ok(times)
    })
}

/// Sends every byte back until the other end is closed, or silent for too long: both are the end.
fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trip_takes_some_time() {
        let times = round_trips_us().unwrap();
        assert_eq!(times.len(), TRIPS);
        assert!(times.iter().all(|us| *us > 0.0));
    }
}
