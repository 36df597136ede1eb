"""`fallow node pending`, `approve`, `reject`, and what `fallow token` tells of those who joined."""

import json
import time
from typing import Any

import pytest
from cli_fake_api import FakeApi, listing, token
from conftest import Fallow

from fallow.model.labels import Variable
from fallow.model.members import Facts, Role
from fallow.model.registrations import RegistrationState, RegistrationView
from fallow.model.tokens import Approve, TokenUse

ID = "3f9c2ab41d77" + "0" * 52


def waiting(**more: Any) -> RegistrationView:
    given: dict[str, Any] = {
        "id": ID,
        "state": RegistrationState.PENDING,
        "name": "box-1",
        "role": Role.NODE,
        "source_address": "10.20.0.7",
        "temporary_address": "fd00::7",
        "temporary_port": 8455,
        "function": "build machine",
        "facts": Facts(
            hostname="box-1.lan", os="Debian 12", architecture="arm64", engine="podman 4.3.1", cpus=4.0,
            memory_bytes=8 << 30, disk_bytes=100 << 30,
        ),
        "variables": (Variable(name="rack", value="r7"),),
        "labels": {"zone": "a"},
        "token_id": "t1",
        "token_created_by": "api:ann",
        "requested_at": time.time() - 60,
        "expires_at": time.time() + 60,
    }  # fmt: skip
    return RegistrationView(**{**given, **more})


def test_pending_shows_what_a_person_needs_to_decide(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/registrations", listing(waiting()))
    shown = fallow("node", "pending").out
    for told in (
        ID[:12], "box-1", "node", "10.20.0.7", "[fd00::7]:8455", "box-1.lan", "Debian 12", "arm64", "podman 4.3.1",
        "4 cpus", "8 GiB", "100 GiB disk", "build machine", "rack=r7", "zone=a", "t1 of api:ann", "1m",
    ):  # fmt: skip
        assert told in shown, told
    (item,) = json.loads(fallow("node", "pending", "--json").out)["items"]
    assert item["id"] == ID


def test_what_a_waiting_machine_says_cannot_drive_the_terminal(api: FakeApi, fallow: Fallow) -> None:
    evil = "\x1b[2J\x07\u202e"
    api.on("GET /v1/registrations", listing(waiting(function=evil, facts=Facts(hostname=evil, engine=evil))))
    shown = fallow("node", "pending").out
    assert not set(evil) & (set(shown) - set("[2J"))


def test_approve_and_reject(api: FakeApi, fallow: Fallow) -> None:
    for name in ("box-1", "box-2"):
        api.on(f"POST /v1/registrations/{name}/approve", waiting(name="web-7" if name == "box-1" else name))
        api.on(f"POST /v1/registrations/{name}/reject", "")
    ran = fallow("node", "approve", "box-1", "--name", "web-7", "--label", "rack=r7")
    assert (ran.code, ran.out) == (0, "web-7: approved\n")
    assert api.bodies("POST /v1/registrations/box-1/approve") == [{"name": "web-7", "labels": {"rack": "r7"}}]
    assert fallow("node", "reject", "box-1", "box-2", "--reason", "not ours").code == 0
    assert api.bodies("POST /v1/registrations/box-2/reject") == [{"reason": "not ours"}]


@pytest.mark.parametrize(
    "words", [(), ("a", "b", "--name", "c"), ("a", "--name", "Not A Name"), ("a", "--label", "nonsense")]
)
def test_approve_refuses_nonsense(api: FakeApi, fallow: Fallow, words: tuple[str, ...]) -> None:
    assert fallow("node", "approve", *words).code == 2
    assert api.asked == []


def test_a_token_says_everything_it_was_asked_for(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/tokens", token(secret="fallow-join.t1.s.c", approve=Approve.MANUAL))
    ran = fallow(
        "token", "create", "--name", "web-7", "--from", "10.0.0.0/8", "--from", "fd00::/8", "--pool", "blue",
        "--approve", "manual", "--replace", "web-7",
    )  # fmt: skip
    assert "fallow node pending" in ran.err
    (sent,) = api.bodies("POST /v1/tokens")
    assert (sent["role"], sent["ttl_seconds"], sent["name"]) == ("node", None, "web-7")
    assert (sent["networks"], sent["pool"]) == (["10.0.0.0/8", "fd00::/8"], "blue")
    assert (sent["approve"], sent["replaces"]) == ("manual", "web-7")


def test_a_token_tells_who_made_it_and_what_used_it(api: FakeApi, fallow: Fallow) -> None:
    now = time.time()
    uses = (
        TokenUse(member_id="n-1", name="web-1", source_address="10.0.0.5", at=now - 60),
        TokenUse(member_id="n-2", name="", source_address="10.0.0.6", at=now - 120),
        TokenUse(member_id="", name="box-3", source_address="10.0.0.7", at=now - 180),
    )
    seen = token(uses=40, uses_left=37, created_by="api:ann", used_by=uses, used_at=now - 60, networks=("10.0.0.0/8",))
    api.on("GET /v1/tokens/t-1", seen)
    api.on("GET /v1/tokens", listing(seen))
    shown = fallow("token", "show", "t-1").out
    for told in ("api:ann", "3 of 40", "10.0.0.0/8", "web-1", "(removed)", "box-3 (waits for approval)", "10.0.0.6"):
        assert told in shown, told
    listed = fallow("token", "list").out
    assert "api:ann" in listed
    assert "web-1, (removed), box-3 (waits for approval) 1m ago" in listed


def test_a_token_is_extended(api: FakeApi, fallow: Fallow) -> None:
    api.on("PATCH /v1/tokens/t-1", token(uses=40, uses_left=37))
    assert fallow("token", "extend", "t-1", "--ttl", "2h").out == "t-1: valid for 2h, 37 of 40 uses left\n"
    assert api.bodies("PATCH /v1/tokens/t-1") == [{"ttl_seconds": 7200.0}]
    assert fallow("token", "extend", "t-1").code == 2
