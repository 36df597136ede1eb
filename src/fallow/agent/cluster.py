"""A cluster as a member of its host: who it is there, from the store, and the one session of the process that leads."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from fallow.agent.cluster_member import ClusterMember, Home
from fallow.agent.folder import prepare, write_private
from fallow.agent.host_registries import kept_registries
from fallow.agent.identity import IdentityError, IdentityStore, SavedIdentity
from fallow.agent.session import Session, SessionBroken, SessionDeclined, SessionRefused
from fallow.client.tasks import first_to_end
from fallow.decide.events import event
from fallow.decide.federation.accept import ACTOR
from fallow.decide.federation.leads import is_stale, stale_text, with_lead
from fallow.decide.federation.leave import kept_shares, removed_shares
from fallow.decide.plan import Plan, Step
from fallow.model.hosts import HOST_ID, SEALED_ABOUT, Host, HostKey
from fallow.model.members import Identity
from fallow.model.secrets import SealedSecret
from fallow.model.wire import Welcome
from fallow.store.applier import Applier
from fallow.store.contract import Conflict, Fenced, StoreError

_log = structlog.get_logger("fallow.agent.cluster")

FOLDER = "host"  # below the data folder: what the TLS library has to read from files
FILES = ("key.pem", "identity.json", "certificate.pem", "control.json", "refused")
RETRY_SECONDS = 1.0
LOOK_SECONDS = 2.0
SETTLE_SECONDS = 0.1
HEARD_SHARE = 4  # so many times in the shortest fence it is written down when the host was heard


class HostIdentity(IdentityStore):
    """The identity at the host in files of this process; `given` is called with every new one."""

    def __init__(self, folder: Path, clock: Callable[[], float], given: Callable[[SavedIdentity], None]) -> None:
        super().__init__(folder, clock)
        self._given = given

    def save(self, url: str, identity: Identity) -> None:
        """Keep an identity; see `IdentityStore`."""
        super().save(url, identity)
        self._given(self.saved)

    def fill(self, host: Host, key: HostKey, control: bytes) -> None:
        """Write the files, but for a certificate of the same key that is newer than the stored one. Raises OSError."""
        assert key.identity is not None
        prepare(self.folder)
        key_path = self.folder / "key.pem"
        if not key_path.exists() or key_path.read_bytes() != key.key_pem.encode():
            self.clear()
            write_private(key_path, key.key_pem.encode())
        try:
            newer = self.saved.saved_at >= key.saved_at and self.saved.identity.member_id == key.identity.member_id
        except IdentityError:
            newer = False
        if not newer:
            saved = SavedIdentity(url=host.url, identity=key.identity, saved_at=key.saved_at)
            write_private(self.folder / "identity.json", msgspec.json.encode(saved))
            self._saved = None
        if not (self.folder / "control.json").exists():
            write_private(self.folder / "control.json", control)

    def clear(self) -> None:
        """Remove all files. Raises OSError."""
        for name in FILES:
            (self.folder / name).unlink(missing_ok=True)
        self._saved = None


class ClusterAgent:
    """Holds the session with the host, as long as there is one.

    What it fails of is logged and tried again; nothing here ends the loops of this cluster.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._cache = home.cache
        self._folder = home.folder / FOLDER
        self._new_id = home.new_id
        self._clock = home.clock
        self._declined = ""  # the lead of the host that was declined last
        self.session: Session | None = None

    async def run(self, applier: Applier) -> None:
        """Be a member for as long as this process leads. Raises Fenced when another does."""
        while True:
            try:
                await self._serve(applier)
            except Fenced:
                raise
            except SessionRefused as refused:
                await self._turned_away(applier, refused)
            except (IdentityError, OSError, StoreError) as error:
                _log.warning("no session with the host; trying again", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # noqa: BLE001 - a fault here must not end the loops beside it
                _log.exception("the session with the host failed; trying again")
                await asyncio.sleep(RETRY_SECONDS)

    def _host(self) -> Host | None:
        found = self._cache.get("hosts", HOST_ID)
        return found if isinstance(found, Host) and not found.refused else None

    async def _serve(self, applier: Applier) -> None:
        """Wait for a host, and be its member until it is another one, or none."""
        host = self._host()
        if host is None:
            HostIdentity(self._folder, self._clock, lambda _: None).clear()
            if (step := kept_registries(self._cache, self._home.secrets, (), self._clock)) is not None:
                await applier.commit(step)
            if self._cache.get("hosts", HOST_ID) is None:  # and whoever left it may have been killed on the way
                await applier.apply(kept_shares(self._cache.snapshot(), self._clock(), self._new_id, ACTOR))
            await self._until_another("")
            return
        key = self._stored_key()
        renewed: asyncio.Queue[SavedIdentity] = asyncio.Queue()
        identity = HostIdentity(self._folder, self._clock, renewed.put_nowait)
        identity.fill(host, key, msgspec.json.encode(host.control))
        member = ClusterMember(self._home, applier, host.heard_at)
        session = self.session = Session(identity, member, member.outbox, clock=self._clock)
        session.before_hello = partial(_check_leads, applier)
        session.on_welcome = partial(self._check_host, applier)
        try:
            await first_to_end(
                session.run(asyncio.Event()),
                member.run(session.send),
                self._keep_record(applier, member, session),
                self._keep_renewed(applier, key, renewed),
                self._until_another(host.member_id),
            )
        finally:
            self.session = None

    async def _until_another(self, member_id: str) -> None:
        """Return once this cluster is not, or not only, this member of its host."""
        subscription = self._cache.subscribe()
        try:
            while True:
                host = self._host()
                if (host.member_id if host is not None else "") != member_id:
                    return
                await anext(subscription)
        finally:
            subscription.close()

    async def _check_host(self, applier: Applier, welcome: Welcome) -> None:
        """Write down who leads at the host, before it is obeyed.

        Raises SessionDeclined when another has led since, and SessionBroken when this process leads no more.
        """
        host = self._host()
        stale = host is not None and is_stale(host.leads, welcome.lead)
        try:
            await self._commit(applier, partial(self._doubted if stale else self._led, welcome.lead))
        except Fenced as error:
            raise SessionBroken(f"this process may lead no more: {error}") from error
        if stale and host is not None:
            raise SessionDeclined(stale_text(host.url))

    def _led(self, lead: str) -> Step | None:
        """Return the host's record with who leads there; None: it says so, or is gone."""
        host = self._host()
        leads = with_lead(host.leads, lead) if host is not None else ()
        if host is None or leads == host.leads:
            return None
        return Step(puts=(msgspec.structs.replace(host, leads=leads, updated_at=self._clock()),))

    def _doubted(self, lead: str) -> Step | None:
        """Return what tells of a host that is not obeyed, once for each of its leads."""
        host = self._host()
        if host is None or lead == self._declined:
            return None
        self._declined = lead
        told = event(
            self._new_id(), self._clock(), "cluster", "cluster", host.member_id, host.name, "HostTwice",
            stale_text(host.url), "warning",
        )  # fmt: skip
        return Step(puts=(told,))

    def _stored_key(self) -> HostKey:
        """Return what proves us. Raises IdentityError when it is not there or cannot be opened."""
        found = self._cache.get("secrets", HOST_ID)
        if not isinstance(found, SealedSecret):
            raise IdentityError("the key at the host is not in the store: leave the host and join it again")
        try:
            key = msgspec.json.decode(self._home.secrets.unseal(found.sealed, SEALED_ABOUT), type=HostKey)
        except Exception as error:
            raise IdentityError(f"the key at the host cannot be opened: {error}") from error
        if key.identity is None:
            raise IdentityError("the host has not answered yet: join it again with the same token")
        return key

    async def _keep_renewed(self, applier: Applier, key: HostKey, renewed: "asyncio.Queue[SavedIdentity]") -> None:
        """Seal and store every new certificate, so that whoever leads next has it."""
        while True:
            saved = await renewed.get()
            fresh = msgspec.structs.replace(key, identity=saved.identity, saved_at=saved.saved_at)
            sealed = self._home.secrets.seal(msgspec.json.encode(fresh).decode(), SEALED_ABOUT)

            def changed(sealed: bytes = sealed) -> Step | None:
                found = self._cache.get("secrets", HOST_ID)
                if not isinstance(found, SealedSecret):
                    return None
                return Step(puts=(msgspec.structs.replace(found, sealed=sealed, updated_at=self._clock()),))

            await self._commit(applier, changed)

    async def _keep_record(self, applier: Applier, member: ClusterMember, session: Session) -> None:
        """Write down whether there is a session, and when the host was heard."""
        while True:
            await self._commit(applier, lambda: self._record(member, session))
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await member.news.wait()
            except TimeoutError:
                continue
            member.news.clear()
            await asyncio.sleep(SETTLE_SECONDS)

    def _record(self, member: ClusterMember, session: Session) -> Step | None:
        """Return the host's record as it should be; None: it is so, or gone."""
        host = self._host()
        if host is None:
            return None
        connected = session.connected
        changes: dict[str, Any] = {"connected": connected, "problem": "" if connected else session.problem[:512]}
        if connected != host.connected:
            changes["since"] = self._clock()
        if member.welcome is not None:
            changes["control"], changes["labels"] = member.welcome.control, member.welcome.labels
        shortest = member.shortest_fence()
        if shortest is not None and abs(member.heard_at - host.heard_at) > shortest / HEARD_SHARE:
            changes["heard_at"] = member.heard_at
        after = msgspec.structs.replace(host, **changes)
        return None if after == host else Step(puts=(msgspec.structs.replace(after, updated_at=self._clock()),))

    async def _turned_away(self, applier: Applier, refused: SessionRefused) -> None:
        """Remember that the host will not have us any more; what it had us run goes if it says so."""
        _log.warning("the host turned this cluster away", reason=str(refused), clean=refused.clean)

        def changed() -> Step | None:
            host, now = self._host(), self._clock()
            if host is None:
                return None
            reason = str(refused)[:512]
            told = event(
                self._new_id(), now, "cluster", "cluster", host.member_id, host.name, "HostRefused", reason, "warning"
            )
            after = msgspec.structs.replace(host, refused=reason, connected=False, since=now, updated_at=now)
            return Step(puts=(after, told))

        await self._commit(applier, changed)
        if refused.clean:
            plan = removed_shares(self._cache.snapshot(), self._clock(), self._new_id, ACTOR)
            await applier.apply(Plan(steps=plan.steps))

    async def _commit(self, applier: Applier, decide: Callable[[], Step | None]) -> None:
        """Commit what is decided from the newest records, until it holds. Raises Fenced."""
        while (step := decide()) is not None:
            try:
                await applier.commit(step)
            except Fenced:
                raise
            except Conflict:
                await asyncio.sleep(SETTLE_SECONDS)
            except StoreError as error:
                _log.warning("the store does not answer; trying again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return


async def _check_leads(applier: Applier) -> None:
    """Raise SessionBroken when this process leads no more: it must not say that it is this cluster."""
    try:
        await applier.commit(Step())
    except StoreError as error:
        raise SessionBroken(f"this process may lead no more: {error}") from error
