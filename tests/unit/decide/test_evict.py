"""Which replicas leave a server that needs back what it lent, and when they may stay after all."""

from typing import Any

import pytest
from lent_fleet import GIB, heard, lending, node, report, server, use, vm
from records import NOW, applied, deployment, ids, puts, replica, snapshot, template

from fallow.decide.harvest.evict import AT_ONCE, IN_ALL, REST_SECONDS, URGENT_SECONDS, evict
from fallow.decide.harvest.heard import HeardServer, HeardServers
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import Deployment, DeploymentSpec, PlacementPolicy, Replica, ReplicaState
from fallow.model.events import Event
from fallow.model.members import Scheduling
from fallow.model.meta import Reason
from fallow.model.server_pools import LendingPolicy, ServerPool
from fallow.model.servers import Lending

FLEET = (server(), vm("a"), node("a"))
LATER = NOW + 100
MOVE = Reason(code="ServerNeeds", text="")


def asking(name: str, cpus: float = 1.0, class_: str = "", memory: int = GIB) -> Deployment:
    container = ContainerSpec(image="shop:1", resources=Resources(cpus=cpus, memory_bytes=memory))
    policy = PlacementPolicy(service_class=class_)  # type: ignore[arg-type]
    return deployment(name, spec=DeploymentSpec(replicas=1, container=container, placement=policy))


def fleet(*deployments: Deployment, each: int = 1, **changes: Any) -> list[Any]:
    """Return deployments with replicas on the server."""
    records: list[Any] = [*FLEET, *deployments, *(template(of) for of in deployments)]
    return records + [replica(of, slot, **changes) for of in deployments for slot in range(each)]


def run(before: Snapshot, servers: HeardServers, now: float = LATER) -> Plan:
    return evict(before, servers, now, ids())


def gone(plan: Plan) -> list[str]:
    return [found.id for found in puts(plan, Replica)]


def needs(cpus: float = 1.0, **changes: Any) -> dict[str, HeardServer]:
    return heard(relief_cpus=cpus, relief_seconds=64.0, **changes)


def test_nothing_leaves_a_server_that_is_well() -> None:
    assert run(snapshot(*fleet(asking("web"))), heard()) == Plan(steps=[])


def test_a_replica_moves_the_server_backs_off_and_it_is_told() -> None:
    plan = run(snapshot(*fleet(asking("web"))), needs())
    (moved,), (backing,), (told,) = puts(plan, Replica), puts(plan, Lending), puts(plan, Event)
    assert moved.move == Reason(code="ServerNeeds", text="server srv1 needs back 1 processors")
    assert moved.move_by == LATER + LendingPolicy().move_seconds
    assert moved.state is ReplicaState.RUNNING
    assert (backing.id, backing.backoff_until, backing.evictions) == ("s-srv1", LATER + 600, 1)
    assert (backing.evicted_at, backing.reason) == (LATER, "server srv1 needs back 1 processors")
    assert told.message == "server srv1 needs back 1 processors, for 1m4s now: web-0 is to move"
    assert (told.level, told.subject) == ("warning", "srv1")
    assert len(plan.steps) == 1, "a replica never moves without the back-off"


def test_the_lowest_class_goes_first_and_just_enough() -> None:
    records = fleet(asking("bulk", class_="spot"), asking("web", class_="harvest"), asking("any"))
    assert gone(run(snapshot(*records), needs(0.5))) == ["bulk-0"]
    assert sorted(gone(run(snapshot(*records), needs(1.5)))) == ["any-0", "bulk-0"]
    spot, *_ = puts(run(snapshot(*records), needs(0.5)), Replica)
    assert spot.move_by == LATER


def test_the_smallest_that_suffices_or_else_the_fewest() -> None:
    records = fleet(asking("large", 3.0), asking("mid", 2.0), asking("small", 0.5))
    assert gone(run(snapshot(*records), needs(0.4))) == ["small-0"]
    assert gone(run(snapshot(*records), needs(1.5))) == ["mid-0"]
    assert gone(run(snapshot(*records), needs(4.5))) == ["large-0", "mid-0"]


