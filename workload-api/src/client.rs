//! The Workload API, call by call. Every request carries the security header; every answer is checked
//! before anything of it is handed on (SPIFFE Workload API, sections 4 and 5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mintmark_identity::secret::SecretBytes;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Uri};

use crate::endpoint::Endpoint;
use crate::error::ClientError;

pub mod jwt;
pub mod x509;

/// What an agent's answers become, for the fuzzer and its seeds alone.
#[doc(hidden)]
pub mod answers {
    pub use super::jwt::{claims, jwt_bundles, token};
    pub use super::x509::{update, x509_bundles};
}

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the agent may take over a single answer. Streams have no such limit: an agent that has an
/// identity to issue first says nothing until it has it.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Longest hint, in bytes (Workload API, section 8).
const HINT_MAX: usize = 1_024;
/// Largest message accepted: a thousand hybrid SVIDs with their bundles.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

type Service = SpiffeWorkloadApiClient<InterceptedService<Channel, SecurityHeader>>;

/// Puts `workload.spiffe.io: true` on every request (Workload Endpoint, section 3).
#[derive(Debug, Clone, Copy)]
pub struct SecurityHeader;

impl tonic::service::Interceptor for SecurityHeader {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        request
            .metadata_mut()
            .insert("workload.spiffe.io", MetadataValue::from_static("true"));
        Ok(request)
    }
}

/// A connection to a Workload API. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    service: Service,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::NoAgent`] when nobody answers.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let channel = connect(endpoint)
            .await
            .map_err(|cause| ClientError::NoAgent {
                endpoint: endpoint.to_string(),
                cause,
            })?;
        Ok(Self::over(channel))
    }

    /// Uses a channel that the caller made, for instance a simulated one.
    pub fn over(channel: Channel) -> Self {
        let service = SpiffeWorkloadApiClient::with_interceptor(channel, SecurityHeader)
            .max_decoding_message_size(MESSAGE_MAX);
        Self { service }
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "applications link this crate without our runtime; a simulator passes its own channel"
)]
async fn connect(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    match endpoint {
        Endpoint::Tcp(address) => {
            tonic::transport::Endpoint::from_shared(format!("http://{address}"))?
                .connect_timeout(CONNECT_LIMIT)
                .connect()
                .await
        }
        Endpoint::Unix(path) => {
            let path = path.clone();
            // The authority is not used for anything: the connector knows the path.
            tonic::transport::Endpoint::from_static("http://localhost")
                .connect_timeout(CONNECT_LIMIT)
                .connect_with_connector(tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move {
                        tokio::net::UnixStream::connect(path)
                            .await
                            .map(TokioIo::new)
                    }
                }))
                .await
        }
    }
}

/// Waits for a single answer.
async fn answer<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(ANSWER_LIMIT, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(ClientError::Timeout(ANSWER_LIMIT)),
    }
}

/// Of several entries with one hint the first counts (Workload API, sections 5.2.1 and 6.2.1); any
/// number may have none.
fn first_of_each_hint<T>(entries: Vec<T>, hint: impl Fn(&T) -> &str) -> Vec<T> {
    let mut seen = BTreeSet::new();
    entries
        .into_iter()
        .filter(|entry| hint(entry).is_empty() || seen.insert(hint(entry).to_owned()))
        .collect()
}

/// A label that is not longer than labels may be.
fn checked_hint(hint: String) -> Result<String, ClientError> {
    if hint.len() > HINT_MAX {
        let reason = format!("has {} bytes, more than {HINT_MAX}", hint.len());
        return Err(ClientError::malformed("hint", reason));
    }
    Ok(hint)
}

/// X.509 authorities of one trust domain, each DER.
pub type X509Authorities = Vec<Vec<u8>>;

/// Splits concatenated DER certificates.
pub(crate) fn split_der(field: &'static str, bytes: &[u8]) -> Result<Vec<Vec<u8>>, ClientError> {
    let mut certificates = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = der_length(rest)
            .filter(|length| *length <= rest.len())
            .ok_or_else(|| ClientError::malformed(field, "not a sequence of DER certificates"))?;
        let (one, tail) = rest.split_at(length);
        certificates.push(one.to_vec());
        rest = tail;
    }
    Ok(certificates)
}

/// Length of the DER SEQUENCE at the start of `bytes`, header included.
fn der_length(bytes: &[u8]) -> Option<usize> {
    let (&tag, rest) = bytes.split_first()?;
    if tag != 0x30 {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    if first < 0x80 {
        return Some(usize::from(first).saturating_add(2));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > 4 {
        return None;
    }
    let content = rest
        .get(..count)?
        .iter()
        .fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
    content.checked_add(2)?.checked_add(count)
}

fn authorities(
    field: &'static str,
    bundles: &BTreeMap<String, Vec<u8>>,
) -> Result<BTreeMap<TrustDomain, X509Authorities>, ClientError> {
    bundles
        .iter()
        .map(|(id, der)| Ok((trust_domain(field, id)?, split_der(field, der)?)))
        .collect()
}

/// Bundles are keyed by the SPIFFE ID of their trust domain.
fn trust_domain(field: &'static str, id: &str) -> Result<TrustDomain, ClientError> {
    let id: SpiffeId = id.parse().map_err(|e| ClientError::id(field, &e))?;
    if id.has_path() {
        return Err(ClientError::malformed(
            field,
            format!("{id} is not a trust domain"),
        ));
    }
    Ok(id.trust_domain().clone())
}

/// A private key that must be there.
fn private_key(bytes: Vec<u8>) -> Result<SecretBytes, ClientError> {
    if bytes.is_empty() {
        return Err(ClientError::malformed("x509_svid_key", "is empty"));
    }
    Ok(SecretBytes::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenated_certificates_are_split_at_their_lengths() {
        let one = [0x30, 0x02, 1, 2];
        let mut long = vec![0x30, 0x82, 0x01, 0x00];
        long.extend([7_u8; 256]);
        let joined = [&one[..], &long, &one].concat();
        let parts = split_der("f", &joined).unwrap();
        assert_eq!(parts, vec![one.to_vec(), long, one.to_vec()]);
        assert!(split_der("f", &[]).unwrap().is_empty());
    }

    #[test]
    fn wla_n7_pem_or_cut_off_bytes_are_refused() {
        for bytes in [
            &b"-----BEGIN CERTIFICATE-----"[..],
            &[0x30, 0x05, 1],
            &[0x30],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x85, 1, 1, 1, 1, 1],
        ] {
            assert!(split_der("f", bytes).is_err(), "{bytes:?}");
        }
    }
}
