"""Whether a join token lets a machine in: every refusal by its own name, in words a person can act on."""

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice

from fallow.model.members import Member, Role
from fallow.model.problems import Problem
from fallow.model.tokens import JoinToken

NAMED = 5  # users of a token that a refusal names


def utc(seconds: float) -> str:
    """Return UTC seconds as people write a time."""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def unknown_token() -> Problem:
    """Return the one refusal for a wrong id and for a wrong secret."""
    return _problem(
        "token-unknown",
        "Unknown token",
        "no such token is known here: it was mistyped, or deleted long after it had ended",
        "create another: fallow token create",
    )


def unfit_token(token: JoinToken, role: Role, source_address: str) -> Problem | None:
    """Return why a token is of no use to a machine that calls from `source_address`, whatever is left of it."""
    if token.revoked:
        return token_ended("token-revoked", "Token revoked", f"token {token.id} is revoked", token)
    if token.role != role:
        return _problem(
            "token-role",
            "A token for another role",
            f"token {token.id} admits a {token.role}; this machine asked to be a {role}",
            f"create one for it: fallow token create --role {role}",
        )
    if token.networks and not _inside(source_address, token.networks):
        return _problem(
            "token-network",
            "Not from this network",
            f"token {token.id} may be used from {', '.join(token.networks)}, and this request came from "
            f"{source_address}",
            f"join from there, or create a token for it: fallow token create --role {token.role} "
            f"--from {source_address}",
        )
    return None


def used_up(token: JoinToken, now: float, members: Iterable[Member]) -> Problem | None:
    """Return why a token lets no further machine in: all its uses are gone, or its time is over.

    `members` are looked through for those who used it.
    """
    if token.spent >= token.uses:
        return token_ended(
            "token-used", "Token used", f"token {token.id} was already used by {_users(token, members)}", token
        )
    if token.expires_at <= now:
        return token_ended(
            "token-expired",
            "Token expired",
            f"token {token.id} expired at {utc(token.expires_at)}; it is {utc(now)} here",
            token,
            f"or let it last longer: fallow token extend {token.id} --ttl 30m",
        )
    return None


def token_ended(code: str, title: str, detail: str, token: JoinToken, more: str = "") -> Problem:
    """Return the refusal of a token that is of no more use, with what to do instead."""
    what = f"--replace {token.replaces}" if token.replaces else f"--role {token.role}"
    return _problem(code, title, detail, f"create another: fallow token create {what}{more and f'; {more}'}")


def _users(token: JoinToken, members: Iterable[Member]) -> str:
    names = sorted(islice((member.name for member in members if member.token_id == token.id), NAMED))
    by = ", ".join(names) or "a machine that waits for approval, or by members that were removed since"
    more = f" and {token.spent - len(names)} more" if len(names) == NAMED and token.spent > NAMED else ""
    at = f", last at {utc(token.used_at)}" if token.used_at else ""
    return f"{by}{more}{at}"


def _inside(address: str, networks: tuple[str, ...]) -> bool:
    found = ipaddress.ip_address(address)
    return any(found in ipaddress.ip_network(network) for network in networks)


def _problem(code: str, title: str, detail: str, hint: str) -> Problem:
    return Problem(type=f"urn:fallow:{code}", title=title, status=403, detail=detail, hint=hint)
