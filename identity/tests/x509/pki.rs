//! A small world to test in: the trust domain `example.org` with its authority, a second one
//! called `other.test`, and certificates that break one rule each.
//!
//! What we issue comes from our own issuer; what we would never issue is put together by
//! [`Forge`], which knows no rules.

use std::sync::Arc;
use std::time::Duration;

use der::asn1::{AnyRef, BitString, ObjectIdentifier, OctetString};
use der::{Decode as _, Encode as _, Reader as _, SliceReader, Tag};
use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::bundle::{Bundle, BundleSet, X509Anchor};
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entropy::SystemEntropy;
use mintmark_identity::hybrid::pretbs::pre_tbs;
use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::secret::SecretBytes;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::x509::structure::TbsParts;
use mintmark_identity::svid::x509::x509_svid::X509Svid;
use mintmark_identity::svid::x509::{
    CaSubject, LeafRequest, LeafSubject, Serial, X509Authority, prepare_leaf, self_signed_authority,
};
use mintmark_identity::trust_domain::TrustDomain;
use mintmark_identity::validity::Validity;
use rustls_pki_types::CertificateDer;

pub const HOUR: Duration = Duration::from_secs(3_600);
pub const DAY: Duration = Duration::from_secs(86_400);

/// 2026-11-24T11:00:00Z.
pub const NOW: Timestamp = Timestamp::from_unix_secs(1_795_518_000);

pub fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub fn serial() -> Serial {
    Serial::draw(&SystemEntropy)
}

pub fn p256() -> SigningKey {
    SigningKey::generate(KeyAlgorithm::EcP256).unwrap()
}

/// An authority with its keys.
pub struct Authority {
    pub trust_domain: TrustDomain,
    pub key: AuthorityKey,
    pub certificate: X509Authority,
}

impl Authority {
    pub fn new(trust_domain: &str, hybrid: bool) -> Self {
        let key = AuthorityKey::generate(hybrid).unwrap();
        Self::with_key(trust_domain, key, Validity::issued_at(NOW, DAY))
    }

    pub fn with_key(trust_domain: &str, key: AuthorityKey, validity: Validity) -> Self {
        let trust_domain = td(trust_domain);
        let subject = CaSubject::default();
        let der = self_signed_authority(&trust_domain, &key, serial(), validity, &subject).unwrap();
        let certificate = X509Authority::parse(&der).unwrap();
        Self {
            trust_domain,
            key,
            certificate,
        }
    }

    pub fn request(&self, path: &str, leaf: &SigningKey) -> LeafRequest {
        LeafRequest {
            spiffe_id: SpiffeId::from_path(&self.trust_domain, path).unwrap(),
            public_key_spki: leaf.spki_der().to_vec(),
            serial: serial(),
            validity: Validity::issued_at(NOW, HOUR),
            dns_names: Vec::new(),
            subject: LeafSubject::default(),
        }
    }

    pub fn issue(&self, path: &str, leaf: &SigningKey) -> Vec<u8> {
        let request = self.request(path, leaf);
        prepare_leaf(&request, &self.certificate)
            .unwrap()
            .sign(&self.key)
            .unwrap()
    }

    pub fn anchor(&self) -> X509Anchor {
        X509Anchor::parse(self.certificate.certificate_der()).unwrap()
    }

    /// A bundle of its trust domain with this authority.
    pub fn bundle(&self) -> Bundle {
        bundle(self.trust_domain.as_str(), vec![self.anchor()])
    }
}

pub fn bundle(trust_domain: &str, anchors: Vec<X509Anchor>) -> Bundle {
    let mut bundle = Bundle::empty(td(trust_domain));
    bundle.x509 = anchors;
    bundle
}

pub fn bundles(all: impl IntoIterator<Item = Bundle>) -> BundleSet {
    let mut set = BundleSet::new();
    for bundle in all {
        set.insert(bundle);
    }
    set
}

/// Certificates as a chain, leaf first.
pub fn chain(certificates: &[&[u8]]) -> Vec<CertificateDer<'static>> {
    certificates
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect()
}

