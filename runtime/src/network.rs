//! The network seam: addresses, byte streams, listeners.
//!
//! Responsible for the words in which the rest of the system speaks of connections. Always
//! holds: every connection of every daemon is opened or accepted through a [`Network`], so that
//! a simulator can replace it whole. Not here: TLS ([`crate::tls`]) and HTTP ([`crate::grpc`],
//! [`crate::http`]), which run on top of a [`BoxStream`].

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::unix;

mod os;

pub use self::os::OsNetwork;

/// A bidirectional byte stream: a TCP or Unix connection, or a simulated one.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// An owned [`Stream`] of any kind.
pub type BoxStream = Box<dyn Stream>;

/// Who is at the other end of an accepted connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A network peer; the address proves nothing about identity.
    Tcp(SocketAddr),
    /// A local process, as the kernel knows it.
    Unix(unix::Peer),
}

impl Peer {
    /// The local process, when the connection came over a Unix socket.
    #[must_use]
    pub fn unix(&self) -> Option<&unix::Peer> {
        match self {
            Self::Unix(peer) => Some(peer),
            Self::Tcp(_) => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(peer) => write!(f, "{peer}"),
        }
    }
}

/// Opens and accepts connections.
#[async_trait]
pub trait Network: Send + Sync + fmt::Debug {
    /// Opens a TCP connection. Names are resolved; every resolved address is tried in turn.
    ///
    /// # Errors
    /// The last address's error, or `NotFound`-like resolver errors. There is no time-out here:
    /// the caller bounds the wait.
    async fn connect(&self, address: &Address) -> io::Result<BoxStream>;

    /// Listens on a TCP address. Port 0 picks a free port; see [`Listener::local_address`].
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, with the address in the message.
    async fn listen(&self, address: &Address) -> io::Result<Box<dyn Listener>>;

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// `NotFound`, `ConnectionRefused` (nobody listens), `PermissionDenied`.
    async fn connect_unix(&self, path: &Path) -> io::Result<BoxStream>;

    /// Listens on a Unix socket. A stale socket (nobody answers on it) is replaced; anything
    /// else at the path is refused and left alone. The socket is removed when the listener is
    /// dropped, if it is still ours.
    ///
    /// # Errors
    /// See [`unix::BindError`], which is the source of the error returned.
    async fn listen_unix(&self, path: &Path, mode: UnixMode) -> io::Result<Box<dyn Listener>>;
}

/// Accepts connections one by one. Dropping it stops listening.
#[async_trait]
pub trait Listener: Send {
    /// The next connection. Cancel safe: a cancelled call loses no connection.
    ///
    /// # Errors
    /// A passing condition such as too many open files: the caller waits and tries again.
    async fn accept(&mut self) -> io::Result<(BoxStream, Peer)>;

    /// The address that peers may connect to (`127.0.0.1:4431`, or the socket's path).
    fn local_address(&self) -> String;
}

/// Access rights of a Unix socket and of the folder it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixMode {
    /// Mode of the socket itself; connecting needs write permission on it.
    pub socket: u32,
    /// Mode of parent folders that do not exist yet. Existing folders are left as they are.
    pub directory: u32,
}

impl UnixMode {
    /// Every local user may connect: the Workload API.
    pub const PUBLIC: Self = Self {
        socket: 0o777,
        directory: 0o755,
    };
    /// Only our own user (and root) may connect: administration.
    pub const PRIVATE: Self = Self {
        socket: 0o600,
        directory: 0o700,
    };
}

/// A TCP address as text, `host:port`, where host is a name, an IPv4 address, or an IPv6
/// address in brackets. Always parsed: a value of this type has a host and a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    host: String,
    port: u16,
}

/// Longest host name, RFC 1035 section 2.3.4.
const HOST_LEN_MAX: usize = 253;

impl Address {
    /// Reads `host:port`.
    ///
    /// # Errors
    /// When host or port is missing or malformed; the message says which.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::PortMissing)?;
        let port = parse_port(port)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or(AddressError::Host)?;
                match inner.parse::<IpAddr>() {
                    Ok(IpAddr::V6(_)) => inner,
                    _ => return Err(AddressError::Host),
                }
            }
            None => host,
        };
        Self::new(host, port)
    }

    /// From a host (name or IP address, without brackets) and a port.
    ///
    /// # Errors
    /// [`AddressError::Host`] for a host that is neither an IP address nor a host name.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let is_address = host.parse::<IpAddr>().is_ok();
        let is_name = !host.is_empty()
            && host.len() <= HOST_LEN_MAX
            && !host.starts_with(['-', '.'])
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
        if is_address || is_name {
            Ok(Self {
                host: host.to_owned(),
                port,
            })
        } else {
            Err(AddressError::Host)
        }
    }

    /// The name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 means "any free one" when listening.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// True when only this machine can reach it: a loopback address or `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    if text.is_empty() {
        return Err(AddressError::PortMissing);
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AddressError::Port);
    }
    text.parse().map_err(|_| AddressError::Port)
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Why a text is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No `:port` at the end.
    #[error("an address needs a port: host:port")]
    PortMissing,
    /// The port is not a number from 0 to 65535.
    #[error("the port of an address is a number from 0 to 65535")]
    Port,
    /// The host is neither a name, an IPv4 address nor an IPv6 address in brackets.
    #[error(
        "the host of an address is a name, an IPv4 address or an IPv6 address in square brackets"
    )]
    Host,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for text in [
            "127.0.0.1:0",
            "localhost:8081",
            "[::1]:443",
            "ca-1.example_x.org:65535",
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        let address = Address::parse("[::1]:443").unwrap();
        assert_eq!((address.host(), address.port()), ("::1", 443));
    }

    #[test]
    fn malformed_addresses_say_what_is_wrong() {
        for (text, error) in [
            ("", AddressError::PortMissing),
            ("localhost", AddressError::PortMissing),
            ("localhost:", AddressError::PortMissing),
            ("localhost:+1", AddressError::Port),
            ("localhost:65536", AddressError::Port),
            ("localhost:http", AddressError::Port),
            (":1", AddressError::Host),
            ("[::1:1", AddressError::Host),
            ("[127.0.0.1]:1", AddressError::Host),
            ("[]:1", AddressError::Host),
            ("https://a:1", AddressError::Host),
            ("a b:1", AddressError::Host),
            ("-a:1", AddressError::Host),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text}");
        }
        assert_eq!(
            Address::new(&"a".repeat(254), 1),
            Err(AddressError::Host),
            "longer than any DNS name"
        );
    }

    #[test]
    fn loopback_is_recognised() {
        assert!(Address::parse("127.8.8.8:1").unwrap().is_loopback());
        assert!(Address::parse("[::1]:1").unwrap().is_loopback());
        assert!(Address::parse("localhost:1").unwrap().is_loopback());
        assert!(!Address::parse("0.0.0.0:1").unwrap().is_loopback());
        assert!(!Address::parse("localhost.evil:1").unwrap().is_loopback());
    }

    proptest::proptest! {
        #[test]
        fn any_text_parses_or_fails_cleanly(text in ".{0,40}") {
            if let Ok(address) = Address::parse(&text) {
                proptest::prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }
    }
}
