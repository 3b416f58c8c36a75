"""Verifies an audit log with nothing but its leaves, its checkpoints and its public key.

Reads one JSON document from standard input:

  vkey         the log's key (C2SP signed-note)
  leaves       canonical bytes of every leaf, hexadecimal
  documents    every leaf as `mintmark audit tail -o json` prints it
  checkpoints  signed notes, oldest first
  proofs       {"leaf", "size", "hashes", "root"} as the server gives them

and prints what it verified. Written from RFC 6962, RFC 9162, C2SP signed-note and tlog-checkpoint, and from
the definition of a leaf (proto/mintmark/audit/v1/audit.proto), so that it shares nothing with the server.
"""

import base64
import datetime
import hashlib
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# The tree: RFC 6962, section 2.1.


def leaf_hash(leaf):
    return sha256(b"\x00", leaf)


def root(hashes):
    if not hashes:
        return sha256()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return sha256(b"\x01", root(hashes[:split]), root(hashes[split:]))


def proven_root(leaf, index, size, path):
    """RFC 9162, section 2.1.3.2: the root that an inclusion proof leads to."""
    if index >= size:
        raise ValueError("beyond the tree")
    place, last, result = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ValueError("the proof is too long")
        if place & 1 or place == last:
            result = sha256(b"\x01", sibling, result)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            result = sha256(b"\x01", result, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise ValueError("the proof is too short")
    return result


# Checkpoints: C2SP signed-note and tlog-checkpoint.


def verifier(vkey):
    name, key_id, encoded = vkey.split("+", 2)
    key = base64.b64decode(encoded, validate=True)
    assert key[0] == 1 and len(key) == 33, "an Ed25519 key"
    expected = sha256(name.encode(), b"\n", key)[:4]
    assert bytes.fromhex(key_id) == expected, "the key has its own id"
    return name, expected, Ed25519PublicKey.from_public_bytes(key[1:])


def opened(note, key):
    """Size and root of a signed checkpoint; raises if the log did not sign it."""
    name, key_id, public = key
    text, lines = note.split("\n\n", 1)
    text += "\n"
    signed = False
    for line in lines.splitlines():
        dash, signer, blob = line.split(" ")
        assert dash == "\u2014"
        blob = base64.b64decode(blob, validate=True)
        if signer == name and blob[:4] == key_id:
            public.verify(blob[4:], text.encode())
            signed = True
    if not signed:
        raise InvalidSignature("no signature of the log")
    origin, size, encoded = text.splitlines()[:3]
    assert origin == name
    return int(size), base64.b64decode(encoded, validate=True)


# Leaves: the protobuf message, fields ascending, defaults left out.


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def number(field, value):
    return varint(field << 3) + varint(value) if value else b""


def block(field, value, keep_empty=False):
    return varint(field << 3 | 2) + varint(len(value)) + value if value or keep_empty else b""


def text(field, value):
    return block(field, value.encode())


def digest(field, value):
    return block(field, bytes.fromhex(value))


def instant(field, value):
    time = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    return number(field, (time - EPOCH) // datetime.timedelta(milliseconds=1))


# name in the document: (field number, how it is written)
ISSUANCE = {
    "kind": (1, text), "serial": (2, digest), "svid_hash": (3, digest), "authority_id": (4, text),
    "not_before": (5, instant), "not_after": (6, instant), "spki_sha256": (7, digest),
    "entry_id": (8, text), "entry_revision": (9, number), "agent": (10, text),
    "profile_version": (11, number), "audience_sha256": (12, digest), "basis": (13, text),
}
ATTESTATION = {
    "method": (1, text), "spki_sha256": (2, digest), "evidence_sha256": (3, digest),
    "selectors": (4, number),
}
ENTRY = {
    "entry_id": (1, text), "revision": (2, number), "entry_sha256": (3, digest),
    "spiffe_id": (4, text), "parent_id": (5, text),
}
AUTHORITY = {
    "authority_id": (1, text), "kind": (2, text), "from": (3, text), "to": (4, text),
    "public_key_sha256": (5, digest), "bundle_sequence": (6, number),
}


def part(fields):
    return lambda field, value: block(field, message(value, fields), keep_empty=True)


def names(field, values):
    return b"".join(block(field, value.encode(), keep_empty=True) for value in values)


LEAF = {
    "version": (1, number), "index": (2, number), "log_index": (3, number), "time": (4, instant),
    "actor": (5, text), "action": (6, text), "subject": (7, text), "decision": (8, text),
    "reason": (9, text), "issuance": (10, part(ISSUANCE)), "attestation": (11, part(ATTESTATION)),
    "entry": (12, part(ENTRY)), "authority": (13, part(AUTHORITY)), "request_sha256": (14, digest),
    "missing": (15, names),
}


def message(document, fields):
    unknown = set(document) - set(fields)
    assert not unknown, unknown
    written = [(fields[name], value) for name, value in document.items()]
    written.sort(key=lambda one: one[0][0])
    return b"".join(write(field, value) for (field, write), value in written)


def refused(check):
    try:
        check()
    except (InvalidSignature, ValueError):
        return True
    return False


def main():
    given = json.load(sys.stdin)
    leaves = [bytes.fromhex(leaf) for leaf in given["leaves"]]
    hashes = [leaf_hash(leaf) for leaf in leaves]
    key = verifier(given["vkey"])

    # What is printed of a leaf is all of it.
    assert len(given["documents"]) == len(leaves)
    for index, (document, leaf) in enumerate(zip(given["documents"], leaves)):
        assert document["index"] == index
        assert message(document, LEAF) == leaf, (document, leaf.hex())

    # Each checkpoint is signed, and of the beginning of this one log.
    signed = [opened(note, key) for note in given["checkpoints"]]
    assert [size for size, _ in signed] == sorted({size for size, _ in signed})
    for size, signed_root in signed:
        assert 0 < size <= len(leaves)
        assert root(hashes[:size]) == signed_root, size

    roots = {size: root(hashes[:size]) for size in {proof["size"] for proof in given["proofs"]}}
    for proof in given["proofs"]:
        path = [bytes.fromhex(step) for step in proof["hashes"]]
        index, size = proof["leaf"], proof["size"]
        assert bytes.fromhex(proof["root"]) == roots[size]
        assert proven_root(hashes[index], index, size, path) == roots[size], proof
        other = (index + 1) % size
        assert refused_or_other(hashes[other], index, size, path, roots[size])

    # What was altered is noticed.
    size, signed_root = signed[-1]
    for index in range(size):
        altered = bytearray(leaves[index])
        altered[-1] ^= 1
        changed = hashes[:index] + [leaf_hash(bytes(altered))] + hashes[index + 1 : size]
        assert root(changed) != signed_root
    forged = given["checkpoints"][-1].replace(f"\n{size}\n", f"\n{size + 1}\n", 1)
    assert forged != given["checkpoints"][-1]
    assert refused(lambda: opened(forged, key))

    json.dump({"leaves": len(leaves), "checkpoints": len(signed), "proofs": len(given["proofs"])}, sys.stdout)


def refused_or_other(leaf, index, size, path, expected):
    try:
        return size == 1 or proven_root(leaf, index, size, path) != expected
    except ValueError:
        return True


main()
