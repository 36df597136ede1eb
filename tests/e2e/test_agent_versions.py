"""Versions of the agent: what is unpacked and what is refused, and the launcher that goes back, with real processes."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from fallow.agent.versions import Upgrader, Versions, VersionState, check_needs
from fallow.drivers.packages import PackageError, Packages, own_package, package_of
from fallow.model.wire import Upgrade
from fallow.version import VERSION

NEWER = "0.99.0"


def wheel(version=NEWER, files=(), needs=(), tree=True) -> bytes:
    """Return a wheel of this tree, or of nothing, with another version and more files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        if tree:
            with zipfile.ZipFile(io.BytesIO(own_package().content)) as old:
                for name in old.namelist():
                    if name.startswith("fallow/") and name not in dict(files):
                        text = old.read(name).decode()
                        made.writestr(name, text.replace(VERSION, version) if name == "fallow/version.py" else text)
        lines = ["Metadata-Version: 2.1", "Name: fallow", f"Version: {version}"]
        made.writestr(f"fallow-{version}.dist-info/METADATA", "\n".join([*lines, *needs, ""]))
        for name, text in files:
            made.writestr(name, text)
    return content.getvalue()


def order(content: bytes, version=NEWER, **changes) -> Upgrade:
    values = {
        "upgrade_id": "u1", "version": version, "sha256": hashlib.sha256(content).hexdigest(), "package": content,
        "trial_seconds": 5.0,
    }  # fmt: skip
    return Upgrade(**(values | changes))


def test_our_own_package_is_the_same_each_time_and_runs(tmp_path):
    first, again = own_package(), own_package.__wrapped__()
    assert (first.version, first.sha256) == (VERSION, again.sha256)
    assert len(first.content) < 4 * 1024 * 1024
    Versions(tmp_path).stage(order(first.content, VERSION))
    state = Versions(tmp_path).state
    assert state.trial
    assert (tmp_path / "agent-versions" / state.current / "fallow/main.py").exists()


def test_a_newer_one_is_staged_and_the_one_before_remembered(tmp_path):
    versions = Versions(tmp_path)
    swaps = []
    upgrader = Upgrader(versions, lambda: swaps.append(1))
    newer = order(wheel())
    assert upgrader.take(newer) is None
    assert upgrader.take(newer) is None, "the same order again is not begun again"
    assert (upgrader.swapped, len(swaps)) == (True, 1)
    assert versions.state.current.startswith(f"{NEWER}-")
    assert versions.state.previous == ""
    versions.confirm()
    assert not versions.state.trial
    versions.go_back("no session")
    assert versions.state.current == ""
    assert (versions.state.failed.version, versions.state.failed.upgrade_id) == (NEWER, "u1")
    assert "no session" in upgrader.failed.error


@pytest.mark.parametrize(
    ("content", "changes", "told"),
    [
        (wheel(tree=False), {"sha256": "0" * 64}, "damaged"),
        (b"not a zip", {}, "cannot be unpacked"),
        (wheel(tree=False)[:200], {}, "cannot be unpacked"),
        (wheel(tree=False), {"version": "1.0"}, "is of version 0.99.0, not 1.0"),
        (wheel(tree=False, files=[("../../evil.py", "x")]), {}, "does not belong"),
        (wheel(tree=False, files=[("fallow/../../evil.py", "x")]), {}, "does not belong"),
        (wheel(tree=False, files=[("/etc/evil", "x")]), {}, "does not belong"),
        (wheel(tree=False, files=[("sitecustomize.py", "x")]), {}, "does not belong"),
        (wheel(tree=False, needs=["Requires-Dist: no-such-package>=3"]), {}, "no-such-package>=3 (none is installed)"),
        (wheel(tree=False, needs=["Requires-Dist: msgspec>=999"]), {}, "msgspec>=999"),
        (wheel(tree=False, needs=["Requires-Python: >=9"]), {}, "Python >=9"),
        (wheel(tree=False), {}, "does not run here"),
        (wheel(files=[("fallow/main.py", "raise SystemExit('broken to pieces')")]), {}, "broken to pieces"),
    ],
)
def test_what_is_unfit_is_refused_and_nothing_has_changed(tmp_path, content, changes, told):
    versions = Versions(tmp_path / "data")
    failed = Upgrader(versions, lambda: pytest.fail("swapped")).take(order(content, **changes))
    assert told in failed.error
    assert failed.upgrade_id == "u1"
    assert versions.state is None
    assert not list((tmp_path / "data").rglob("*.py"))
    assert {path.name for path in tmp_path.iterdir()} <= {"data"}


def test_needs_are_compared_as_pip_does():
    have = {"a": "1.10", "b": "2.0rc1"}

    def version_of(name):
        try:
            return have[name]
        except KeyError:
            raise metadata.PackageNotFoundError(name) from None

    check_needs(["a>=1.9", "b>=1", 'c>=1; python_version < "3"', 'd; extra == "dev"'], ">=3.11", version_of, "3.11.2")
    with pytest.raises(PackageError, match=r"a<1.9 \(1.10 is installed\), c>=1 \(none is installed\)"):
        check_needs(["a<1.9", "c>=1"], "", version_of)
    with pytest.raises(PackageError, match="unreadably"):
        check_needs(["!!"], "", version_of)


