//! The server's configuration, checked.
//!
//! Always: a [`Config`] can be run. Whatever is wrong with a [`RawConfig`] is reported together, each
//! fault with the key that holds it; nothing is corrected silently.
//!
//! Not here: what exists on the machine (files, ports), which is found out at start.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mintmark_identity::secret::SecretBytes;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_identity::validity::{TtlPolicy, TtlRequest};
use mintmark_proto::mintmark::state::v1::PqMode;
use mintmark_runtime::config::DurationText;
use mintmark_runtime::network::Address;
use mintmark_runtime::telemetry::LogFormat;
use thiserror::Error;

use super::{RawConfig, RawJoin, RawKek};
use crate::vault::kek::{KekSource, PassphraseCost, PassphraseSource};

/// Default port of the server API, SPIRE's.
pub const API_PORT: u16 = 8081;
/// Default port between servers.
pub const PEER_PORT: u16 = 8082;
/// What a server is called when nobody says.
pub const DEFAULT_NAME: &str = "server";
/// A name is shown in tables; longer ones are refused.
const NAME_MAX: usize = 64;
/// Log entries between two snapshots, when nobody says.
pub const SNAPSHOT_ENTRIES: u64 = 10_000;
/// Fewer would write a snapshot for nearly every command.
const SNAPSHOT_ENTRIES_MIN: u64 = 20;
/// `iss` is in every token; a longer one is refused.
const ISSUER_MAX: usize = 512;

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// The trust domain that this cluster speaks for.
    pub trust_domain: TrustDomain,
    /// What operators call this server.
    pub name: String,
    /// Where replicated state lives.
    pub data_dir: PathBuf,
    /// Where the server's own keys live, outside `data_dir`.
    pub keys_dir: PathBuf,
    /// Addresses and sockets.
    pub listen: Listen,
    /// Where the key-encryption key comes from.
    pub kek: KekSource,
    /// Lifetimes that were asked for; they fit together.
    pub ttl: TtlRequest,
    /// Hybrid signatures, where the file says.
    pub pq: Option<PqMode>,
    /// `iss` of JWT-SVIDs, where the file says.
    pub jwt_issuer: Option<String>,
    /// Whether a new cluster is marked as made for development.
    pub development: bool,
    /// How to join a cluster instead of making one.
    pub join: Option<Join>,
    /// Files that the audit log is copied to.
    pub sinks: Vec<SinkFile>,
    /// Log entries between two snapshots.
    pub snapshot_entries: u64,
    /// Filter of log messages.
    pub log_level: String,
    /// How log messages are written.
    pub log_format: LogFormat,
}

/// Addresses and sockets.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Server API. Port 0 takes a free one.
    pub api: Address,
    /// How others reach the API; `None`: as it is bound.
    pub advertise_api: Option<Address>,
    /// Raft. Port 0 takes a free one.
    pub peer: Address,
    /// How other servers reach it; `None`: as it is bound.
    pub advertise_peer: Option<Address>,
    /// Private Unix socket.
    pub admin_socket: PathBuf,
    /// Probes and metrics.
    pub http: Option<Address>,
}

/// How to join a cluster.
#[derive(Debug, Clone)]
pub struct Join {
    /// API address of a member.
    pub address: Address,
    /// Server token.
    pub token: JoinSecret,
    /// Hash of the trust-domain key.
    pub pin: [u8; 32],
}

/// Where the token of a joining server is.
#[derive(Debug, Clone)]
pub enum JoinSecret {
    /// In memory.
    Value(SecretBytes),
    /// In a file.
    File(PathBuf),
}

/// A JSON-lines copy of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkFile {
    /// The file; its cursor lies beside it.
    pub path: PathBuf,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// The key, such as `listen.api`.
    pub key: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigErrors(pub Vec<ConfigFault>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} fault(s)", self.0.len())?;
        self.0
            .iter()
            .try_for_each(|fault| write!(f, "\n  {}: {}", fault.key, fault.problem))
    }
}

/// Gives the value of an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Collects faults while values are checked one by one.
#[derive(Default)]
struct Faults(Vec<ConfigFault>);

impl Faults {
    fn add(&mut self, key: &'static str, problem: impl fmt::Display) {
        let problem = problem.to_string();
        self.0.push(ConfigFault { key, problem });
    }

    fn keep<T, E: fmt::Display>(&mut self, key: &'static str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(key, error)).ok()
    }
}

