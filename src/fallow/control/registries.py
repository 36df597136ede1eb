"""Registries as the control plane knows them: making them known, and how each is spoken to."""

import hashlib
import time
from collections.abc import Callable

import msgspec
import structlog

from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import Refused, not_found, refuse
from fallow.control.vault import Vault
from fallow.decide.events import event
from fallow.decide.mirrors import mirror_of
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.drivers.authority import AuthorityError
from fallow.drivers.registry import Access, Registry, RegistryError
from fallow.drivers.registry.certificates import read_certificates
from fallow.model.images import RegistryLogin
from fallow.model.references import DEFAULT_REGISTRY, parse_reference
from fallow.model.registries import CertificateView, KnownRegistry, RegistryCheck, RegistryRequest, RegistryView
from fallow.model.secrets import SealedSecret
from fallow.model.shares import SHARED_REGISTRY, SharedRegistry
from fallow.store.applier import Applier
from fallow.store.cache import Cache

_log = structlog.get_logger("fallow.registries")

MAX_REGISTRIES = 1000
_ALIASES = {"index.docker.io": DEFAULT_REGISTRY, "registry-1.docker.io": DEFAULT_REGISTRY}


class Registries:
    """Keeps logins of registries. `clock` gives UTC seconds."""

    def __init__(
        self, cache: Cache, applier: Applier, vault: Vault, driver: Registry, clock: Callable[[], float]
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._vault = vault
        self._driver = driver
        self._clock = clock

    def views(self) -> tuple[RegistryView, ...]:
        """Return all registries, by host."""
        snapshot = self._cache.snapshot()
        return tuple(_view(snapshot, found) for _, found in sorted(snapshot.registries.items()))

    def view(self, host: str) -> RegistryView:
        """Return one registry. Raises Refused (404)."""
        return _view(self._cache.snapshot(), self._known(host))

    async def add(self, request: RegistryRequest, actor: str) -> RegistryView:
        """Make a registry known, or replace all that is known of it. Raises Refused and StoreError."""
        host = canonical(request.host)
        if bool(request.username) != bool(request.password):
            raise refuse(
                422, "bad-login", "Half a login", "a user name needs a password, and a password a user name",
                "fallow registry add HOST --username NAME --password-stdin",
            )  # fmt: skip
        if host == DEFAULT_REGISTRY and request.insecure:
            raise refuse(422, "bad-request", "Not insecure", f"{DEFAULT_REGISTRY} speaks HTTPS", "leave --insecure out")
        _check_trusted(request)
        sealed = self._sealed(host, request)

        def decide() -> tuple[Step, None]:
            now, before = self._clock(), self._cache.snapshot().registries.get(host)
            if before is None and len(self._cache.snapshot().registries) >= MAX_REGISTRIES:
                raise refuse(409, "too-many", "Too many registries", f"there are {MAX_REGISTRIES} already")
            mirrored_by = before.mirrored_by if before else ""
            if mirrored_by and (request.mirror or request.ca_pem or request.proxy):
                raise has_mirror(host, mirrored_by)
            made = KnownRegistry(
                id=host,
                created_at=before.created_at if before else now,
                updated_at=now,
                revision=before.revision if before else 0,
                username=request.username,
                sealed_password=sealed,
                insecure=request.insecure,
                mirror=request.mirror,
                mirrored_by=mirrored_by,
                ca_pem=request.ca_pem,
                proxy=request.proxy,
                created_by=actor,
            )
            words = "RegistryChanged" if before else "RegistryAdded", "is changed" if before else "is known"
            text = f"registry {host} {words[1]}: {_terms(made)}"
            told = event(new_id(), now, actor, "registry", host, host, words[0], text)
            return Step(puts=(made, told)), None

        await commit_again(self._applier, decide)
        return self.view(host)

    async def remove(self, host: str, actor: str) -> None:
        """Forget a registry and its login. Raises Refused (404) and StoreError."""

        def decide() -> tuple[Step, None]:
            now, found = self._clock(), self._known(host)
            if found.mirrored_by:
                raise has_mirror(found.id, found.mirrored_by)
            text = f"registry {found.id} is forgotten, with its login"
            told = event(new_id(), now, actor, "registry", found.id, found.id, "RegistryRemoved", text)
            return Step(puts=(told,), deletes=(found,)), None

        await commit_again(self._applier, decide)

    async def check(self, host: str) -> RegistryCheck:
        """Ask a registry whether it takes its login; one that is not known is asked with none."""
        began = time.monotonic()
        host = canonical(host)
        try:
            await self._driver.check(self.access(host))
        except (RegistryError, AuthorityError) as error:
            kind = error.kind if isinstance(error, RegistryError) else "denied"
            return RegistryCheck(host=host, works=False, kind=kind, text=str(error), seconds=time.monotonic() - began)
        return RegistryCheck(host=host, works=True, seconds=time.monotonic() - began)

    def access(self, host: str) -> Access:
        """Return how a registry is spoken to, its login opened. Raises AuthorityError."""
        found = self._cache.get("registries", host)
        if not isinstance(found, KnownRegistry):
            return Access(host=host)
        login = None
        if found.sealed_password:
            password = self._vault.unseal(found.sealed_password, _about(found.id, found))
            login = RegistryLogin(username=found.username, password=password)
        return Access(host=host, login=login, insecure=found.insecure, ca_pem=found.ca_pem, proxy=found.proxy)

    def shared(self, image: str) -> SharedRegistry | None:
        """Return how member clusters speak to an image's registry; None: they need to know nothing.

        A proxy is not shared: it leads there from here.
        """
        try:
            found = self.access(parse_reference(image).registry)
        except (ValueError, AuthorityError) as error:
            _log.warning("members are not told how an image's registry is spoken to", image=image, reason=str(error))
            return None
        told = SharedRegistry(host=found.host, login=found.login, insecure=found.insecure, ca_pem=found.ca_pem)
        return None if told == SharedRegistry(host=found.host) else told

    def mirror(self, host: str) -> str:
        """Return the mirror of a registry, that an operator named or that we run; empty when none serves."""
        found = self._cache.get("registries", host)
        return mirror_of(self._cache.snapshot(), found) if isinstance(found, KnownRegistry) else ""

    def _sealed(self, host: str, request: RegistryRequest) -> bytes:
        """Return the password sealed; empty when there is none. Raises Refused."""
        if not request.password:
            return b""
        try:
            return self._vault.seal(request.password, _about(host, request))
        except AuthorityError as error:
            raise refuse(409, "cluster-key", "The password cannot be sealed", str(error)) from None

    def _known(self, host: str) -> KnownRegistry:
        found = self._cache.get("registries", canonical(host))
        if not isinstance(found, KnownRegistry):
            raise not_found(f"registry {host[:80]!r}", "fallow registry list shows all that are known")
        return found


class HostRegistries(Registries):
    """For what runs for a host: registries that are not known here are spoken to as the host does."""

    def access(self, host: str) -> Access:
        """Return how a registry is spoken to. Raises AuthorityError."""
        sealed = self._cache.get("secrets", f"{SHARED_REGISTRY}{host}")
        if self._cache.get("registries", host) is not None or not isinstance(sealed, SealedSecret):
            return super().access(host)
        shared = msgspec.json.decode(self._vault.unseal(sealed.sealed, sealed.id), type=SharedRegistry)
        return Access(host=host, login=shared.login, insecure=shared.insecure, ca_pem=shared.ca_pem)


def has_mirror(host: str, name: str) -> Refused:
    """Return the refusal of what cannot be while we run a mirror of a registry."""
    return refuse(
        409, "has-mirror", "It has a mirror", f"{host} is mirrored by {name!r}", f"fallow registry mirror delete {name}"
    )


def canonical(host: str) -> str:
    """Return the name under which a registry is known here."""
    return _ALIASES.get(host, host)


def _check_trusted(request: RegistryRequest) -> None:
    """Refuse certificates that nothing can be held to. Raises Refused."""
    if not request.ca_pem:
        return
    if request.insecure:
        text = "plain HTTP shows no certificate that could be held to them"
        raise refuse(422, "bad-request", "No use for certificates", text, "leave --insecure or --ca-file out")
    try:
        read_certificates(request.ca_pem)
    except ValueError as error:
        raise refuse(422, "bad-certificate", "Not usable certificates", str(error)) from None


def _about(host: str, terms: RegistryRequest | KnownRegistry) -> str:
    """Return what is sealed with a password.

    It opens for this registry alone, never for plain HTTP by accident, and for no other certificates than it came with.
    """
    way = "http" if terms.insecure else "https"
    if terms.ca_pem:
        way += f"+{hashlib.sha256(terms.ca_pem.encode()).hexdigest()}"
    return f"registry {host} {way} {terms.username}"


def _terms(found: KnownRegistry) -> str:
    parts = (
        f"login {found.username}" if found.username else "no login",
        "plain HTTP" if found.insecure else "HTTPS",
        "certificates of its own" if found.ca_pem else "",
        f"through {found.proxy}" if found.proxy else "",
        f"mirror {found.mirror or found.mirrored_by}" if found.mirror or found.mirrored_by else "",
    )
    return ", ".join(part for part in parts if part)


def _trusted(found: KnownRegistry) -> tuple[CertificateView, ...]:
    """Return the registry's own certificates; none when what is stored has been tampered with."""
    try:
        return read_certificates(found.ca_pem) if found.ca_pem else ()
    except ValueError:
        return ()


def _view(snapshot: Snapshot, found: KnownRegistry) -> RegistryView:
    return RegistryView(
        host=found.id,
        username=found.username,
        insecure=found.insecure,
        mirror=mirror_of(snapshot, found),
        mirrored_by=found.mirrored_by,
        trusted=_trusted(found),
        proxy=found.proxy,
        revision=found.revision,
        created_at=found.created_at,
        updated_at=found.updated_at,
        created_by=found.created_by,
    )
