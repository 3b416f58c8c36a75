//! SPIFFE IDs.
//!
//! Responsible for: [`SpiffeId`], parsing it and building it from its parts.
//! Always holds: the text is `spiffe://` + trust domain + path, at most 2048 bytes, in the only
//! spelling that the specification allows; so equal identities are equal texts, nothing is ever
//! decoded or normalised, and printing gives back exactly what was parsed.
//! Not here: who may have which ID. A general URI parser is not used on purpose: it would
//! resolve dot segments, drop empty ports and percent-encode, each a way to turn one identity
//! into another.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::trust_domain::TrustDomain;

/// The longest SPIFFE ID in bytes. The specification asks for support up to this length
/// (section 2.3); we refuse longer ones everywhere (decision A-5).
pub const SPIFFE_ID_MAX: usize = 2_048;

const SCHEME: &str = "spiffe://";
const SERVER_PATH: &str = "/spire/server";
const AGENT_PREFIX: &str = "/spire/agent";
const RESERVED_ROOT: &str = "/spire";

/// A SPIFFE ID, such as `spiffe://example.org/web`.
///
/// ```
/// use mintmark_identity::spiffe_id::SpiffeId;
///
/// let id = SpiffeId::parse("spiffe://example.org/web")?;
/// assert_eq!(id.trust_domain().as_str(), "example.org");
/// assert_eq!(id.path(), "/web");
/// # Ok::<(), mintmark_identity::spiffe_id::SpiffeIdError>(())
/// ```
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

/// The rule that a text breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// The text does not begin with `spiffe://` in lower case.
    #[error("scheme is missing or is not \"spiffe://\" in lower case")]
    WrongScheme,
    /// Nothing stands between `spiffe://` and the path.
    #[error("trust domain is missing")]
    MissingTrustDomain,
    /// The trust domain has more than 255 bytes.
    #[error("trust domain has {length} bytes; at most 255 are allowed")]
    TrustDomainTooLong {
        /// The length found.
        length: usize,
    },
    /// The trust domain holds upper-case letters.
    #[error("trust domain contains upper-case letters; write it in lower case")]
    TrustDomainUpperCase,
    /// The trust domain holds a character outside `a-z0-9.-_`.
    #[error("trust domain contains {character:?}; only a-z, 0-9, '.', '-' and '_' are allowed")]
    TrustDomainCharacter {
        /// The first such character.
        character: char,
    },
    /// The trust domain is preceded by user information.
    #[error("user information before the trust domain is not allowed")]
    UserInfo,
    /// The trust domain is followed by a port.
    #[error("a port after the trust domain is not allowed")]
    Port,
    /// The text has a query, perhaps an empty one.
    #[error("a query is not allowed")]
    Query,
    /// The text has a fragment, perhaps an empty one.
    #[error("a fragment is not allowed")]
    Fragment,
    /// The text holds a percent sign.
    #[error("percent-encoding is not allowed")]
    PercentEncoded,
    /// A path that was given on its own does not begin with a slash.
    #[error("path does not begin with a slash")]
    PathWithoutSlash,
    /// Two slashes follow each other, or an empty segment was given.
    #[error("path contains an empty segment")]
    EmptySegment,
    /// A segment is `.` or `..`.
    #[error("path contains a \".\" or \"..\" segment")]
    DotSegment,
    /// The path ends with a slash.
    #[error("path ends with a slash")]
    TrailingSlash,
    /// A segment holds a character outside `A-Za-z0-9.-_`.
    #[error("path contains {character:?}; only A-Z, a-z, 0-9, '.', '-' and '_' are allowed")]
    PathCharacter {
        /// The first such character.
        character: char,
    },
    /// The ID has more than 2048 bytes.
    #[error("SPIFFE ID has {length} bytes; at most 2048 are allowed")]
    TooLong {
        /// The length found.
        length: usize,
    },
}

