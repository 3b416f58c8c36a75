//! What was seen from outside: by workloads, by operators.
//!
//! Always: it knows only what a client was told, at the moment it was told; it judges nothing.
//!
//! Not here: what must hold of it (`crate::invariant`).

use std::collections::BTreeMap;
use std::time::Duration;

use mintmark_identity::bundle::{Bundle, BundleSet, X509Anchor};
use mintmark_identity::clock::{Clock as _, Timestamp};
use mintmark_identity::statement::Pin;
use mintmark_identity::svid::x509::svid_hash_of_certificate;
use mintmark_identity::svid::x509::{Usage, VerifiedX509Svid, X509Svid, verify_x509_svid};
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::mintmark::audit::v1::Leaf;
use mintmark_proto::mintmark::state::v1::Authority;
use mintmark_workload_api::client::jwt::JwtToken;
use mintmark_workload_api::client::x509::{X509Identity, X509Update};
use prost::Message as _;
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use crate::sim::clock::SimClock;
use crate::sim::operator::Order;
use crate::sim::server::TRUST_DOMAIN;

/// An SVID as a workload was given it.
#[derive(Debug, Clone)]
pub struct Received {
    /// When.
    pub at: Duration,
    /// The machine's own date then.
    pub now: Timestamp,
    /// On which machine.
    pub machine: String,
    /// To which user's process.
    pub uid: u32,
    /// What the relying party's rules say of it, with the bundle that came along.
    pub verified: Result<VerifiedX509Svid, String>,
    /// Whether the private key that came along is the certificate's.
    pub key_matches: Result<(), String>,
    /// Hash that the log has of it.
    pub svid_hash: [u8; 32],
    /// Ids of the X.509 authorities that came along.
    pub bundle: Vec<String>,
    /// The private key, to look for it where it must not be.
    pub private_key: Vec<u8>,
}

/// A token as a workload was given it.
#[derive(Debug, Clone)]
pub struct Token {
    /// When.
    pub at: Duration,
    /// On which machine.
    pub machine: String,
    /// To which user's process.
    pub uid: u32,
    /// Whose it says it is.
    pub spiffe_id: String,
    /// Hash that the log has of it: of the JWS signing input.
    pub svid_hash: [u8; 32],
    /// Whether the agent that gave it finds it valid; `None` when it could not be asked.
    pub valid: Option<Result<(), String>>,
}

/// What an operator was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It is done.
    Done,
    /// It is done, and this is the entry now.
    Entry(EntrySeen),
    /// The agent is there.
    Agent {
        /// Whether it is banned.
        banned: bool,
    },
    /// The X.509 authorities are these.
    Authorities(Vec<Authority>),
    /// This authority was prepared.
    Prepared(String),
    /// There is no such thing.
    NotFound,
    /// There is such a thing already.
    Exists,
    /// No, and it changed nothing.
    Refused(String),
    /// Nobody knows.
    Unknown,
}

impl Answer {
    /// For the trace: without what is drawn by chance.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Done | Self::Entry(_) | Self::Authorities(_) | Self::Prepared(_) => "done",
            Self::Agent { banned: true } => "banned",
            Self::Agent { banned: false } => "attested",
            Self::NotFound => "not found",
            Self::Exists => "exists",
            Self::Refused(_) => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// An entry as an operator was shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntrySeen {
    /// Its id.
    pub id: String,
    /// Its revision.
    pub revision: i64,
    /// Lifetime of its SVIDs.
    pub ttl_seconds: i64,
}

/// An order and what became of it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// At which machine.
    pub machine: String,
    /// What.
    pub order: Order,
    /// From when.
    pub invoked: Duration,
    /// Until when, and what was said; `None` when the machine died meanwhile.
    pub answered: Option<(Duration, Answer)>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Hash of the trust-domain key.
    pub pin: Option<Pin>,
    /// All SVIDs, in the order in which they were given.
    pub received: Vec<Received>,
    /// All tokens.
    pub tokens: Vec<Token>,
    /// What each user's process holds now, by machine and user.
    pub held: BTreeMap<(String, u32), Vec<Received>>,
    /// The audit log as each server gave it at the end, by machine.
    pub leaves: BTreeMap<String, Vec<Vec<u8>>>,
    /// When the auditor began to read it: what was given later need not be in it.
    pub audited_at: Duration,
    /// All orders.
    pub asked: Vec<Asked>,
    /// When processes of workloads ended.
    pub processes_ended: Vec<Duration>,
    entry_ids: BTreeMap<String, String>,
}

