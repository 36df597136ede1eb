"""Liveness: ready, suspect, dead, and our own outage."""

from dataclasses import replace

import msgspec
from records import NOW, applied, ids, member, puts, snapshot
from server_records import server, vm

from fallow.decide.members import Liveness, in_outage, judge
from fallow.decide.snapshot import Snapshot
from fallow.model.members import AgentWish, Member, MemberState, Role, Thresholds

RULES = Liveness(suspect_after_seconds=3, dead_after_seconds=8, watching_since=NOW - 1000)
FLEET = [member(name) for name in "abcd"]


def states(fleet: Snapshot, seen: dict[str, float], now: float = NOW, rules: Liveness = RULES) -> dict[str, str]:
    changed = puts(judge(fleet, seen, now, rules, ids()), Member)
    return {found.name: found.state.value for found in changed}


def heard(**ages: float) -> dict[str, float]:
    return {f"n-{name}": NOW - ages.get(name, 0.0) for name in "abcd"}


def test_a_recent_sign_of_life_changes_nothing() -> None:
    assert states(snapshot(*FLEET), heard(a=2.9)) == {}


def test_silence_makes_suspect_then_dead() -> None:
    fleet = snapshot(*FLEET)
    assert states(fleet, heard(a=3.1)) == {"a": "suspect"}
    suspect = snapshot(member("a", state=MemberState.SUSPECT), *FLEET[1:])
    assert states(suspect, heard(a=7.9)) == {}
    assert states(suspect, heard(a=8.1)) == {"a": "dead"}


def test_a_member_that_is_heard_again_is_ready() -> None:
    for state in (MemberState.SUSPECT, MemberState.DEAD, MemberState.JOINING):
        assert states(snapshot(member("a", state=state), *FLEET[1:]), heard(a=0.5)) == {"a": "ready"}


def test_a_member_that_never_opened_a_session_stays_joining() -> None:
    fleet = snapshot(member("a", state=MemberState.JOINING), *FLEET[1:])
    seen = heard()
    del seen["n-a"]
    assert states(fleet, seen) == {}


def test_when_all_fall_silent_nobody_is_declared_dead() -> None:
    fleet = snapshot(*FLEET)
    silent = heard(a=20, b=20, c=20, d=20)
    assert in_outage(fleet.machines, silent, NOW, RULES)
    assert set(states(fleet, silent).values()) == {"suspect"}
    after = applied(fleet, judge(fleet, silent, NOW, RULES, ids()))
    assert states(after, silent, NOW + 500) == {}


def test_a_server_falls_with_its_vms_and_is_one_all_the_same() -> None:
    nodes = [member(name) for name in "abc"]
    fleet = [server("one"), server("two"), *nodes]
    vms = [vm(name, server_id="s-one", node_id=f"n-{name}") for name in "abc"]
    silent = {"s-one": NOW - 20, "n-a": NOW - 20, "n-b": NOW - 20, "n-c": NOW - 20, "s-two": NOW}
    assert in_outage(snapshot(*fleet).machines, silent, NOW, RULES)  # machines of their own: most of them at once
    assert set(states(snapshot(*fleet, *vms), silent).values()) == {"suspect"}
    suspect = [msgspec.structs.replace(found, state=MemberState.SUSPECT) for found in fleet]
    found = states(snapshot(*suspect, *vms), silent)
    assert found == {"one": "dead", "a": "dead", "b": "dead", "c": "dead", "two": "ready"}
    both = silent | {"s-two": NOW - 20}
    assert set(states(snapshot(*suspect, *vms), both).values()) == set()  # nobody is heard: we are cut off
    alive = both | {"n-b": NOW}  # an agent is gone, not its machine
    assert "dead" in states(snapshot(*suspect, *vms), alive).values()


def test_vms_that_stop_on_servers_that_live_are_no_outage() -> None:
    fleet = [server("one"), server("two"), member("d"), *(member(name) for name in "abc")]
    vms = [vm(name, server_id="s-one", node_id=f"n-{name}") for name in "abc"]
    suspect = snapshot(*(msgspec.structs.replace(one, state=MemberState.SUSPECT) for one in fleet), *vms)
    seen = {"s-one": NOW, "s-two": NOW, "n-d": NOW - 20}
    assert states(suspect, seen)["d"] == "dead"


def test_one_of_two_may_die_but_two_of_three_at_once_may_not() -> None:
    two = snapshot(*FLEET[:2])
    assert not in_outage(two.members, heard(a=20), NOW, RULES)
    three = snapshot(*FLEET[:3])
    assert in_outage(three.members, heard(a=20, b=20), NOW, RULES)
    assert not in_outage(snapshot(*FLEET).members, heard(a=20, b=20), NOW, RULES)


