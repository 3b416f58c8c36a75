//! The agent's configuration, checked.
//!
//! Responsible for: turning what was written into what can be run, reporting all faults at
//! once. Always holds: a [`Config`] can be started; secrets in it are not printed. Not here: the
//! files that it names.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use mintmark_identity::{secret::SecretBytes, statement::Pin, trust_domain::TrustDomain};
use mintmark_runtime::{network::Address, telemetry::LogFormat};

use super::RawConfig;
use crate::{
    code,
    sds::secrets::Names,
    workload::unix::{HASH_SIZE_MAX, UnixOptions},
};

/// What an agent attests with, if it has no identity yet.
#[derive(Clone, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing.
    None,
    /// A join token.
    JoinToken(String),
    /// A file that holds a join token, read when it is needed.
    JoinTokenFile(PathBuf),
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::JoinToken(_) => "JoinToken(..)",
            Self::JoinTokenFile(_) => "JoinTokenFile(..)",
        })
    }
}

/// Where the key of the sealed cache is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CacheKey {
    /// Nowhere: no cache on disk, and new SVIDs after a restart.
    Off,
    /// In this directory.
    In(PathBuf),
}

/// Bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Open streams of one user.
    pub streams_per_uid: usize,
    /// Connections to the public socket.
    pub connections: usize,
    /// Connections of one user.
    pub connections_per_uid: usize,
    /// X.509-SVIDs that are held although no stream uses them.
    pub x509_svids: usize,
    /// JWT-SVIDs that are held.
    pub jwt_svids: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_uid: 1_024,
            connections: 16_384,
            connections_per_uid: 1_024,
            x509_svids: 1_000,
            jwt_svids: 1_000,
        }
    }
}

/// A configuration that can be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The servers' API.
    pub server_addresses: Vec<Address>,
    /// For everything that is kept, but keys.
    pub data_dir: PathBuf,
    /// For the agent's own key.
    pub keys_dir: PathBuf,
    /// For the key of the sealed cache.
    pub cache_key: CacheKey,
    /// The Workload API's socket.
    pub socket_path: PathBuf,
    /// The private socket.
    pub admin_socket_path: PathBuf,
    /// What to attest with.
    pub evidence: Evidence,
    /// The trust bundle to begin with.
    pub trust_bundle_path: Option<PathBuf>,
    /// The pin of the trust-domain key.
    pub trust_domain_key: Option<Pin>,
    /// Where `/live`, `/ready` and `/metrics` are served.
    pub probes_address: Option<Address>,
    /// Over how long pushes that carry no new SVID are spread.
    pub push_splay: Duration,
    /// How long requests may still run when the agent stops.
    pub drain_grace: Duration,
    /// Claims of foreign tokens that `ValidateJWTSVID` passes on.
    pub allowed_foreign_jwt_claims: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// Workload attestation.
    pub workload: UnixOptions,
    /// Names in secret discovery.
    pub sds: Names,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_filter: String,
}

impl Config {
    /// A configuration with defaults for everything that has one, for programs that embed an
    /// agent: data, keys and sockets lie below `dir`.
    #[must_use]
    pub fn in_dir(trust_domain: TrustDomain, server_addresses: Vec<Address>, dir: &Path) -> Self {
        Self {
            trust_domain,
            server_addresses,
            data_dir: dir.join("data"),
            keys_dir: dir.join("keys"),
            cache_key: CacheKey::In(dir.join("keys")),
            socket_path: dir.join("public").join("api.sock"),
            admin_socket_path: dir.join("private").join("admin.sock"),
            evidence: Evidence::None,
            trust_bundle_path: None,
            trust_domain_key: None,
            probes_address: None,
            push_splay: Duration::from_millis(50),
            drain_grace: Duration::from_secs(5),
            allowed_foreign_jwt_claims: Vec::new(),
            limits: Limits::default(),
            workload: UnixOptions::default(),
            sds: Names::default(),
            log_format: LogFormat::default(),
            log_filter: "info".to_owned(),
        }
    }

