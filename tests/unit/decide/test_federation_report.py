"""What a cluster says of its share, and what its host believes of it."""

from typing import Any

import msgspec
import pytest
from records import NOW, deployment, ids, member, replica, snapshot

from fallow.decide.federation.checks import fit_report, fit_room
from fallow.decide.federation.fence import DRAINED_SECONDS, NOTICED_SECONDS, fence, stopped_after
from fallow.decide.federation.report import concerned, report_of
from fallow.decide.harvest.throttled import Weight
from fallow.model.cluster_frames import RoomReported
from fallow.model.clusters import ClusterPolicy
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Deployment, DeploymentSpec, Origin, ReplicaState
from fallow.model.members import MemberState
from fallow.model.rooms import RoomAnswer
from fallow.model.shares import RemoteEndpoint, ShareReport

PORTS = {"80/tcp": 20001}


def hosted(share: int = 3, **more: Any) -> Deployment:
    origin = Origin(revision=7, generation=4, taken_as=more.pop("taken_as", 1), fenced=more.pop("fenced", False))
    return deployment(share=share, origin=origin, **more)


def test_a_report_counts_by_the_words_of_its_fields() -> None:
    web = hosted(4)
    at = {"address": "10.0.0.1", "host_ports": PORTS}
    states = (
        replica(web, 0, **at),
        replica(web, 1, healthy_since=0.0, **at),
        replica(web, 2, ReplicaState.PLACED, **at),
        replica(web, 3, ReplicaState.PENDING),
        replica(web, 4, ReplicaState.LEAVING, **at),
        replica(web, 5, ReplicaState.LEAVING),
        replica(web, 6, ReplicaState.STOPPING, **at),
        replica(web, 7, ReplicaState.STOPPED, **at),
    )
    found = report_of(snapshot(web, member("a"), *states), web)
    assert (found.deployment_id, found.revision, found.generation, found.replicas) == ("d-web", 7, 4, 4)
    assert (found.placed, found.running, found.ready, found.updated, found.remaining) == (3, 2, 1, 1, 6)
    assert found.leaving == ("web-4",)
    assert found.endpoints == (RemoteEndpoint(id="web-0", address="10.0.0.1", ports=PORTS),)
    assert found.state == "waiting"


def test_a_cluster_says_how_many_it_may_have_while_it_keeps_what_is_ready() -> None:
    web = hosted(1, keep=3)
    there = [replica(web, slot, address="10.0.0.1") for slot in range(2)]
    assert report_of(snapshot(web, member("a"), *there), web).replicas == 2
    more = [replica(web, slot, ReplicaState.PLACED) for slot in range(2, 5)]
    assert report_of(snapshot(web, member("a"), *there, *more), web).replicas == 3, "those may be ready by now"
    assert report_of(snapshot(web, member("a")), web).replicas == 1


def test_endpoints_of_silent_nodes_are_marked_and_of_dead_ones_left_out() -> None:
    web = hosted(1)
    one = replica(web, 0, address="10.0.0.1", host_ports=PORTS)
    suspect = report_of(snapshot(web, member("a", state=MemberState.SUSPECT), one), web)
    assert (suspect.ready, suspect.endpoints[0].suspect) == (1, True)
    dead = report_of(snapshot(web, member("a", state=MemberState.DEAD), one), web)
    assert (dead.ready, dead.endpoints) == (0, ())


def test_endpoints_on_throttled_nodes_have_less_weight() -> None:
    web = hosted(2)
    both = [replica(web, slot, node_id=f"n-{name}", address="10.0.0.1") for slot, name in enumerate("ab")]
    throttled = {"n-a": Weight(25, NOW), "n-c": Weight(10, NOW)}
    found = report_of(snapshot(web, member("a"), member("b"), *both), web, weights=throttled)
    assert [each.weight for each in found.endpoints] == [25, 100]
    silent = report_of(snapshot(web, member("a", state=MemberState.SUSPECT), both[0]), web, weights=throttled)
    assert [(each.suspect, each.weight) for each in silent.endpoints] == [(True, 100)]
    assert fit_report(found, "10.0.0.9", ())[0].endpoints == found.endpoints


@pytest.mark.parametrize("weight", [0, 101, -5])
def test_no_weight_is_beyond_its_bounds(weight: int) -> None:
    said = msgspec.msgpack.encode({"id": "web-0", "address": "10.0.0.1", "weight": weight})
    with pytest.raises(msgspec.ValidationError, match="weight"):
        msgspec.msgpack.decode(said, type=RemoteEndpoint)


def test_what_was_rolled_back_here_is_ready_and_not_updated() -> None:
    web = hosted(2, generation=3, alike=(1,), taken_as=2)
    both = (replica(web, 0, generation=1, address="10.0.0.1"), replica(web, 1, generation=3, address="10.0.0.1"))
    found = report_of(snapshot(web, member("a"), *both), web)
    assert (found.ready, found.updated) == (2, 0)
    rest = report_of(snapshot(web, member("a"), replica(web, 0, generation=2, address="10.0.0.1")), web)
    assert rest.updated == 1