def test_a_damaged_state_means_what_was_installed(tmp_path):
    versions = Versions(tmp_path)
    versions.folder.mkdir()
    (versions.folder / "state.json").write_text("{")
    assert versions.state is None


def test_packages_lie_in_a_folder_beside_our_own(tmp_path):
    packages = Packages(tmp_path / "packages")
    assert list(packages.versions()) == [VERSION]
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/fallow.whl").write_bytes(wheel(tree=False))
    (tmp_path / "packages/half.whl").write_bytes(b"PK")
    offered = packages.versions()
    assert sorted(offered) == [VERSION, NEWER]
    assert packages.get(NEWER, offered[NEWER].sha256) == offered[NEWER]
    assert packages.get(NEWER, "0" * 64) is None
    with pytest.raises(PackageError, match="not a wheel"):
        package_of(b"PK")


# the launcher

RUN = (
    "import sys; from pathlib import Path; from fallow.agent.launcher import Launcher; "
    "from fallow.agent.versions import Versions; sys.exit(Launcher(Versions(Path(sys.argv[1])), ['work']).run())"
)
SAYS = (
    "import os, sys, time, pathlib\nhere = pathlib.Path(__file__).parents[2]\n"
    "(here / 'ran').open('a').write(pathlib.Path(__file__).parents[1].name + ' ' + str(os.getpid()) + '\\n')\n"
)
CONFIRMS = (
    "import json\nstate = json.loads((here / 'state.json').read_text())\nstate['trial'] = False\n"
    "(here / 'state.new').write_text(json.dumps(state))\n(here / 'state.new').replace(here / 'state.json')\n"
)
SERVES = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nwhile True: time.sleep(0.01)\n"


class Trial:
    """A launcher with scripted agents."""

    def __init__(self, data: Path, trial_seconds: float = 1.0, **scripts: str) -> None:
        self.versions = Versions(data)
        for name, script in scripts.items():
            folder = self.versions.folder / name / "fallow"
            folder.mkdir(parents=True)
            (folder / "__init__.py").touch()
            (folder / "__main__.py").write_text(SAYS + script)
        state = VersionState(current="new", previous="old", trial=True, trial_seconds=trial_seconds, version="2")
        self.versions.write(state)
        self.process = subprocess.Popen([sys.executable, "-c", RUN, str(data)])

    @property
    def ran(self) -> list[str]:
        path = self.versions.folder / "ran"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def until(self, condition, seconds=20.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.ran, self.versions.state)
            time.sleep(0.01)


@pytest.fixture
def trial(tmp_path):
    made = []

    def make(**more):
        made.append(Trial(tmp_path, **more))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.wait()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (SERVES, "no session within 1 s"),
        ("signal = __import__('signal')\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)", "no session"),
        ("sys.exit(3)", "ended with exit code 3 before it had a session"),
        ("os.kill(os.getpid(), 9)", "was killed by signal 9"),
        ("import no_such_module", "ended with exit code 1"),
    ],
    ids=["silent", "stubborn", "ends", "killed", "broken"],
)
def test_a_version_without_a_session_is_given_up(trial, script, told):
    running = trial(new=script, old=SERVES)
    running.until(lambda: running.ran == ["new", "old"])
    state = running.versions.state
    assert (state.current, state.trial, state.failed.version) == ("old", False, "2")
    assert told in state.failed.error
    running.process.terminate()
    assert running.process.wait(20) == 0


def test_a_version_with_a_session_stays_whatever_becomes_of_it_later(trial):
    running = trial(new=CONFIRMS + "time.sleep(1.5)\nsys.exit(4)", old=SERVES)
    assert running.process.wait(20) == 4
    assert running.ran == ["new"]
    assert running.versions.state.current == "new"


def test_one_that_is_turned_away_for_good_is_not_tried_again(trial):
    running = trial(new="sys.exit(77)", old=SERVES)
    assert running.process.wait(20) == 77
    assert running.versions.state.current == "new"


def test_a_swap_starts_the_next_one(trial):
    swap = "state['current'] = 'old'\n(here / 'state.json').write_text(json.dumps(state))\nsys.exit(75)"
    running = trial(new=CONFIRMS + swap, old=SERVES)
    running.until(lambda: running.ran == ["new", "old"])


def test_an_agent_does_not_outlive_its_launcher(trial):
    running = trial(new=CONFIRMS + SERVES)
    running.until(lambda: running.ran)
    pid = int((running.versions.folder / "ran").read_text().split()[1])
    running.process.send_signal(signal.SIGKILL)
    running.process.wait(10)

    def gone() -> bool:
        try:
            os.kill(pid, 0)
            return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
        except (ProcessLookupError, FileNotFoundError):
            return True

    running.until(gone)
