//! Which secrets answer which names.
//!
//! Responsible for: certificates and validation contexts as Envoy takes them, for the names that
//! SPIRE answers too: a SPIFFE ID, `default`, a trust domain's ID, `ROOTCA`, `ALL`; no name at
//! all means everything. Always holds: Envoy gets what the Workload API would give the same
//! process and nothing else; a name that means nothing is an error. Not here: when (`exchange`).

use std::collections::{BTreeMap, BTreeSet};

use mintmark_identity::{bundle::Bundle, pem, trust_domain::TrustDomain};
use mintmark_proto::envoy::{
    config::core::v3::{
        DataSource, Node, TypedExtensionConfig, data_source::Specifier, node::UserAgentVersionType,
    },
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate,
        secret::Type, spiffe_cert_validator_config::TrustDomain as ValidatorDomain,
    },
};
use prost::{Message, Name};
use prost_types::{Any, value::Kind};
use std::sync::Arc;
use tonic::{Code, Status};

use crate::{
    cache::state::{CachedSvid, Identity, State},
    code, status,
};

/// Envoy's name of the validator that knows trust domains.
const SPIFFE_VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
/// Key in Envoy's node metadata that turns that validator off, as with SPIRE.
const DISABLE_KEY: &str = "disable_spiffe_cert_validation";

/// The names with a meaning of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    /// Of the first identity.
    pub svid: String,
    /// Of the own trust domain's bundle.
    pub bundle: String,
    /// Of all bundles together; needs the SPIFFE validator.
    pub all_bundles: String,
    /// Never use the SPIFFE validator.
    pub disable_spiffe_validator: bool,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            svid: "default".to_owned(),
            bundle: "ROOTCA".to_owned(),
            all_bundles: "ALL".to_owned(),
            disable_spiffe_validator: false,
        }
    }
}

/// What is remembered of an Envoy from its first request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envoy {
    /// Whether it has the SPIFFE validator and wants it.
    spiffe_validator: bool,
}

impl Envoy {
    /// From what it says about itself. Envoy has the validator since 1.18; one that does not
    /// say its version is taken to be newer.
    #[must_use]
    pub fn of(node: Option<&Node>) -> Self {
        let version = node.and_then(|node| match node.user_agent_version_type.as_ref()? {
            UserAgentVersionType::UserAgentBuildVersion(build) => build.version,
            UserAgentVersionType::UserAgentVersion(_) => None,
        });
        let new_enough =
            version.is_none_or(|version| (version.major_number, version.minor_number) >= (1, 18));
        let disabled = node
            .and_then(|node| node.metadata.as_ref())
            .and_then(|metadata| metadata.fields.get(DISABLE_KEY))
            .is_some_and(|value| match &value.kind {
                Some(Kind::BoolValue(value)) => *value,
                Some(Kind::StringValue(value)) => value == "true",
                _ => false,
            });
        Self {
            spiffe_validator: new_enough && !disabled,
        }
    }
}

/// The names of a request; none means everything.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Wanted(BTreeSet<String>);

impl Wanted {
    /// From a request's names.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self(names.into_iter().filter(|name| !name.is_empty()).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn everything(&self) -> bool {
        self.0.is_empty()
    }
}

/// Refuses to discover anything but secrets.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_type(type_url: &str) -> Result<(), Status> {
    if type_url.is_empty() || type_url == Secret::type_url() {
        return Ok(());
    }
    Err(status::malformed(
        "type_url: only secrets can be discovered here",
    ))
}

