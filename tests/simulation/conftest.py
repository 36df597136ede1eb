"""`--seed N` replays one run; `--simulations N` chooses how many there are."""

import pytest

from simulation.promises import WIDE_FROM

# Seeds that found something once. Their stories change with the product, as all do; they cost little.
ONCE_BROKEN = (
    226, 1_000_003, 1_000_083, 1_000_120, 1_000_174, 1_000_214, 1_000_219,
    1_000_288, 1_000_328, 1_000_336, 1_000_446, 1_000_537, 1_000_553, 1_000_626,
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="play this one simulation again")
    parser.addoption("--simulations", type=int, default=200, help="so many, half of them wide (default 200)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        one = metafunc.config.getoption("--seed")
        count = metafunc.config.getoption("--simulations")
        half = count // 2
        seeds = [*range(half), *range(WIDE_FROM, WIDE_FROM + count - half), *ONCE_BROKEN]
        metafunc.parametrize("seed", list(dict.fromkeys(seeds)) if one is None else [one])
