//! Subjects of certificates.
//!
//! Responsible for: [`CaSubject`] and [`LeafSubject`], what stands in the subject field, and
//! its encoding; showing a foreign name to a human.
//! Always holds: every attribute keeps to the type and upper bound of RFC 5280 appendix A.
//! Not here: identity. Nobody is to authorise by a subject; the SPIFFE ID stands in the SAN.

use der::asn1::{ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use der::{Decode as _, Encode as _, Tag};
use x509_cert::name::Name;

use super::serial::Serial;
use super::structure::{sequence, wrap};

/// Stands in the subject of every authority of a development cluster, so that `doctor` finds
/// one that has strayed into production.
pub const DEVELOPMENT_MARK: &str = "DEV, not for production";

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SERIAL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.5");
const COUNTRY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.6");
const ORGANIZATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");
const ORGANIZATIONAL_UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");

/// Upper bound of commonName, organizationName and organizationalUnitName in characters
/// (RFC 5280 appendix A.1, ub-common-name and others).
pub const ATTRIBUTE_MAX: usize = 64;

/// Why a subject cannot be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A country is not two capital letters.
    #[error("country must be two capital letters")]
    Country,
    /// An attribute is empty or longer than X.509 allows.
    #[error("{attribute} must have 1 to {ATTRIBUTE_MAX} characters")]
    Length {
        /// Which one.
        attribute: &'static str,
    },
    /// An attribute holds control characters.
    #[error("{attribute} contains a control character")]
    Character {
        /// Which one.
        attribute: &'static str,
    },
    /// The encoder refused.
    #[error("name cannot be encoded")]
    Encoding(#[from] der::Error),
}

/// The subject of an authority. Its serialNumber attribute, the serial number of the
/// certificate in decimals, is added when the certificate is made: authorities that follow each
/// other differ in name, and path builders need not try them all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaSubject {
    /// Two capital letters.
    pub country: Option<String>,
    /// Whose authority it is.
    pub organization: Option<String>,
    /// Part of the organization.
    pub organizational_unit: Option<String>,
    /// What to call it.
    pub common_name: Option<String>,
}

impl Default for CaSubject {
    fn default() -> Self {
        Self {
            country: Some("US".to_owned()),
            organization: Some("Mintmark".to_owned()),
            organizational_unit: None,
            common_name: None,
        }
    }
}

impl CaSubject {
    /// The subject of authorities of a development cluster.
    #[must_use]
    pub fn development() -> Self {
        Self {
            organizational_unit: Some(DEVELOPMENT_MARK.to_owned()),
            ..Self::default()
        }
    }

    /// Whether this marks an authority of a development cluster.
    #[must_use]
    pub fn is_development(&self) -> bool {
        self.organizational_unit.as_deref() == Some(DEVELOPMENT_MARK)
    }

    pub(crate) fn to_der(&self, serial: Serial) -> Result<Vec<u8>, NameError> {
        let number = u128::from_be_bytes(*serial.as_bytes()).to_string();
        let mut name = NameBuilder::new();
        name.country(self.country.as_deref())?;
        name.text(ORGANIZATION, "organization", self.organization.as_deref())?;
        let unit = self.organizational_unit.as_deref();
        name.text(ORGANIZATIONAL_UNIT, "organizational unit", unit)?;
        name.text(COMMON_NAME, "common name", self.common_name.as_deref())?;
        name.printable(SERIAL_NUMBER, &number)?;
        name.finish()
    }
}

/// The subject of a leaf. A leaf without any of these has an empty subject, and a critical SAN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafSubject {
    /// Two capital letters.
    pub country: Option<String>,
    /// Whose workload it is.
    pub organization: Option<String>,
    /// Part of the organization.
    pub organizational_unit: Option<String>,
    /// The name that software which knows nothing of SANs looks at.
    pub common_name: Option<String>,
}

impl LeafSubject {
    /// A subject without attributes.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            country: None,
            organization: None,
            organizational_unit: None,
            common_name: None,
        }
    }

    /// The usual subject: country and organization, and the first DNS name as common name if it
    /// is short enough to be one.
    #[must_use]
    pub fn for_dns_names(dns_names: &[String]) -> Self {
        let first = dns_names.first().filter(|name| name.len() <= ATTRIBUTE_MAX);
        Self {
            country: Some("US".to_owned()),
            organization: Some("Mintmark".to_owned()),
            organizational_unit: None,
            common_name: first.cloned(),
        }
    }

    /// Whether there is no attribute.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.country.is_none()
            && self.organization.is_none()
            && self.organizational_unit.is_none()
            && self.common_name.is_none()
    }

    pub(crate) fn to_der(&self) -> Result<Vec<u8>, NameError> {
        let mut name = NameBuilder::new();
        name.country(self.country.as_deref())?;
        name.text(ORGANIZATION, "organization", self.organization.as_deref())?;
        let unit = self.organizational_unit.as_deref();
        name.text(ORGANIZATIONAL_UNIT, "organizational unit", unit)?;
        name.text(COMMON_NAME, "common name", self.common_name.as_deref())?;
        name.finish()
    }
}

