#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

use mintmark_proto::spire::bundle::bundle_server::Bundle as _;
use tonic::Code;

use super::*;
use crate::api::fixture::{Fixture, local, remote};

#[tokio::test(start_paused = true)]
async fn anybody_reads_the_bundle_and_its_mask_counts() {
    let fixture = Fixture::issuing(false).await;
    let service = BundleService(fixture.services.clone());
    let get = |output_mask| service.get_bundle(remote(wire::GetBundleRequest { output_mask }));
    let whole = get(None).await.unwrap().into_inner();
    assert_eq!(whole.trust_domain, "example.org");
    assert_eq!(
        (whole.x509_authorities.len(), whole.jwt_authorities.len()),
        (1, 1)
    );
    assert!(whole.sequence_number > 1 << 40 && whole.refresh_hint > 0);
    let mask = types::BundleMask {
        jwt_authorities: true,
        ..types::BundleMask::default()
    };
    let part = get(Some(mask)).await.unwrap().into_inner();
    assert_eq!(part.jwt_authorities, whole.jwt_authorities);
    assert!(part.x509_authorities.is_empty() && part.sequence_number == 0);
    assert_eq!(part.trust_domain, "example.org");
}

#[tokio::test(start_paused = true)]
async fn what_would_change_the_bundle_is_not_offered_and_says_so() {
    let service = BundleService(Fixture::new().await.services);
    let request = local(wire::AppendBundleRequest::default());
    let refused = service.append_bundle(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(
        refused.message().starts_with("MM-1205: "),
        "{}",
        refused.message()
    );
    let request = remote(wire::CountBundlesRequest {});
    assert_eq!(
        service.count_bundles(request).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let request = local(wire::CountBundlesRequest {});
    assert_eq!(
        service
            .count_bundles(request)
            .await
            .unwrap()
            .into_inner()
            .count,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn id_15_before_the_first_authority_there_is_no_bundle_to_read() {
    let service = BundleService(Fixture::new().await.services);
    let get = service.get_bundle(remote(wire::GetBundleRequest::default()));
    let refused = get.await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().starts_with("MM-1312: "), "{refused}");
    let service = BundleService(Fixture::issuing(false).await.services);
    let get = service.get_bundle(remote(wire::GetBundleRequest::default()));
    assert!(!get.await.unwrap().into_inner().x509_authorities.is_empty());
}
