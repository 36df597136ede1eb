"""`--seed N` replays one run; `--simulations N` chooses how many there are."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="play this one simulation again")
    parser.addoption("--simulations", type=int, default=200, help="so many simulations (default 200)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        one = metafunc.config.getoption("--seed")
        count = metafunc.config.getoption("--simulations")
        metafunc.parametrize("seed", range(count) if one is None else [one])
