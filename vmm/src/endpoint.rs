//! Where a migration or a QMP socket is: `tcp:HOST:PORT` or `unix:PATH`, as on the command line and in QMP.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

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
            // struct sockaddr_un holds 108 bytes with the closing zero (unix(7)).
            return match path.len() {
                0 => Err(error("the path is empty")),
                1..=107 => Ok(Endpoint::Unix(PathBuf::from(path))),
                _ => Err(error("the path is longer than the 107 bytes that a socket address holds")),
            };
        }
        let rest = text.strip_prefix("tcp:").ok_or_else(|| error("it begins with neither tcp: nor unix:"))?;
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| error("the port is missing"))?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(error("the host is empty"));
        }
        let port = port.parse().map_err(|_| error("the port is no number from 0 to 65535"))?;
        Ok(Endpoint::Tcp { host: host.to_owned(), port })
    }
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
        for text in ["tcp:127.0.0.1:4444", "tcp:[::1]:0", "tcp:host.example:1", "unix:/tmp/x"] {
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
            ("unix:", "path is empty"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(format!("unix:/{}", "x".repeat(107)).parse::<Endpoint>().is_err());
    }
}
