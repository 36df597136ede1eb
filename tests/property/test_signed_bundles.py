"""Bundles that anybody may have written: what is taken for a signature was signed, byte for byte."""

import base64
import json
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st
from signing import bundle_of, envelope_of, new_key, public_pem, statement_of

from fallow.decide.trust import statement_trouble
from fallow.drivers.registry.cosign import bundle_trouble, pre_authentication_encoding, verified

DIGEST = "sha256:" + "3" * 64
KEY = new_key()
GOOD = bundle_of(envelope_of(KEY, statement_of(DIGEST)))
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def signed_part(body: bytes) -> tuple[str, bytes, bytes]:
    """Return what of a bundle matters: the kind, the payload, the signature."""
    envelope: dict[str, Any] = json.loads(body.decode(errors="replace"))["dsseEnvelope"]
    texts = (envelope["payload"], envelope["signatures"][0]["sig"])
    payload, signature = (base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_")) for text in texts)
    return envelope["payloadType"], payload, signature


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_bytes_that_were_changed(changes: list[tuple[int, int]]) -> None:
    body = bytearray(GOOD)
    for at, value in changes:
        body[at] = value
    if bundle_trouble(bytes(body), DIGEST, [public_pem(KEY)]) == "":
        assert signed_part(bytes(body)) == signed_part(GOOD)


@given(
    st.sampled_from([("payload",), ("payloadType",), ("signatures",), ("signatures", 0), ("signatures", 0, "sig")]),
    JSON,
)
def test_parts_that_were_replaced(path: tuple[str | int, ...], value: object) -> None:
    bundle = json.loads(GOOD)
    at = bundle["dsseEnvelope"]
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    assert bundle_trouble(json.dumps(bundle).encode(), DIGEST, [public_pem(KEY)])


@given(st.binary(max_size=200) | JSON.map(lambda each: json.dumps(each).encode()))
def test_anything_else(body: bytes) -> None:
    assert bundle_trouble(body, DIGEST, [public_pem(KEY)])
    assert statement_trouble(body, DIGEST)


@given(st.text(max_size=20), st.binary(max_size=30), st.text(max_size=20), st.binary(max_size=30))
def test_no_two_things_are_signed_alike(kind: str, payload: bytes, other_kind: str, other: bytes) -> None:
    one, two = pre_authentication_encoding(kind, payload), pre_authentication_encoding(other_kind, other)
    assert (one == two) == ((kind, payload) == (other_kind, other))


def test_the_example_of_the_specification() -> None:
    """DSSE 1.0, "Test Vectors": its signature is r and s, one after the other."""
    signed = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert signed == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    x = 46950820868899156662930047687818585632848591499744589407958293238635476079160
    y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    raw = base64.b64decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
    signature = utils.encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    assert verified(pem, signed, signature)
    assert not verified(pem, signed + b" ", signature)
