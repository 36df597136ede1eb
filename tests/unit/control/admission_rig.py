"""Admission and tokens over real parts: memory store, cache, applier and CA."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fallow.control.admission import Admission
from fallow.control.settings import Settings
from fallow.control.tokens import Tokens
from fallow.drivers.authority import Authority
from fallow.model.members import Facts, Identity, JoinRequest, Role
from fallow.model.tokens import TokenRequest
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.open import open_store

NOW = 1_800_000_000.0


@dataclass
class Parts:
    """One control plane's admission; `now` is its clock."""

    cache: Cache
    applier: Applier
    authority: Authority
    settings: Settings
    now: float = NOW

    def __post_init__(self) -> None:
        self.tokens = Tokens(self.cache, self.applier, self.authority, self.settings, lambda: self.now)
        self.admission = Admission(self.cache, self.applier, self.authority, self.settings, lambda: self.now)

    async def token(self, **more: Any) -> str:
        """Return a join token."""
        view = await self.tokens.create(TokenRequest(**{"role": "node", **more}), "api:test")
        return view.secret or ""

    async def join(self, token: str, csr: str, address: str = "10.0.0.5", **more: Any) -> Identity:
        """Join as a node."""
        hostname = more.pop("hostname", "box")
        request = {"token": token, "csr_pem": csr, "role": Role.NODE, "facts": Facts(hostname=hostname), **more}
        return await self.admission.join(JoinRequest(**request), address)

    def reasons(self) -> list[str]:
        """Return the reasons of all events, oldest first."""
        records = self.cache.records("events")
        return [one.reason for one in sorted(records.values(), key=lambda one: one.revision)]  # type: ignore[attr-defined]


@asynccontextmanager
async def admitting(folder: Path, **settings: Any) -> AsyncIterator[Parts]:
    """Run the parts."""
    store = await open_store("memory:")
    cache = Cache(store)
    await cache.start()
    authority = Authority.create_or_load(folder, NOW)
    try:
        yield Parts(cache, Applier(store, cache), authority, Settings(**settings))
    finally:
        await cache.stop()
        await store.close()


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a machine's key."""
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a certificate signing request."""
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
