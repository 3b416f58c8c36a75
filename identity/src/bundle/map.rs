//! The map of several trust domains' bundles in one document.
//!
//! Responsible for: reading and writing `{"trust_domains": {…}}` (bundle specification
//! section 5).
//! Always holds: a map is taken whole or not at all; two members for one trust domain refuse it;
//! refresh hints inside it are neither written nor read, because the map is fetched as one.
//! Not here: how often the map is fetched.

use std::collections::BTreeMap;

use serde::Serialize;

use super::document::{self, Document, DocumentError, SkippedKey};
use super::{Bundle, BundleSet};
use crate::json::Node;
use crate::spiffe_id::SpiffeIdError;
use crate::trust_domain::TrustDomain;

/// Why a map as a whole cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleMapError {
    /// The map itself is not a document that can be read.
    #[error("bundle map cannot be read")]
    Document(#[source] DocumentError),
    /// `trust_domains` is missing or not an object.
    #[error("member \"trust_domains\" is missing or not an object")]
    TrustDomains,
    /// A trust domain occurs twice.
    #[error("trust domain {name:?} occurs twice")]
    Duplicate {
        /// Its name.
        name: String,
    },
    /// A member's name is not the name of a trust domain.
    #[error("{name:?} is not a trust domain")]
    Name {
        /// The name.
        name: String,
        /// The rule that it breaks.
        #[source]
        source: SpiffeIdError,
    },
    /// The bundle of a trust domain cannot be used, and so the map cannot.
    #[error("bundle of trust domain {trust_domain} cannot be used")]
    Bundle {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// What is wrong with it.
        #[source]
        source: DocumentError,
    },
}

/// Keys that were left out, by trust domain.
pub type SkippedKeys = BTreeMap<TrustDomain, Vec<SkippedKey>>;

impl BundleSet {
    /// Reads a map of bundles. What it returns is the whole state: a trust domain that was there
    /// before and is not in the map is gone.
    ///
    /// # Errors
    /// When any part cannot be used; then nothing of the map may be.
    pub fn from_map_document(bytes: &[u8]) -> Result<(Self, SkippedKeys), BundleMapError> {
        let object = document::parse_object(bytes).map_err(BundleMapError::Document)?;
        let Some(Node::Object(domains)) = object.get("trust_domains") else {
            return Err(BundleMapError::TrustDomains);
        };
        if let Some(name) = domains.duplicate() {
            return Err(BundleMapError::Duplicate {
                name: name.to_owned(),
            });
        }
        let (mut bundles, mut skipped) = (Self::new(), SkippedKeys::new());
        for (name, node) in domains.members() {
            let trust_domain = TrustDomain::parse(name).map_err(|source| BundleMapError::Name {
                name: name.to_owned(),
                source,
            })?;
            let read = match node {
                Node::Object(object) => Bundle::from_object(&trust_domain, object),
                _ => Err(DocumentError::Keys),
            };
            let (bundle, keys) = read.map_err(|source| BundleMapError::Bundle {
                trust_domain: trust_domain.clone(),
                source,
            })?;
            bundles.insert(bundle);
            if !keys.is_empty() {
                skipped.insert(trust_domain, keys);
            }
        }
        Ok((bundles, skipped))
    }

    /// Writes the map of these bundles.
    #[must_use]
    pub fn to_map_document(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Map<'a> {
            trust_domains: BTreeMap<&'a str, Document>,
        }
        let of = |bundle: &Bundle| Document::of(bundle, false);
        let trust_domains = self
            .iter()
            .map(|b| (b.trust_domain.as_str(), of(b)))
            .collect();
        document::to_json(&Map { trust_domains })
    }
}