pub fn svid(certificates: &[&[u8]], key: &SigningKey) -> Arc<X509Svid> {
    let pkcs8 = SecretBytes::from(key.to_pkcs8().unwrap());
    Arc::new(X509Svid::new(chain(certificates), pkcs8).unwrap())
}

pub fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

/// An element around others.
pub fn tlv(tag: Tag, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = der::Length::try_from(length).unwrap();
    let mut bytes = der::Header::new(tag, length).to_der().unwrap();
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(Tag::Sequence, parts)
}

pub fn extension(which: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let value = OctetString::new(value).unwrap().to_der().unwrap();
    let flag = if critical {
        true.to_der().unwrap()
    } else {
        Vec::new()
    };
    sequence(&[&oid(which).to_der().unwrap(), &flag, &value])
}

fn extension_id(extension: &[u8]) -> ObjectIdentifier {
    let any = AnyRef::from_der(extension).unwrap();
    ObjectIdentifier::from_der(SliceReader::new(any.value()).unwrap().tlv_bytes().unwrap()).unwrap()
}

pub fn uri(text: &str) -> Vec<u8> {
    tlv(
        der::TagNumber(6).context_specific(false),
        &[text.as_bytes()],
    )
}

pub fn dns(text: &str) -> Vec<u8> {
    tlv(
        der::TagNumber(2).context_specific(false),
        &[text.as_bytes()],
    )
}

pub fn san(names: &[Vec<u8>]) -> Vec<u8> {
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    extension("2.5.29.17", false, &sequence(&names))
}

/// keyUsage with these bits, counted from digitalSignature = 0.
pub fn key_usage(bits: &[u32]) -> Vec<u8> {
    let value = bits.iter().fold(0_u8, |value, bit| value | (0x80 >> bit));
    let unused = u8::try_from(value.trailing_zeros().min(7)).unwrap();
    let bits = BitString::new(unused, vec![value]).unwrap();
    extension("2.5.29.15", true, &bits.to_der().unwrap())
}

pub const DIGITAL_SIGNATURE: u32 = 0;
pub const KEY_ENCIPHERMENT: u32 = 2;
pub const KEY_CERT_SIGN: u32 = 5;
pub const CRL_SIGN: u32 = 6;

pub fn basic_constraints(ca: bool, path_length: Option<u8>) -> Vec<u8> {
    let ca = if ca {
        true.to_der().unwrap()
    } else {
        Vec::new()
    };
    let length = path_length.map_or_else(Vec::new, |length| length.to_der().unwrap());
    extension("2.5.29.19", true, &sequence(&[&ca, &length]))
}

pub fn extended_key_usage(purposes: &[&str]) -> Vec<u8> {
    let purposes: Vec<_> = purposes.iter().map(|p| oid(p).to_der().unwrap()).collect();
    let purposes: Vec<&[u8]> = purposes.iter().map(Vec::as_slice).collect();
    extension("2.5.29.37", false, &sequence(&purposes))
}

pub const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
pub const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";

/// A DER name with one common name.
pub fn name(common_name: &str) -> Vec<u8> {
    let text = der::asn1::Utf8StringRef::new(common_name)
        .unwrap()
        .to_der()
        .unwrap();
    let pair = sequence(&[&oid("2.5.4.3").to_der().unwrap(), &text]);
    sequence(&[&tlv(Tag::Set, &[&pair])])
}

/// Makes certificates without asking whether they make sense.
#[derive(Clone)]
pub struct Forge {
    pub subject: Vec<u8>,
    pub spki: Vec<u8>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub extensions: Vec<Vec<u8>>,
}

impl Forge {
    /// A good leaf with this URI; each test spoils it in its own way.
    pub fn leaf(text: &str, key: &SigningKey) -> Self {
        Self {
            subject: sequence(&[]),
            spki: key.spki_der().to_vec(),
            not_before: Timestamp::from_unix_secs(NOW.unix_secs() - 10),
            not_after: Timestamp::from_unix_secs(NOW.unix_secs() + 3_600),
            extensions: vec![
                key_usage(&[DIGITAL_SIGNATURE]),
                extended_key_usage(&[SERVER_AUTH, CLIENT_AUTH]),
                basic_constraints(false, None),
                san(&[uri(text)]),
            ],
        }
    }

