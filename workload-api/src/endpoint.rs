//! The address of a Workload API (SPIFFE Workload Endpoint, section 4), and how to reach it.
//!
//! An address is parsed strictly: what the specification does not allow is refused with the reason,
//! because a socket that is guessed is somebody else's socket.

use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The variable that names the endpoint when nothing else does.
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Longest path of a Unix socket on Linux, without the closing zero.
const SOCKET_PATH_MAX: usize = 107;

/// Where a Workload API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket, by absolute path.
    Unix(PathBuf),
    /// A TCP port on an IP address.
    Tcp(SocketAddr),
}

/// Why an address is not one of a Workload API.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointError {
    /// Neither an address nor the variable was given.
    #[error("no Workload API address was given and {ENDPOINT_VARIABLE} is not set")]
    Missing,
    /// The variable holds bytes that are not text.
    #[error("{ENDPOINT_VARIABLE} is not valid UTF-8")]
    NotUnicode,
    /// The scheme is neither `unix` nor `tcp`.
    #[error("the address must start with `unix:` or `tcp:`")]
    Scheme,
    /// `unix` with a host, user or port.
    #[error("a unix address has no host: write unix:///path")]
    UnixAuthority,
    /// `unix` without an absolute path.
    #[error("a unix address is an absolute path: write unix:///path")]
    UnixPath,
    /// The path does not fit into a socket address.
    #[error("the socket path has {0} bytes, more than the {SOCKET_PATH_MAX} that Linux allows")]
    UnixPathTooLong(usize),
    /// A query or fragment.
    #[error("the address has a query or a fragment")]
    Extra,
    /// `tcp` with something other than an IP address and a port.
    #[error("a tcp address is an IP address and a port: write tcp://127.0.0.1:8000")]
    Tcp,
}