def test_memory_and_processors_are_both_needed() -> None:
    records = fleet(asking("wide", 2.0, memory=GIB), asking("deep", 0.2, memory=6 * GIB))
    assert gone(run(snapshot(*records), heard(relief_memory_bytes=5 * GIB))) == ["deep-0"]
    both = run(snapshot(*records), heard(relief_cpus=1.0, relief_memory_bytes=5 * GIB))
    assert sorted(gone(both)) == ["deep-0", "wide-0"]


def test_the_last_that_serves_stays_if_another_will_do() -> None:
    alone, pair = asking("alone"), asking("pair")
    records = [*fleet(alone, pair), replica(pair, 1, node_id="n-z", created_at=NOW - 50)]
    assert gone(run(snapshot(*records), needs())) == ["pair-0"]
    assert gone(run(snapshot(*records[:-1], replica(alone, 1, node_id="n-z")), needs())) == ["alone-0"]


def test_two_of_a_deployment_are_not_both_taken_for_spare() -> None:
    pair, other = asking("pair"), asking("third")
    records = [*fleet(pair, each=2), *fleet(other)[3:], replica(other, 1, node_id="n-z")]
    assert sorted(gone(run(snapshot(*records), needs(2.0)))) == ["pair-0", "third-0"]


def test_what_serves_nothing_yet_goes_before_what_does_and_the_youngest_before_older_ones() -> None:
    of = asking("web")
    records = [*fleet(of, each=3), replica(of, 3, ReplicaState.PLACED)]
    assert gone(run(snapshot(*records), needs())) == ["web-3"]
    young = [*fleet(of, each=3), replica(of, 4, created_at=NOW + 50)]
    assert gone(run(snapshot(*young), needs())) == ["web-4"]


def test_what_a_replica_really_uses_counts_if_it_is_more_than_it_asked_for() -> None:
    records = fleet(asking("web", 0.5), asking("api", 0.5))
    assert len(gone(run(snapshot(*records), needs(1.5)))) == 2
    assert len(gone(run(snapshot(*records), needs(1.5, vms=(use("a", cpus=3.2),))))) == 1


@pytest.mark.parametrize(
    "leaves",
    [
        {"state": ReplicaState.LEAVING},
        {"state": ReplicaState.STOPPING},
        {"move": MOVE, "move_by": LATER + 5},
        {"state": ReplicaState.STOPPED, "state_since": LATER - 3},
    ],
)
def test_what_is_on_its_way_or_not_measured_yet_counts_as_freed(leaves: dict[str, Any]) -> None:
    of = asking("web")
    records = [*fleet(asking("api")), of, template(of), replica(of, 0, **leaves)]
    assert gone(run(snapshot(*records), needs(1.0))) == []
    assert gone(run(snapshot(*records), needs(1.5))) == ["api-0"]


def test_what_ended_long_ago_has_been_measured() -> None:
    of = asking("web")
    ended = replica(of, 0, ReplicaState.STOPPED, state_since=LATER - 30)
    assert gone(run(snapshot(*fleet(asking("api")), of, template(of), ended), needs(1.0))) == ["api-0"]


def test_a_server_rests_between_two_choices_unless_it_is_urgent() -> None:
    records = [*fleet(asking("web")), lending(evicted_at=LATER - REST_SECONDS + 1, evictions=7, closed="")]
    assert gone(run(snapshot(*records), needs())) == []
    (moved,) = puts(run(snapshot(*records), needs(urgent=True)), Replica)
    assert moved.move_by == LATER + URGENT_SECONDS
    (kept,) = puts(run(snapshot(*records), needs(), LATER + 1), Lending)
    assert kept.evictions == 8


def test_a_choice_that_lies_ahead_is_from_before_the_clock_was_set_back() -> None:
    records = [*fleet(asking("web")), lending(evicted_at=LATER + 7200, closed="")]
    assert len(gone(run(snapshot(*records), needs()))) == 1


def test_nothing_is_known_of_a_silent_server() -> None:
    assert run(snapshot(*fleet(asking("web"))), needs(age_seconds=5.5)).steps == []
    assert run(snapshot(*fleet(asking("web"))), {}).steps == []


