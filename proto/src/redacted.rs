//! `Debug` for messages that hold keys or tokens.
//!
//! Responsible for: printing such a message without its secrets, so that an
//! unconsidered `{:?}` leaks nothing.
//! Always holds: of a secret only its length is printed; whatever else the
//! message holds is printed as usual.
//! Not here: which messages these are (`SECRET` in
//! `examples/regenerate/generate.rs`; one that is missing here does not compile).

use std::fmt::{Debug, Formatter, Result};

use crate::envoy::config::core::v3::{DataSource, data_source::Specifier};
use crate::envoy::service::discovery::v3::{DiscoveryResponse, Resource};
use crate::mintmark::agent::v1::IssueJwtResponse;
use crate::mintmark::cluster::v1::{CreateServerTokenResponse, JoinRequest};
use crate::spiffe::workload;
use crate::spire::agent::CreateJoinTokenRequest;
use crate::spire::types;

/// Stands in for a secret.
struct Redacted(usize);

impl Debug for Redacted {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "({} bytes)", self.0)
    }
}

/// An `Any` whose content may be secret.
struct Packed<'a>(&'a prost_types::Any);

impl Debug for Packed<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Any")
            .field("type_url", &self.0.type_url)
            .field("value", &Redacted(self.0.value.len()))
            .finish()
    }
}

macro_rules! redact {
    ($($type:ty as $name:literal { $($shown:ident),* ; $($secret:ident),* })*) => {$(
        impl Debug for $type {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                f.debug_struct($name)
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field(stringify!($secret), &Redacted(self.$secret.len())))*
                    .finish()
            }
        }
    )*};
}

redact! {
    workload::X509svid as "X509svid" { spiffe_id, hint, x509_svid, bundle; x509_svid_key }
    workload::Jwtsvid as "Jwtsvid" { spiffe_id, hint; svid }
    workload::Witsvid as "Witsvid" { spiffe_id, hint; wit_svid, wit_svid_key }
    workload::ValidateJwtsvidRequest as "ValidateJwtsvidRequest" { audience; svid }
    types::AttestationData as "AttestationData" { r#type; payload }
    types::JoinToken as "JoinToken" { expires_at; value }
    types::Jwtsvid as "Jwtsvid" { id, expires_at, issued_at, hint; token }
    types::Witsvid as "Witsvid" { id, expires_at, issued_at, hint; token }
    CreateJoinTokenRequest as "CreateJoinTokenRequest" { ttl, agent_id; token }
    IssueJwtResponse as "IssueJwtResponse" { leaf, expires_at_ms, issued_at_ms; token }
    JoinRequest as "JoinRequest" {
        name, peer_csr, incarnation, peer_address, api_address, vault_public_key; token
    }
    CreateServerTokenResponse as "CreateServerTokenResponse" { pin, expires_at_ms; token }
}

impl Debug for DataSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("DataSource")
            .field("specifier", &self.specifier)
            .finish()
    }
}

impl Debug for Specifier {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Filename(name) => f.debug_tuple("Filename").field(name).finish(),
            Self::InlineBytes(bytes) => f
                .debug_tuple("InlineBytes")
                .field(&Redacted(bytes.len()))
                .finish(),
            Self::InlineString(text) => f
                .debug_tuple("InlineString")
                .field(&Redacted(text.len()))
                .finish(),
            Self::EnvironmentVariable(name) => {
                f.debug_tuple("EnvironmentVariable").field(name).finish()
            }
        }
    }
}

impl Debug for DiscoveryResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let resources: Vec<_> = self.resources.iter().map(Packed).collect();
        f.debug_struct("DiscoveryResponse")
            .field("version_info", &self.version_info)
            .field("resources", &resources)
            .field("type_url", &self.type_url)
            .field("nonce", &self.nonce)
            .finish()
    }
}

