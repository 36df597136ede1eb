"""Checks of a machine: each is seen to find what it is for."""

import os
import socket
import time
from pathlib import Path

import pytest

from fallow.cli.launchers import DoctorOptions
from fallow.model.doctor import Finding
from fallow.wiring import doctor


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")


def check(data: Path, **more: object) -> dict[str, Finding]:
    options = DoctorOptions(data=data, **({"ports": (), "haproxy": str(data / "none")} | more))  # type: ignore[arg-type]
    return {found.check: found for found in doctor.check_machine(options)}


def test_every_check_is_made_and_every_problem_has_a_mend(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert {"python", "kernel", "cgroups", "engine", "haproxy", "disk", "open files", "clock"} <= set(found)
    assert found["python"].verdict == "ok"
    assert [one.check for one in found.values() if one.verdict in ("warning", "broken") and not one.mend] == []


@pytest.mark.parametrize(("role", "part"), [("node", "engine"), ("gateway", "haproxy")])
def test_what_a_role_needs_is_broken_only_where_the_role_is(tmp_path: Path, role: str, part: str) -> None:
    assert check(tmp_path)[part].verdict in ("warning", "note")
    (tmp_path / role).mkdir()
    (tmp_path / role / "identity.json").write_text("{}")
    assert check(tmp_path)[part].verdict == "broken"


@pytest.mark.parametrize(
    ("version", "verdict"), [("2.2.9", "broken"), ("2.4.22-1", "warning"), ("2.6.12", "ok"), ("3.0", "ok")]
)
def test_haproxy_of_a_version(tmp_path: Path, version: str, verdict: str) -> None:
    program = tmp_path / "haproxy"
    program.write_text(f"#!/bin/sh\necho 'HAProxy version {version} 2026/01/01'\n")
    program.chmod(0o755)
    assert check(tmp_path, haproxy=str(program))["haproxy"].verdict == verdict


def test_ports_that_are_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = check(tmp_path, ports=(port,))[f"port {port}"]
    assert found.verdict == "warning"
    assert str(port) in found.mend
    assert check(tmp_path, ports=(port,))[f"port {port}"].verdict == "ok"


def test_disk_and_clock_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_DISK_BYTES", 1 << 60)
    monkeypatch.setattr(doctor, "RELEASED_AT", time.time() + 1000)
    monkeypatch.setattr(doctor, "GOOD_OPEN_FILES", 1 << 40)
    found = check(tmp_path / "not" / "there" / "yet")
    assert (found["disk"].verdict, found["clock"].verdict) == ("broken", "broken")
    assert str(tmp_path) in found["disk"].text
    assert found["open files"].verdict == "warning"


def test_cgroups_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu pids io")
    monkeypatch.setattr(doctor, "_CGROUPS", tmp_path)
    found = check(tmp_path)["cgroups"]
    assert (found.verdict, "memory" in found.text, "cgroup_enable=memory" in found.mend) == ("broken", True, True)


def test_a_runtime_socket_that_nobody_answers(tmp_path: Path) -> None:
    program = tmp_path / "haproxy"
    program.write_text("#!/bin/sh\necho 'HAProxy version 2.6.12'\n")
    program.chmod(0o755)
    folder = tmp_path / "gateway" / "haproxy"
    folder.mkdir(parents=True)
    from fallow.drivers.proxy.config import MASTER_SOCKET

    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(MASTER_SOCKET)
        assert check(tmp_path, haproxy=str(program))["haproxy runtime"].verdict == "warning"
        server.listen()
        assert check(tmp_path, haproxy=str(program))["haproxy runtime"].verdict == "ok"
