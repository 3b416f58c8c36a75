//! Presenting the own SVID.
//!
//! Responsible for: answering rustls with the SVID that the source has at this moment.
//! Always holds: a handshake sees one SVID, chain and key together; without an SVID there is no
//! certificate, which the other side's demands then decide about.
//! Not here: renewing it.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::SvidSource;

#[derive(Debug)]
pub(super) struct CurrentSvid(Arc<dyn SvidSource>);

impl CurrentSvid {
    pub(super) fn new(source: Arc<dyn SvidSource>) -> Self {
        Self(source)
    }

    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.svid().map(|svid| Arc::clone(svid.certified_key()))
    }
}

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for CurrentSvid {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _signature_schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