impl Default for LeafSubject {
    fn default() -> Self {
        Self::for_dns_names(&[])
    }
}

/// A DER name in the notation of RFC 4514 for humans; one that cannot be read, in hexadecimal.
#[must_use]
pub fn display_name(name: &[u8]) -> String {
    match Name::from_der(name) {
        Ok(name) => name.to_string(),
        Err(_) => format!("#{}", hex::encode(name)),
    }
}

struct NameBuilder(Vec<Vec<u8>>);

impl NameBuilder {
    const fn new() -> Self {
        Self(Vec::new())
    }

    fn country(&mut self, country: Option<&str>) -> Result<(), NameError> {
        match country {
            None => Ok(()),
            Some(text) if text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase()) => {
                self.printable(COUNTRY, text)
            }
            Some(_) => Err(NameError::Country),
        }
    }

    fn text(
        &mut self,
        oid: ObjectIdentifier,
        attribute: &'static str,
        text: Option<&str>,
    ) -> Result<(), NameError> {
        let Some(text) = text else { return Ok(()) };
        if text.is_empty() || text.chars().count() > ATTRIBUTE_MAX {
            return Err(NameError::Length { attribute });
        }
        if text.chars().any(char::is_control) {
            return Err(NameError::Character { attribute });
        }
        self.attribute(oid, &Utf8StringRef::new(text)?.to_der()?)
    }

    fn printable(&mut self, oid: ObjectIdentifier, text: &str) -> Result<(), NameError> {
        self.attribute(oid, &PrintableStringRef::new(text)?.to_der()?)
    }

    fn attribute(&mut self, oid: ObjectIdentifier, value: &[u8]) -> Result<(), NameError> {
        let pair = sequence(&[&oid.to_der()?, value])?;
        self.0.push(wrap(Tag::Set, &[&pair])?);
        Ok(())
    }

    fn finish(self) -> Result<Vec<u8>, NameError> {
        let parts: Vec<&[u8]> = self.0.iter().map(Vec::as_slice).collect();
        Ok(sequence(&parts)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIAL: Serial = match Serial::from_bytes([0x40; 16]) {
        Ok(serial) => serial,
        Err(_) => unreachable!(),
    };

    #[test]
    fn ca_subject_carries_its_serial_number_and_the_development_mark() {
        let plain = display_name(&CaSubject::default().to_der(SERIAL).unwrap());
        let number = u128::from_be_bytes([0x40; 16]).to_string();
        assert_eq!(plain, format!("SERIALNUMBER={number},O=Mintmark,C=US"));
        let marked = display_name(&CaSubject::development().to_der(SERIAL).unwrap());
        assert!(marked.contains("DEV\\, not for production"), "{marked}");
        assert!(CaSubject::development().is_development());
        assert!(!CaSubject::default().is_development());
    }

    #[test]
    fn leaf_subject_takes_the_first_dns_name_that_fits() {
        let short = vec!["db.example.org".to_owned(), "other.example.org".to_owned()];
        let name = display_name(&LeafSubject::for_dns_names(&short).to_der().unwrap());
        assert_eq!(name, "CN=db.example.org,O=Mintmark,C=US");
        let long = vec![format!("{}.example.org", "x".repeat(60))];
        assert_eq!(LeafSubject::for_dns_names(&long).common_name, None);
        assert_eq!(LeafSubject::empty().to_der().unwrap(), [0x30, 0x00]);
        assert!(LeafSubject::empty().is_empty() && !LeafSubject::default().is_empty());
    }

    #[test]
    fn attributes_that_x509_forbids_are_refused() {
        let with = |country: &str, common_name: &str| LeafSubject {
            country: Some(country.to_owned()),
            common_name: Some(common_name.to_owned()),
            ..LeafSubject::empty()
        };
        for country in ["us", "USA", "", "Ü"] {
            assert_eq!(with(country, "x").to_der(), Err(NameError::Country));
        }
        let attribute = "common name";
        assert_eq!(
            with("DE", "").to_der(),
            Err(NameError::Length { attribute })
        );
        let long = "x".repeat(65);
        assert_eq!(
            with("DE", &long).to_der(),
            Err(NameError::Length { attribute })
        );
        assert_eq!(
            with("DE", "a\nb").to_der(),
            Err(NameError::Character { attribute })
        );
        assert!(
            with("DE", &"ü".repeat(64)).to_der().is_ok(),
            "characters, not bytes"
        );
    }

    #[test]
    fn names_that_cannot_be_read_are_shown_in_hexadecimal() {
        assert_eq!(display_name(&[0x31, 0x00]), "#3100");
    }
}
