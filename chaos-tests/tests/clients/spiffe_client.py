"""Drives a Workload API with the PyPI `spiffe` package, and prints what it saw as JSON.

usage: spiffe_client.py SOCKET TRUST_DOMAIN ROTATION_SECONDS
"""

import json
import sys
import threading
import time

from spiffe import JwtSource, SpiffeId, TrustDomain, WorkloadApiClient, X509Source

socket, name, patience = sys.argv[1], sys.argv[2], float(sys.argv[3])
trust_domain = TrustDomain(name)
seen = {}

with WorkloadApiClient(socket) as client:
    svid = client.fetch_x509_svid(timeout=10)
    seen["spiffe_id"] = str(svid.spiffe_id)
    seen["chain"] = len(svid.cert_chain)
    bundles = client.fetch_x509_bundles(timeout=10)
    seen["x509_authorities"] = len(
        bundles.get_bundle_for_trust_domain(trust_domain).x509_authorities
    )
    token = client.fetch_jwt_svid({"reports", "billing"}, timeout=10)
    seen["jwt_sub"] = str(token.spiffe_id)
    seen["jwt_aud"] = sorted(token.audience)
    checked = client.validate_jwt_svid(token.token, "billing", timeout=10)
    seen["validated"] = str(checked.spiffe_id)
    try:
        client.validate_jwt_svid(token.token, "someone-else", timeout=10)
        seen["wrong_audience"] = "accepted"
    except Exception as refused:  # the package has one class for each failure
        seen["wrong_audience"] = type(refused).__name__
    jwt_bundles = client.fetch_jwt_bundles(timeout=10)
    seen["jwt_authorities"] = len(
        jwt_bundles.get_bundle_for_trust_domain(trust_domain).jwt_authorities
    )

changed = threading.Event()
with X509Source(socket_path=socket, timeout_in_seconds=10) as source:
    first = source.get_x509_context().default_svid.leaf.serial_number
    source.subscribe_for_updates(changed.set)
    deadline = time.monotonic() + patience
    serial = first
    while serial == first and time.monotonic() < deadline:
        changed.wait(timeout=max(0.0, deadline - time.monotonic()))
        changed.clear()
        serial = source.get_x509_context().default_svid.leaf.serial_number
    seen["rotated"] = serial != first

with JwtSource(socket_path=socket, timeout_in_seconds=10) as source:
    again = source.fetch_svid({"reports"}, subject=SpiffeId(seen["spiffe_id"]))
    seen["jwt_source_sub"] = str(again.spiffe_id)

print(json.dumps(seen))