@pytest.mark.parametrize("servers", [heard(), heard(age_seconds=60), {}])
def test_everything_leaves_a_closed_server_whether_it_is_heard_or_not(servers: HeardServers) -> None:
    records = [*fleet(asking("web"), asking("bulk", class_="spot")), lending(closed="it shuts down")]
    plan = run(snapshot(*records), servers)
    assert {found.id: found.move_by for found in puts(plan, Replica)} == {"web-0": LATER + 30, "bulk-0": LATER}
    assert puts(plan, Lending) == [], "a server that closes need not back off"
    (told,) = puts(plan, Event)
    assert told.message == "server srv1 lends nothing any more: it shuts down; web-0, bulk-0 are to move"
    assert run(applied_all(snapshot(*records), plan), servers).steps == [], "never the same twice"


def test_an_operators_drain_waits_for_replacements_unless_it_is_urgent() -> None:
    records = [server(scheduling=Scheduling.DRAINING), *fleet(asking("web"))[1:]]
    (moved,) = puts(run(snapshot(*records), heard(relief_cpus=4.0, lends=False)), Replica)
    assert (moved.move_by, moved.move.text) == (0.0, "server srv1 lends nothing any more: it is being drained")
    waiting = applied_all(snapshot(*records), run(snapshot(*records), heard()))
    assert run(waiting, heard()).steps == []
    (hurried,) = puts(run(waiting, heard(urgent=True)), Replica)
    assert hurried.move_by == LATER + URGENT_SECONDS


def pool(**policy: Any) -> ServerPool:
    return ServerPool(id="default", created_at=NOW, updated_at=NOW, policy=LendingPolicy(**policy))


def test_a_pool_that_lends_no_more_and_hours_that_end_empty_their_servers() -> None:
    records = fleet(asking("web"))
    assert gone(run(snapshot(*records, pool(lends=False)), heard())) == ["web-0"]
    night = pool(hours=("20:00-20:01",), move_seconds=7)
    (moved,) = puts(run(snapshot(*records, night), heard(lends=False, why_not="outside its hours")), Replica)
    assert moved.move_by == LATER + 7
    assert run(snapshot(*records, night), heard()).steps == [], "the server's own clock counts"


def test_a_server_whose_primary_is_not_found_keeps_what_it_has() -> None:
    assert run(snapshot(*fleet(asking("web"))), heard(lends=False, why_not="not found: systemd:x")).steps == []


def test_a_step_is_bounded_and_the_rest_follows() -> None:
    before = snapshot(*fleet(asking("web"), each=AT_ONCE + 3), lending(closed="it is drained"))
    plan = run(before, {})
    assert len(gone(plan)) == AT_ONCE
    assert len(gone(run(applied_all(before, plan), {}))) == 3


def test_a_plan_is_bounded_and_those_in_need_come_first() -> None:
    records: list[Any] = []
    servers: dict[str, HeardServer] = {}
    of = asking("web")
    count = IN_ALL // AT_ONCE + 2
    for number in range(count):
        name = f"x{number:03}"
        records += [server(name), vm(name, name), node(name), lending(name, closed="it is drained")]
        records += [replica(of, slot, id=f"{name}-{slot}", node_id=f"n-{name}") for slot in range(AT_ONCE)]
    last = f"x{count - 1:03}"
    servers[f"s-{last}"] = HeardServer(report=report(urgent=True))
    plan = run(snapshot(of, template(of), *records), servers)
    assert len(gone(plan)) == IN_ALL
    assert gone(plan)[0].startswith(last)


def moving(of: Deployment, **changes: Any) -> Replica:
    return replica(of, 0, **({"move": MOVE, "move_by": LATER + 5} | changes))


def test_what_need_not_go_any_more_stays_while_nobody_has_come_in_its_place() -> None:
    of = asking("web")
    base = [*FLEET, of, template(of), moving(of), lending(evicted_at=LATER - REST_SECONDS)]
    (stays,) = puts(run(snapshot(*base), heard()), Replica)
    assert (stays.move, stays.move_by) == (None, 0.0)
    pending = replica(of, 0, ReplicaState.PENDING, id="web-0b", replaces="web-0")
    assert gone(run(snapshot(*base, pending), heard())) == ["web-0"]
    placed = replica(of, 0, ReplicaState.PLACED, id="web-0b", replaces="web-0", node_id="n-z", healthy_since=0.0)
    assert run(snapshot(*base, placed), heard()).steps == [], "what has begun to move goes on"


