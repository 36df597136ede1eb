"""A server, second by second: whatever its primary does, what is lent gets out of its way, and nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from fallow.decide.harvest.lending import Expected, Held, Told, blind, hold
from fallow.decide.harvest.measured import Measured, merged
from fallow.decide.harvest.relief import EMERGENCY_SECONDS, SATISFIED_GOOD, Burden, Strain, relief, strained
from fallow.decide.harvest.suppress import FLOOR_CPUS, SURE_CPUS, SURE_SECONDS
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import PrimaryUse

GIB = 2**30
CPUS = 8.0
MEMORY = 32 * GIB
NOW = 1_790_000_000.0
EXPECTED = Expected(cpus=1.0, memory_bytes=4 * GIB, predictor="test", why="")


def second(own=1.0, lent=0.0, at=0.0, **more):
    found = {
        "at": at,
        "seconds": 1.0,
        "cpus": CPUS,
        "memory_bytes": MEMORY,
        "used_cpus": own + lent,
        "used_memory_bytes": 4 * GIB,
        "lent_cpus": lent,
    }
    return Measured(**{**found, **more})


@given(st.lists(st.tuples(st.floats(0, CPUS), st.booleans()), min_size=1, max_size=60), st.floats(0.1, 0.95))
def test_what_is_lent_never_keeps_a_server_above_its_ceiling(seconds, ceiling):
    policy = LendingPolicy(cpu_threshold=ceiling / 2, cpu_ceiling=ceiling)
    told, held = Told(policy=policy, asked_cpus=CPUS), Held()
    for own, greedy in seconds:
        lent = min(held.limit_cpus if greedy else 0.0, CPUS - own)
        held = hold(held, told, second(own, lent), EXPECTED, NOW)
        assert FLOOR_CPUS <= held.limit_cpus <= max(FLOOR_CPUS, CPUS * ceiling - own) + 1e-6
        assert 0 <= held.offer_cpus <= max(0.0, CPUS * policy.cpu_threshold - max(own, EXPECTED.cpus)) + 1e-6
        assert held.relief.cpus >= 0 and not held.relief.stop_one


@given(st.floats(0, CPUS), st.floats(0, 3600))
def test_a_server_that_cannot_measure_itself_is_full(own, seconds):
    told = Told(policy=LendingPolicy(), asked_cpus=2.0)
    held = blind(hold(Held(), told, second(own), EXPECTED, NOW), seconds)
    assert (held.limit_cpus, held.offer_cpus, held.lends) == (FLOOR_CPUS, 0.0, False)
    assert "could be measured" in held.why_not
    assert held.relief.cpus == 0  # nobody knows whether anything has to go


def test_a_primary_that_is_not_found_means_nothing_new_and_nothing_goes():
    gone = second(primaries=(PrimaryUse(name="systemd:db.service", found=False),))
    held = hold(Held(), Told(policy=LendingPolicy(), asked_cpus=2.0), gone, EXPECTED, NOW)
    assert not held.lends and held.why_not == "not found: systemd:db.service"
    assert held.relief.cpus == 0 and held.relief.memory_bytes == 0
    assert held.limit_cpus > FLOOR_CPUS  # what is there goes on within its limit


def test_outside_its_hours_everything_has_to_go():
    policy = LendingPolicy(hours=("20:00-21:00",))  # NOW is 14:13
    held = hold(Held(), Told(policy=policy, asked_cpus=2.0), second(lent=1.0, lent_memory_bytes=GIB), EXPECTED, NOW)
    assert not held.lends and "outside its hours" in held.why_not
    assert held.relief.cpus == 2.0 and held.relief.memory_bytes == GIB


def test_an_offer_comes_back_without_a_climb_after_a_primary_was_missing():
    told = Told(policy=LendingPolicy())
    first = hold(Held(), told, second(), EXPECTED, NOW)
    gone = hold(first, told, second(primaries=(PrimaryUse(name="x", found=False),)), EXPECTED, NOW)
    back = hold(gone, told, second(primaries=(PrimaryUse(name="x", found=True),)), EXPECTED, NOW)
    assert back.lends and back.offer_cpus == first.offer_cpus == CPUS * 0.65 - 1.0


def test_after_a_burst_processors_are_offered_within_a_minute_and_memory_within_ten():
    policy = LendingPolicy(cpu_threshold=0.9, memory_threshold=0.9)
    calm, burst = second(own=1.0), second(own=CPUS, used_memory_bytes=MEMORY)
    first = hold(Held(), Told(policy=policy), calm, EXPECTED, NOW)
    held = hold(first, Told(policy=policy), burst, EXPECTED, NOW)
    assert (held.offer_cpus, held.offer_memory_bytes) == (0.0, 0.0)
    cpus, memory = [], []
    for _ in range(600):
        held = hold(held, Told(policy=policy), calm, EXPECTED, NOW)
        cpus.append(held.offer_cpus)
        memory.append(held.offer_memory_bytes)
    assert cpus[29] < first.offer_cpus == cpus[59], "not at once, and not later"
    assert memory[59] < 0.15 * MEMORY < memory[-1] == first.offer_memory_bytes


@pytest.mark.parametrize("resource", ["cpu_waiting", "io_waiting"])
def test_primaries_that_wait_more_than_usual_shrink_what_is_lent_although_there_is_room(resource):
    told, held = Told(policy=LendingPolicy()), Held(limit_cpus=5.0)
    calm = second(lent=4.0, primaries=(PrimaryUse(name="x", found=True, cpus=1.0),))
    waits = replace(calm, primaries=(PrimaryUse(name="x", found=True, cpus=1.0, **{resource: 0.4}),))
    for _ in range(4):
        held = hold(held, told, calm, EXPECTED, NOW)
    assert held.limit_cpus == CPUS * 0.8 - 1.0
    for _ in range(6):
        held = hold(held, told, waits, EXPECTED, NOW)
    assert held.limit_cpus < 0.5
    for _ in range(30):
        held = hold(held, told, calm, EXPECTED, NOW)
    assert held.limit_cpus > 5.0


def test_primaries_that_wait_for_memory_get_back_what_is_lent_of_it_and_of_nothing_else():
    told, held = Told(policy=LendingPolicy()), Held(limit_cpus=6.0)
    calm = second(lent=4.0, lent_memory_bytes=8 * GIB, used_memory_bytes=12 * GIB)
    calm = replace(calm, primaries=(PrimaryUse(name="x", found=True, cpus=1.0, memory_bytes=4 * GIB),))
    waits = replace(calm, primaries=(replace_struct(calm.primaries[0], memory_waiting=0.4),))
    held = hold(held, told, calm, EXPECTED, NOW)
    whole = held.limit_memory_bytes
    assert whole == int(MEMORY * 0.9) - 4 * GIB
    for _ in range(30):
        held = hold(held, told, waits, EXPECTED, NOW)
    assert held.limit_memory_bytes < GIB
    assert held.limit_cpus == CPUS * 0.8 - 1.0
    for _ in range(90):
        held = hold(held, told, calm, EXPECTED, NOW)
    assert held.limit_memory_bytes == whole


def test_a_primary_that_waits_for_its_own_memory_limit_does_not_keep_all_of_it_for_ever():
    told, held = Told(policy=LendingPolicy()), Held()
    row = PrimaryUse(name="x", found=True, cpus=1.0, memory_bytes=4 * GIB, memory_waiting=0.5)
    waits = second(lent=4.0, lent_memory_bytes=8 * GIB, used_memory_bytes=12 * GIB, primaries=(row,))
    for _ in range(600):  # however little is lent, and it never becomes less than 8 GiB
        held = hold(held, told, waits, EXPECTED, NOW)
    assert held.limit_memory_bytes > 8 * GIB


def test_a_few_processors_are_enough_to_fill_a_disk():
    told, held = Told(policy=LendingPolicy()), Held(limit_cpus=5.0)
    row = PrimaryUse(name="x", found=True, cpus=1.0, io_waiting=0.6)
    writes = second(lent=0.12, primaries=(row,))  # 1.5 % of the processors
    for _ in range(8):
        held = hold(held, told, writes, EXPECTED, NOW)
    assert held.limit_cpus < 0.2


def test_what_others_starve_has_a_little_for_sure_until_it_is_tried_again():
    told, held = Told(policy=LendingPolicy(), asked_cpus=2.0), Held(limit_cpus=5.0)
    busy = second(own=4.0, lent=0.02, lent_waiting=0.9)
    held = hold(held, told, busy, EXPECTED, NOW)
    assert held.limit_cpus == SURE_CPUS
    limited = second(own=4.0, lent=SURE_CPUS, lent_waiting=0.9, throttled=1.0)  # it waits for its own limit now
    for _ in range(int(SURE_SECONDS) - 1):
        held = hold(held, told, limited, EXPECTED, NOW)
        assert held.limit_cpus == SURE_CPUS
    assert held.relief.cpus == 0
    held = hold(held, told, limited, EXPECTED, NOW)
    assert held.limit_cpus > SURE_CPUS
    calm = hold(Held(limit_cpus=2.0), told, second(own=4.0, lent=2.0, lent_waiting=0.9), EXPECTED, NOW)
    assert calm.limit_cpus > SURE_CPUS, "it waits for its own limit alone"


def test_what_is_starved_for_long_has_to_go():
    told, held = Told(policy=LendingPolicy(evict_after_seconds=30.0), asked_cpus=2.0), Held(limit_cpus=5.0)
    for turn in range(40):
        short = held.limit_cpus <= SURE_CPUS
        lent = min(held.limit_cpus, SURE_CPUS) if short else 0.01
        held = hold(held, told, second(own=5.0, lent=lent, lent_waiting=0.9, throttled=float(short)), EXPECTED, NOW)
        assert turn < 31 or held.relief.cpus > 0.5
    assert held.relief.cpus > 0.5


def test_a_small_primary_that_waits_for_itself_does_not_starve_what_is_lent_for_ever():
    told, held = Told(policy=LendingPolicy()), Held(limit_cpus=0.5)
    for _ in range(180):  # it has a limit of its own, so that it waits however little is lent
        waits = (PrimaryUse(name="x", found=True, cpus=0.6, cpu_waiting=0.7),)
        held = hold(held, told, second(0.6, min(0.5, held.limit_cpus), cpus=1.4, primaries=waits), EXPECTED, NOW)
    assert held.limit_cpus > 0.4


burdens = st.builds(
    Burden,
    capacity_memory_bytes=st.just(MEMORY),
    ceiling=st.floats(0.5, 0.95),
    asked_cpus=st.floats(0, 16),
    limit_cpus=st.floats(FLOOR_CPUS, 16),
    lent_cpus=st.floats(0, 16),
    throttled=st.floats(0, 1),
    waiting=st.floats(0, 1),
    used_memory_bytes=st.floats(0, 1).map(lambda share: int(share * MEMORY)),
    lent_memory_bytes=st.floats(0, 1).map(lambda share: int(share**3 * MEMORY)),
)


@given(st.lists(burdens, min_size=1, max_size=40), st.floats(0, 30))
def test_relief_frees_just_enough(seconds, patience):
    strain = Strain()
    for burden in seconds:
        strain = strained(strain, burden, 1.0)
        found = relief(strain, burden, patience)
        assert 0 <= found.cpus <= burden.asked_cpus
        assert 0 <= found.memory_bytes <= burden.lent_memory_bytes
        if found.cpus > 0:
            left = burden.asked_cpus - found.cpus
            assert abs(left * SATISFIED_GOOD - burden.limit_cpus) < 1e-6  # exactly as much as the limit satisfies
            assert strain.cpu_seconds >= patience
        if found.memory_bytes and found.memory_bytes < burden.lent_memory_bytes:
            after = burden.used_memory_bytes - found.memory_bytes
            assert burden.ceiling * MEMORY - 0.03 * MEMORY < after <= burden.ceiling * MEMORY
        if found.stop_one:
            assert found.urgent and strain.far_seconds >= EMERGENCY_SECONDS


def test_who_gets_enough_or_asks_for_nothing_is_not_sent_away():
    base = {
        "capacity_memory_bytes": MEMORY,
        "ceiling": 0.9,
        "throttled": 1.0,
        "waiting": 1.0,
        "used_memory_bytes": GIB,
        "lent_memory_bytes": GIB,
    }
    for asked, limit, lent in ((0.0, 0.05, 0.05), (2.0, 1.2, 1.2), (2.0, 1.9, 1.9)):
        burden = Burden(asked_cpus=asked, limit_cpus=limit, lent_cpus=lent, **base)
        assert relief(strained(Strain(), burden, 1000.0), burden, 60.0).cpus == 0
    idle = Burden(asked_cpus=4.0, limit_cpus=0.5, lent_cpus=0.1, **{**base, "throttled": 0.0, "waiting": 0.1})
    assert relief(strained(Strain(), idle, 1000.0), idle, 60.0).cpus == 0


def test_what_others_keep_from_the_little_it_may_use_is_sent_away():
    burden = Burden(
        capacity_memory_bytes=MEMORY,
        ceiling=0.9,
        asked_cpus=0.5,
        limit_cpus=0.2,
        lent_cpus=0.03,
        throttled=0.0,
        waiting=0.9,
        used_memory_bytes=GIB,
        lent_memory_bytes=GIB,
    )
    assert relief(strained(Strain(), burden, 3.0), burden, 2.0).cpus == 0.25


def test_an_emergency_stops_one_machine_and_waits_for_that_to_show():
    told, held, stops = Told(policy=LendingPolicy()), Held(), []
    full = second(used_memory_bytes=int(0.97 * MEMORY), lent_memory_bytes=8 * GIB)
    for at in range(60):
        held = hold(held, told, full, EXPECTED, NOW)
        stops += [at] if held.relief.stop_one else []
    assert stops == [9, 39]
    assert held.relief.urgent


@given(st.lists(st.tuples(st.floats(0.1, 2), st.floats(0, 4), st.floats(0, 4)), min_size=1, max_size=5))
def test_merged_samples_are_means_by_their_length(rows):
    samples = [
        second(own, lent, seconds=seconds, primaries=(PrimaryUse(name="x", found=True, cpus=own),))
        for seconds, own, lent in rows
    ]
    found = merged(samples)
    total = sum(seconds for seconds, _, _ in rows)
    assert abs(found.seconds - total) < 1e-9
    assert abs(found.own_cpus - sum(seconds * own for seconds, own, _ in rows) / total) < 1e-6
    assert abs(found.primary_cpus - found.own_cpus) < 1e-6