    /// Checks what was written. `runtime_dir` is `XDG_RUNTIME_DIR`, if it is set: the default
    /// place of the cache key, since it is gone after a reboot.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn check(raw: RawConfig, runtime_dir: Option<&Path>) -> Result<Self, ConfigFaults> {
        let mut faults = Faults::default();
        let trust_domain = match raw
            .trust_domain
            .as_deref()
            .map(TrustDomain::from_id_or_name)
        {
            Some(Ok(domain)) => Some(domain),
            Some(Err(error)) => faults.none("trust_domain", &error.to_string()),
            None => faults.none("trust_domain", "it must be given"),
        };
        let servers = faults.addresses("server_addresses", &raw.server_addresses);
        if servers.is_empty() {
            faults.add("server_addresses", "at least one server must be given");
        }
        let data_dir = faults.path("data_dir", raw.data_dir.as_ref());
        let keys_dir = faults.path("keys_dir", raw.keys_dir.as_ref());
        if keys_dir.starts_with(&data_dir) && !data_dir.as_os_str().is_empty() {
            faults.add(
                "keys_dir",
                "it must not lie inside data_dir: a copy of the data must not hold keys",
            );
        }
        let socket_path = faults.path("socket_path", raw.socket_path.as_ref());
        let admin_socket_path = faults.path("admin_socket_path", raw.admin_socket_path.as_ref());
        if socket_path == admin_socket_path && !socket_path.as_os_str().is_empty() {
            faults.add("admin_socket_path", "it must differ from socket_path");
        }
        let evidence = faults.evidence(raw.join_token, raw.join_token_file);
        let trust_domain_key = raw
            .trust_domain_key
            .as_deref()
            .and_then(|text| faults.pin(text));
        let probes = raw.probes_address.into_iter().collect::<Vec<_>>();
        let probes_address = faults
            .addresses("probes_address", &probes)
            .into_iter()
            .next();
        let Some(trust_domain) = trust_domain.filter(|_| faults.0.is_empty()) else {
            return Err(ConfigFaults(faults.0));
        };
        let defaults = Self::in_dir(trust_domain, servers, Path::new("/"));
        Ok(Self {
            cache_key: cache_key(raw.cache_key_dir, runtime_dir),
            data_dir,
            keys_dir,
            socket_path,
            admin_socket_path,
            evidence,
            trust_bundle_path: raw.trust_bundle_path,
            trust_domain_key,
            probes_address,
            push_splay: raw.push_splay.map_or(defaults.push_splay, |text| text.0),
            drain_grace: raw.drain_grace.map_or(defaults.drain_grace, |text| text.0),
            allowed_foreign_jwt_claims: raw.allowed_foreign_jwt_claims,
            limits: limits(&raw.limits),
            workload: UnixOptions {
                discover_path: raw.workload.discover_path.unwrap_or(true),
                hash_size_max: raw.workload.hash_size_max.or(Some(HASH_SIZE_MAX)),
            },
            sds: names(raw.sds),
            log_format: raw.log.format.unwrap_or_default(),
            log_filter: raw.log.filter.unwrap_or(defaults.log_filter),
            trust_domain: defaults.trust_domain,
            server_addresses: defaults.server_addresses,
        })
    }
}

fn cache_key(given: Option<PathBuf>, runtime_dir: Option<&Path>) -> CacheKey {
    match given {
        Some(off) if off.as_os_str() == "off" => CacheKey::Off,
        Some(path) => CacheKey::In(path),
        None => CacheKey::In(
            runtime_dir
                .unwrap_or(Path::new("/run"))
                .join("mintmark-agent"),
        ),
    }
}

fn limits(raw: &super::RawLimits) -> Limits {
    let defaults = Limits::default();
    Limits {
        streams_per_uid: raw.streams_per_uid.unwrap_or(defaults.streams_per_uid),
        connections: raw.connections.unwrap_or(defaults.connections),
        connections_per_uid: raw
            .connections_per_uid
            .unwrap_or(defaults.connections_per_uid),
        x509_svids: raw.x509_svids.unwrap_or(defaults.x509_svids),
        jwt_svids: raw.jwt_svids.unwrap_or(defaults.jwt_svids),
    }
}

fn names(raw: super::RawSds) -> Names {
    let defaults = Names::default();
    Names {
        svid: raw.default_svid_name.unwrap_or(defaults.svid),
        bundle: raw.default_bundle_name.unwrap_or(defaults.bundle),
        all_bundles: raw.default_all_bundles_name.unwrap_or(defaults.all_bundles),
        disable_spiffe_validator: raw.disable_spiffe_cert_validation.unwrap_or(false),
    }
}

/// What is wrong with one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The key.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// Everything that is wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct ConfigFaults(pub Vec<Fault>);

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: the configuration is not usable",
            code::CONFIG_INVALID
        )?;
        for fault in &self.0 {
            write!(f, "\n  {}: {}", fault.key, fault.problem)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, key: &'static str, problem: &str) {
        self.0.push(Fault {
            key,
            problem: problem.to_owned(),
        });
    }

    fn none<T>(&mut self, key: &'static str, problem: &str) -> Option<T> {
        self.add(key, problem);
        None
    }

    fn path(&mut self, key: &'static str, given: Option<&PathBuf>) -> PathBuf {
        match given {
            Some(path) if !path.as_os_str().is_empty() => return path.clone(),
            Some(_) => self.add(key, "it is empty"),
            None => self.add(key, "it must be given"),
        }
        PathBuf::new()
    }

    fn addresses(&mut self, key: &'static str, given: &[String]) -> Vec<Address> {
        let mut addresses = Vec::new();
        for text in given {
            match Address::parse(text) {
                Ok(address) => addresses.push(address),
                Err(error) => self.add(key, &format!("{text:?}: {error}")),
            }
        }
        addresses
    }

    fn evidence(&mut self, token: Option<String>, file: Option<PathBuf>) -> Evidence {
        match (token, file) {
            (Some(_), Some(_)) => {
                self.add("join_token", "give either join_token or join_token_file");
                Evidence::None
            }
            (Some(token), None) if token.trim().is_empty() => {
                self.add("join_token", "it is empty");
                Evidence::None
            }
            (Some(token), None) => Evidence::JoinToken(token.trim().to_owned()),
            (None, Some(file)) => Evidence::JoinTokenFile(file),
            (None, None) => Evidence::None,
        }
    }

    fn pin(&mut self, text: &str) -> Option<Pin> {
        let text = text.strip_prefix("sha256:").unwrap_or(text);
        match hex::decode(text)
            .ok()
            .and_then(|bytes| Pin::try_from(bytes).ok())
        {
            Some(pin) => Some(pin),
            None => self.none("trust_domain_key", "it must be 64 hexadecimal digits"),
        }
    }
}

