//! What must hold for any bytes that an agent is given by a server.
//!
//! Responsible for: one function per fuzz target, which panics when its property is broken.
//! Always holds: the functions are deterministic, so an input that failed once fails again.
//! Not here: the fuzzer. `node-agent/tests/fuzz_seeds.rs` runs the same functions over the seeds.

use mintmark_identity::entry::EntryId;
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_proto::mintmark::agent::v1::{Bundle, GetStatementResponse, Statement, Update};
use node_agent::fuzzing::{update, verify_statement};
use prost::Message;

/// The question that the seeds answer.
const NONCE: &[u8] = b"a question of the fuzzer";

/// A statement is believed only with the words that the key behind the pin signed.
pub fn statement(data: &[u8]) {
    const SIGNED: &[u8] = include_bytes!("../seeds/statement/signed");
    let (Ok(domain), Ok(signed)) = (
        TrustDomain::parse("example.org"),
        GetStatementResponse::decode(SIGNED),
    ) else {
        panic!("the seed is good");
    };
    let Ok(response) = GetStatementResponse::decode(data) else {
        return;
    };
    let pinned = match verify_statement(&signed, NONCE, &domain, None, (0, 0)) {
        Ok(verified) => verified.pin,
        Err(error) => panic!("the seed is good: {error}"),
    };
    for pin in [Some(pinned), None] {
        if let Ok(verified) = verify_statement(&response, NONCE, &domain, pin, (0, 0)) {
            assert_eq!(verified.pin, pinned, "nobody else has signed anything");
            assert_eq!(response.statement, signed.statement);
            assert_eq!(verified.bundle.trust_domain, domain);
        }
    }
    let newer = Statement::decode(signed.statement.as_slice());
    let newer = newer.map_or((0, 0), |seen| (seen.epoch, seen.sequence + 1));
    assert!(verify_statement(&response, NONCE, &domain, Some(pinned), newer).is_err());
    assert!(verify_statement(&response, b"another", &domain, Some(pinned), (0, 0)).is_err());
}

/// Whatever is not understood of an update takes away, and never gives: each entry is either valid in this
/// trust domain or taken as removed, each bundle is under the name it came with, and the own bundle goes
/// only when the server says so.
pub fn push_update(data: &[u8]) {
    let (Ok(domain), Ok(wire)) = (TrustDomain::parse("example.org"), Update::decode(data)) else {
        return;
    };
    let Ok(update) = update(wire.clone(), &domain) else {
        return;
    };
    let own = TrustDomain::as_str(&domain);
    for sent in &wire.entries {
        let id = sent.id.as_str();
        let given = update.entries.iter().any(|entry| entry.id.as_str() == id);
        let taken = update
            .removed_entries
            .iter()
            .any(|gone| gone.as_str() == id);
        assert!(given || taken || EntryId::parse(id).is_err(), "{sent:?}");
    }
    for entry in &update.entries {
        assert!(entry.validate(&domain).is_ok(), "{entry:?}");
    }
    for change in &update.bundles {
        let name = change.bundle.trust_domain.as_str();
        let sent = |bundle: &&Bundle| {
            TrustDomain::from_id_or_name(&bundle.trust_domain)
                .is_ok_and(|sent| sent.as_str() == name)
        };
        assert!(wire.bundles.iter().any(|bundle| sent(&bundle)), "{name}");
    }
    assert!(update.removed_bundles.iter().all(|gone| {
        gone.as_str() != own || wire.removed_bundles.iter().any(|sent| sent.contains(own))
    }));
}
