"""Verifies an X.509-SVID with PyPI `cryptography`, both signatures where there are two.

usage: verify_chain.py SVID.pem BUNDLE.pem SPIFFE_ID off|hybrid

The alternative signature (X.509 (2019), 7.2.2) is over the TBSCertificate without its `signature`
field and without extension 2.5.29.74. That reduction is written here from the standard's rule, on
raw DER, so that it shares nothing with the code under test.
"""

import datetime
import json
import sys

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.x509 import ObjectIdentifier, verification

ALT_KEY, ALT_ALGORITHM, ALT_VALUE = (ObjectIdentifier(f"2.5.29.{n}") for n in (72, 73, 74))
ML_DSA_65 = bytes.fromhex("300b0609608648016503040312")


def tlv(data, offset=0):
    """(tag, header length, content length) of the element at `offset`."""
    tag, first = data[offset], data[offset + 1]
    if first < 0x80:
        return tag, 2, first
    count = first & 0x7F
    return tag, 2 + count, int.from_bytes(data[offset + 2 : offset + 2 + count], "big")


def elements(content):
    offset = 0
    while offset < len(content):
        _, header, length = tlv(content, offset)
        yield content[offset : offset + header + length]
        offset += header + length


def wrap(tag, content):
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    size = (len(content).bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + len(content).to_bytes(size, "big") + content


def inner(element):
    _, header, length = tlv(element)
    return element[header : header + length]


def pre_tbs(certificate):
    parts = list(elements(inner(certificate.tbs_certificate_bytes)))
    assert parts[0][0] == 0xA0, "explicit version"
    del parts[2]  # version, serialNumber, signature, issuer, ...
    extensions = inner(inner(parts[-1]))
    assert parts[-1][0] == 0xA3
    oid_74 = bytes.fromhex("0603551d4a")
    kept = [e for e in elements(extensions) if not inner(e).startswith(oid_74)]
    parts[-1] = wrap(0xA3, wrap(0x30, b"".join(kept)))
    return wrap(0x30, b"".join(parts))


def extension(certificate, oid):
    try:
        found = certificate.extensions.get_extension_for_oid(oid)
    except x509.ExtensionNotFound:
        return None
    assert not found.critical, f"{oid.dotted_string} must not be critical"
    return found.value.value


def alternative(certificate, issuer):
    spki = extension(issuer, ALT_KEY)
    if spki is None:
        assert extension(certificate, ALT_VALUE) is None
        return "absent"
    assert extension(certificate, ALT_ALGORITHM) == ML_DSA_65
    key = serialization.load_der_public_key(spki)
    assert isinstance(key, mldsa.MLDSA65PublicKey), type(key)
    bits = inner(extension(certificate, ALT_VALUE))
    assert bits[0] == 0
    key.verify(bits[1:], pre_tbs(certificate))
    return "verified"


svid = x509.load_pem_x509_certificates(open(sys.argv[1], "rb").read())
bundle = x509.load_pem_x509_certificates(open(sys.argv[2], "rb").read())
leaf, issuer = svid[0], next(c for c in bundle if c.subject == svid[0].issuer)
result = {}

names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
assert names.get_values_for_type(x509.UniformResourceIdentifier) == [sys.argv[3]]
issuer.public_key().verify(
    leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(leaf.signature_hash_algorithm)
)
now = datetime.datetime.now(datetime.timezone.utc)
verifier = (
    verification.PolicyBuilder()
    .store(verification.Store(bundle))
    .time(now)
    .extension_policies(
        ca_policy=verification.ExtensionPolicy.permit_all().require_present(
            x509.BasicConstraints, verification.Criticality.CRITICAL, None
        ),
        ee_policy=verification.ExtensionPolicy.permit_all(),
    )
    .build_client_verifier()
)
verifier.verify(leaf, svid[1:])
result["native"] = "verified"
result["alternative"] = alternative(leaf, issuer)
result["alternative_of_authority"] = alternative(issuer, issuer)

altered = bytearray(leaf.tbs_certificate_bytes)
altered[-20] ^= 1
try:
    issuer.public_key().verify(
        leaf.signature, bytes(altered), ec.ECDSA(leaf.signature_hash_algorithm)
    )
    result["altered"] = "accepted"
except InvalidSignature:
    result["altered"] = "refused"
print(json.dumps(result))
