"""Tokens: what is stored of them, how they are checked, and how the first one comes about."""

import hmac
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from admission_rig import NOW, Parts, admitting, new_key

from fallow.control.admission import Refused
from fallow.control.settings import Settings
from fallow.model.credentials import parse_join_credential
from fallow.model.pools import PortRange
from fallow.model.tokens import ApiRole, TokenRequest, TokenUse


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with admitting(tmp_path / "ca") as found:
        yield found


async def test_only_hashes_are_stored(parts: Parts) -> None:
    join = await parts.tokens.create(TokenRequest(role="node"), "api:a")
    api = await parts.tokens.create(TokenRequest(role="viewer", name="ci"), "api:a")
    credential = parse_join_credential(join.secret or "")
    assert (credential.token_id, credential.ca_sha256) == (join.id, parts.authority.ca_sha256)
    stored = [*parts.cache.records("join-tokens").values(), *parts.cache.records("api-tokens").values()]
    stored += parts.cache.records("events").values()
    text = msgspec.json.encode(stored).decode()
    for secret in (credential.secret, (api.secret or "").split(".")[2]):
        assert len(secret) == 32
        assert secret not in text
    assert all("." not in view.id and view.id == view.id.lower() for view in parts.tokens.list())


async def test_join_token_views(parts: Parts) -> None:
    one = await parts.tokens.create(TokenRequest(role="node", uses=2, ttl_seconds=60, labels={"a": "b"}), "api:a")
    assert (one.expires_at, one.uses_left, one.state, one.labels) == (NOW + 60, 2, "valid", {"a": "b"})
    first = await parts.join(one.secret or "", new_key())

    def now() -> tuple[str, int | None, int]:
        (view,) = parts.tokens.list()
        return view.state, view.uses_left, len(view.used_by)

    assert now() == ("valid", 1, 1)
    use = TokenUse(member_id=first.member_id, name="box", source_address="10.0.0.5", at=NOW)
    assert parts.tokens.list()[0].used_by == parts.tokens.show(one.id).used_by == (use,)
    parts.now += 60
    assert now() == ("expired", 1, 1)
    parts.now -= 1
    await parts.join(one.secret or "", new_key())
    assert now() == ("used", 0, 2)
    await parts.tokens.revoke(one.id, "api:a")
    assert now() == ("revoked", 0, 2)


async def test_bearer(parts: Parts) -> None:
    view = await parts.tokens.create(TokenRequest(role="operator", name="ci", ttl_seconds=60), "api:a")
    text = view.secret or ""
    found = parts.tokens.verify_bearer(text)
    assert found is not None
    assert (found.name, found.role) == ("ci", ApiRole.OPERATOR)
    kind, id_, secret = text.split(".")
    for bad in (
        "",
        "x",
        text + "x",
        text[:-1],
        f"{kind}.{id_}.",
        f"{kind}..{secret}",
        f"x.{id_}.{secret}",
        text + "." * 300,
    ):
        assert parts.tokens.verify_bearer(bad) is None
    parts.now += 60
    assert parts.tokens.verify_bearer(text) is None


async def test_a_right_a_wrong_and_an_unknown_secret_are_compared_alike(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a guess takes must not tell how much of it was right, nor whether there is such a token."""
    join = await parts.token()
    api = (await parts.tokens.create(TokenRequest(role="viewer", name="ci"), "api:a")).secret or ""
    compare, compared = hmac.compare_digest, []

    def watched(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)

    def guesses(right: str) -> tuple[str, ...]:
        kind, id_, secret, *rest = right.split(".")
        nearly = secret[:-1] + ("b" if secret[-1] == "a" else "a")
        return tuple(".".join((kind, *words, *rest)) for words in ((id_, nearly), (id_, "x" * 32), ("nobody", secret)))

    seen = set()
    for guess in (*guesses(join), join):
        compared.clear()
        try:
            await parts.join(guess, new_key())
        except Refused as refused:
            assert refused.problem.type == "urn:fallow:token-unknown"
        seen.add(tuple(compared))
    assert len(seen) == 1
    for guess in (*guesses(api), api):
        compared.clear()
        assert (parts.tokens.verify_bearer(guess) is not None) == (guess == api)
        assert compared == [(64, 64)]


async def test_first_admin_comes_once_and_again_when_all_have_expired(parts: Parts) -> None:
    first = await parts.tokens.ensure_admin("admin")
    found = parts.tokens.verify_bearer(first or "")
    assert found is not None
    assert (found.name, found.role, found.created_by) == ("admin", ApiRole.ADMIN, "server")
    assert await parts.tokens.ensure_admin("admin") is None
    short = await parts.tokens.create(TokenRequest(role="admin", ttl_seconds=60), "api:a")
    await parts.tokens.revoke(found.id, "api:a")
    assert await parts.tokens.ensure_admin("admin") is None
    with pytest.raises(Refused, match="nobody could create tokens"):
        await parts.tokens.revoke(short.id, "api:a")
    parts.now += 60
    assert await parts.tokens.ensure_admin("admin") is not None
    await parts.tokens.revoke(short.id, "api:a")


def test_settings_refuse_contradictions() -> None:
    for bad in (
        {"heartbeat_seconds": 3.0},
        {"dead_after_seconds": 1.0},
        {"certificate_seconds": 0.0},
        {"drain_seconds": -1.0},
        {"host_ports": PortRange(first=30000, last=20000)},
        {"host_ports_per_node": 10_001},
    ):
        with pytest.raises(ValueError, match=r"must be|do not hold"):
            Settings(**bad)  # type: ignore[arg-type]