impl RawConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// All faults together.
    pub fn check(&self, environment: Environment<'_>) -> Result<Config, ConfigErrors> {
        let mut faults = Faults::default();
        let trust_domain = faults.keep(
            "trust_domain",
            TrustDomain::from_id_or_name(&self.trust_domain),
        );
        if self.data_dir.as_os_str().is_empty() {
            faults.add(
                "data_dir",
                "is required: the directory of the replicated state",
            );
        }
        let keys_dir = self.check_keys_dir(&mut faults);
        let listen = self.check_listen(&mut faults);
        let kek = check_kek(&self.kek, &keys_dir, environment, &mut faults);
        let ttl = self.check_ttl(&mut faults);
        let pq = self.check_pq(&mut faults);
        let join = self
            .join
            .as_ref()
            .and_then(|join| check_join(join, &mut faults));
        let (name, jwt_issuer) = self.check_texts(&mut faults);
        let sinks = self.check_sinks(&mut faults);
        let log_format = self.check_log_format(&mut faults);
        let snapshot_entries = self.raft.snapshot_entries.unwrap_or(SNAPSHOT_ENTRIES);
        if snapshot_entries < SNAPSHOT_ENTRIES_MIN {
            let problem = format!("is {snapshot_entries}, but at least {SNAPSHOT_ENTRIES_MIN}");
            faults.add("raft.snapshot_entries", problem);
        }
        match (trust_domain, listen, log_format) {
            (Some(trust_domain), Some(listen), Some(log_format)) if faults.0.is_empty() => {
                Ok(Config {
                    trust_domain,
                    name,
                    data_dir: self.data_dir.clone(),
                    keys_dir,
                    listen,
                    kek,
                    ttl,
                    pq,
                    jwt_issuer,
                    development: self.settings.development,
                    join,
                    sinks,
                    snapshot_entries,
                    log_level: self.log.level.clone().unwrap_or_else(|| "info".to_owned()),
                    log_format,
                })
            }
            _ => Err(ConfigErrors(faults.0)),
        }
    }

    fn check_keys_dir(&self, faults: &mut Faults) -> PathBuf {
        let beside = || self.data_dir.parent().unwrap_or(Path::new("")).join("keys");
        let keys_dir = self.keys_dir.clone().unwrap_or_else(beside);
        if !self.data_dir.as_os_str().is_empty() && keys_dir.starts_with(&self.data_dir) {
            faults.add(
                "keys_dir",
                "lies inside data_dir, so a copy of the data would hold its keys",
            );
        }
        keys_dir
    }

    fn check_listen(&self, faults: &mut Faults) -> Option<Listen> {
        let raw = &self.listen;
        let mut address = |key, text: &Option<String>| {
            let text = text.as_ref()?;
            faults.keep(key, Address::parse(text))
        };
        let api = address("listen.api", &raw.api);
        let advertise_api = address("listen.advertise_api", &raw.advertise_api);
        let peer = address("listen.peer", &raw.peer);
        let advertise_peer = address("listen.advertise_peer", &raw.advertise_peer);
        let http = address("listen.http", &raw.http);
        for (key, own, advertised) in [
            ("listen.advertise_api", &raw.api, &raw.advertise_api),
            ("listen.advertise_peer", &raw.peer, &raw.advertise_peer),
        ] {
            // A wildcard is where one listens, never where one can be reached.
            let is_wildcard =
                |own: &String| own.starts_with("0.0.0.0:") || own.starts_with("[::]:");
            if own.as_ref().is_none_or(is_wildcard) && advertised.is_none() {
                faults.add(
                    key,
                    "is required, because the server listens on every address",
                );
            }
        }
        let or_port =
            |address: Option<Address>, port| address.or_else(|| Address::new("0.0.0.0", port).ok());
        let default_socket = || self.data_dir.join("private").join("admin.sock");
        Some(Listen {
            api: or_port(api, API_PORT)?,
            advertise_api,
            peer: or_port(peer, PEER_PORT)?,
            advertise_peer,
            admin_socket: raw.admin_socket.clone().unwrap_or_else(default_socket),
            http,
        })
    }

    fn check_ttl(&self, faults: &mut Faults) -> TtlRequest {
        let mut duration = |key, text: &Option<String>| -> Option<Duration> {
            let text = text.as_deref()?;
            faults
                .keep(key, DurationText::parse(text))
                .map(|text| text.0)
        };
        let request = TtlRequest {
            ca: duration("ttl.ca", &self.ttl.ca),
            x509_svid: duration("ttl.x509_svid", &self.ttl.x509_svid),
            jwt_svid: duration("ttl.jwt_svid", &self.ttl.jwt_svid),
            agent_svid: duration("ttl.agent_svid", &self.ttl.agent_svid),
            upstream: None,
        };
        faults.keep("ttl", TtlPolicy::resolve(request));
        request
    }

    fn check_pq(&self, faults: &mut Faults) -> Option<PqMode> {
        match self.settings.pq.as_deref()? {
            "off" => Some(PqMode::Off),
            "hybrid" => Some(PqMode::Hybrid),
            other => {
                faults.add(
                    "settings.pq",
                    format!("is {other:?}, but is one of off, hybrid"),
                );
                None
            }
        }
    }

    fn check_texts(&self, faults: &mut Faults) -> (String, Option<String>) {
        let name = self.name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let printable = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if name.is_empty() || name.len() > NAME_MAX || !printable {
            faults.add(
                "name",
                format!("is not 1 to {NAME_MAX} letters, digits, '-', '.' or '_'"),
            );
        }
        let issuer = self.settings.jwt_issuer.clone();
        if issuer
            .as_ref()
            .is_some_and(|issuer| issuer.is_empty() || issuer.len() > ISSUER_MAX)
        {
            faults.add(
                "settings.jwt_issuer",
                format!("is not 1 to {ISSUER_MAX} bytes long"),
            );
        }
        (name, issuer)
    }

    fn check_sinks(&self, faults: &mut Faults) -> Vec<SinkFile> {
        let mut sinks: Vec<SinkFile> = Vec::new();
        for sink in &self.audit.file {
            let sink = SinkFile {
                path: sink.path.clone(),
            };
            if sink.path.as_os_str().is_empty() {
                faults.add("audit.file.path", "is required");
            } else if sinks.contains(&sink) {
                faults.add(
                    "audit.file.path",
                    format!("{} is named twice", sink.path.display()),
                );
            } else {
                sinks.push(sink);
            }
        }
        sinks
    }

    fn check_log_format(&self, faults: &mut Faults) -> Option<LogFormat> {
        match self.log.format.as_deref() {
            None | Some("text") => Some(LogFormat::Text),
            Some("json") => Some(LogFormat::Json),
            Some(other) => {
                faults.add(
                    "log.format",
                    format!("is {other:?}, but is one of text, json"),
                );
                None
            }
        }
    }
}

