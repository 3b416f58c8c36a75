//! Trust domains to take SVIDs from.

use std::time::Duration;

use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::bundle::{Bundle, JwtAuthority};
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entropy::SystemEntropy;
use mintmark_identity::jose::JwsAlgorithm;
use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::jwt::{Audience, JwtClaims, jwt_signing_input};
use mintmark_identity::svid::x509::{
    CaSubject, LeafRequest, LeafSubject, Serial, X509Authority, prepare_leaf, self_signed_authority,
};
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_identity::validity::Validity;
use mintmark_proto::spiffe::workload::{Jwtsvid, X509svid};
use rustls_pki_types::CertificateDer;

pub const HOUR: Duration = Duration::from_secs(3_600);

pub fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000)
}

pub fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

pub fn audience() -> Audience {
    Audience::new(["here"]).unwrap()
}

/// A trust domain with its authorities.
pub struct Domain {
    pub name: TrustDomain,
    pub key: AuthorityKey,
    pub x509: X509Authority,
    pub jwt: SigningKey,
    pub kid: String,
}

impl Domain {
    pub fn new(name: &str) -> Self {
        let name = TrustDomain::parse(name).unwrap();
        let key = AuthorityKey::generate(false).unwrap();
        let validity = Validity::issued_at(now(), HOUR * 24 * 365);
        let serial = Serial::draw(&SystemEntropy);
        let der = self_signed_authority(&name, &key, serial, validity, &CaSubject::default());
        Self {
            kid: format!("{name}-1"),
            name,
            key,
            x509: X509Authority::parse(&der.unwrap()).unwrap(),
            jwt: SigningKey::generate(KeyAlgorithm::EcP256).unwrap(),
        }
    }

    pub fn id(&self) -> String {
        self.name.id().to_string()
    }

    pub fn anchor(&self) -> Vec<u8> {
        self.x509.certificate_der().to_vec()
    }

    pub fn leaf(&self, path: &str, key: &SigningKey, life: Duration) -> Vec<u8> {
        let request = LeafRequest {
            spiffe_id: SpiffeId::from_path(&self.name, path).unwrap(),
            public_key_spki: key.spki_der().to_vec(),
            serial: Serial::draw(&SystemEntropy),
            validity: Validity::issued_at(now(), life),
            dns_names: Vec::new(),
            subject: LeafSubject::for_dns_names(&[]),
        };
        let prepared = prepare_leaf(&request, &self.x509).unwrap();
        prepared.sign(&self.key).unwrap()
    }

    /// A good SVID of an hour as the Workload API sends it.
    pub fn svid(&self, path: &str, hint: &str) -> X509svid {
        self.svid_for(path, hint, HOUR)
    }

    pub fn svid_for(&self, path: &str, hint: &str, life: Duration) -> X509svid {
        let key = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        X509svid {
            spiffe_id: SpiffeId::from_path(&self.name, path).unwrap().to_string(),
            x509_svid: self.leaf(path, &key, life),
            x509_svid_key: key.to_pkcs8().unwrap().to_vec(),
            bundle: self.anchor(),
            hint: hint.to_owned(),
        }
    }

    /// The chain of a peer of this trust domain.
    pub fn peer(&self) -> Vec<CertificateDer<'static>> {
        let key = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        vec![CertificateDer::from(self.leaf("/peer", &key, HOUR))]
    }

    /// The JWK set that the Workload API sends.
    pub fn jwks(&self) -> Vec<u8> {
        let mut bundle = Bundle::empty(self.name.clone());
        let authority = JwtAuthority::parse(&self.kid, self.jwt.spki_der()).unwrap();
        bundle.jwt.push(authority);
        bundle.jwks_for_workload_api()
    }

    /// A good token for `here`.
    pub fn token(&self, path: &str) -> String {
        signed(
            &self.jwt,
            &self.kid,
            &SpiffeId::from_path(&self.name, path).unwrap(),
        )
    }

    pub fn jwt_svid(&self, path: &str, hint: &str) -> Jwtsvid {
        Jwtsvid {
            spiffe_id: SpiffeId::from_path(&self.name, path).unwrap().to_string(),
            svid: self.token(path),
            hint: hint.to_owned(),
        }
    }
}

pub fn signed(key: &SigningKey, kid: &str, subject: &SpiffeId) -> String {
    let claims = JwtClaims {
        spiffe_id: subject.clone(),
        audience: audience(),
        issued_at: now(),
        expires_at: now().saturating_add(HOUR),
        jti: None,
        issuer: None,
    };
    let input = jwt_signing_input(&claims, kid, JwsAlgorithm::Es256).unwrap();
    let signature = key.sign_jws(input.bytes()).unwrap();
    input.attach(&signature)
}