def test_dead_members_do_not_count_towards_an_outage() -> None:
    fleet = snapshot(*(member(name, state=MemberState.DEAD) for name in "abc"), FLEET[3], member("e"))
    assert not in_outage(fleet.members, heard(a=99, b=99, c=99) | {"n-e": NOW}, NOW, RULES)


def test_after_an_outage_silence_counts_from_its_end() -> None:
    fleet = snapshot(member("a", state=MemberState.SUSPECT), *FLEET[1:])
    rules = Liveness(suspect_after_seconds=3, dead_after_seconds=8, watching_since=0, outage_at=NOW - 5)
    assert states(fleet, heard(a=60), rules=rules) == {}
    later = Liveness(suspect_after_seconds=3, dead_after_seconds=8, watching_since=0, outage_at=NOW - 9)
    assert states(fleet, heard(a=60), rules=later) == {"a": "dead"}


def test_a_new_watcher_gives_wider_grace() -> None:
    fleet = snapshot(*FLEET)
    rules = Liveness(suspect_after_seconds=3, dead_after_seconds=8, watching_since=NOW - 20)
    seen = heard()
    del seen["n-a"]
    assert states(fleet, seen, rules=rules) == {"a": "suspect"}
    suspect = snapshot(member("a", state=MemberState.SUSPECT), *FLEET[1:])
    assert states(suspect, seen, rules=rules) == {}
    later = dict.fromkeys(seen, NOW + 10)
    assert states(suspect, later, now=NOW + 10, rules=rules) == {"a": "dead"}


def test_a_new_watcher_waits_for_those_it_heard_only_before_or_as_it_began_until_they_have_failed_over() -> None:
    rules = Liveness(suspect_after_seconds=3, dead_after_seconds=8, watching_since=NOW - 8.5, heartbeat_seconds=1)
    for age, known in ((20, ""), (8.6, ""), (8.4, ""), (5.6, ""), (5.4, "suspect")):
        assert states(snapshot(*FLEET), heard(a=age), rules=rules).get("a", "") == known, age
    suspect = snapshot(member("a", state=MemberState.SUSPECT), *FLEET[1:])
    for own, dead_after in ((rules, 16.0), (replace(rules, dead_after_seconds=60), 60.0)):
        for since, known in ((dead_after - 0.1, {}), (dead_after + 0.1, {"a": "dead"})):
            now = own.watching_since + since
            seen = heard(a=20) | dict.fromkeys(("n-b", "n-c", "n-d"), now)
            assert states(suspect, seen, now=now, rules=own) == known, since


def test_a_new_watcher_does_not_give_up_most_members_at_once() -> None:
    fleet = snapshot(*(member(name, state=MemberState.SUSPECT) for name in "abc"), FLEET[3])
    rules = Liveness(suspect_after_seconds=3, dead_after_seconds=8, watching_since=NOW - 60)
    assert states(fleet, heard(a=61, b=61, c=61), rules=rules) == {}


def test_every_change_tells_an_event() -> None:
    plan = judge(snapshot(*FLEET), heard(a=9), NOW, RULES, ids())
    (step,) = plan.steps
    assert [type(record).__name__ for record in step.puts] == ["Member", "Event"]


def test_an_agent_that_is_being_swapped_is_waited_for_and_not_for_ever() -> None:
    wish = AgentWish(upgrade_id="u", version="2", sha256="", since=NOW)
    swapped = member("a", state=MemberState.SUSPECT, agent=wish)
    others = [member(name) for name in "bcd"]
    for seconds, state in ((60.0, MemberState.SUSPECT), (121.0, MemberState.DEAD)):
        now = NOW + seconds
        seen = {found.id: now for found in others} | {"n-a": NOW}
        rules = Liveness(suspect_after_seconds=3.0, dead_after_seconds=8.0, watching_since=NOW - 100)
        plan = judge(snapshot(swapped, *others), seen, now, rules, ids())
        assert [found.state for found in puts(plan, Member)] == ([state] if state is MemberState.DEAD else [])
        failed = msgspec.structs.replace(swapped, agent=msgspec.structs.replace(wish, failed="no room"))
        plan = judge(snapshot(failed, *others), seen, now, rules, ids())
        assert [found.state for found in puts(plan, Member)] == [MemberState.DEAD]


# Clusters

OF_CLUSTERS = replace(RULES, clusters=True)
CLUSTERS = [member(name, role=Role.CLUSTER) for name in "abc"]