    /// A good signing certificate without SPIFFE ID.
    pub fn ca(common_name: &str, key: &SigningKey) -> Self {
        Self {
            subject: name(common_name),
            spki: key.spki_der().to_vec(),
            not_before: Timestamp::from_unix_secs(NOW.unix_secs() - 10),
            not_after: Timestamp::from_unix_secs(NOW.unix_secs() + 86_400),
            extensions: vec![
                basic_constraints(true, None),
                key_usage(&[KEY_CERT_SIGN, CRL_SIGN]),
            ],
        }
    }

    /// Leaves out the extension that `replacement` is, and adds `replacement`.
    pub fn replace(mut self, replacement: Vec<u8>) -> Self {
        let which = extension_id(&replacement);
        self.extensions
            .retain(|extension| extension_id(extension) != which);
        self.extensions.push(replacement);
        self
    }

    pub fn without(mut self, which: &str) -> Self {
        self.extensions
            .retain(|extension| extension_id(extension) != oid(which));
        self
    }

    pub fn with(mut self, extension: Vec<u8>) -> Self {
        self.extensions.push(extension);
        self
    }

    pub fn valid(mut self, from: i64, to: i64) -> Self {
        self.not_before = Timestamp::from_unix_secs(NOW.unix_secs() + from);
        self.not_after = Timestamp::from_unix_secs(NOW.unix_secs() + to);
        self
    }

    pub fn tbs(&self, issuer: &[u8]) -> Vec<u8> {
        let time = |t: Timestamp| {
            let since = Duration::from_secs(t.unix_secs().try_into().unwrap());
            let date = der::DateTime::from_unix_duration(since).unwrap();
            x509_cert::time::Time::from(date).to_der().unwrap()
        };
        let extensions: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
        let extensions = sequence(&extensions);
        sequence(&[
            &[0xa0, 3, 2, 1, 2],
            &[2, 1, 0x42],
            &ecdsa_sha256(),
            issuer,
            &sequence(&[&time(self.not_before), &time(self.not_after)]),
            &self.subject,
            &self.spki,
            &tlv(der::TagNumber(3).context_specific(true), &[&extensions]),
        ])
    }

    pub fn sign(&self, issuer: &[u8], key: &SigningKey) -> Vec<u8> {
        signed(&self.tbs(issuer), key)
    }

    pub fn sign_by(&self, authority: &Authority) -> Vec<u8> {
        self.sign(authority.certificate.subject(), authority.key.native())
    }

    /// Adds both halves of an alternative signature by the authority, then signs natively.
    pub fn sign_hybrid_by(&self, authority: &Authority) -> Vec<u8> {
        let algorithm = sequence(&[&oid("2.16.840.1.101.3.4.3.18").to_der().unwrap()]);
        let draft = self.clone().with(extension("2.5.29.73", false, &algorithm));
        let tbs = draft.tbs(authority.certificate.subject());
        let message = pre_tbs(&TbsParts::parse(&tbs).unwrap()).unwrap();
        let signature = authority.key.alternative().unwrap().sign(&message).unwrap();
        let bits = BitString::from_bytes(&signature).unwrap().to_der().unwrap();
        draft
            .with(extension("2.5.29.74", false, &bits))
            .sign_by(authority)
    }

    pub fn self_sign(&self, key: &SigningKey) -> Vec<u8> {
        self.sign(&self.subject.clone(), key)
    }
}

pub fn ecdsa_sha256() -> Vec<u8> {
    sequence(&[&oid("1.2.840.10045.4.3.2").to_der().unwrap()])
}

/// A certificate of any TBSCertificate, natively signed with P-256.
pub fn signed(tbs: &[u8], key: &SigningKey) -> Vec<u8> {
    let signature = BitString::from_bytes(&key.sign(tbs).unwrap()).unwrap();
    sequence(&[tbs, &ecdsa_sha256(), &signature.to_der().unwrap()])
}
