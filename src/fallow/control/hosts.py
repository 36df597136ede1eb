"""Being a member of a host: joining it, leaving it, and what people see of it.

The key is made and stored, sealed, before it is sent: when the answer is lost, or this process is killed, the same call
again gets the same identity for the same use of the token. The process that leads holds the session.
"""

import asyncio
import socket
from collections.abc import Callable

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fallow.client import joining, keys
from fallow.client.errors import ClientError, Untrusted
from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import Refused, not_found, refuse
from fallow.control.vault import Vault
from fallow.decide.events import event
from fallow.decide.federation.leave import kept_shares, removed_shares
from fallow.decide.plan import Step
from fallow.drivers.authority import AuthorityError
from fallow.model.credentials import JoinCredential, parse_join_credential
from fallow.model.hosts import HOST_ID, SEALED_ABOUT, Host, HostKey, HostRequest, HostView
from fallow.model.members import Facts, Identity, JoinRequest, Role
from fallow.model.registrations import JoinWaiting, SignedBundle
from fallow.model.secrets import SealedSecret
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Conflict
from fallow.version import VERSION

HTTP_CLIENT_ERROR, HTTP_SERVER_ERROR = 400, 500
ATTEMPTS = 5


class Hosts:
    """`ca_sha256` is of our own CA: nobody is a member of itself. `clock` gives UTC seconds."""

    def __init__(
        self, cache: Cache, applier: Applier, vault: Vault, ca_sha256: str, clock: Callable[[], float]
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._vault = vault
        self._ca_sha256 = ca_sha256
        self._clock = clock
        self._joining = asyncio.Lock()

    def view(self) -> HostView:
        """Return whose member this cluster is. Raises Refused (404)."""
        host = self._known()
        if host is None:
            raise not_found("host: this cluster is a member of none", "fallow cluster join URL TOKEN")
        deployments = self._cache.snapshot().deployments.values()
        return HostView(
            url=host.url,
            name=host.name,
            connected=host.connected,
            since=host.since,
            joined_at=host.joined_at,
            labels=dict(host.labels),
            shares=sum(found.origin is not None for found in deployments),
            refused=host.refused,
            problem=host.problem,
        )

    async def join(self, request: HostRequest, actor: str) -> HostView:
        """Become a member of a host, or stay the one that we are there. Raises Refused and StoreError."""
        try:
            credential, url = parse_join_credential(request.token), joining.join_url(request.url)
        except ValueError as error:
            raise refuse(422, "bad-request", "It cannot be joined so", str(error)) from None
        async with self._joining:
            if self._is_member(credential, url):
                return self.view()
            secret, key = await self._own_key(credential)
            identity = await self._asked(url, credential, request, key)
            await self._keep(url, secret, key, identity, actor)
        return self.view()

    async def leave(self, remove: bool, actor: str) -> None:
        """Be a member no more; what runs for the host stays, as our own, or goes with `remove`.

        Raises Refused (404) and StoreError. What was interrupted is finished by the next call.
        """
        snapshot = self._cache.snapshot()
        if self._known() is None and all(found.origin is None for found in snapshot.deployments.values()):
            raise not_found("host: this cluster is a member of none")
        if remove:
            await self._applier.apply(removed_shares(snapshot, self._clock(), new_id, actor))

        def decide() -> tuple[Step | None, None]:
            host, secret, now = self._known(), self._cache.get("secrets", HOST_ID), self._clock()
            gone = tuple(found for found in (host, secret) if found is not None)
            if host is None:
                return (Step(deletes=gone) if gone else None), None
            text = f"cluster {host.name} is a member of {host.url} no more"
            told = event(new_id(), now, actor, "cluster", host.member_id, host.name, "HostLeft", text)
            return Step(puts=(told,), deletes=gone), None

        await commit_again(self._applier, decide)
        for _ in range(ATTEMPTS):
            plan = kept_shares(self._cache.snapshot(), self._clock(), new_id, actor)
            if not plan.steps or not (await self._applier.apply(plan)).dropped:
                break

    def _known(self) -> Host | None:
        found = self._cache.get("hosts", HOST_ID)
        return found if isinstance(found, Host) else None

    def _is_member(self, credential: JoinCredential, url: str) -> bool:
        """Say whether we are that host's member already. Raises Refused when we may not become it."""
        if credential.ca_sha256 == self._ca_sha256:
            raise refuse(409, "own-token", "A token of this very cluster", "a cluster is no member of itself")
        if self._cache.snapshot().clusters:
            raise refuse(
                409, "nested-hosts", "A host joins no host", "this cluster has members of its own",
                "let those clusters join the other host: fallow cluster list",
            )  # fmt: skip
        host = self._known()
        if host is None or host.refused:
            return False
        key = self._stored_key()
        if key is not None and key.ca_sha256 == credential.ca_sha256:
            return True  # the token was not used
        raise refuse(
            409, "host-known", "It has a host already",
            f"this cluster is a member of {host.url}, and cannot be one of {url} as well: both would say what it runs",
            "leave that one first: fallow cluster leave",
        )  # fmt: skip

    def _stored_key(self) -> HostKey | None:
        """Return what is sealed, as far as it can be opened."""
        found = self._cache.get("secrets", HOST_ID)
        if not isinstance(found, SealedSecret):
            return None
        try:
            return msgspec.json.decode(self._vault.unseal(found.sealed, SEALED_ABOUT), type=HostKey)
        except (AuthorityError, msgspec.DecodeError):
            return None

    async def _own_key(self, credential: JoinCredential) -> tuple[SealedSecret, HostKey]:
        """Return the key to join with: the one of a try before this with a token of the same host, else a new one."""
        fresh = HostKey(key_pem=await asyncio.to_thread(_new_key), ca_sha256=credential.ca_sha256)

        def decide() -> tuple[Step | None, tuple[SealedSecret | None, HostKey]]:
            stored, found = self._stored_key(), self._cache.get("secrets", HOST_ID)
            before = found if isinstance(found, SealedSecret) else None
            host = self._known()
            if stored is not None and stored.ca_sha256 == credential.ca_sha256 and host is None:
                return None, (before, stored)
            now = self._clock()
            made = before or SealedSecret(id=HOST_ID, created_at=now, updated_at=now, sealed=b"")
            return Step(puts=(msgspec.structs.replace(made, sealed=self._sealed(fresh), updated_at=now),)), (
                None,
                fresh,
            )

        _, key = await commit_again(self._applier, decide)
        found = self._cache.get("secrets", HOST_ID)
        if not isinstance(found, SealedSecret):
            raise _meanwhile()
        return found, key

    def _sealed(self, key: HostKey) -> bytes:
        try:
            return self._vault.seal(msgspec.json.encode(key).decode(), SEALED_ABOUT)
        except AuthorityError as error:
            raise refuse(409, "cluster-key", "The key cannot be sealed", str(error)) from None

    async def _asked(self, url: str, credential: JoinCredential, request: HostRequest, key: HostKey) -> Identity:
        """Return who we are at the host. Raises Refused."""
        private = _private(key.key_pem)
        csr_pem = await asyncio.to_thread(keys.csr_pem, private)

        def bundle(address: str, port: int) -> SignedBundle:
            asks = JoinRequest(
                token=request.token.strip(),
                csr_pem=csr_pem,
                role=Role.CLUSTER,
                name=request.name,
                facts=Facts(hostname=socket.gethostname()[:256], agent_version=VERSION),
                sent_at=self._clock(),
            )
            return joining.signed(joining.reached_at(asks, address, port), private)

        try:
            answer = await joining.join(url, credential, bundle)
        except joining.JoinError as error:
            raise _passed_on(error) from None
        except Untrusted as error:
            raise refuse(409, "host-untrusted", "Not the host of this token", str(error)) from None
        except ClientError as error:
            raise refuse(502, "host-unreachable", "The host does not answer", str(error), "try again") from None
        if isinstance(answer, JoinWaiting):
            raise refuse(
                409, "waits-for-approval", "Somebody has to let it in", f"this cluster {answer.message}",
                "then run the same command again",
            )  # fmt: skip
        return answer

    async def _keep(self, url: str, secret: SealedSecret, key: HostKey, identity: Identity, actor: str) -> None:
        """Store that we are a member, unless another call has made us one meanwhile. Raises Refused."""
        now = self._clock()
        complete = msgspec.structs.replace(key, identity=identity, saved_at=now)
        before = self._known()
        host = Host(
            id=HOST_ID,
            created_at=now,
            updated_at=now,
            revision=before.revision if before is not None and before.refused else 0,
            url=url,
            member_id=identity.member_id,
            name=identity.name,
            joined_at=now,
            since=now,
        )
        sealed = msgspec.structs.replace(secret, sealed=self._sealed(complete), updated_at=now)
        text = f"this cluster is the member {identity.name} of {url} from now on"
        told = event(new_id(), now, actor, "cluster", identity.member_id, identity.name, "HostJoined", text)
        try:
            await self._applier.commit(Step(puts=(host, sealed, told)))
        except Conflict:
            raise _meanwhile() from None


def _new_key() -> str:
    return keys.key_pem(keys.new_key()).decode()


def _private(pem: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _meanwhile() -> Refused:
    return refuse(
        409, "conflict", "Changed meanwhile", "another call has joined or left a host at the same time",
        "look what came of it: fallow cluster host",
    )  # fmt: skip


def _passed_on(error: joining.JoinError) -> Refused:
    """Return what the host said, as our own answer: it is the caller's token that it refused, not the caller."""
    problem = error.problem
    status = problem.status if problem.status in (409, 422, 429) else 503 if problem.status == 503 else 409
    return Refused(msgspec.structs.replace(problem, status=status, clean=False, request_id=""))
