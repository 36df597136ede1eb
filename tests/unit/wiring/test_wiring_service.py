"""The control plane's unit: what it runs, what it may touch, and that systemd understands it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fallow.cli.launchers import ServerOptions
from fallow.drivers.systemd import InstallError, Unit, install, render
from fallow.wiring.service import server_unit


def test_the_unit_asks_for_the_same_again() -> None:
    options = ServerOptions(
        data=Path("/var/lib/fallow/server"), listen="10.0.0.1:1", names=("a", "b c"), advertise="c:2", dead_seconds=60,
        store="etcd:x",
    )  # fmt: skip
    text = render(server_unit(options, "/opt/fallow/bin/fallow"))
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    assert line.startswith("ExecStart=/opt/fallow/bin/fallow server --data /var/lib/fallow/server --listen 10.0.0.1:1 ")
    for part in (
        '--host a --host "b c"',
        "--advertise c:2",
        "--store etcd:x",
        "--dead-after 60s",
        "--no-write-context",
    ):
        assert part in line
    for setting in (
        "StateDirectory=fallow/server", "ProtectSystem=strict", "NoNewPrivileges=yes", "Restart=always",
        "LimitNOFILE=65536", "UMask=0077",
    ):  # fmt: skip
        assert f"\n{setting}\n" in text


def test_a_folder_elsewhere_may_be_written() -> None:
    text = render(server_unit(ServerOptions(data=Path("/srv/fallow")), "/bin/fallow"))
    assert "\nReadWritePaths=/srv/fallow\n" in text
    assert "StateDirectory" not in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("data", ["/var/lib/fallow/server", "/srv/fallow"])
def test_systemd_understands_every_line(tmp_path: Path, data: str) -> None:
    path = tmp_path / "fallow-server.service"
    path.write_text(render(server_unit(ServerOptions(data=Path(data)), sys.executable)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "fallow-server" in line] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_would_have_complained(tmp_path: Path) -> None:
    path = tmp_path / "fallow-server.service"
    unit = server_unit(ServerOptions(data=Path("/srv/fallow")), sys.executable)
    path.write_text(render(unit).replace("ProtectSystem=strict", "ProtectSystems=strict"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    assert "ProtectSystems" in done.stderr


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="this machine runs systemd")
def test_without_systemd_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"root|systemd"):
        install(Unit(name="x.service", description="x", command=("/bin/true",)), tmp_path)
    assert not list(tmp_path.iterdir())
