"""What collecting the tests leaves behind stays: a garbage collector that looks at it again and again finds nothing.

pytest loads it by its name (pyproject.toml).
"""

import gc
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
