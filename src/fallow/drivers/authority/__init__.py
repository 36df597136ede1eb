"""The built-in certificate authority: it signs what members and the control plane prove themselves with."""

from fallow.drivers.authority.authority import Authority, Issued
from fallow.drivers.authority.files import AuthorityError, write_pair
from fallow.drivers.authority.keys import (
    BadSignature,
    key_of_bundle,
    key_sha256,
    key_sha256_of_certificate,
    key_sha256_of_request,
)

__all__ = [
    "Authority",
    "AuthorityError",
    "BadSignature",
    "Issued",
    "key_of_bundle",
    "key_sha256",
    "key_sha256_of_certificate",
    "key_sha256_of_request",
    "write_pair",
]