fn check_join(join: &RawJoin, faults: &mut Faults) -> Option<Join> {
    let address = faults.keep("join.address", Address::parse(&join.address));
    let token = match (&join.token, &join.token_file) {
        (Some(token), None) => Some(JoinSecret::Value(SecretBytes::from(
            token.as_bytes().to_vec(),
        ))),
        (None, Some(path)) => Some(JoinSecret::File(path.clone())),
        _ => {
            faults.add("join", "needs one of token, token_file");
            None
        }
    };
    let pin = hex::decode(&join.pin)
        .ok()
        .and_then(|pin| <[u8; 32]>::try_from(pin).ok());
    if pin.is_none() {
        faults.add(
            "join.pin",
            "is not 64 hexadecimal digits; `mintmark token server` prints it",
        );
    }
    Some(Join {
        address: address?,
        token: token?,
        pin: pin?,
    })
}

fn check_kek(
    raw: &RawKek,
    keys_dir: &Path,
    environment: Environment<'_>,
    faults: &mut Faults,
) -> KekSource {
    let credentials = environment("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    // Not started by systemd: the credential is absent, which seals the server.
    let credentials = credentials.unwrap_or_else(|| PathBuf::from("/run/credentials"));
    let credential = |name: &String, faults: &mut Faults| {
        if name.is_empty() || name.contains('/') {
            faults.add("kek", format!("{name:?} is not the name of a credential"));
        }
        credentials.join(name)
    };
    let passphrase = |source| KekSource::Passphrase {
        source,
        cost: PassphraseCost::DEFAULT,
    };
    let mut sources = Vec::new();
    sources.extend(raw.file.clone().map(KekSource::File));
    if let Some(name) = &raw.credential {
        sources.push(KekSource::Credential(credential(name, faults)));
    }
    if let Some(variable) = &raw.passphrase_env {
        let value = environment(variable).map(|text| SecretBytes::from(text.into_bytes()));
        sources.push(passphrase(PassphraseSource::Value(value)));
    }
    if let Some(path) = &raw.passphrase_file {
        sources.push(passphrase(PassphraseSource::File(path.clone())));
    }
    if let Some(name) = &raw.passphrase_credential {
        sources.push(passphrase(PassphraseSource::File(credential(name, faults))));
    }
    if sources.len() > 1 {
        faults.add("kek", "names more than one source");
    }
    sources
        .pop()
        .unwrap_or_else(|| KekSource::File(keys_dir.join("kek")))
}

#[cfg(test)]
mod tests;
