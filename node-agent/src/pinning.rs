//! The pin of the trust-domain key, and what it is good for.
//!
//! Responsible for: remembering which key speaks for the trust domain, from the configuration or
//! learned over a verified connection, and asking for a statement when no bundle is valid, or none
//! that verifies servers.
//! Always holds: a configured pin is never replaced by a learned one; the position of statements
//! only rises. Not here: verifying a statement (`statement`).

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use mintmark_identity::{statement::Pin, trust_domain::TrustDomain};
use mintmark_runtime::{
    Host,
    disk::MODE_PUBLIC,
    grpc::{ChannelOptions, Target, channel},
    mutation::{self, Bug},
    network::Address,
};
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

use crate::{
    agent_svid::Tls,
    code,
    server_client::{Failure, Servers},
    statement::{self, StatementError, VerifiedStatement},
    trust::{Taken, Trust},
};

/// After so many failures in a row, and each time so many more, an agent asks again what to trust.
const DOUBT_AFTER: u32 = 5;

/// Whether to ask what to trust, although the bundle at hand is valid: an agent that was away while
/// authorities were rotated or revoked has one that verifies no server any more. It asks as soon as it meets
/// such a server; when that brought nothing new, the server is a stranger to the trust domain too, and it asks
/// after every fifth failure only.
#[derive(Debug, Default)]
pub struct Doubt {
    is_due: bool,
    in_vain: bool,
}

