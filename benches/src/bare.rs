//! The limit: what one SVID costs in bare signatures of the same library. A request has a proof of
//! possession to verify, a certificate to sign, and a signature to check before it is released.

use std::time::Duration;

use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey, verify_signature};

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    let nanos: u64 = stat.split_whitespace().next().unwrap().parse().unwrap();
    Duration::from_nanos(nanos)
}

/// SVIDs per CPU-second if signatures were all there is: verify + sign + verify, P-256; with
/// `hybrid`, also sign + verify ML-DSA-65.
pub fn svids_per_cpu_second(hybrid: bool) -> f64 {
    const ROUNDS: u32 = 2_000;
    let subject = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
    let authority = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
    let alternative = SigningKey::generate(KeyAlgorithm::MlDsa65).unwrap();
    let request = [7_u8; 450];
    let proof = subject.sign(&request).unwrap();
    let before = thread_cpu();
    for round in 0..ROUNDS {
        let mut certificate = [9_u8; 450];
        certificate[..4].copy_from_slice(&round.to_be_bytes());
        verify_signature(subject.spki_der(), &request, &proof).unwrap();
        let signature = authority.sign(&certificate).unwrap();
        verify_signature(authority.spki_der(), &certificate, &signature).unwrap();
        if hybrid {
            let signature = alternative.sign(&certificate).unwrap();
            verify_signature(alternative.spki_der(), &certificate, &signature).unwrap();
        }
    }
    f64::from(ROUNDS) / (thread_cpu() - before).as_secs_f64()
}
