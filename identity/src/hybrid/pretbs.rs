//! What the alternative signature is over.
//!
//! Responsible for: the preTBSCertificate of X.509 clause 7.2.2, and the TBSCertificate without
//! its alternative signature, which is what issuance commits to.
//! Always holds: both are the original bytes with whole elements left out and lengths written
//! anew; nothing that stays is decoded and encoded again.
//! Not here: signing and verifying.

use der::{Tag, TagNumber};

use super::ALT_SIGNATURE_VALUE;
use crate::svid::x509::structure::{TbsParts, VERSION_3, sequence, wrap};

/// The preTBSCertificate: without the `signature` field, which names the native algorithm, and
/// without extension 74.
///
/// # Errors
/// Only if the lengths overflow.
pub fn pre_tbs(tbs: &TbsParts<'_>) -> der::Result<Vec<u8>> {
    assemble(tbs, None, &[])
}

/// The whole TBSCertificate but for extension 74; equal to the input if there is none.
///
/// # Errors
/// Only if the lengths overflow.
pub fn without_alternative_signature(tbs: &TbsParts<'_>) -> der::Result<Vec<u8>> {
    assemble(tbs, Some(tbs.signature_algorithm), &[])
}

/// The TBSCertificate with `extension` as its last one.
pub(crate) fn with_extension(tbs: &TbsParts<'_>, extension: &[u8]) -> der::Result<Vec<u8>> {
    assemble(tbs, Some(tbs.signature_algorithm), extension)
}

fn assemble(
    tbs: &TbsParts<'_>,
    signature_algorithm: Option<&[u8]>,
    last_extension: &[u8],
) -> der::Result<Vec<u8>> {
    let mut extensions: Vec<&[u8]> = Vec::new();
    let kept = tbs
        .extensions
        .iter()
        .filter(|extension| extension.oid != ALT_SIGNATURE_VALUE);
    extensions.extend(kept.map(|extension| extension.der));
    if !last_extension.is_empty() {
        extensions.push(last_extension);
    }
    let wrapped = if extensions.is_empty() {
        Vec::new()
    } else {
        wrap(
            TagNumber(3).context_specific(true),
            &[&wrap(Tag::Sequence, &extensions)?],
        )?
    };
    let mut fields: Vec<&[u8]> = vec![VERSION_3, tbs.serial];
    fields.extend(signature_algorithm);
    fields.extend([tbs.issuer, tbs.validity, tbs.subject, tbs.spki]);
    fields.extend(&tbs.unique_ids);
    fields.push(&wrapped);
    sequence(&fields)
}
