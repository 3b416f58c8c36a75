//! Clients that others wrote, against a development cluster: the Rust `spiffe` crate, the PyPI
//! `spiffe` package, OpenSSL, PyPI `cryptography` and `pkilint`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chaos_tests::real::dev::Dev;
use chaos_tests::real::venv::Venv;
use spiffe::{BundleSource as _, JwtSource, TrustDomain, WorkloadApiClient, X509Source};

/// Enough for the renewal of an SVID that lives 30 s, on a busy machine.
const ROTATION_PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_rust_spiffe_crate_fetches_validates_and_sees_a_rotation() {
    let dev = Dev::start(&["--x509-ttl", "30s"]);
    let endpoints = dev.endpoints();
    let socket = endpoints.workload_socket.as_str();
    let trust_domain = TrustDomain::new(&endpoints.trust_domain).unwrap();

    let source = X509Source::builder()
        .endpoint(socket)
        .build()
        .await
        .unwrap();
    let first = source.svid().unwrap();
    assert_eq!(first.spiffe_id().to_string(), endpoints.workload_spiffe_id);
    let bundle = source
        .bundle_for_trust_domain(&trust_domain)
        .unwrap()
        .unwrap();
    assert!(!bundle.authorities().is_empty());

    let mut updates = source.updated();
    let before = first.leaf().as_bytes().to_vec();
    tokio::time::timeout(ROTATION_PATIENCE, async {
        while source.svid().unwrap().leaf().as_bytes() == before.as_slice() {
            updates.changed().await.unwrap();
        }
    })
    .await
    .expect("a new SVID arrives on the open stream");
    source.shutdown().await;

    let jwt = JwtSource::builder().endpoint(socket).build().await.unwrap();
    let token = jwt.fetch_jwt_svid(&["reports", "billing"]).await.unwrap();
    assert_eq!(token.spiffe_id().to_string(), endpoints.workload_spiffe_id);
    let bundles = jwt.bundle_set().unwrap();
    let verified = spiffe::JwtSvid::parse_and_validate(token.token(), &*bundles, &["billing"]);
    assert!(verified.is_ok(), "{verified:?}");
    assert!(spiffe::JwtSvid::parse_and_validate(token.token(), &*bundles, &["other"]).is_err());
    jwt.shutdown().await;

    let client = WorkloadApiClient::connect_to(socket).await.unwrap();
    assert!(
        client
            .validate_jwt_token("reports", token.token())
            .await
            .is_ok()
    );
    assert!(
        client
            .validate_jwt_token("other", token.token())
            .await
            .is_err()
    );
}

#[test]
fn the_pypi_spiffe_package_fetches_validates_and_sees_a_rotation() {
    let venv = Venv::with("spiffe", &["spiffe==0.3.2"]);
    let dev = Dev::start(&["--x509-ttl", "30s"]);
    let endpoints = dev.endpoints();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/spiffe_client.py");
    let output = venv
        .python()
        .arg(script)
        .args([&endpoints.workload_socket, &endpoints.trust_domain])
        .arg(ROTATION_PATIENCE.as_secs().to_string())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n--- cluster:\n{}",
        String::from_utf8_lossy(&output.stderr),
        dev.output()
    );
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let id = endpoints.workload_spiffe_id.as_str();
    assert_eq!(seen["spiffe_id"], id);
    assert_eq!(seen["jwt_sub"], id);
    assert_eq!(seen["validated"], id);
    assert_eq!(seen["jwt_source_sub"], id);
    assert_eq!(seen["jwt_aud"], serde_json::json!(["billing", "reports"]));
    assert_eq!(seen["rotated"], true);
    assert_ne!(seen["wrong_audience"], "accepted");
    assert!(seen["x509_authorities"].as_u64().unwrap() >= 1);
    assert!(seen["jwt_authorities"].as_u64().unwrap() >= 1);
}

fn fetched(dev: &Dev) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let output = dev.run(&[
        "x509",
        "fetch",
        "--write",
        directory.path().to_str().unwrap(),
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    directory
}

fn check_chain_with_others(pq: &str) {
    let venv = Venv::with("x509", &["cryptography==50.0.2", "pkilint==0.13.3"]);
    let dev = Dev::start(&["--pq", pq]);
    let files = fetched(&dev);
    let svid = files.path().join("svid.0.pem");
    let bundle = files.path().join("bundle.0.pem");

    let openssl = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
        .arg(&bundle)
        .arg(&svid)
        .output()
        .expect("openssl is installed");
    assert!(
        openssl.status.success(),
        "{}",
        String::from_utf8_lossy(&openssl.stderr)
    );

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/verify_chain.py");
    let output = venv
        .python()
        .arg(script)
        .args([&svid, &bundle])
        .arg(dev.endpoints().workload_spiffe_id)
        .arg(pq)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["native"], "verified");
    let alternative = if pq == "hybrid" { "verified" } else { "absent" };
    assert_eq!(seen["alternative"], alternative);
    assert_eq!(seen["alternative_of_authority"], alternative);
    assert_eq!(seen["altered"], "refused");

    for certificate in [&svid, &bundle] {
        let output = Command::new(venv.program("lint_pkix_cert"))
            .args(["lint", "-s", "ERROR", "-f", "JSON"])
            .arg(certificate)
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        let findings: Vec<String> = report["results"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|result| {
                result["finding_descriptions"]
                    .as_array()
                    .into_iter()
                    .flatten()
            })
            .map(|finding| format!("{} {}", finding["code"], finding["message"]))
            // The linter does not know the scheme `spiffe`.
            .filter(|finding| !finding.contains("pkix.invalid_uri_syntax"))
            .collect();
        assert!(
            findings.is_empty(),
            "{}: {findings:#?}",
            certificate.display()
        );
    }
}

#[test]
fn openssl_cryptography_and_pkilint_accept_issued_chains() {
    check_chain_with_others("off");
}

#[test]
fn openssl_cryptography_and_pkilint_accept_hybrid_chains_and_both_signatures_verify() {
    check_chain_with_others("hybrid");
}
