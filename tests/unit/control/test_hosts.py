"""Becoming a member of a host, and what may not be told to anybody on the way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from federation_rig import Site, cluster_of, until
from refusing import refused

from fallow.client import joining
from fallow.client.errors import Unreachable
from fallow.control import hosts as hosts_module
from fallow.control.refusals import Refused
from fallow.model.hosts import HostKey, HostRequest
from fallow.model.members import Identity, MemberState, Role
from fallow.model.registrations import Approval
from fallow.model.tokens import TokenRequest


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path / "host", "memory:")
    await site.start()
    yield site
    await site.close()


@pytest.fixture
async def member(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path / "member")
    await site.start()
    yield site
    await site.close()


async def ask(member: Site, host: Site, token: str, **more: Any) -> Any:
    return await member.plane.hosts.join(HostRequest(url=host.url, token=token, **more), "api:test")


async def test_joining_gives_no_lease_and_the_tokens_labels(host: Site, member: Site) -> None:
    await member.join(host, labels={"region": "west"}, name="west")
    found = cluster_of(host)
    assert (found.name, found.role, found.labels) == ("west", Role.CLUSTER, {"region": "west"})
    assert (found.lease.pool, found.lease.host_ports, found.lease.agent_port) == ("", type(found.lease.host_ports)(), 0)
    await until(lambda: cluster_of(host).state is MemberState.READY)
    await until(lambda: member.plane.hosts.view().connected)
    assert "HostJoined" in member.events()
    assert "MemberJoined" in host.events()


async def test_the_same_host_again_uses_no_token_and_another_one_is_refused(
    host: Site, member: Site, tmp_path: Path
) -> None:
    await member.join(host)
    second = await host.token("cluster")
    assert (await ask(member, host, second)).url == host.url
    assert [found.spent for found in host.snapshot.join_tokens.values()] == [1, 0]
    other = Site(tmp_path / "other", "memory:")
    await other.start()
    try:
        said = await refused(ask(member, other, await other.token("cluster")), 409, "host-known")
        assert host.url in said
        assert "fallow cluster leave" in said
        assert not [found for found in other.snapshot.members.values() if found.role is Role.CLUSTER]
        await member.plane.hosts.leave(False, "api:test")
        assert (await ask(member, other, await other.token("cluster"))).url == other.url
        await until(lambda: member.plane.hosts.view().connected)
    finally:
        await other.close()


async def test_two_joins_at_once_make_one_member_of_one_host(host: Site, member: Site, tmp_path: Path) -> None:
    token = await host.token("cluster", uses=5)
    found = await asyncio.gather(*(ask(member, host, token) for _ in range(4)), return_exceptions=True)
    assert not [each for each in found if isinstance(each, BaseException)]
    assert cluster_of(host).id == member.snapshot.hosts["host"].member_id


async def test_what_cannot_be_joined_is_refused_in_words(host: Site, member: Site, tmp_path: Path) -> None:
    good = await host.token("cluster")
    await refused(ask(member, host, "nonsense"), 422, "bad-request")
    await refused(member.plane.hosts.join(HostRequest(url="ftp://x", token=good), "t"), 422, "bad-request")
    assert "fallow token create --role cluster" in await refused(
        ask(member, host, await host.token("node")), 409, "token-role"
    )
    await refused(ask(member, host, good[:-64] + "0" * 64), 409, "host-untrusted")
    parts = good.split(".")
    wrong = ".".join([*parts[:2], "x" * len(parts[2]), parts[3]])
    await refused(ask(member, host, wrong), 409, "token-unknown")
    await refused(ask(member, host, good, name="Not A Name"), 409, "name-invalid")
    nobody = Site(tmp_path / "nobody", "memory:")
    await refused(ask(member, nobody, good), 502, "host-unreachable")
    await refused(ask(host, host, good), 409, "own-token")
    assert not member.plane.cache.records("hosts")
    assert (await ask(member, host, good)).url == host.url  # none of that used it up


async def test_hosts_are_not_nested(host: Site, member: Site, tmp_path: Path) -> None:
    await member.join(host)
    above = Site(tmp_path / "above", "memory:")
    await above.start()
    try:
        await refused(ask(host, above, await above.token("cluster")), 409, "nested-hosts")
    finally:
        await above.close()
    await refused(member.plane.tokens.create(TokenRequest(role="cluster"), "t"), 409, "nested-hosts")
    await refused(host.plane.tokens.create(TokenRequest(role="cluster", pool="x"), "t"), 400, "bad-request")


async def test_a_lost_answer_costs_no_second_use(host: Site, member: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await host.token("cluster")
    real = joining.join

    async def lost(*args: Any) -> Identity:
        await real(*args)
        raise Unreachable(host.url, "it did not answer in time")

    monkeypatch.setattr(hosts_module.joining, "join", lost)
    await refused(ask(member, host, token), 502, "host-unreachable")
    first = cluster_of(host)
    assert not member.plane.cache.records("hosts")
    monkeypatch.undo()
    await member.restart()
    await ask(member, host, token)
    assert cluster_of(host).id == first.id
    await until(lambda: cluster_of(host).state is MemberState.READY)


async def test_somebody_may_have_to_let_a_cluster_in(host: Site, member: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fallow.control.admission.APPROVAL_SECONDS", 0.01)
    token = await host.token("cluster", approve="manual")
    said = await refused(ask(member, host, token), 409, "waits-for-approval")
    assert "fallow node approve" in said
    (waiting,) = host.plane.registrations.pending()
    await host.plane.registrations.approve(waiting.id, Approval(), "api:admin")
    await until(lambda: host.snapshot.clusters)
    assert (await ask(member, host, token)).url == host.url


async def test_leaving_is_refused_without_a_host(member: Site) -> None:
    await refused(member.plane.hosts.leave(False, "t"), 404, "not-found")
    with pytest.raises(Refused):
        member.plane.hosts.view()


async def test_no_secret_is_told_or_stored_in_plain(
    host: Site, member: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    token = await host.token("cluster")
    await ask(member, host, token)
    await until(lambda: member.plane.hosts.view().connected)
    key = member.plane.hosts._stored_key()
    assert key is not None
    private = key.key_pem
    secrets = {"token": token.split(".")[2], "key": "".join(private.splitlines()[1:-1])[40:100]}
    assert secrets["key"] in private.replace("\n", "")
    told = capfd.readouterr()
    items, _ = await member.plane.store.list("")
    files = b"".join(file.read_bytes() for file in member.folder.glob("fallow.db*"))
    places = {
        "log": (told.out + told.err + caplog.text).encode(),
        "store": b"".join(item.value for item in items).replace(b"\n", b""),
        "database": files.replace(b"\n", b""),
        "request": repr(HostRequest(url=host.url, token=token)).encode(),
        "key": (repr(key) + repr(HostKey(key_pem=private, ca_sha256="0" * 64))).encode(),
        "view": msgspec.json.encode(member.plane.hosts.view()),
    }
    assert len(places["store"]) > 1000
    assert len(places["database"]) > 1000
    for place, content in places.items():
        for what, secret in secrets.items():
            assert secret.encode() not in content, (what, place)
    assert {file.name for file in (member.folder / "host").iterdir()} >= {"key.pem", "identity.json"}
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in (member.folder / "host").iterdir())
    assert (member.folder / "host").stat().st_mode & 0o777 == 0o700