def test_the_hosts_own_nodes_are_told_of_in_the_same_words() -> None:
    web = deployment(replicas=5, share=2, generation=3)
    found = report_of(snapshot(web, member("a"), replica(web, 0, address="10.0.0.1")), web, 17)
    assert (found.revision, found.generation, found.replicas, found.ready, found.updated) == (17, 3, 2, 1, 1)


def test_changes_of_nodes_concern_what_runs_on_them() -> None:
    web = hosted()
    now = snapshot(web, member("a"), replica(web, 0))
    assert concerned(now, [("members", "n-a")]) == {"d-web"}
    assert concerned(now, [("replicas", "web-0"), ("deployments", "d-x"), ("replicas", "gone"), ("events", "e")]) == {
        "d-web", "d-x",
    }  # fmt: skip


# what the host believes


def claimed(*addresses: str, **more: Any) -> ShareReport:
    found = tuple(
        RemoteEndpoint(id=f"web-{number}", address=address, ports=PORTS) for number, address in enumerate(addresses)
    )
    return ShareReport(deployment_id="d-web", ready=len(found), updated=len(found), endpoints=found, **more)


def test_addresses_that_must_not_be_dialled_are_dropped_with_the_reason() -> None:
    bad = ("127.0.0.1", "169.254.169.254", "fd00:ec2::254", "100.100.100.200", "10.9.9.9", "224.0.0.1", "0.0.0.0",
           "here.example", "::ffff:127.0.0.1", "fe80::1%eth0", "")  # fmt: skip
    fit, why = fit_report(claimed("10.0.0.1", *bad), "192.0.2.7", {"10.9.9.9"})
    assert [found.address for found in fit.endpoints] == ["10.0.0.1"]
    assert (fit.ready, fit.updated) == (1, 1)
    assert set(why) == set(bad)
    assert "control plane" in why["10.9.9.9"]


def test_a_cluster_on_this_very_machine_may_be_on_loopback() -> None:
    fit, why = fit_report(claimed("127.0.0.1", "127.1.2.3"), "127.0.0.1", {"127.0.0.1"})
    assert (len(fit.endpoints), why) == (2, {})


def test_numbers_and_words_are_held_within_what_can_be() -> None:
    said = claimed(
        "10.0.0.1", "10.0.0.1", reason="all\x1b[31m is\nwell", state="ser\tving", leaving=("web-1", "web-1", "../x")
    )
    said = msgspec.structs.replace(said, ready=900, updated=901)
    odd = RemoteEndpoint(id="a b", address="10.0.0.1")
    twice = RemoteEndpoint(id="web-0", address="10.0.0.2", ports={"80/tcp": 1, "80/sctp": 2, "x": 3})
    fit, _ = fit_report(msgspec.structs.replace(said, endpoints=(*said.endpoints, odd, twice)), "", ())
    assert (fit.ready, fit.updated, fit.leaving) == (2, 2, ("web-1",))
    assert (fit.reason, fit.state) == ("all [31m is well", "ser ving")
    assert {found.id: (found.address, found.ports) for found in fit.endpoints}["web-0"] == ("10.0.0.2", {"80/tcp": 1})


def test_only_questions_that_were_asked_are_answered() -> None:
    answers = (RoomAnswer(key="a", more=3, why="no\nmore"), RoomAnswer(key="b", more=9))
    found, orders = fit_room(RoomReported(answers=answers, orders={"d-web": 3, "d-x": 4}), {"a"}, {"d-web"})
    assert found == {"a": RoomAnswer(key="a", more=3, why="no more")}
    assert orders == {"d-web": 3}


# fences


def singleton(seconds: float, **more: Any) -> Deployment:
    spec = DeploymentSpec(container=ContainerSpec(image="shop:1"), clusters=ClusterPolicy(fence_seconds=seconds))
    return msgspec.structs.replace(hosted(1, **more), spec=spec, created_at=NOW - 1000)


def test_a_fence_falls_when_the_host_has_answered_nothing_for_so_long() -> None:
    now = snapshot(singleton(10.0), deployment("local"))
    waiting = fence(now, NOW - 9.0, NOW, ids())
    assert (list(waiting.steps), waiting.wake_after_seconds) == ([], 1.0)
    (step,) = fence(now, NOW - 10.0, NOW, ids()).steps
    after = step.puts[0]
    assert isinstance(after, Deployment)
    assert after.origin is not None
    assert (after.share, after.origin.fenced) == (0, True)
    assert not fence(snapshot(after), NOW - 99.0, NOW, ids()).steps
    found = report_of(snapshot(after), after)
    assert (found.state, found.replicas) == ("fenced", 0)
    assert "nothing was heard of the host" in found.reason


def test_what_came_later_than_the_hosts_last_word_counts_from_then() -> None:
    young = msgspec.structs.replace(singleton(10.0), created_at=NOW - 5.0)
    assert not fence(snapshot(young), 0.0, NOW, ids()).steps
    assert not fence(snapshot(singleton(0.0)), 0.0, NOW, ids()).steps


def test_a_fenced_replica_has_stopped_once_it_was_noticed_drained_and_had_its_time_to_end() -> None:
    grace = singleton(60.0).spec.container.stop_grace_seconds
    assert stopped_after(singleton(60.0)) == 60.0 + NOTICED_SECONDS + DRAINED_SECONDS + grace
    assert stopped_after(singleton(0.0)) == 0.0