impl Oracle {
    /// Takes note of an update of the Workload API; returns what to call it in the trace.
    pub fn received(
        &mut self,
        at: Duration,
        clock: &SimClock,
        machine: &str,
        uid: u32,
        update: X509Update,
    ) -> String {
        let now = clock.now();
        let all: Vec<Received> = update
            .identities
            .into_iter()
            .map(|identity| received(at, now, machine, uid, identity))
            .collect();
        let mut names: Vec<String> = all
            .iter()
            .map(|one| match &one.verified {
                Ok(svid) => format!("{}#{}", svid.spiffe_id, svid.validity.not_after),
                Err(error) => format!("a bad SVID ({error})"),
            })
            .collect();
        names.sort();
        self.received.extend(all.iter().cloned());
        self.held.insert((machine.to_owned(), uid), all);
        names.join(", ")
    }

    /// Takes note of a token.
    pub fn token(
        &mut self,
        at: Duration,
        machine: &str,
        uid: u32,
        token: &JwtToken,
        valid: Option<Result<(), String>>,
    ) {
        let signed = token.token.rsplit_once('.').map_or("", |(input, _)| input);
        self.tokens.push(Token {
            at,
            machine: machine.to_owned(),
            uid,
            spiffe_id: token.spiffe_id.to_string(),
            svid_hash: Sha256::digest(signed.as_bytes()).into(),
            valid,
        });
    }

    /// A process ended, and what it held with it.
    pub fn process_ended(&mut self, at: Duration, machine: &str, uid: u32) {
        self.processes_ended.push(at);
        self.held.remove(&(machine.to_owned(), uid));
    }

    /// A machine's power went, and with it what its processes held.
    pub fn machine_ended(&mut self, machine: &str) {
        self.held.retain(|(on, _), _| on != machine);
    }

    /// The longest log that a server gave, decoded.
    pub fn log(&self) -> impl Iterator<Item = Leaf> {
        let longest = self.leaves.values().max_by_key(|leaves| leaves.len());
        longest.into_iter().flatten().map(|leaf| decode(leaf))
    }

    /// An operator begins to ask.
    pub fn asked(&mut self, at: Duration, machine: &str, order: &Order) -> usize {
        self.asked.push(Asked {
            machine: machine.to_owned(),
            order: order.clone(),
            invoked: at,
            answered: None,
        });
        self.asked.len() - 1
    }

    /// An operator was told.
    pub fn answered(&mut self, at: Duration, ticket: usize, answer: Answer) {
        self.asked[ticket].answered = Some((at, answer));
    }

    /// An entry has an id now.
    pub fn entry_made(&mut self, key: &str, id: &str) {
        self.entry_ids.insert(key.to_owned(), id.to_owned());
    }

    /// The id of an entry of this run.
    pub fn entry_id(&self, key: &str) -> Option<String> {
        self.entry_ids.get(key).cloned()
    }

    /// Entries that have an id, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &String> {
        self.entry_ids.keys()
    }
}

/// A leaf. What a server gives as one is one.
pub fn decode(leaf: &[u8]) -> Leaf {
    Leaf::decode(leaf).expect("a leaf")
}

fn received(
    at: Duration,
    now: Timestamp,
    machine: &str,
    uid: u32,
    identity: X509Identity,
) -> Received {
    let chain: Vec<CertificateDer<'static>> = identity
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    let mut bundle = Bundle::empty(TrustDomain::parse(TRUST_DOMAIN).expect("a good name"));
    bundle.x509 = identity
        .bundle
        .iter()
        .filter_map(|der| X509Anchor::parse(der).ok())
        .collect();
    let ids = identity
        .bundle
        .iter()
        .filter_map(|der| mintmark_identity::svid::x509::X509Authority::parse(der).ok())
        .map(|authority| authority.id().to_owned())
        .collect();
    let mut bundles = BundleSet::new();
    bundles.insert(bundle);
    let verified = verify_x509_svid(&chain, &bundles, now, Usage::Either)
        .map_err(|error| error.to_string())
        .and_then(|svid| {
            if svid.spiffe_id == identity.spiffe_id {
                Ok(svid)
            } else {
                Err(format!(
                    "is {}, was called {}",
                    svid.spiffe_id, identity.spiffe_id
                ))
            }
        });
    let svid_hash = identity
        .chain
        .first()
        .and_then(|leaf| svid_hash_of_certificate(leaf).ok())
        .unwrap_or_default();
    let private_key = identity.private_key.expose().to_vec();
    let key_matches = X509Svid::new(chain, identity.private_key)
        .map(drop)
        .map_err(|error| error.to_string());
    Received {
        at,
        now,
        machine: machine.to_owned(),
        uid,
        verified,
        key_matches,
        svid_hash,
        bundle: ids,
        private_key,
    }
}
