//! What goes over the wire is what peers expect.
//!
//! Responsible for: every field number, type and method that a peer of another
//! make relies on; the bytes of an audit leaf.
//! Always holds: the tables in `wire/*.txt` were taken from the protocols' own
//! definitions, not from ours; a line that changes breaks a peer.
//! Not here: what a request means.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

#[path = "wire/describe.rs"]
mod describe;

use mintmark_proto::descriptors;
use mintmark_proto::mintmark::audit::v1::{AuthorityChange, Issuance, Leaf};
use mintmark_proto::spiffe::workload::X509svidResponse;
use prost::{Message, Name};
use prost_types::FileDescriptorSet;

fn described(set: &[u8]) -> String {
    describe::describe(&FileDescriptorSet::decode(set).unwrap())
}

/// Fails on the first line that differs, which says more than two long texts.
fn assert_table(actual: &str, expected: &str) {
    for (line, (have, want)) in actual.lines().zip(expected.lines()).enumerate() {
        assert_eq!(have, want, "line {}", line + 1);
    }
    assert_eq!(actual.lines().count(), expected.lines().count());
}

#[test]
fn wle_22_the_workload_api_is_neither_extended_nor_changed() {
    assert_table(
        &described(descriptors::WORKLOAD_API),
        include_str!("wire/workload.txt"),
    );
}

#[test]
fn wle_03_the_workload_api_has_no_package() {
    let set = FileDescriptorSet::decode(descriptors::WORKLOAD_API).unwrap();
    let file = set
        .file
        .iter()
        .find(|file| !file.service.is_empty())
        .unwrap();
    assert_eq!(file.package(), "");
    assert_eq!(
        mintmark_proto::spiffe::workload::spiffe_workload_api_server::SERVICE_NAME,
        "SpiffeWorkloadAPI"
    );
    assert_eq!(X509svidResponse::full_name(), "X509SVIDResponse");
}

#[test]
fn the_server_api_is_spires() {
    assert_table(
        &described(descriptors::SPIRE_SERVER_API),
        include_str!("wire/spire.txt"),
    );
}

#[test]
fn secret_discovery_is_envoys() {
    assert_table(
        &described(descriptors::ENVOY_SDS),
        include_str!("wire/envoy.txt"),
    );
}

#[test]
fn packed_messages_bear_the_type_urls_that_peers_look_for() {
    use mintmark_proto::envoy::extensions::transport_sockets::tls::v3::{
        Secret, SpiffeCertValidatorConfig,
    };
    use mintmark_proto::spire::types::PermissionDeniedDetails;
    for (url, expected) in [
        (
            Secret::type_url(),
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        ),
        (
            SpiffeCertValidatorConfig::type_url(),
            "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
        ),
        (
            PermissionDeniedDetails::type_url(),
            "type.googleapis.com/spire.api.types.PermissionDeniedDetails",
        ),
        (
            mintmark_proto::google::rpc::ErrorInfo::type_url(),
            "type.googleapis.com/google.rpc.ErrorInfo",
        ),
    ] {
        assert_eq!(url, expected);
    }
}

#[test]
fn maps_are_written_in_the_order_of_their_keys() {
    let entry = |domain: &str| (domain.to_owned(), b"DER".to_vec());
    let forth = X509svidResponse {
        federated_bundles: [entry("spiffe://a"), entry("spiffe://b")].into(),
        ..Default::default()
    };
    let back = X509svidResponse {
        federated_bundles: [entry("spiffe://b"), entry("spiffe://a")].into(),
        ..Default::default()
    };
    let bytes = forth.encode_to_vec();
    assert_eq!(bytes, back.encode_to_vec());
    let at = |name: &[u8]| bytes.windows(name.len()).position(|w| w == name).unwrap();
    assert!(at(b"spiffe://a") < at(b"spiffe://b"));
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The bytes were made by an encoder of its own, from the numbers in
/// `audit.proto`: ascending fields, defaults left out.
#[test]
fn an_audit_leaf_has_canonical_bytes() {
    let issuance = Leaf {
        version: 1,
        index: 41,
        log_index: 300,
        time_ms: 1_795_521_600_123,
        actor: "server/2".into(),
        action: "x509.issue".into(),
        subject: "spiffe://td/web".into(),
        decision: "accepted".into(),
        issuance: Some(Issuance {
            kind: "x509".into(),
            serial: (0..16).collect(),
            svid_hash: vec![0x11; 32],
            authority_id: "ab12".into(),
            not_before_ms: 1_795_521_600_000,
            not_after_ms: 1_795_525_200_000,
            spki_sha256: vec![0x22; 32],
            entry_id: "web".into(),
            entry_revision: 3,
            agent: "spiffe://td/spire/agent/join_token/n1".into(),
            profile_version: 1,
            audience_sha256: Vec::new(),
            basis: "entry".into(),
        }),
        request_sha256: vec![0x33; 32],
        ..Default::default()
    };
    let activation = Leaf {
        version: 1,
        log_index: 7,
        time_ms: -1,
        actor: "local".into(),
        action: "authority.activate".into(),
        subject: "ab12".into(),
        decision: "accepted".into(),
        reason: "deadline: 2 missing".into(),
        authority: Some(AuthorityChange {
            authority_id: "ab12".into(),
            kind: "x509".into(),
            from: "published".into(),
            to: "active".into(),
            public_key_sha256: vec![0x44; 32],
            bundle_sequence: (7 << 40) + 5,
        }),
        missing: vec!["spiffe://td/a".into(), String::new()],
        ..Default::default()
    };
    for (leaf, golden) in [
        (issuance, include_str!("wire/leaf_issuance.hex")),
        (activation, include_str!("wire/leaf_activation.hex")),
        (Leaf::default(), ""),
    ] {
        let golden = unhex(golden.trim_end());
        assert_eq!(leaf.encode_to_vec(), golden);
        assert_eq!(Leaf::decode(golden.as_slice()).unwrap(), leaf);
        assert!(golden.len() <= 1023);
    }
}
