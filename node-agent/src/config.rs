//! The agent's configuration as it is written.
//!
//! Responsible for: the keys of the file and their types. Always holds: an unknown key is an
//! error; nothing is checked here beyond its type. Not here: what the values must fulfil
//! together (`checked`).

use std::path::{Path, PathBuf};

use mintmark_runtime::{
    config::{ConfigError, DurationText},
    disk::Disk,
    telemetry::LogFormat,
};
use serde::Deserialize;

pub mod checked;

pub use self::checked::{CacheKey, Config, ConfigFaults, Evidence, Fault, Limits};

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read as one.
    #[error("{}: the configuration cannot be read", crate::code::CONFIG_INVALID)]
    File(#[from] ConfigError),
    /// Its values cannot be run.
    #[error(transparent)]
    Faults(#[from] ConfigFaults),
}

/// Reads and checks a configuration file (TOML, or YAML by its extension).
///
/// # Errors
/// See [`LoadError`].
pub fn load(disk: &dyn Disk, path: &Path) -> Result<Config, LoadError> {
    let raw: RawConfig = mintmark_runtime::config::load(disk, path)?;
    Ok(Config::check(raw, runtime_dir().as_deref())?)
}

/// The user's own tmpfs, if there is one.
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is read by config"
)]
#[must_use]
pub fn runtime_dir() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
}

/// The configuration file of an agent.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Name of the trust domain.
    pub trust_domain: Option<String>,
    /// `host:port` of the servers' API.
    pub server_addresses: Vec<String>,
    /// For everything that is kept, but keys.
    pub data_dir: Option<PathBuf>,
    /// For the agent's own key; not inside `data_dir`.
    pub keys_dir: Option<PathBuf>,
    /// For the key of the sealed cache: on tmpfs by default, `"off"` for no cache on disk.
    pub cache_key_dir: Option<PathBuf>,
    /// The Workload API's socket.
    pub socket_path: Option<PathBuf>,
    /// The private socket.
    pub admin_socket_path: Option<PathBuf>,
    /// A join token. Prefer `join_token_file`.
    pub join_token: Option<String>,
    /// A file with a join token.
    pub join_token_file: Option<PathBuf>,
    /// The trust bundle to begin with: a SPIFFE bundle document or PEM.
    pub trust_bundle_path: Option<PathBuf>,
    /// The pin of the trust-domain key, in hex, as join lines have it.
    pub trust_domain_key: Option<String>,
    /// Where `/live`, `/ready` and `/metrics` are served; nowhere when unset.
    pub probes_address: Option<String>,
    /// Over how long pushes that carry no new SVID are spread.
    pub push_splay: Option<DurationText>,
    /// How long requests may still run when the agent stops.
    pub drain_grace: Option<DurationText>,
    /// Claims of foreign tokens that `ValidateJWTSVID` passes on.
    pub allowed_foreign_jwt_claims: Vec<String>,
    /// Bounds.
    pub limits: RawLimits,
    /// Workload attestation.
    pub workload: RawWorkload,
    /// Secret discovery.
    pub sds: RawSds,
    /// Logging.
    pub log: RawLog,
}

impl std::fmt::Debug for RawConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawConfig")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// Bounds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// Open streams of one user.
    pub streams_per_uid: Option<usize>,
    /// Connections to the public socket.
    pub connections: Option<usize>,
    /// Connections of one user.
    pub connections_per_uid: Option<usize>,
    /// X.509-SVIDs that are held although no stream uses them.
    pub x509_svids: Option<usize>,
    /// JWT-SVIDs that are held.
    pub jwt_svids: Option<usize>,
}

/// Workload attestation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawWorkload {
    /// Whether to find path and hash of executables.
    pub discover_path: Option<bool>,
    /// Executables with more bytes are not hashed.
    pub hash_size_max: Option<u64>,
}

/// Secret discovery.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSds {
    /// Name of the first identity.
    pub default_svid_name: Option<String>,
    /// Name of the own trust domain's bundle.
    pub default_bundle_name: Option<String>,
    /// Name of all bundles together.
    pub default_all_bundles_name: Option<String>,
    /// Never use Envoy's SPIFFE validator.
    pub disable_spiffe_cert_validation: Option<bool>,
}

/// Logging.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// `text` or `json`.
    pub format: Option<LogFormat>,
    /// `info`, or `info,node_agent=debug`.
    pub filter: Option<String>,
}