/// The secrets that answer a request, or `None` while one of them needs an SVID that is still
/// being issued.
///
/// # Errors
/// `InvalidArgument` when a name means nothing to this caller.
pub fn secrets(
    state: &State,
    identities: &[Identity],
    wanted: &Wanted,
    names: &Names,
    envoy: Envoy,
) -> Result<Option<Vec<Secret>>, Status> {
    let Some(own) = state.own_bundle() else {
        return Ok(None);
    };
    let spiffe = envoy.spiffe_validator && !names.disable_spiffe_validator;
    let federated = state.federated(identities);
    let mut answered: BTreeSet<&str> = BTreeSet::new();
    let mut secrets = Vec::new();
    let all = wanted.everything();
    for (name, bundle) in bundle_names(own, &federated, names) {
        if wanted.has(&name) || (all && name != names.bundle) {
            answered.extend(wanted.0.get(&name).map(String::as_str));
            secrets.push(validation(&name, &[bundle], spiffe));
        }
    }
    if wanted.has(&names.all_bundles) && spiffe {
        answered.insert(&names.all_bundles);
        let bundles: Vec<&Arc<Bundle>> = std::iter::once(own).chain(federated.values()).collect();
        secrets.push(validation(&names.all_bundles, &bundles, true));
    }
    for (position, identity) in identities.iter().enumerate() {
        let id = identity.held.entry.spiffe_id.as_str();
        let mut as_names: Vec<&str> = Vec::new();
        if (all || wanted.has(id)) && !answered.contains(id) {
            as_names.push(id);
        }
        if position == 0 && wanted.has(&names.svid) {
            as_names.push(&names.svid);
        }
        for name in as_names {
            let Some(svid) = &identity.svid else {
                return Ok(None);
            };
            secrets.push(certificate(name, svid));
            answered.insert(name);
        }
    }
    match wanted
        .0
        .iter()
        .find(|name| !answered.contains(name.as_str()))
    {
        None => Ok(Some(secrets)),
        Some(unknown) => Err(unknown_name(unknown, names, spiffe)),
    }
}

/// The bundles by every name that they answer to, own trust domain first.
fn bundle_names<'a>(
    own: &'a Arc<Bundle>,
    federated: &'a BTreeMap<TrustDomain, Arc<Bundle>>,
    names: &Names,
) -> Vec<(String, &'a Arc<Bundle>)> {
    let mut named = vec![
        (own.trust_domain.id().to_string(), own),
        (names.bundle.clone(), own),
    ];
    named.extend(
        federated
            .iter()
            .map(|(domain, bundle)| (domain.id().to_string(), bundle)),
    );
    named
}

fn unknown_name(name: &str, names: &Names, spiffe: bool) -> Status {
    let name: String = name.chars().take(100).collect();
    let text = if name == names.all_bundles && !spiffe {
        format!("{name:?} needs the SPIFFE validator, which this Envoy lacks or has turned off")
    } else {
        format!("no secret {name:?} for this workload")
    };
    status::status(Code::InvalidArgument, code::SECRET_UNKNOWN, &text)
}

fn inline(bytes: Vec<u8>) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineBytes(bytes)),
    })
}

fn certificate(name: &str, svid: &CachedSvid) -> Secret {
    let chain = pem::encode_certificates(&svid.chain);
    let key = pem::encode(pem::PRIVATE_KEY, svid.key.expose());
    Secret {
        name: name.to_owned(),
        r#type: Some(Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(chain.into_bytes()),
            private_key: inline(key.into_bytes()),
        })),
    }
}

fn anchors(bundle: &Bundle) -> Vec<u8> {
    let anchors = bundle.x509.iter().map(|anchor| &anchor.certificate);
    pem::encode_certificates(anchors).into_bytes()
}

fn validation(name: &str, bundles: &[&Arc<Bundle>], spiffe: bool) -> Secret {
    let context = if spiffe {
        let trust_domains = bundles.iter().map(|bundle| ValidatorDomain {
            name: bundle.trust_domain.to_string(),
            trust_bundle: inline(anchors(bundle)),
        });
        let config = SpiffeCertValidatorConfig {
            trust_domains: trust_domains.collect(),
        };
        CertificateValidationContext {
            custom_validator_config: Some(TypedExtensionConfig {
                name: SPIFFE_VALIDATOR.to_owned(),
                typed_config: Some(any(&config)),
            }),
            ..CertificateValidationContext::default()
        }
    } else {
        let all = bundles.iter().flat_map(|bundle| anchors(bundle)).collect();
        CertificateValidationContext {
            trusted_ca: inline(all),
            ..CertificateValidationContext::default()
        }
    };
    Secret {
        name: name.to_owned(),
        r#type: Some(Type::ValidationContext(context)),
    }
}

/// A message as Envoy's configuration nests it.
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}
