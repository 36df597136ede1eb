"""Releases beside the one under test: wheels of another version, and an earlier release from history."""

import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from fallow.drivers.packages import own_package
from fallow.version import VERSION

ROOT = Path(__file__).parents[2]
EARLIER = "0b3a1d4f1cddf06ae0c21d08dce739b6670543c7"  # the last that speaks protocol 3: the one before ours


def package(version: str, *changes: tuple[str, str, str]) -> bytes:
    """Return a wheel of this tree with another version, and texts of files replaced."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(own_package().content)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            text = old.read(name).decode()
            for path, before, after in (("fallow/version.py", VERSION, version), *changes):
                if name == path:
                    assert before in text
                    text = text.replace(before, after)
            if name.endswith("METADATA"):
                text = text.replace(f"Version: {VERSION}", f"Version: {version}")
            new.writestr(name.replace(VERSION, version), text)
    return changed.getvalue()


def offer(server_data: Path, version: str, *changes: tuple[str, str, str]) -> None:
    """Let a control plane offer a wheel of this tree with another version."""
    folder = server_data / "packages"
    folder.mkdir(exist_ok=True)
    (folder / f"fallow-{version}-py3-none-any.whl").write_bytes(package(version, *changes))


def earlier(folder: Path) -> Path:
    """Return where the packages of the earlier release are, unpacked into `folder`; skip where its history is not."""
    done = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "archive", EARLIER, "src"],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"this tree was taken without its history: {done.stderr.decode(errors='replace').strip()[:200]}")
    subprocess.run(["tar", "--extract", "--directory", str(folder)], input=done.stdout, check=True)
    return folder / "src"
