"""Joining: from a token to an identity in the data folder, safe to repeat at any point."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from fallow.agent.folder import prepare
from fallow.agent.identity import IdentityError, IdentityStore
from fallow.client import joining
from fallow.client.errors import Unreachable
from fallow.model.credentials import JoinCredential, parse_join_credential
from fallow.model.labels import Variable
from fallow.model.members import Facts, Identity, JoinRequest, Role
from fallow.model.registrations import JoinWaiting, SignedBundle

RETRY_SECONDS = 2.0
AWAY_SECONDS = 30.0  # so long a control plane may have nobody who decides before a join has failed


@dataclass(frozen=True, kw_only=True)
class Application:
    """What a machine says of itself when it asks to become a member."""

    role: Role
    name: str = ""  # empty: the control plane makes one from the hostname
    function: str = ""
    facts: Facts = field(default_factory=Facts)
    variables: tuple[Variable, ...] = ()
    address: str = ""  # the lease address it wishes for


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for somebody's approval, in seconds (None: until it is decided), and whom to tell of it."""

    seconds: float | None = None
    tell: Callable[[str], None] = lambda _: None


class NotApprovedError(Exception):
    """Nobody has let this machine in yet, and it should wait no longer."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The outcome of a join; `reused` when the folder held an identity for that cluster, and no token was used."""

    identity: Identity
    reused: bool
    message: str


async def join(
    url: str, token_text: str, application: Application, folder: Path, patience: Patience | None = None
) -> Joined:
    """Become a member, or stay the one this folder says we are.

    The key is saved before it is sent: when the answer is lost, the same call again gets the same identity for the
    same use of the token. Raises ValueError for a bad URL or token, IdentityError when the folder belongs to another
    cluster or role, NotApprovedError, FolderError, OSError, and `client.joining`'s errors.
    """
    credential = parse_join_credential(token_text)
    base = joining.join_url(url)
    prepare(folder)
    store = IdentityStore(folder)
    if store.exists and store.refusal:
        store.forget()
    if store.exists:
        return _reuse(store, credential.ca_sha256, application.role)
    csr_pem, key = await asyncio.to_thread(lambda: (store.csr_pem(), store.key()))

    def bundle(address: str, port: int) -> SignedBundle:
        asks = _request(token_text.strip(), csr_pem, application)
        return joining.signed(joining.reached_at(asks, address, port), key)

    identity = await _asked(base, credential, bundle, patience or Patience())
    store.save(base, identity)
    return Joined(identity=identity, reused=False, message=_told(identity))


def _told(identity: Identity) -> str:
    place = f" at {identity.lease.address}" if identity.lease.address else ""
    return f"joined as {identity.role} {identity.name}{place}"


def _request(token: str, csr_pem: str, application: Application) -> JoinRequest:
    """Return what this machine says."""
    return JoinRequest(
        token=token,
        csr_pem=csr_pem,
        role=application.role,
        name=application.name,
        function=application.function,
        facts=application.facts,
        variables=application.variables,
        address=application.address,
        sent_at=time.time(),
    )


async def _asked(
    base: str, credential: JoinCredential, bundle: Callable[[str, int], SignedBundle], patience: Patience
) -> Identity:
    """Ask until there is an answer that decides. A machine that has been told to wait outlasts a control plane's start.

    Raises NotApprovedError, and `client.joining`'s errors.
    """
    loop = asyncio.get_running_loop()
    began, told = loop.time(), ""
    while True:
        pause = RETRY_SECONDS
        try:
            answer = await joining.join(base, credential, bundle)
        except joining.JoinError as error:
            away = error.problem.status == HTTPStatus.SERVICE_UNAVAILABLE
            if not away or (not told and loop.time() - began > AWAY_SECONDS):
                raise
        except Unreachable:
            if not told:
                raise
        else:
            if not isinstance(answer, JoinWaiting):
                return answer
            pause = min(answer.retry_after_seconds, 60.0)
            if answer.message != told:
                told = answer.message
                patience.tell(f"this machine {told}")
        if patience.seconds is not None and loop.time() - began + pause > patience.seconds:
            raise NotApprovedError(
                f"this machine still {told}; run the same command again to go on waiting"
                if told
                else "no process of the control plane has decided yet; run the same command again"
            )
        await asyncio.sleep(pause)


def _reuse(store: IdentityStore, ca_sha256: str, role: Role) -> Joined:
    identity = store.identity
    if joining.ca_key_sha256(identity.ca_pem) != ca_sha256:
        raise IdentityError(
            f"{store.folder} holds the identity {identity.name} of another cluster: "
            "use another data folder, or remove this one to leave that cluster"
        )
    if identity.role is not role:
        raise IdentityError(
            f"{store.folder} holds the identity of a {identity.role}, not of a {role}: use another data folder"
        )
    return Joined(
        identity=identity,
        reused=True,
        message=f"this machine is already {identity.role} {identity.name} of this cluster; the token was not used",
    )
