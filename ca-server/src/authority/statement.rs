//! Statements of this trust domain: its bundle, signed by the key that joiners pin.
//!
//! Always: a statement says what this server has applied, and when; it is made anew for each nonce, and
//! only by a server whose vault is open.
//!
//! Not here: how it is signed and verified (`mintmark_identity::statement`).

use mintmark_identity::clock::Timestamp;
use mintmark_identity::statement::{Pin, StatementError, pin, sign_statement};
use mintmark_identity::svid::x509::X509Authority;
use mintmark_proto::mintmark::agent::v1::{GetStatementResponse, Statement};
use prost::Message;
use thiserror::Error;

use super::keyring::{Keyring, KeyringError, SealedRecord};
use crate::state::State;

/// Why no statement can be made.
#[derive(Debug, Error)]
pub enum MakeStatementError {
    /// The key cannot be opened.
    #[error("the trust-domain key cannot be opened")]
    Keyring(#[from] KeyringError),
    /// The key cannot sign.
    #[error("the statement cannot be signed")]
    Sign(#[from] StatementError),
}

/// What a statement is made of; copied out of the state.
pub struct Draft {
    statement: Statement,
    certificate: Vec<u8>,
    sealed: SealedRecord,
}

impl Draft {
    /// Reads the state.
    ///
    /// # Errors
    /// When there is no cluster yet, or this server has no part in its vault.
    pub fn read(
        state: &State,
        node_id: u64,
        nonce: Vec<u8>,
        now: Timestamp,
    ) -> Result<Self, KeyringError> {
        let missing = || KeyringError::NotInitialized;
        let key = state.trust_domain_key().ok_or_else(missing)?;
        let trust_domain = state.trust_domain().ok_or_else(missing)?;
        let bundle = state.own_bundle().ok_or_else(missing)?;
        let statement = Statement {
            trust_domain: trust_domain.to_string(),
            cluster_id: state.cluster_id().ok_or_else(missing)?.to_vec(),
            epoch: state.epoch(),
            bundle_document: bundle.to_document(),
            sequence: state.bundle_sequence(),
            time_ms: now.unix_millis(),
            nonce,
        };
        Ok(Self {
            statement,
            certificate: key.certificate.clone(),
            sealed: SealedRecord::find(state, node_id, &key.vault_record)?,
        })
    }

    /// Signs it.
    ///
    /// # Errors
    /// When the vault is sealed.
    pub fn sign(self, keyring: &Keyring) -> Result<GetStatementResponse, MakeStatementError> {
        let key = keyring.trust_domain_key(&self.certificate, &self.sealed)?;
        let statement = self.statement.encode_to_vec();
        let signatures = sign_statement(key.key(), &statement)?;
        Ok(GetStatementResponse {
            statement,
            native_signature: signatures.native,
            alternative_signature: signatures.alternative,
            trust_domain_key_certificate: self.certificate,
        })
    }
}

/// The hash of a trust-domain key's certificate that join lines pin.
///
/// # Errors
/// When the certificate is none of a trust-domain key.
pub fn trust_domain_pin(certificate: &[u8]) -> Result<Pin, StatementError> {
    pin(&X509Authority::parse(certificate)?)
}