impl Endpoint {
    /// The explicit address if there is one, else the value of [`ENDPOINT_VARIABLE`].
    ///
    /// # Errors
    /// When neither is given, or the one that counts is not a valid address.
    pub fn resolve(explicit: Option<&str>) -> Result<Self, EndpointError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the specification names this variable"
        )]
        let variable = std::env::var_os(ENDPOINT_VARIABLE);
        Self::choose(explicit, variable.as_deref())
    }

    fn choose(explicit: Option<&str>, variable: Option<&OsStr>) -> Result<Self, EndpointError> {
        match (explicit, variable) {
            (Some(address), _) => address.parse(),
            (None, Some(value)) => value.to_str().ok_or(EndpointError::NotUnicode)?.parse(),
            (None, None) => Err(EndpointError::Missing),
        }
    }

    fn parse_unix(rest: &str) -> Result<Self, EndpointError> {
        let path = match rest.strip_prefix("//") {
            Some(after) if after.starts_with('/') => after,
            Some("") => return Err(EndpointError::UnixPath),
            Some(_) => return Err(EndpointError::UnixAuthority),
            None => rest,
        };
        if !path.starts_with('/') || path == "/" {
            return Err(EndpointError::UnixPath);
        }
        if path.len() > SOCKET_PATH_MAX {
            return Err(EndpointError::UnixPathTooLong(path.len()));
        }
        Ok(Self::Unix(Path::new(path).to_owned()))
    }

    fn parse_tcp(rest: &str) -> Result<Self, EndpointError> {
        let address = rest.strip_prefix("//").ok_or(EndpointError::Tcp)?;
        let parsed: SocketAddr = address.parse().map_err(|_| EndpointError::Tcp)?;
        if parsed.port() == 0 {
            return Err(EndpointError::Tcp);
        }
        Ok(Self::Tcp(parsed))
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once(':').ok_or(EndpointError::Scheme)?;
        if rest.contains(['?', '#']) {
            return Err(EndpointError::Extra);
        }
        match scheme {
            "unix" => Self::parse_unix(rest),
            "tcp" => Self::parse_tcp(rest),
            _ => Err(EndpointError::Scheme),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str) -> EndpointError {
        address.parse::<Endpoint>().expect_err(address)
    }

    #[test]
    fn wle_11_the_scheme_is_unix_or_tcp() {
        for address in [
            "http://h/p",
            "other:///p",
            "foo",
            "/path",
            "\t",
            "",
            "UNIX:///p",
            ":/p",
        ] {
            assert_eq!(refused(address), EndpointError::Scheme, "{address:?}");
        }
    }

    #[test]
    fn wle_12_a_unix_address_has_no_authority() {
        for address in [
            "unix://foo/bar",
            "unix://john:doe@foo/p",
            "unix://foo",
            "unix://foo:80/p",
        ] {
            assert_eq!(
                refused(address),
                EndpointError::UnixAuthority,
                "{address:?}"
            );
        }
    }

    #[test]
    fn wle_13_a_unix_address_is_an_absolute_path() {
        for address in ["unix:///run/x.sock", "unix:/run/x.sock"] {
            let parsed: Endpoint = address.parse().unwrap();
            assert_eq!(parsed, Endpoint::Unix("/run/x.sock".into()));
            assert_eq!(parsed.to_string().parse::<Endpoint>().unwrap(), parsed);
        }
        for address in ["unix://", "unix:///", "unix:rel/x", "unix:", "unix:x"] {
            assert_eq!(refused(address), EndpointError::UnixPath, "{address:?}");
        }
        for address in [
            "unix:///run/x?q",
            "unix:///run/x#f",
            "unix:///run/x?",
            "unix:///run/x#",
        ] {
            assert_eq!(refused(address), EndpointError::Extra, "{address:?}");
        }
        let fits = format!("unix:///{}", "x".repeat(106));
        assert!(fits.parse::<Endpoint>().is_ok());
        let long = format!("unix:///{}", "x".repeat(107));
        assert_eq!(refused(&long), EndpointError::UnixPathTooLong(108));
    }

    #[test]
    fn wle_14_a_tcp_host_is_an_ip_address() {
        for address in ["tcp://127.0.0.1:8000", "tcp://[::1]:8000"] {
            let parsed: Endpoint = address.parse().unwrap();
            assert_eq!(parsed.to_string(), address);
        }
        for address in ["tcp://localhost:80", "tcp://foo:80", "tcp://:80", "tcp://"] {
            assert_eq!(refused(address), EndpointError::Tcp, "{address:?}");
        }
    }

    #[test]
    fn wle_15_a_tcp_address_has_a_port_and_nothing_else() {
        for address in [
            "tcp://1.2.3.4",
            "tcp://1.2.3.4:",
            "tcp://1.2.3.4:0",
            "tcp://1.2.3.4:65536",
            "tcp://1.2.3.4:80/",
            "tcp://1.2.3.4:80/path",
            "tcp://u:p@1.2.3.4:80",
            "tcp:1.2.3.4:80",
        ] {
            assert_eq!(refused(address), EndpointError::Tcp, "{address:?}");
        }
        for address in ["tcp://1.2.3.4:80?q", "tcp://1.2.3.4:80#f"] {
            assert_eq!(refused(address), EndpointError::Extra, "{address:?}");
        }
    }

    #[test]
    fn wle_10_an_explicit_address_wins_and_is_not_replaced_when_it_is_wrong() {
        let other = OsStr::new("unix:///b");
        let choose = |explicit, variable| Endpoint::choose(explicit, variable);
        let unix = |path: &str| Ok(Endpoint::Unix(path.into()));
        assert_eq!(choose(Some("unix:///a"), Some(other)), unix("/a"));
        for wrong in ["", "nonsense"] {
            assert_eq!(choose(Some(wrong), Some(other)), Err(EndpointError::Scheme));
        }
        assert_eq!(Endpoint::resolve(Some("unix:///a")), unix("/a"));
    }

    #[test]
    fn wle_10_without_an_address_the_variable_counts_and_without_both_nothing_is_guessed() {
        use std::os::unix::ffi::OsStrExt as _;
        let choose = |variable: &[u8]| Endpoint::choose(None, Some(OsStr::from_bytes(variable)));
        assert_eq!(choose(b"unix:///b"), Ok(Endpoint::Unix("/b".into())));
        assert_eq!(choose(b""), Err(EndpointError::Scheme));
        assert_eq!(choose(b"unix:///\xff"), Err(EndpointError::NotUnicode));
        assert_eq!(Endpoint::choose(None, None), Err(EndpointError::Missing));
    }
}