impl Doubt {
    /// Whether to ask before the next attempt.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.is_due
    }

    /// An attempt failed, the so-manieth in a row, because the server cannot be verified or for another reason.
    /// If asking was due, it was asked before.
    pub fn failed(&mut self, is_stranger: bool, failures: u32) {
        // A server that was verified meanwhile, whatever it answered, is no stranger.
        self.in_vain = is_stranger && (self.in_vain || self.is_due);
        let often = failures > 0 && failures.is_multiple_of(DOUBT_AFTER);
        self.is_due = often || (is_stranger && !self.in_vain);
    }

    /// A server was verified, or there is another bundle.
    pub fn over(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Default, Serialize, Deserialize, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
struct Known {
    trust_domain_key: Option<String>,
    epoch: u64,
    sequence: u64,
}

/// The pin and the last statement's position. A clone is another handle of the same.
#[derive(Clone, Debug)]
pub struct Pinning {
    host: Host,
    trust_domain: TrustDomain,
    file: PathBuf,
    configured: Option<Pin>,
    anybody: Tls,
    known: Arc<Mutex<Known>>,
}

impl Pinning {
    /// Reads what was remembered. `anybody` is the TLS configuration that verifies nothing.
    #[must_use]
    pub fn open(
        host: Host,
        trust_domain: TrustDomain,
        file: PathBuf,
        configured: Option<Pin>,
        anybody: Tls,
    ) -> Self {
        let known = Arc::new(Mutex::new(read(&host, &file)));
        Self {
            host,
            trust_domain,
            file,
            configured,
            anybody,
            known,
        }
    }

    fn known(&self) -> Known {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The pin, if one is known.
    #[must_use]
    pub fn pin(&self) -> Option<Pin> {
        let learned = || {
            let text = self.known().trust_domain_key?;
            Pin::try_from(hex::decode(text).ok()?).ok()
        };
        self.configured.or_else(learned)
    }

    /// Gets a bundle by a statement from whichever server gives one that verifies and is not older than
    /// `seen`, the epoch and sequence of what servers sent.
    ///
    /// # Errors
    /// When there is no pin, no server answers, or no statement verifies.
    pub async fn ask(
        &self,
        servers: &Servers,
        trust: &Trust,
        seen: (u64, u64),
    ) -> Result<Taken, StatementError> {
        if mutation::is(Bug::DoubtIgnored) && trust.is_usable(self.host.clock.now()) {
            return Err(StatementError::refused("there is a valid bundle"));
        }
        let Some(pin) = self.pin() else {
            return Err(StatementError::refused(
                "no pin of the trust-domain key is known",
            ));
        };
        let ask = |address| self.statement(self.unverified(address), Some(pin), seen);
        // Whatever is wrong with one server's statement, another may give a good one.
        let judge = |server: &Address, error: &StatementError| {
            tracing::warn!(%server, %error, "no statement");
            Failure::OfServer
        };
        let statement = servers.ask_any(ask, judge).await?;
        let taken = trust.take(Arc::clone(&statement.bundle));
        if taken == Taken::Older {
            return Err(StatementError::refused(
                "it is older than what this agent has heard meanwhile",
            ));
        }
        tracing::info!("a statement of the trust-domain key gave the bundle");
        trust.keep().await;
        self.remember(&statement).await;
        Ok(taken)
    }

    /// A connection to whoever is there; only a signed statement is taken from it.
    fn unverified(&self, address: Address) -> Channel {
        let tls = Some(Arc::clone(&self.anybody.0));
        let target = Target::Tcp { address, tls };
        let network = Arc::clone(&self.host.network);
        channel(network, target, ChannelOptions::default())
    }

    /// Learns the pin over a connection that verified the server, unless one is known: then an
    /// outage longer than every bundle needs no person.
    pub async fn learn(&self, verified: Channel, seen: (u64, u64)) {
        if self.pin().is_some() {
            return;
        }
        match self.statement(verified, None, seen).await {
            Ok(statement) => {
                tracing::info!(
                    pin = hex::encode(statement.pin),
                    "learned the trust-domain key"
                );
                self.remember(&statement).await;
            }
            Err(error) => tracing::warn!(%error, "the trust-domain key is not learned yet"),
        }
    }

    async fn statement(
        &self,
        channel: Channel,
        pin: Option<Pin>,
        seen: (u64, u64),
    ) -> Result<VerifiedStatement, StatementError> {
        let known = self.known();
        let seen = seen.max((known.epoch, known.sequence));
        statement::ask(
            channel,
            self.host.entropy.as_ref(),
            &self.trust_domain,
            pin,
            seen,
        )
        .await
    }

    async fn remember(&self, statement: &VerifiedStatement) {
        let known = Known {
            trust_domain_key: Some(hex::encode(statement.pin)),
            epoch: statement.position.0,
            sequence: statement.position.1,
        };
        let bytes = serde_json::to_vec_pretty(&known).unwrap_or_default();
        {
            let mut present = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if (known.epoch, known.sequence) < (present.epoch, present.sequence) {
                return;
            }
            *present = known;
        }
        let (disk, file) = (Arc::clone(&self.host.disk), self.file.clone());
        let kept = self
            .host
            .disk
            .run(move || disk.write_atomic(&file, &bytes, MODE_PUBLIC))
            .await;
        if let Ok(Err(error)) | Err(error) = kept {
            tracing::error!(code = %code::DISK, %error, "the pin cannot be kept");
        }
    }
}

fn read(host: &Host, file: &Path) -> Known {
    let problem = match host.disk.read(file) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(known) => return known,
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Known::default(),
        Err(error) => error.to_string(),
    };
    let path = file.display();
    tracing::error!(code = %code::DISK, %path, problem, "the trust-domain key is forgotten");
    Known::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_asked_about_once_and_then_after_every_fifth_failure() {
        let mut doubt = Doubt::default();
        let asked: Vec<u32> = (1..=12)
            .filter(|failures| {
                doubt.failed(true, *failures);
                doubt.is_due()
            })
            .collect();
        assert_eq!(asked, [1, 5, 10]);
        doubt.over();
        assert!(!doubt.is_due());
        doubt.failed(true, 1);
        assert!(doubt.is_due());
    }

    #[test]
    fn other_failures_are_no_reason_but_for_every_fifth() {
        let mut doubt = Doubt::default();
        let asked: Vec<u32> = (1..=12)
            .filter(|failures| {
                doubt.failed(false, *failures);
                doubt.is_due()
            })
            .collect();
        assert_eq!(asked, [5, 10]);
        doubt.failed(true, 13);
        assert!(
            doubt.is_due(),
            "what was asked before it became a stranger does not count"
        );
    }
}
