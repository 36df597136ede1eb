"""Registries as the control plane knows them: making them known, and how each is spoken to."""

import time
from collections.abc import Callable

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
from fallow.model.images import RegistryLogin
from fallow.model.references import DEFAULT_REGISTRY
from fallow.model.registries import KnownRegistry, RegistryCheck, RegistryRequest, RegistryView
from fallow.store.applier import Applier
from fallow.store.cache import Cache

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
        sealed = b""
        if request.password:
            try:
                sealed = self._vault.seal(request.password, _about(host, request.username, insecure=request.insecure))
            except AuthorityError as error:
                raise refuse(409, "cluster-key", "The password cannot be sealed", str(error)) from None

        def decide() -> tuple[Step, None]:
            now, before = self._clock(), self._cache.snapshot().registries.get(host)
            if before is None and len(self._cache.snapshot().registries) >= MAX_REGISTRIES:
                raise refuse(409, "too-many", "Too many registries", f"there are {MAX_REGISTRIES} already")
            mirrored_by = before.mirrored_by if before else ""
            if mirrored_by and request.mirror:
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
            about = _about(found.id, found.username, insecure=found.insecure)
            password = self._vault.unseal(found.sealed_password, about)
            login = RegistryLogin(username=found.username, password=password)
        return Access(host=host, login=login, insecure=found.insecure)

    def mirror(self, host: str) -> str:
        """Return the mirror of a registry, that an operator named or that we run; empty when none serves."""
        found = self._cache.get("registries", host)
        return mirror_of(self._cache.snapshot(), found) if isinstance(found, KnownRegistry) else ""

    def _known(self, host: str) -> KnownRegistry:
        found = self._cache.get("registries", canonical(host))
        if not isinstance(found, KnownRegistry):
            raise not_found(f"registry {host[:80]!r}", "fallow registry list shows all that are known")
        return found


def has_mirror(host: str, name: str) -> Refused:
    """Return the refusal of what cannot be while we run a mirror of a registry."""
    return refuse(
        409, "has-mirror", "It has a mirror", f"{host} is mirrored by {name!r}", f"fallow registry mirror delete {name}"
    )


def canonical(host: str) -> str:
    """Return the name under which a registry is known here."""
    return _ALIASES.get(host, host)


def _about(host: str, username: str, *, insecure: bool) -> str:
    """Return what is sealed with a password: it opens for this registry alone, and never for plain HTTP by accident."""
    return f"registry {host} {'http' if insecure else 'https'} {username}"


def _terms(found: KnownRegistry) -> str:
    parts = (
        f"login {found.username}" if found.username else "no login",
        "plain HTTP" if found.insecure else "HTTPS",
        f"mirror {found.mirror or found.mirrored_by}" if found.mirror or found.mirrored_by else "",
    )
    return ", ".join(part for part in parts if part)


def _view(snapshot: Snapshot, found: KnownRegistry) -> RegistryView:
    return RegistryView(
        host=found.id,
        username=found.username,
        insecure=found.insecure,
        mirror=mirror_of(snapshot, found),
        mirrored_by=found.mirrored_by,
        revision=found.revision,
        created_at=found.created_at,
        updated_at=found.updated_at,
        created_by=found.created_by,
    )
