"""Fixtures of the API's tests."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from api_rig import Rig, running


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path / "ca") as found:
        yield found


@pytest.fixture
def make_rig(tmp_path: Path) -> Callable[..., Any]:
    return lambda **more: running(tmp_path / "ca", **more)
