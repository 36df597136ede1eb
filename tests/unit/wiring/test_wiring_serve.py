"""How a control plane's process ends: as told, with what runs beside it, or because a part of it broke."""

import asyncio
from pathlib import Path

import pytest

from fallow.cli.failures import Exit
from fallow.cli.launchers import ServerOptions
from fallow.control.assignments import Assignments
from fallow.control.plane import ControlPlane
from fallow.store.contract import StoreError
from fallow.wiring.control_plane import serve


def options(folder: Path) -> ServerOptions:
    return ServerOptions(
        data=folder / "data",
        listen="127.0.0.1:0",
        session_listen="127.0.0.1:0",
        advertise="127.0.0.1:1",
        write_context=False,
    )


async def test_it_ends_as_told(tmp_path: Path) -> None:
    stop = asyncio.Event()
    planes: list[ControlPlane] = []

    async def beside(plane: ControlPlane, url: str) -> int:
        planes.append(plane)
        assert url.startswith("https://127.0.0.1:")
        assert plane.not_ready() is None
        return 7

    assert await asyncio.wait_for(serve(options(tmp_path), stop, beside), 20) == 7
    assert stop.is_set()
    with pytest.raises(StoreError):
        await planes[0].store.get("members/a")
    stop = asyncio.Event()
    stop.set()
    assert await asyncio.wait_for(serve(options(tmp_path), stop), 20) == Exit.OK


async def test_it_does_not_go_on_half_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = asyncio.Event()

    async def fail(_: Assignments) -> None:
        await begun.wait()
        raise ZeroDivisionError

    monkeypatch.setattr(Assignments, "run", fail)
    stop = asyncio.Event()

    async def beside(plane: ControlPlane, url: str) -> int:
        begun.set()
        await stop.wait()
        assert plane.not_ready()
        return 0

    assert await asyncio.wait_for(serve(options(tmp_path), stop, beside), 20) == Exit.FAILED
    assert "control loops ended unexpectedly" in capsys.readouterr().err


async def test_what_fails_beside_it_ends_it(tmp_path: Path) -> None:
    async def beside(plane: ControlPlane, url: str) -> int:
        raise OSError("no engine")

    with pytest.raises(OSError, match="no engine"):
        await asyncio.wait_for(serve(options(tmp_path), asyncio.Event(), beside), 20)
