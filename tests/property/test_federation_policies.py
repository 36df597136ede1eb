"""Policies: what each of them promises, for whatever clusters there are, and against slow searches."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import msgspec
from division_cases import LATER, cluster, followed, room, where, wish, with_spec
from hypothesis import given
from hypothesis import strategies as st
from records import snapshot

from fallow.decide.federation.division import divide_all
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import ClusterSpread
from fallow.model.deployments import Deployment
from fallow.model.members import MemberState, Scheduling
from fallow.model.taints import Taint, Toleration

NAMES = ("a", "b", "c", "d", "e")
REGIONS = ("east", "west", "north")
KINDS = ("capacity", "weighted", "aggregate")


@dataclass(frozen=True)
class Fleet:
    """Clusters by name: what is odd about their records, and how many replicas each has room for in all."""

    changes: Mapping[str, dict[str, Any]]
    holds: Mapping[str, int]

    def without(self, name: str) -> "Fleet":
        lost = {**self.changes, name: {**self.changes[name], "state": MemberState.DEAD}}
        return replace(self, changes=lost)

    def records(self, of: Deployment, held: Mapping[str, int]) -> list[Any]:
        answers = [
            room(name, (of, max(self.holds[name] - held.get(name, 0), 0)), orders={of.id: 1}) for name in self.changes
        ]
        return [*(cluster(name, **changes) for name, changes in self.changes.items()), *answers]


@st.composite
def fleets(draw: st.DrawFn, least: int = 1) -> Fleet:
    names = NAMES[: draw(st.integers(least, 5))]
    return Fleet(
        {name: {"labels": {"region": draw(st.sampled_from(REGIONS))}} for name in names},
        {name: draw(st.integers(0, 12)) for name in names},
    )


@st.composite
def wishes(draw: st.DrawFn) -> Deployment:
    bounds = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 6), max_size=3)
    policy: dict[str, Any] = {"divide": draw(st.sampled_from(KINDS))}
    if draw(st.booleans()):
        policy["weights"] = draw(bounds)
    if draw(st.booleans()):
        policy |= {"min": draw(bounds), "max": draw(bounds)}
    if draw(st.booleans()):
        policy["where"] = where("region in (east,west)")
    if draw(st.booleans()):
        policy["fallback"] = (where("region=west"), where(""))
    if draw(st.booleans()):
        policy["spread"] = ClusterSpread(label="region", min_groups=draw(st.integers(1, 3)))
    return wish(replicas=draw(st.integers(0, 30)), **policy)


def divided(fleet: Fleet, of: Deployment, before: Snapshot | None = None) -> tuple[dict[str, int], Snapshot]:
    """Return shares by name, and the snapshot once clusters have followed."""
    held = {} if before is None else held_of(before, of)
    records = [*fleet.records(of, held), of]
    if before is not None:
        records += [*before.divisions.values(), *before.shares.values()]
    now = snapshot(*records)
    targets = divide_all(now, LATER)
    return {name: targets[of.id].shares.get(f"c-{name}", 0) for name in fleet.changes}, followed(now, targets)


def held_of(before: Snapshot, of: Deployment) -> dict[str, int]:
    return {
        before.members[found.cluster_id].name: found.replicas
        for found in before.shares.values()
        if found.deployment_id == of.id
    }


def bounds(fleet: Fleet, of: Deployment, name: str) -> int:
    """Return the most that a cluster may get by room and policy."""
    policy = of.spec.clusters
    if policy.where.requirements and fleet.changes[name]["labels"]["region"] not in ("east", "west"):
        return 0
    return min(fleet.holds[name], policy.max.get(name, 99))


@given(fleets(), wishes())
def test_what_fits_is_placed_and_no_bound_is_broken(fleet: Fleet, of: Deployment) -> None:
    shares, _ = divided(fleet, of)
    most = {name: bounds(fleet, of, name) for name in fleet.changes}
    assert all(shares[name] <= most[name] for name in shares)
    assert sum(shares.values()) == min(of.spec.replicas, sum(most.values()))


@given(fleets(), wishes())
def test_unchanged_input_changes_nothing(fleet: Fleet, of: Deployment) -> None:
    once, after = divided(fleet, of)
    again, _ = divided(fleet, of, after)
    assert again == once


@given(fleets(), wishes(), st.integers(0, 30))
def test_more_takes_from_nobody_and_less_gives_to_nobody(fleet: Fleet, of: Deployment, replicas: int) -> None:
    before, after = divided(fleet, of)
    policy = of.spec.clusters
    now, _ = divided(fleet, with_spec(of, replicas=replicas), after)
    if not policy.min and policy.spread is None:
        assert replicas < sum(before.values()) or all(now[name] >= before[name] for name in now)
        assert replicas > sum(before.values()) or all(now[name] <= before[name] for name in now)
    moved = sum(abs(now[name] - before[name]) for name in now)
    if not policy.min and policy.spread is None:
        assert moved == abs(sum(now.values()) - sum(before.values()))


@given(fleets(least=2), wishes(), st.data())
def test_a_lost_cluster_moves_its_own_replicas_alone(fleet: Fleet, of: Deployment, data: st.DataObject) -> None:
    before, after = divided(fleet, of)
    lost = data.draw(st.sampled_from(sorted(fleet.changes)))
    now, _ = divided(fleet.without(lost), of, after)
    assert now[lost] == 0
    if not of.spec.clusters.min and of.spec.clusters.spread is None:
        assert all(now[name] >= before[name] for name in now if name != lost)
    fits = sum(max(bounds(fleet, of, name), 0) for name in now if name != lost)
    assert sum(now.values()) == min(of.spec.replicas, fits)


@given(fleets(), wishes(), st.data())
def test_a_cluster_that_may_not_get_more_keeps_what_it_has(fleet: Fleet, of: Deployment, data: st.DataObject) -> None:
    before, after = divided(fleet, of)
    chosen = data.draw(st.sampled_from(sorted(fleet.changes)))
    odd: dict[str, Any] = data.draw(
        st.sampled_from(
            (
                {"state": MemberState.SUSPECT},
                {"scheduling": Scheduling.CORDONED},
                {"taints": (Taint(key="gpu", value="a100"),)},
            )
        )
    )
    changed = replace(fleet, changes={**fleet.changes, chosen: {**fleet.changes[chosen], **odd}})
    same, _ = divided(changed, of, after)
    assert same == before
    more, _ = divided(changed, with_spec(of, replicas=of.spec.replicas + 9), after)
    assert more[chosen] <= before[chosen]


@given(fleets(), wishes(), st.data())
def test_a_cluster_that_must_not_keep_anything_is_emptied_as_far_as_others_have_room(
    fleet: Fleet, of: Deployment, data: st.DataObject
) -> None:
    _, after = divided(fleet, of)
    chosen = data.draw(st.sampled_from(sorted(fleet.changes)))
    taint = Taint(key="old", effect="move")
    odd: dict[str, Any] = data.draw(st.sampled_from(({"scheduling": Scheduling.DRAINING}, {"taints": (taint,)})))
    changed = replace(fleet, changes={**fleet.changes, chosen: {**fleet.changes[chosen], **odd}})
    now, _ = divided(changed, of, after)
    assert now[chosen] == 0
    policy = of.spec.clusters
    tolerant = with_spec(of, clusters=msgspec.structs.replace(policy, tolerate=(Toleration(key="old"),)))
    if "taints" in odd:
        kept, _ = divided(changed, tolerant)
        assert kept == divided(fleet, tolerant)[0]


@given(fleets(), st.integers(0, 30))
def test_aggregated_replicas_take_no_more_clusters_than_any_search_finds(fleet: Fleet, replicas: int) -> None:
    shares, _ = divided(fleet, wish(replicas=replicas, divide="aggregate"))
    holds = list(fleet.holds.values())
    wanted = min(replicas, sum(holds))
    fewest = next(
        size for size in range(len(holds) + 1) if any(sum(chosen) >= wanted for chosen in combinations(holds, size))
    )
    assert sum(count > 0 for count in shares.values()) == fewest


@given(fleets(), st.integers(0, 30), st.integers(1, 3), st.sampled_from(KINDS))
def test_as_many_groups_get_replicas_as_are_asked_for_and_can(
    fleet: Fleet, replicas: int, groups: int, divide: str
) -> None:
    spread = ClusterSpread(label="region", min_groups=groups)
    shares, _ = divided(fleet, wish(replicas=replicas, divide=divide, spread=spread))
    region = {name: changes["labels"]["region"] for name, changes in fleet.changes.items()}
    able = {region[name] for name, count in fleet.holds.items() if count}
    used = {region[name] for name, count in shares.items() if count}
    assert len(used) >= min(groups, len(able), replicas)


@given(fleets(), st.integers(0, 30), st.integers(0, 30), st.sampled_from(KINDS))
def test_fallback_groups_are_filled_in_order_and_emptied_in_the_opposite_one(
    fleet: Fleet, replicas: int, fewer: int, divide: str
) -> None:
    of = wish(replicas=replicas, divide=divide, fallback=(where("region=west"), where("region=east"), where("")))
    tier = {name: ("west", "east", "north").index(each["labels"]["region"]) for name, each in fleet.changes.items()}

    def in_order(total: int) -> list[int]:
        found = []
        for step in range(3):
            found.append(min(total, sum(count for name, count in fleet.holds.items() if tier[name] == step)))
            total -= found[-1]
        return found

    shares, after = divided(fleet, of)
    assert [sum(shares[name] for name in shares if tier[name] == step) for step in range(3)] == in_order(replicas)
    now, _ = divided(fleet, with_spec(of, replicas=fewer), after)
    assert [sum(now[name] for name in now if tier[name] == step) for step in range(3)] == in_order(fewer)


@given(fleets(), st.integers(0, 9), st.data())
def test_duplicates_are_the_total_in_every_cluster(fleet: Fleet, replicas: int, data: st.DataObject) -> None:
    shares, after = divided(fleet, wish(replicas=replicas, divide="duplicate"))
    assert shares == {name: min(replicas, count) for name, count in fleet.holds.items()}
    lost = data.draw(st.sampled_from(sorted(fleet.changes)))
    now, _ = divided(fleet.without(lost), wish(replicas=replicas, divide="duplicate"), after)
    assert now == shares | {lost: 0}
