"""What is forgotten, and what is not."""

from typing import Any

import msgspec
import pytest
from control_rig import storing
from records import NOW, deployment, ids, member, replica, snapshot, template

from fallow.control import garbage as garbage_module
from fallow.control.garbage import trim_events
from fallow.control.settings import Settings
from fallow.decide.audit import Call, refused
from fallow.decide.deployments import reconcile
from fallow.decide.events import event
from fallow.decide.garbage import (
    KEEP_ENDED_PER_DEPLOYMENT,
    KEEP_ENDED_SECONDS,
    KEEP_GENERATIONS,
    KEEP_KEYS_SECONDS,
    sweep,
)
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import ReplicaState
from fallow.model.events import Event
from fallow.model.members import Role
from fallow.model.meta import Record
from fallow.model.registrations import MemberKey
from fallow.model.tokens import ApiRole, ApiToken, JoinToken

WEEK = 7 * 86400.0
COMMON: dict[str, Any] = {"created_at": NOW, "updated_at": NOW, "secret_sha256": "0" * 64}


def forgotten(found: Snapshot, now: float = NOW) -> set[str]:
    plan = sweep(found, now)
    assert not [record for step in plan.steps for record in step.puts]
    return {record.id for step in plan.steps for record in step.deletes}


def test_ended_replicas_are_kept_for_a_while_and_live_ones_for_ever() -> None:
    web = deployment(generation=2)
    states = {
        "old": (ReplicaState.STOPPED, NOW - KEEP_ENDED_SECONDS - 1),
        "lost": (ReplicaState.LOST, NOW - KEEP_ENDED_SECONDS - 1),
        "young": (ReplicaState.STOPPED, NOW - KEEP_ENDED_SECONDS + 1),
        "live": (ReplicaState.RUNNING, 0.0),
        "stopping": (ReplicaState.STOPPING, 0.0),
    }
    replicas = [replica(web, 0, state, id=id_, state_since=since) for id_, (state, since) in states.items()]
    assert forgotten(snapshot(web, template(web), *replicas)) == {"old", "lost"}


def test_of_many_that_just_ended_the_newest_are_kept() -> None:
    web = deployment()
    count = KEEP_ENDED_PER_DEPLOYMENT + 5
    ended = [replica(web, slot, ReplicaState.STOPPED, state_since=NOW - slot) for slot in range(count)]
    expected = {f"web-{slot}" for slot in range(KEEP_ENDED_PER_DEPLOYMENT, count)}
    assert forgotten(snapshot(web, template(web), *ended)) == expected


def test_a_failed_replica_goes_on_telling_why_its_slot_is_empty() -> None:
    web = deployment()
    failed = replica(web, 0, ReplicaState.FAILED, state_since=NOW - 30 * 86400)
    found = snapshot(web, template(web), failed)
    assert forgotten(found) == set()
    assert reconcile(found, NOW, ids()).steps == []
    newer = snapshot(deployment(generation=2), template(web), failed)
    assert forgotten(newer) == {"web-0"}
    assert "web-0" in forgotten(snapshot(template(web), failed)), "without a deployment nobody asks"


def test_templates_are_kept_while_used_and_as_history() -> None:
    web = deployment(generation=KEEP_GENERATIONS + 5)
    templates = [template(web, number) for number in range(1, web.generation + 1)]
    used = replica(web, 0, generation=2, template_id="d-web.2")
    orphan = template(deployment("gone"))
    assert forgotten(snapshot(web, *templates, orphan, used)) == {"d-web.1", "d-web.3", "d-web.4", "d-gone.1"}


def test_tokens_are_kept_for_a_week_after_they_have_ended() -> None:
    tokens: list[Record] = [
        JoinToken(id="j-old", role=Role.NODE, expires_at=NOW - WEEK - 1, **COMMON),
        JoinToken(id="j-young", role=Role.NODE, expires_at=NOW - WEEK + 1, **COMMON),
        ApiToken(id="a-old", name="ci", role=ApiRole.ADMIN, expires_at=NOW - WEEK - 1, **COMMON),
        ApiToken(id="a-young", name="ci", role=ApiRole.ADMIN, expires_at=NOW - WEEK + 1, **COMMON),
        ApiToken(id="a-ever", name="ci", role=ApiRole.ADMIN, **COMMON),
    ]
    assert forgotten(snapshot(*tokens)) == {"j-old", "a-old"}


def told(at: float, suffix: str) -> Event:
    return event(suffix, at, "test", "node", "n", "n", "Happened", "it happened")


def test_keys_are_kept_while_their_member_has_them_and_long_after() -> None:
    held = member("a", key_sha256="held")
    values: dict[str, Any] = {"created_at": NOW, "updated_at": NOW, "member_id": "n-a", "token_id": "t"}
    keys = [MemberKey(id="held", **values), MemberKey(id="before", **values)]
    keys.append(MemberKey(id="gone", **(values | {"member_id": "n-gone"})))
    kept, later = MemberKey(id="replays", **(values | {"token_id": "t1"})), NOW + KEEP_KEYS_SECONDS + 1
    token = JoinToken(id="t1", role=Role.NODE, expires_at=later, **COMMON)
    found = snapshot(held, token, kept, *keys)
    assert forgotten(found, NOW + KEEP_KEYS_SECONDS - 1) == set()
    assert forgotten(found, later) == {"before", "gone"}


def test_a_key_of_an_older_release_that_tells_why_it_ended_can_be_read() -> None:
    stored = {"id": "k", "created_at": 1.0, "updated_at": 2.0, "member_id": "m", "token_id": "t", "revoked": "why"}
    key = msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=MemberKey)
    assert (key.id, key.member_id) == ("k", "m")


async def test_the_oldest_events_go_even_when_a_clock_was_put_back() -> None:
    settings = Settings(keep_events=3)
    async with storing() as stored:
        for number in range(4):
            await stored.write(told(NOW + 1000 + number, f"future{number}"))
        for number in range(2):
            await stored.write(told(NOW + number, f"now{number}"))
        assert await trim_events(stored.store, stored.cache, settings, NOW) == 3
        await stored.cache.wait((await stored.store.list("events/"))[1])
        assert sorted(id_[14:] for id_ in stored.cache.records("events")) == ["future3", "now0", "now1"]
        assert await trim_events(stored.store, stored.cache, settings, NOW) == 0


async def test_the_audit_record_is_trimmed_by_age_and_apart_from_events(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(keep_events=1, keep_audit_seconds=100.0)
    async with storing() as stored:
        for number in range(5):
            call = Call(request_id=f"r{number}")
            await stored.write(refused(call, NOW + number, f"a{number}", "forbidden", "no"))
        await stored.write(told(NOW, "e1"), told(NOW, "e2"))
        assert await trim_events(stored.store, stored.cache, settings, NOW + 102) == 3
        await stored.cache.wait((await stored.store.list(""))[1])
        assert sorted(id_[14:] for id_ in stored.cache.records("audit")) == ["a2", "a3", "a4"], "100 s and younger"
        monkeypatch.setattr(garbage_module, "MAX_AUDIT", 1)
        assert await trim_events(stored.store, stored.cache, settings, NOW) == 2, "whatever its age"
        await stored.cache.wait((await stored.store.list(""))[1])
        assert [id_[14:] for id_ in stored.cache.records("audit")] == ["a4"]
