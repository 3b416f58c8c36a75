//! Serial numbers.
//!
//! Responsible for: [`Serial`], the number that we give to a certificate.
//! Always holds: the number is positive and takes exactly 16 bytes, so its DER has one length
//! and its text is always 32 digits (RFC 5280 section 4.1.2.2 allows up to 20 bytes).
//! Not here: keeping serials unique, which the replicated state does.

use std::fmt;
use std::str::FromStr;

use der::Encode as _;
use der::asn1::UintRef;

use crate::entropy::{Entropy, draw_bytes};

/// The serial number of a certificate that we issue: 126 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 16]);

/// A text or number that is no serial number of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a serial number: 32 hexadecimal digits that begin with 01 to 7f are expected")]
pub struct SerialError;

impl Serial {
    /// Draws a serial number.
    #[must_use]
    pub fn draw(entropy: &dyn Entropy) -> Self {
        let [first, rest @ ..]: [u8; 16] = draw_bytes(entropy);
        let mut bytes = [0; 16];
        let (head, tail) = bytes.split_at_mut(1);
        // The highest bit off makes the number positive, the next one on fixes its length.
        head.fill(first & 0x3f | 0x40);
        tail.copy_from_slice(&rest);
        Self(bytes)
    }

    /// Takes a number that was drawn before.
    ///
    /// # Errors
    /// [`SerialError`] if the number is negative or shorter than 16 bytes in DER.
    pub const fn from_bytes(bytes: [u8; 16]) -> Result<Self, SerialError> {
        match bytes {
            [0x01..=0x7f, ..] => Ok(Self(bytes)),
            _ => Err(SerialError),
        }
    }

    /// The number, big-endian.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(crate) fn to_der(self) -> der::Result<Vec<u8>> {
        UintRef::new(&self.0)?.to_der()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| SerialError)?;
        Self::from_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn every_drawn_serial_is_positive_and_of_one_length() {
        let entropy = SeededEntropy::new(7);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            let serial = Serial::draw(&entropy);
            let der = serial.to_der().unwrap();
            assert_eq!((der.len(), &der[..2]), (18, &[0x02, 16][..]));
            assert!(der[2] < 0x80, "positive");
            assert!(seen.insert(serial), "drawn twice");
            assert_eq!(serial.to_string().parse(), Ok(serial));
        }
    }

    #[test]
    fn negative_short_and_misspelt_serials_are_refused() {
        assert!(Serial::from_bytes([0; 16]).is_err());
        assert!(Serial::from_bytes([0xff; 16]).is_err());
        assert!(
            "00112233445566778899aabbccddeeff"
                .parse::<Serial>()
                .is_err()
        );
        assert!("1122".parse::<Serial>().is_err());
        assert!("".parse::<Serial>().is_err());
        assert!(
            "71112233445566778899aabbccddeefg"
                .parse::<Serial>()
                .is_err()
        );
        let good = "71112233445566778899AABBCCDDEEFF"
            .parse::<Serial>()
            .unwrap();
        assert_eq!(good.to_string(), "71112233445566778899aabbccddeeff");
    }
}