impl Evidence {
    /// The token, if there is one to be had.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn token(
        &self,
        disk: &dyn mintmark_runtime::disk::Disk,
    ) -> std::io::Result<Option<SecretBytes>> {
        let trimmed = |bytes: &[u8]| {
            let token = bytes.trim_ascii().to_vec();
            (!token.is_empty()).then(|| SecretBytes::new(token))
        };
        match self {
            Self::None => Ok(None),
            Self::JoinToken(token) => Ok(trimmed(token.as_bytes())),
            Self::JoinTokenFile(path) => Ok(trimmed(SecretBytes::new(disk.read(path)?).expose())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use mintmark_runtime::config::{ConfigFormat, parse};

    fn read(text: &str) -> RawConfig {
        parse(text, ConfigFormat::Toml, Path::new("agent.toml")).unwrap()
    }

    const GOOD: &str = r#"
        trust_domain = "example.org"
        server_addresses = ["127.0.0.1:8081"]
        data_dir = "/d/data"
        keys_dir = "/d/keys"
        socket_path = "/d/api.sock"
        admin_socket_path = "/d/admin.sock"
    "#;

    #[test]
    fn the_smallest_file_gets_defaults() {
        let config = Config::check(read(GOOD), Some(Path::new("/run/user/7"))).unwrap();
        assert_eq!(
            config.cache_key,
            CacheKey::In("/run/user/7/mintmark-agent".into())
        );
        assert_eq!(config.evidence, Evidence::None);
        assert_eq!(config.limits, Limits::default());
        let without = Config::check(read(GOOD), None).unwrap();
        assert_eq!(
            without.cache_key,
            CacheKey::In("/run/mintmark-agent".into())
        );
        let off = Config::check(read(&format!("cache_key_dir = \"off\"\n{GOOD}")), None).unwrap();
        assert_eq!(off.cache_key, CacheKey::Off);
        assert_eq!(config.workload, UnixOptions::default());
        assert_eq!(config.workload.hash_size_max, Some(HASH_SIZE_MAX));
    }

    #[test]
    fn all_faults_are_reported_at_once_with_their_keys() {
        let text = r#"
            trust_domain = "Example.org"
            server_addresses = ["nowhere"]
            data_dir = "/d"
            keys_dir = "/d/keys"
            socket_path = "/s"
            admin_socket_path = "/s"
            join_token = "a"
            join_token_file = "/b"
            trust_domain_key = "12"
            probes_address = "x"
        "#;
        let faults = Config::check(read(text), None).unwrap_err();
        let keys: Vec<&str> = faults.0.iter().map(|fault| fault.key).collect();
        let expected = [
            "trust_domain",
            "server_addresses",
            "server_addresses",
            "keys_dir",
            "admin_socket_path",
            "join_token",
            "trust_domain_key",
            "probes_address",
        ];
        assert_eq!(keys, expected);
        assert!(faults.to_string().starts_with("MM-2020: "));
        let empty = Config::check(RawConfig::default(), None).unwrap_err();
        assert_eq!(empty.0.len(), 6);
    }

    #[test]
    fn tokens_are_not_printed() {
        let mut config = Config::check(read(GOOD), None).unwrap();
        config.evidence = Evidence::JoinToken("secret-token".to_owned());
        assert!(!format!("{config:?}").contains("secret-token"));
        let raw = RawConfig {
            join_token: Some("secret-token".to_owned()),
            ..read(GOOD)
        };
        assert!(!format!("{raw:?}").contains("secret-token"));
    }

    #[test]
    fn a_pin_may_name_its_hash() {
        let pin = "ab".repeat(32);
        let text = format!("trust_domain_key = \"sha256:{pin}\"\n{GOOD}");
        let config = Config::check(read(&text), None).unwrap();
        assert_eq!(config.trust_domain_key, Some([0xab; 32]));
    }
}
