"""What somebody else's image runs before it joins: it brings what the image lacks, or says what that is."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fallow.drivers.machine.imaging import debian
from fallow.drivers.machine.seed import problem_told

SCRIPT = Path(debian.__file__).parent / "cloud_skeleton/usr/local/sbin/fallow-prepare"
SEMAPHORES = "var/lib/cloud/instance/sem"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class Guest:
    """A root in a folder, with a few programs and no others."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("bin", "dev/disk/by-label", "run/fallow-agent", "opt", "usr/local/bin", SEMAPHORES):
            (root / name).mkdir(parents=True)
        for name in ("sh", "tee", "mkdir", "rm", "mv", "chmod"):
            (root / "bin" / name).symlink_to(str(shutil.which(name)))
        self.has("mountpoint", "umount")  # the disk is mounted already

    def has(self, *names: str, does: str = "") -> None:
        for name in names:
            (self.root / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
            (self.root / "bin" / name).chmod(0o755)

    def has_python(self) -> None:
        (self.root / "bin/python3").symlink_to(sys.executable)

    def has_disk(self, version: str) -> None:
        (self.root / "dev/disk/by-label/fallow-agent").touch()
        with zipfile.ZipFile(self.root / f"run/fallow-agent/{version}.zip", "w") as archive:
            archive.writestr("fallow/__main__.py", "import sys; print('Fallow', *sys.argv[1:])")

    def prepare(self) -> tuple[int, str]:
        """Run the script in this root; return its exit code and what it says."""
        text = SCRIPT.read_text()
        for name in ("/dev/", "/run/", "/opt/", "/usr/local/bin/", "/var/"):
            text = text.replace(name, f"{self.root}{name}")
        path = {"PATH": f"{self.root}/bin:{self.root}/usr/local/bin"}
        done = subprocess.run(["/bin/sh"], input=text, env=path, text=True, check=False, capture_output=True)
        assert (self.root / "dev/ttyS0").read_text() in done.stdout
        return done.returncode, done.stdout


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_what_is_there_is_not_brought(guest: Guest):
    guest.has("fallow", "podman")
    guest.has("systemctl", does=f'echo "$*" >>{guest.root}/told')
    assert guest.prepare() == (0, "fallow: joining\n")
    assert (guest.root / "told").read_text() == "enable --now podman.socket\n"


def test_fallow_is_unpacked_for_the_images_python(guest: Guest):
    guest.has("docker")
    guest.has_python()
    guest.has_disk(PYTHON)
    code, console = guest.prepare()
    assert (code, problem_told(console)) == (0, "")
    fallow = guest.root / "usr/local/bin/fallow"
    assert subprocess.run([fallow, "join"], capture_output=True, text=True, check=True).stdout == "Fallow join\n"


def test_podman_is_installed_by_cloud_init(guest: Guest):
    guest.has("fallow", "systemctl")
    guest.has("cloud-init", does=f"chmod 755 {guest.root}/ready; mv {guest.root}/ready {guest.root}/bin/podman")
    (guest.root / "ready").touch()
    (guest.root / SEMAPHORES / "update_sources").touch()  # a try before, without a network
    assert guest.prepare()[0] == 0
    assert (guest.root / "run/fallow-engine.cfg").read_text() == "#cloud-config\npackages: [podman]\n"
    assert list((guest.root / SEMAPHORES).iterdir()) == []


def test_what_cannot_be_brought_is_told(guest: Guest):
    def told() -> str:
        code, console = guest.prepare()
        assert code == 1
        return problem_told(console)

    assert "Fallow is not in its image, and was not brought" in told()
    guest.has_disk("3.99")
    assert "there is no Python in its image" in told()
    guest.has("python3", does=f'exec {sys.executable} -c "import sys; sys.version_info = (3, 9); $2"')
    assert told() == "the Python of its image is 3.9, and Fallow needs 3.11 or newer: take a newer image"
    (guest.root / "bin/python3").unlink()
    guest.has_python()
    assert f"--python {PYTHON}`" in told()
    guest.has("fallow", "cloud-init")
    assert "there is no engine in its image" in told()
