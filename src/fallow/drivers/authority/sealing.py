"""Secrets that every process of a control plane needs, sealed with one key that the store never sees.

AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits before the ciphertext; what a secret is about is
authenticated with it, so that one sealed secret cannot be put in another's place.
"""

import base64
import binascii
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fallow.drivers.authority import files
from fallow.drivers.authority.files import AuthorityError

KEY_BYTES = 32
NONCE_BYTES = 12


class ClusterKey:
    """The key of one cluster, in one file that is copied to every machine with a control plane."""

    def __init__(self, key: bytes, path: Path) -> None:
        self._cipher = AESGCM(key)
        self.path = path

    def __repr__(self) -> str:
        """Name the file, not the key."""
        return f"ClusterKey({self.path})"

    @classmethod
    def create_or_load(cls, path: Path) -> "ClusterKey":
        """Return the key in `path`, made on first use; readable by its owner alone. Raises AuthorityError."""
        if not path.exists():
            files.make_private_folder(path.parent)
            files.create(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n", 0o600)
        try:
            key = base64.b64decode(files.read_private(path).strip(), validate=True)
        except binascii.Error:
            key = b""
        if len(key) != KEY_BYTES:
            raise AuthorityError(f"{path} is not a cluster key; copy the file from another control plane of this store")
        return cls(key, path)

    def seal(self, plain: bytes, about: str) -> bytes:
        """Return what may be stored."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, about.encode())

    def unseal(self, sealed: bytes, about: str) -> bytes:
        """Return what was sealed. Raises AuthorityError when the key is another one, or the secret was changed."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about.encode())
        except (InvalidTag, ValueError):
            raise AuthorityError(
                f"the key in {self.path} does not open what this store holds; "
                "copy the file cluster.key from the data folder of a control plane that runs on this store"
            ) from None