def test_clusters_are_judged_apart_from_all_others() -> None:
    fleet = snapshot(*FLEET[:1], member("b", role=Role.CLUSTER), member("c", role=Role.CLUSTER))
    silent = heard(a=20, b=20)
    assert states(fleet, silent, rules=OF_CLUSTERS) == {"b": "suspect"}
    assert states(fleet, silent) == {"a": "suspect"}
    assert in_outage(OF_CLUSTERS.members(fleet), heard(b=20, c=20), NOW, OF_CLUSTERS)
    assert not in_outage(RULES.members(fleet), heard(b=20, c=20), NOW, RULES)


def test_a_cluster_keeps_the_moment_it_was_declared_dead() -> None:
    suspect = member("a", role=Role.CLUSTER, state=MemberState.SUSPECT)
    (dead,) = puts(judge(snapshot(suspect, *CLUSTERS[1:]), heard(a=20), NOW, OF_CLUSTERS, ids()), Member)
    assert (dead.state, dead.died_at) == (MemberState.DEAD, NOW)
    (back,) = puts(judge(snapshot(dead, *CLUSTERS[1:]), heard(), NOW + 1, OF_CLUSTERS, ids()), Member)
    assert (back.state, back.died_at) == (MemberState.READY, NOW)


def test_most_clusters_silent_at_once_is_our_own_outage() -> None:
    fleet = snapshot(*[member(name, role=Role.CLUSTER, state=MemberState.SUSPECT) for name in "ab"], CLUSTERS[2])
    assert states(fleet, heard(a=60, b=60), rules=OF_CLUSTERS) == {}
    assert states(fleet, heard(a=60), rules=OF_CLUSTERS) == {"a": "dead", "b": "ready"}


def patient(name: str, suspect: float, dead: float, state: MemberState = MemberState.READY) -> Member:
    own = Thresholds(suspect_after_seconds=suspect, dead_after_seconds=dead)
    return member(name, role=Role.CLUSTER, state=state, thresholds=own)


def test_a_cluster_is_judged_by_thresholds_of_its_own() -> None:
    for suspect, dead in ((1.0, 2.0), (20.0, 60.0)):
        ready = snapshot(patient("a", suspect, dead), *CLUSTERS[1:])
        assert states(ready, heard(a=suspect - 0.1), rules=OF_CLUSTERS) == {}
        assert states(ready, heard(a=suspect + 0.1), rules=OF_CLUSTERS) == {"a": "suspect"}
        silent = snapshot(patient("a", suspect, dead, MemberState.SUSPECT), *CLUSTERS[1:])
        assert states(silent, heard(a=dead - 0.1), rules=OF_CLUSTERS) == {}
        assert states(silent, heard(a=dead + 0.1), rules=OF_CLUSTERS) == {"a": "dead"}
        assert states(silent, heard(a=suspect - 0.1), rules=OF_CLUSTERS) == {"a": "ready"}


def test_thresholds_of_one_cluster_do_not_change_those_of_others() -> None:
    suspect = member("b", role=Role.CLUSTER, state=MemberState.SUSPECT)
    fleet = snapshot(patient("a", 20.0, 60.0), suspect, CLUSTERS[2])
    assert states(fleet, heard(b=8.1), rules=OF_CLUSTERS) == {"b": "dead"}


def test_an_outage_is_seen_before_the_least_patient_is_dead_and_by_those_who_are_more_patient() -> None:
    hasty = patient("a", 1.0, 2.0, MemberState.SUSPECT)
    assert states(snapshot(hasty, *CLUSTERS[1:]), heard(a=2.5, b=2.5, c=2.5), rules=OF_CLUSTERS) == {}
    calm = [patient(name, 60.0, 120.0) for name in "bc"]
    suspect = member("a", role=Role.CLUSTER, state=MemberState.SUSPECT)
    assert states(snapshot(suspect, *calm), heard(a=9, b=9, c=9), rules=OF_CLUSTERS) == {}


def test_who_was_silent_while_we_stood_still_is_dead_only_after_its_own_threshold_once_more() -> None:
    fleet = snapshot(patient("a", 4.0, 30.0, MemberState.SUSPECT), *CLUSTERS[1:])
    assert states(fleet, heard(a=90), rules=replace(OF_CLUSTERS, held_up_at=NOW - 3.9)) == {}
    assert states(fleet, heard(a=90), rules=replace(OF_CLUSTERS, held_up_at=NOW - 4.1)) == {"a": "dead"}


def test_thresholds_that_heartbeats_have_overtaken_do_not_count() -> None:
    hasty = snapshot(patient("a", 2.0, 4.0), *CLUSTERS[1:])
    assert states(hasty, heard(a=2.5), rules=replace(OF_CLUSTERS, heartbeat_seconds=1.9)) == {"a": "suspect"}
    assert states(hasty, heard(a=2.5, b=2.5, c=2.5), rules=replace(OF_CLUSTERS, heartbeat_seconds=2.0)) == {}