impl SpiffeId {
    /// Parses the text of a SPIFFE ID.
    ///
    /// # Errors
    /// The rule that the text breaks. Nothing is folded or normalised to make it fit.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or(SpiffeIdError::WrongScheme)?;
        if text.len() > SPIFFE_ID_MAX {
            return Err(SpiffeIdError::TooLong { length: text.len() });
        }
        // On the raw text: neither character is allowed anywhere, not even before nothing.
        if rest.contains('#') {
            return Err(SpiffeIdError::Fragment);
        }
        if rest.contains('?') {
            return Err(SpiffeIdError::Query);
        }
        let path_at = rest.find('/').unwrap_or(rest.len());
        let (name, path) = rest.split_at(path_at);
        let trust_domain = TrustDomain::parse(name)?;
        check_path(path)?;
        Ok(Self {
            text: Arc::from(text),
            trust_domain,
        })
    }

    /// Builds the ID with `path` in `trust_domain`; an empty path gives the ID of the trust
    /// domain itself.
    ///
    /// # Errors
    /// The rule that the path breaks, or [`SpiffeIdError::TooLong`].
    pub fn from_path(trust_domain: &TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        check_path(path)?;
        let text = format!("{SCHEME}{trust_domain}{path}");
        if text.len() > SPIFFE_ID_MAX {
            return Err(SpiffeIdError::TooLong { length: text.len() });
        }
        Ok(Self {
            text: Arc::from(text),
            trust_domain: trust_domain.clone(),
        })
    }

    /// Builds the ID whose path has these segments; none gives the ID of the trust domain.
    ///
    /// # Errors
    /// The rule that a segment breaks (a segment cannot hold a slash), or
    /// [`SpiffeIdError::TooLong`].
    pub fn from_segments(
        trust_domain: &TrustDomain,
        segments: &[&str],
    ) -> Result<Self, SpiffeIdError> {
        let mut path = String::new();
        for segment in segments {
            check_segment(segment)?;
            path.push('/');
            path.push_str(segment);
        }
        Self::from_path(trust_domain, &path)
    }

    /// The identity that every server of a trust domain presents to its agents.
    #[must_use]
    pub fn server_id(trust_domain: &TrustDomain) -> Self {
        Self::with_known_path(trust_domain, SERVER_PATH)
    }

    /// The identity of an attested node: `/spire/agent/<method>/<tail>`.
    ///
    /// # Errors
    /// The rule that `method` (one segment) or `tail` (one segment or more) breaks.
    pub fn agent_id(
        trust_domain: &TrustDomain,
        method: &str,
        tail: &str,
    ) -> Result<Self, SpiffeIdError> {
        check_segment(method)?;
        Self::from_path(trust_domain, &format!("{AGENT_PREFIX}/{method}/{tail}"))
    }

    pub(crate) fn of_trust_domain(trust_domain: &TrustDomain) -> Self {
        Self::with_known_path(trust_domain, "")
    }

    /// For paths written in this file: a trust domain of 255 bytes leaves room for them.
    fn with_known_path(trust_domain: &TrustDomain, path: &'static str) -> Self {
        let text = format!("{SCHEME}{trust_domain}{path}");
        Self {
            text: Arc::from(text),
            trust_domain: trust_domain.clone(),
        }
    }

    /// The whole ID.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain that the ID belongs to.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash, or the empty string.
    #[must_use]
    pub fn path(&self) -> &str {
        let path_at = SCHEME
            .len()
            .saturating_add(self.trust_domain.as_str().len());
        self.text.get(path_at..).unwrap_or_default()
    }

    /// Whether there is a path, as an SVID of a workload must have.
    #[must_use]
    pub fn has_path(&self) -> bool {
        !self.path().is_empty()
    }

    /// Whether the ID belongs to `trust_domain`.
    #[must_use]
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain == *trust_domain
    }

    /// Whether the path is set aside for servers and agents: `/spire` and all below it.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.path()
            .strip_prefix(RESERVED_ROOT)
            .is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }

    /// Whether this is the ID of an attested node, `/spire/agent/…`.
    #[must_use]
    pub fn is_agent(&self) -> bool {
        self.path()
            .strip_prefix(AGENT_PREFIX)
            .is_some_and(|below| below.starts_with('/'))
    }

    /// Whether this is the servers' ID of its trust domain.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.path() == SERVER_PATH
    }
}

/// Applies the rules of SPIFFE-ID section 2.2 to a path that is empty or begins with a slash.
fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    let segments = path
        .strip_prefix('/')
        .ok_or(SpiffeIdError::PathWithoutSlash)?;
    let mut rest = segments.split('/').peekable();
    while let Some(segment) = rest.next() {
        if segment.is_empty() && rest.peek().is_none() {
            return Err(SpiffeIdError::TrailingSlash);
        }
        check_segment(segment)?;
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    if segment.is_empty() {
        return Err(SpiffeIdError::EmptySegment);
    }
    if segment == "." || segment == ".." {
        return Err(SpiffeIdError::DotSegment);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match segment.chars().find(|&c| !allowed(c)) {
        None => Ok(()),
        Some('%') => Err(SpiffeIdError::PercentEncoded),
        Some(character) => Err(SpiffeIdError::PathCharacter { character }),
    }
}

// Equality, order and hash are those of the text: it determines the trust domain, and `Borrow`
// demands that they agree with `str`.
impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({self})")
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl From<&TrustDomain> for SpiffeId {
    fn from(trust_domain: &TrustDomain) -> Self {
        trust_domain.id()
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
