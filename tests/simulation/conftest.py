"""`--seed N` replays one run; `--simulations N` chooses how many there are."""

import pytest

from simulation.promises import FEDERATION_FROM, HOSTING_FROM, WIDE_FROM, is_federation, is_hosting

# Seeds that found something once. Their stories change with the product, as all do; they cost little.
ONCE_BROKEN = (
    226, 540_383, 540_396, 1_000_003, 1_000_083, 1_000_120, 1_000_174, 1_000_214, 1_000_219,
    1_000_288, 1_000_328, 1_000_336, 1_000_446, 1_000_537, 1_000_553, 1_000_626, 1_030_275, 1_030_303,
)  # fmt: skip

FEDERATIONS_ONCE_BROKEN = (
    2_000_111, 2_003_743, 2_011_189, 2_012_012, 2_012_311, 2_012_475, 2_500_800, 2_501_090, 2_610_178, 2_610_259,
    2_610_333,
)  # fmt: skip

HOSTINGS_ONCE_BROKEN = (3_040_213, 3_040_241)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="play this one simulation again")
    parser.addoption("--simulations", type=int, default=200, help="so many, half of them wide (default 200)")
    parser.addoption("--hostings", type=int, default=20, help="so many of servers that lend (default 20)")
    parser.addoption("--federations", type=int, default=60, help="so many of a host and its members (default 60)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    one = metafunc.config.getoption("--seed")
    if "federation_seed" in metafunc.fixturenames:
        seeds = [*range(FEDERATION_FROM, FEDERATION_FROM + metafunc.config.getoption("--federations"))]
        seeds = list(dict.fromkeys([*seeds, *FEDERATIONS_ONCE_BROKEN]))
        metafunc.parametrize("federation_seed", seeds if one is None else [one] if is_federation(one) else [])
    if "hosting_seed" in metafunc.fixturenames:
        seeds = [*range(HOSTING_FROM, HOSTING_FROM + metafunc.config.getoption("--hostings")), *HOSTINGS_ONCE_BROKEN]
        metafunc.parametrize("hosting_seed", seeds if one is None else [one] if is_hosting(one) else [])
    if "seed" in metafunc.fixturenames:
        count = metafunc.config.getoption("--simulations")
        half = count // 2
        seeds = [*range(half), *range(WIDE_FROM, WIDE_FROM + count - half), *ONCE_BROKEN]
        others = one is not None and (is_federation(one) or is_hosting(one))
        metafunc.parametrize("seed", list(dict.fromkeys(seeds)) if one is None else [] if others else [one])
