"""Joining: from a token to an identity in the data folder, safe to repeat at any point."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from fallow.agent.folder import prepare
from fallow.agent.identity import IdentityError, IdentityStore
from fallow.client import joining
from fallow.model.credentials import parse_join_credential
from fallow.model.labels import Variable
from fallow.model.members import Facts, Identity, JoinRequest, Role


@dataclass(frozen=True, kw_only=True)
class Application:
    """What a machine says of itself when it asks to become a member."""

    role: Role
    name: str = ""  # empty: the control plane makes one from the hostname
    function: str = ""
    facts: Facts = field(default_factory=Facts)
    variables: tuple[Variable, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The outcome of a join; `reused` when the folder held an identity for that cluster, and no token was used."""

    identity: Identity
    reused: bool
    message: str


async def join(url: str, token_text: str, application: Application, folder: Path) -> Joined:
    """Become a member, or stay the one this folder says we are.

    The key is saved before it is sent: when the answer is lost, the same call again gets the same identity for the
    same use of the token. Raises ValueError for a bad URL or token, IdentityError when the folder belongs to another
    cluster or role, FolderError, OSError, and `client.joining`'s errors.
    """
    credential = parse_join_credential(token_text)
    base = joining.join_url(url)
    prepare(folder)
    store = IdentityStore(folder)
    if store.exists and store.refusal:
        store.forget()
    if store.exists:
        return _reuse(store, credential.ca_sha256, application.role)
    csr_pem = await asyncio.to_thread(store.csr_pem)
    request = JoinRequest(
        token=token_text.strip(),
        csr_pem=csr_pem,
        role=application.role,
        name=application.name,
        function=application.function,
        facts=application.facts,
        variables=application.variables,
    )
    identity = await joining.join(base, credential, request)
    store.save(base, identity)
    return Joined(identity=identity, reused=False, message=f"joined as {identity.role} {identity.name}")


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
