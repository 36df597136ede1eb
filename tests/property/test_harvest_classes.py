"""What of caches and memory bandwidth a share comes to is what the kernel takes, and no more than has to be."""

from hypothesis import example, given
from hypothesis import strategies as st

from fallow.decide.harvest.classes import (
    BANDWIDTH,
    Bandwidth,
    Cache,
    described,
    mask_of,
    percent_of,
    schema,
    schemata,
    wanted,
)

shares = st.floats(0.001, 1)
caches = st.integers(1, 32).flatmap(
    lambda ways: st.builds(Cache, mask=st.just(2**ways - 1), least_ways=st.integers(0, min(4, ways)))
)
bandwidths = st.builds(Bandwidth, least=st.integers(1, 100), step=st.sampled_from((1, 2, 5, 10, 20)))
domains = st.lists(st.integers(0, 300), min_size=1, max_size=8, unique=True)


@given(shares, caches)
def test_a_mask_is_contiguous_within_the_cache_and_not_too_small(share, cache):
    mask = mask_of(share, cache)
    assert mask & (mask + 1) == 0 and 0 < mask <= cache.mask
    assert mask.bit_count() >= cache.least_ways


@given(st.integers(1, 99), caches)
def test_a_mask_has_as_few_ways_as_the_share_says(percent, cache):
    ways, most = mask_of(percent / 100, cache).bit_count(), cache.mask.bit_count()
    if ways > max(1, cache.least_ways):
        assert percent * most // 100 == ways
    assert (ways + 1) * 100 > percent * most


@given(st.integers(1, 100), bandwidths)
@example(7, Bandwidth(least=1, step=1))
def test_a_percentage_is_the_first_step_that_is_no_less(percent, bandwidth):
    found = percent_of(percent / 100, bandwidth)
    assert bandwidth.least <= found <= 100 and found >= percent
    assert found == 100 or found % bandwidth.step == 0
    assert found - bandwidth.step < max(percent, bandwidth.least)


@given(shares, shares, caches, bandwidths)
def test_who_may_have_more_never_gets_less(one, other, cache, bandwidth):
    low, high = sorted((one, other))
    assert mask_of(low, cache) <= mask_of(high, cache)
    assert percent_of(low, bandwidth) <= percent_of(high, bandwidth)


@given(st.dictionaries(domains.map(lambda found: found[0]), st.integers(1, 2**32 - 1), min_size=1), st.integers(0, 12))
def test_what_is_written_reads_back_as_the_kernel_pads_it(values, width):
    for name in ("L3", BANDWIDTH):
        line = schema(name, values)
        assert schemata(line) == {name: values}
        padded = f"{name:>{width}}:" + ";".join(
            f"{domain}={value:{width}d}" if name == BANDWIDTH else f"{domain}={value:0{width}x}"
            for domain, value in values.items()
        )
        assert schemata(f"   L2:0=ff\n{padded}\nSMBA:0=2048\n") == {name: values}


@given(st.text(), st.text())
def test_what_is_not_understood_is_left_out(one, other):
    assert isinstance(schemata(f"{one}\nL3:uninitialized\n{other}"), dict)


@given(shares, shares, caches, bandwidths, domains)
def test_every_domain_gets_the_same_and_only_what_is_asked_for(cache, bandwidth, of_cache, of_bandwidth, names):
    root = {"L3": dict.fromkeys(names, of_cache.mask), BANDWIDTH: dict.fromkeys(names, 100)}
    found = wanted(cache, bandwidth, {"L3": of_cache}, of_bandwidth, root)
    assert ("L3" in found.schemata, BANDWIDTH in found.schemata) == (cache < 1, bandwidth < 1)
    assert found.lacks == ()
    for values in found.schemata.values():
        assert set(values) == set(names) and len(set(values.values())) == 1


def test_amounts_are_not_taken_for_percent():
    for least, now in ((10, 2048), (0, 2048), (0, 64)):  # mba_MBps, AMD, and AMD where the root was lowered
        found = wanted(1.0, 0.3, {}, Bandwidth(least=least, step=max(1, least)), {BANDWIDTH: {0: now, 1: now}})
        assert found.schemata == {} and "amounts" in found.lacks[0]


def test_code_and_data_get_masks_of_their_own():
    cache = Cache(mask=0xFFFFF, least_ways=2)
    root = {"L3CODE": {0: 0xFFFFF}, "L3DATA": {0: 0xFFFFF}}
    found = wanted(0.05, 1.0, {"L3CODE": cache, "L3DATA": cache}, None, root)
    assert found.schemata == {"L3CODE": {0: 3}, "L3DATA": {0: 3}}
    assert described(found.schemata, found.schemata, dict.fromkeys(root, cache)) == (
        "2 of 20 ways of L3CODE, 2 of 20 ways of L3DATA"
    )
