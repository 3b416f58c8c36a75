//! The server's configuration as it is written: TOML or YAML, unknown keys refused.
//!
//! Always: nothing here is trusted or completed; [`RawConfig::check`] (in `checked`) turns it into a
//! [`Config`] or into the list of everything that is wrong with it.
//!
//! Not here: the meaning of a value.

pub mod checked;

use std::path::{Path, PathBuf};

use mintmark_runtime::disk::Disk;
use serde::Deserialize;
use thiserror::Error;

use self::checked::Environment;

pub use self::checked::{Config, ConfigErrors, Join, Listen, SinkFile};

/// Why a configuration file cannot be used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It cannot be read, or has an unknown key.
    #[error(transparent)]
    File(#[from] mintmark_runtime::config::ConfigError),
    /// Its values cannot be used.
    #[error(transparent)]
    Values(#[from] ConfigErrors),
}

/// Reads and checks a configuration file.
///
/// # Errors
/// [`LoadError`], with every fault that there is.
pub fn load(
    disk: &dyn Disk,
    path: &Path,
    environment: Environment<'_>,
) -> Result<Config, LoadError> {
    let raw: RawConfig = mintmark_runtime::config::load(disk, path)?;
    Ok(raw.check(environment)?)
}

/// The file, field by field.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Name of the trust domain, such as `example.org`.
    pub trust_domain: String,
    /// Where replicated state lives.
    pub data_dir: PathBuf,
    /// Where the server's own keys live; default: `keys` beside `data_dir`.
    pub keys_dir: Option<PathBuf>,
    /// What operators call this server; default: `server`.
    pub name: Option<String>,
    /// Addresses and sockets.
    pub listen: RawListen,
    /// Where the key-encryption key comes from; default: a file in `keys_dir`.
    pub kek: RawKek,
    /// Lifetimes of a new cluster.
    pub ttl: RawTtl,
    /// Other settings of a new cluster.
    pub settings: RawSettings,
    /// How to join a cluster instead of making one.
    pub join: Option<RawJoin>,
    /// Where the audit log is copied to.
    pub audit: RawAudit,
    /// Consensus.
    pub raft: RawRaft,
    /// Logging.
    pub log: RawLog,
}

/// `[listen]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawListen {
    /// Server API, `host:port`; default `0.0.0.0:8081`.
    pub api: Option<String>,
    /// How agents and other servers reach the API; default: `api`.
    pub advertise_api: Option<String>,
    /// Raft, `host:port`; default `0.0.0.0:8082`.
    pub peer: Option<String>,
    /// How other servers reach it; default: `peer`.
    pub advertise_peer: Option<String>,
    /// Private Unix socket; default: `private/admin.sock` in `data_dir`.
    pub admin_socket: Option<PathBuf>,
    /// Probes and metrics, `host:port`; default: off.
    pub http: Option<String>,
}

/// `[kek]`, one of the fields
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawKek {
    /// File of 32 bytes, raw or hexadecimal.
    pub file: Option<PathBuf>,
    /// Name of a systemd credential with the same content.
    pub credential: Option<String>,
    /// Environment variable that holds a passphrase.
    pub passphrase_env: Option<String>,
    /// File that holds a passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Name of a systemd credential that holds a passphrase.
    pub passphrase_credential: Option<String>,
}

/// `[ttl]`, durations such as `1h30m`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTtl {
    /// Authorities; default 24h.
    pub ca: Option<String>,
    /// X.509-SVIDs; default 1h.
    pub x509_svid: Option<String>,
    /// JWT-SVIDs; default 5m.
    pub jwt_svid: Option<String>,
    /// Agents' SVIDs; default: as `x509_svid`.
    pub agent_svid: Option<String>,
}

/// `[settings]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSettings {
    /// `off` or `hybrid`.
    pub pq: Option<String>,
    /// `iss` of JWT-SVIDs; default: none.
    pub jwt_issuer: Option<String>,
    /// Marks authorities as made for development.
    pub development: bool,
}

/// `[join]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawJoin {
    /// API address of a member.
    pub address: String,
    /// Server token.
    pub token: Option<String>,
    /// File that holds the token.
    pub token_file: Option<PathBuf>,
    /// Hash of the trust-domain key, 64 hexadecimal digits.
    pub pin: String,
}

/// `[raft]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRaft {
    /// Log entries between two snapshots; default 10000.
    pub snapshot_entries: Option<u64>,
}

/// `[audit]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAudit {
    /// JSON-lines files.
    pub file: Vec<RawSinkFile>,
}

/// `[[audit.file]]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSinkFile {
    /// The file.
    pub path: PathBuf,
}

/// `[log]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter; default `info`.
    pub level: Option<String>,
    /// `text` or `json`; default `text`.
    pub format: Option<String>,
}
