//! The address of a migration or a QMP socket: `tcp:HOST:PORT` or `unix:PATH`, as on the command
//! line and in QMP.

use std::ffi::CStr;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::unix_socket;

/// An address to connect to or to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A TCP host and port; port 0 listens on any free one.
    Tcp {
        /// Name or address; IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// The text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an address: {why}; write tcp:HOST:PORT or unix:PATH")]
pub struct EndpointError {
    text: String,
    why: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |why| EndpointError { text: text.to_owned(), why };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return unix_socket::objection(&path).map_or(Ok(Endpoint::Unix(path)), |why| Err(error(why)));
        }
        let rest = text.strip_prefix("tcp:").ok_or_else(|| error("it begins with neither tcp: nor unix:"))?;
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| error("the port is missing"))?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(error("the host is empty"));
        }
        // Digits only: the standard library also takes a sign.
        let digits = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        let port = digits.and_then(|port| port.parse().ok());
        let port = port.ok_or_else(|| error("the port is no number from 0 to 65535"))?;
        Ok(Endpoint::Tcp { host: host.to_owned(), port })
    }
}

impl From<SocketAddr> for Endpoint {
    /// A link-local address keeps its scope, without which it names no host.
    fn from(address: SocketAddr) -> Self {
        let host = match address {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("{}%{}", v6.ip(), interface(v6.scope_id())),
            _ => IpAddr::to_string(&address.ip()),
        };
        Endpoint::Tcp { host, port: address.port() }
    }
}

/// The name of a network interface, or its number when it has gone.
fn interface(index: u32) -> String {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the call asks for.
    if unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null() {
        return index.to_string();
    }
    // SAFETY: the call has written a string with its closing zero into the buffer.
    unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for text in ["tcp:127.0.0.1:4444", "tcp:[::1]:0", "tcp:[fe80::1%lo]:5", "tcp:host.example:1", "unix:/tmp/x"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, why) in [
            ("", "neither"),
            ("tcp:host", "port is missing"),
            ("tcp::1", "host is empty"),
            ("tcp:host:65536", "0 to 65535"),
            ("tcp:host:+1", "0 to 65535"),
            ("tcp:host:", "0 to 65535"),
            ("unix:", "path is empty"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(format!("unix:/{}", "x".repeat(107)).parse::<Endpoint>().is_err());
        assert!(format!("unix:/{}/x", "x".repeat(107)).parse::<Endpoint>().is_ok());
    }

    #[test]
    fn a_link_local_address_keeps_its_scope() {
        let address = |scope| SocketAddr::from(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 5, 0, scope));
        // The loopback interface is the first of every network namespace.
        assert_eq!(Endpoint::from(address(1)).to_string(), "tcp:[fe80::1%lo]:5");
        assert_eq!(Endpoint::from(address(0)).to_string(), "tcp:[fe80::1]:5");
        assert_eq!(Endpoint::from(address(u32::MAX)).to_string(), "tcp:[fe80::1%4294967295]:5");
    }
}