impl Debug for Resource {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Resource")
            .field("version", &self.version)
            .field("resource", &self.resource.as_ref().map(Packed))
            .field("name", &self.name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "hunter2-hunter2";

    fn assert_hidden(message: &dyn Debug, shown: &str) {
        let printed = format!("{message:?}");
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(!printed.contains("104, 117, 110"), "{printed}");
        assert!(printed.contains("(15 bytes)"), "{printed}");
        assert!(printed.contains(shown), "{printed}");
    }

    #[test]
    fn debug_prints_no_secret_of_the_workload_api() {
        let key = workload::X509svid {
            spiffe_id: "spiffe://td/w".into(),
            x509_svid_key: TEXT.into(),
            ..Default::default()
        };
        assert_hidden(&key, "spiffe://td/w");
        assert_hidden(
            &workload::X509svidResponse {
                svids: vec![key],
                ..Default::default()
            },
            "spiffe://td/w",
        );
        assert_hidden(
            &workload::Jwtsvid {
                hint: "inner".into(),
                svid: TEXT.into(),
                ..Default::default()
            },
            "inner",
        );
        assert_hidden(
            &workload::Witsvid {
                hint: "inner".into(),
                wit_svid: TEXT.into(),
                wit_svid_key: TEXT.into(),
                ..Default::default()
            },
            "inner",
        );
        assert_hidden(
            &workload::ValidateJwtsvidRequest {
                audience: "spiffe://td/db".into(),
                svid: TEXT.into(),
            },
            "spiffe://td/db",
        );
    }

    #[test]
    fn debug_prints_no_secret_of_the_server_api() {
        assert_hidden(
            &types::AttestationData {
                r#type: "join_token".into(),
                payload: TEXT.into(),
            },
            "join_token",
        );
        assert_hidden(
            &types::JoinToken {
                value: TEXT.into(),
                expires_at: 77,
            },
            "77",
        );
        assert_hidden(
            &types::Jwtsvid {
                token: TEXT.into(),
                issued_at: 77,
                ..Default::default()
            },
            "77",
        );
        assert_hidden(
            &types::Witsvid {
                token: TEXT.into(),
                issued_at: 77,
                ..Default::default()
            },
            "77",
        );
        assert_hidden(
            &CreateJoinTokenRequest {
                ttl: 77,
                token: TEXT.into(),
                agent_id: None,
            },
            "77",
        );
    }

    #[test]
    fn debug_prints_no_secret_of_our_own_protocols() {
        assert_hidden(
            &IssueJwtResponse {
                token: TEXT.into(),
                issued_at_ms: 77,
                ..Default::default()
            },
            "77",
        );
        assert_hidden(
            &JoinRequest {
                token: TEXT.into(),
                name: "ca-2".into(),
                ..Default::default()
            },
            "ca-2",
        );
        assert_hidden(
            &CreateServerTokenResponse {
                token: TEXT.into(),
                expires_at_ms: 77,
                ..Default::default()
            },
            "77",
        );
    }

    #[test]
    fn debug_prints_no_secret_of_envoy() {
        let inline = DataSource {
            specifier: Some(Specifier::InlineBytes(TEXT.into())),
        };
        assert_hidden(&inline, "InlineBytes");
        let inline = DataSource {
            specifier: Some(Specifier::InlineString(TEXT.into())),
        };
        assert_hidden(&inline, "InlineString");
        let any = prost_types::Any {
            type_url: "type/Secret".into(),
            value: TEXT.into(),
        };
        assert_hidden(
            &DiscoveryResponse {
                resources: vec![any.clone()],
                ..Default::default()
            },
            "type/Secret",
        );
        assert_hidden(
            &Resource {
                resource: Some(any),
                ..Default::default()
            },
            "type/Secret",
        );
        let file = DataSource {
            specifier: Some(Specifier::Filename("/etc/ca.pem".into())),
        };
        assert!(format!("{file:?}").contains("/etc/ca.pem"));
    }
}