@pytest.mark.parametrize(
    ("servers", "changes"),
    [
        (needs(0.2), {}),  # it still needs it
        (heard(lends=False), {}),
        (heard(age_seconds=6), {}),
        ({}, {}),
        (heard(), {"move_by": LATER - 1}),  # its time is up
        (heard(), {"state": ReplicaState.LEAVING}),
    ],
)
def test_it_still_goes(servers: HeardServers, changes: dict[str, Any]) -> None:
    of = asking("web")
    records = [*FLEET, of, template(of), moving(of, **changes), lending(evicted_at=LATER - 60)]
    assert run(snapshot(*records), servers).steps == []


def test_a_server_that_is_well_for_a_moment_only_changes_nothing() -> None:
    of = asking("web")
    records = [*FLEET, of, template(of), moving(of), lending(evicted_at=LATER - REST_SECONDS + 1)]
    assert run(snapshot(*records), heard()).steps == []


def applied_all(before: Snapshot, plan: Plan) -> Snapshot:
    """Return the snapshot after the plan, with what `applied` leaves out."""
    after = applied(before, plan)
    kept = [*before.vms.values(), *before.server_pools.values()]
    lendings = {found.id: found for found in (*before.lendings.values(), *puts(plan, Lending))}
    replicas = [*after.members.values(), *after.deployments.values(), *after.templates.values()]
    return snapshot(*replicas, *after.replicas.values(), *kept, *lendings.values())


HOUR = 3600.0


@pytest.mark.parametrize("there", [True, False])
def test_a_back_off_is_dated_anew_when_the_clock_is_set_back(there: bool) -> None:
    before = snapshot(
        *(fleet(asking("web")) if there else FLEET), lending(backoff_until=LATER + HOUR + 200, evictions=3)
    )
    plan = run(before, heard())
    (backing,) = puts(plan, Lending)
    assert (backing.backoff_until, backing.evictions) == (LATER + LendingPolicy().backoff_seconds, 3)
    assert gone(plan) == []
    assert run(applied(before, plan), heard(), LATER + 1) == Plan(steps=[])


def test_a_move_is_dated_anew_when_the_clock_is_set_back() -> None:
    moving = {"move": MOVE, "move_by": LATER + HOUR}
    records = [*fleet(asking("web"), **moving), replica(asking("old"), 0, ReplicaState.STOPPING, **moving)]
    plan = run(snapshot(*records), needs(0.5))
    (moved,) = puts(plan, Replica)
    assert (moved.id, moved.move, moved.move_by) == ("web-0", MOVE, LATER + LendingPolicy().move_seconds)
    assert puts(plan, Lending) == [], "what it needs is on its way as before"


def test_what_is_dated_anew_may_be_decided_about_at_once() -> None:
    """The move is too far off and there is more to go; both are in one commit, each record once."""
    web, bulk = asking("web"), asking("bulk", class_="spot")
    one = replica(web, 0, move=MOVE, move_by=LATER + HOUR)
    before = snapshot(
        *FLEET, web, bulk, template(web), template(bulk), one, replica(bulk, 0), lending(backoff_until=9e9)
    )
    (step,) = run(before, needs(1.5)).steps
    found = {record.id: record for record in step.puts}
    assert len(found) == len(step.puts) == 4
    assert (found["web-0"].move_by, found["bulk-0"].move_by) == (LATER + 30, LATER)
    assert (found["s-srv1"].backoff_until, found["s-srv1"].evictions) == (LATER + 600, 1)


def test_clocks_of_control_planes_may_be_a_little_apart() -> None:
    records = fleet(asking("web"), move=MOVE, move_by=LATER + 30 + 4)
    before = snapshot(*records, lending(backoff_until=LATER + 600 + 4))
    assert run(before, needs(0.5)) == Plan(steps=[])
