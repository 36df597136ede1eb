"""`fallow vm image`, and what of `fallow join` is about machines."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fallow.cli.app import build_cli
from fallow.cli.launchers import JoinOptions, Launchers, LendOptions, MachineOptions
from fallow.wiring.vm_images import run_vm_image


class Ran:
    def __init__(self, *words: str) -> None:
        self.launched: list[object] = []

        def launch(options: object) -> int:
            self.launched.append(options)
            return 0

        launchers = Launchers(
            server=launch,
            join=launch,
            lend=launch,
            gateway=launch,
            up=launch,
            store=launch,  # type: ignore[arg-type]
            vm_image=run_vm_image,
        )
        result = CliRunner().invoke(build_cli(launchers), list(words), prog_name="fallow")
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr


def test_no_image_yet(tmp_path: Path):
    ran = Ran("vm", "image", "list", "--vm-folder", str(tmp_path))
    assert (ran.code, "fallow vm image build" in ran.out) == (0, True)
    assert json.loads(Ran("vm", "image", "list", "--vm-folder", str(tmp_path), "--json").out) == {"items": []}


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed: scripts/install-parts.sh")
def test_an_image_is_added_and_listed(tmp_path: Path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1024 * 1024))
    ran = Ran("vm", "image", "add", "cloud", str(disk), "--vm-folder", str(tmp_path), "--has-fallow", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["folder"] == str(tmp_path / "images/cloud")
    listed = Ran("vm", "image", "list", "--vm-folder", str(tmp_path))
    assert listed.out.splitlines()[1].split()[:2] == ["cloud", "disk.raw"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("add", "cloud", "/nope"), "no file /nope"),
        (("add", "Cloud", "/nope"), "cannot be a name"),
        (("add", "cloud", "/nope", "--python", "3.9"), "not a version of Python"),
        (("build", "--name", "a/b"), "cannot be a name"),
        (("build", "--output", "/etc"), "is no image"),
        (("build", "--base", "windows"), "windows"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, words: tuple[str, ...], told: str):
    if "file" in told and shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed: scripts/install-parts.sh")
    ran = Ran("vm", "image", *words, "--vm-folder", str(tmp_path))
    assert ran.code != 0
    assert told in ran.err
    assert "Traceback" not in ran.err


def test_programs_that_are_missing_are_told_with_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fallow.drivers.machine.commands.PATH", "/nowhere")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    ran = Ran("vm", "image", "build", "--vm-folder", str(tmp_path))
    assert ran.code == 1
    assert "apt-get install" in ran.err
    assert "mmdebstrap" in ran.err


def test_how_a_server_makes_machines(tmp_path: Path):
    words = ("--vm-bridge", "br0", "--vm-accelerator", "tcg", "--vm-folder", "/srv/vms", "--engine", "unix:///e")
    ran = Ran("join", "--role", "server", "--libvirt", "qemu:///x", *words, "--data", str(tmp_path))
    assert ran.code == 0, ran.err
    machines = MachineOptions(
        libvirt="qemu:///x", bridge="br0", accelerator="tcg", folder=Path("/srv/vms"), engine="unix:///e"
    )
    assert ran.launched == [LendOptions(data=tmp_path, machines=machines)]


def test_a_node_in_a_control_group(tmp_path: Path):
    ran = Ran("join", "--cgroup-parent", "/fallow.slice/fallow-a.slice", "--data", str(tmp_path))
    assert ran.launched == [JoinOptions(data=tmp_path, cgroup="/fallow.slice/fallow-a.slice")]


@pytest.mark.parametrize(
    "words",
    [
        ("--cgroup-parent", "a"),
        ("--cgroup-parent", "/a/../b"),
        ("--cgroup-parent", "/a b"),
        ("--role", "server", "--vm-bridge", "a/b"),
        ("--role", "server", "--vm-bridge", "x" * 16),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path: Path, words: tuple[str, ...]):
    ran = Ran("join", *words, "--data", str(tmp_path))
    assert ran.code == 2
    assert ran.launched == []
