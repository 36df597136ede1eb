"""A server that lends, as a control group of this machine: what others do here neither counts nor gets in its way."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from fallow.drivers.cgroups import Groups
from fallow.drivers.machine.groups import MachineGroups
from testbed import cgroups
from testbed.cluster import FALLOW, Cluster
from testbed.engines import EngineNode
from testbed.processes import InsideProcess

PERIOD_US = 100_000
# Until it ends it is there, and does nothing.
CALM = "import time\nwhile True: time.sleep(60)"
_ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 1; shift; done; shift; exec "$@"'


class LendingServer:
    """A machine of `cluster` with a primary application; closing it ends all that runs in its control group."""

    def __init__(self, cluster: Cluster, name: str, cpus: float | None, memory_bytes: int) -> None:
        """Make the group with these limits, and an idle primary. The machine has to be booted.

        `cpus` None: as many as this machine has.
        """
        self.cluster, self.name = cluster, name
        self.node: EngineNode = cluster.nodes[name]
        self.within = f"/{cluster.fabric.namespace}-{name}.slice"  # libvirt would call another one otherwise
        self.primary = f"{self.within}/primary"
        self._groups = Groups()
        for part in ("primary", "agent"):
            self.make(part)
        if cpus is not None:
            self._limit(self.within, cpus)
        self._hold(memory_bytes)
        self._primary = [cgroups.burn(self.primary, CALM)]
        self.agent: InsideProcess | None = None

    def join(self, *options: str, token: str = "", url: str = "") -> None:
        """Start the server's agent; with a token it joins, at `url` unless that is left out."""
        told: Mapping[str, str] = {"FALLOW_JOIN_TOKEN": token} if token else {}
        self.agent = self.run(
            "agent",
            [
                FALLOW, "join", url or self.cluster.url,
                "--data", str(self.node.folder / "agent"), "--name", self.name, "--role", "server",
                "--within", self.within, "--primary", f"cgroup:{self.primary}", "--engine", self.node.url, *options,
            ],
            self.log,
            {**self.cluster.environment, **told},
        )  # fmt: skip

    def make(self, part: str) -> str:
        """Make a group for a part of what it runs, and return its name."""
        group = f"{self.within}/{part}"
        MachineGroups(group.strip("/"), self._groups).make()
        return group

    def run(
        self, part: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> InsideProcess:
        """Start a command on the machine, in the group of a part."""
        enter = [str(folder / "cgroup.procs") for folder in self._groups.folders(f"{self.within}/{part}")]
        return self.node.run_inside(["sh", "-c", _ENTER, "sh", *enter, "--", *argv], log, environment)

    @property
    def log(self) -> Path:
        """Return where the agent writes."""
        return self.node.folder / "agent.log"

    def spike(self, cpus: float) -> None:
        """Let the primary use so many processors."""
        self._limit(self.primary, cpus)
        self._primary.extend(cgroups.burn(self.primary) for _ in range(int(cpus) + 1))

    def calm(self) -> None:
        """Let the primary be idle again."""
        while len(self._primary) > 1:
            _end(self._primary.pop())

    def close(self) -> None:
        """End everything of it."""
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait(10)
        cgroups.remove(self.within)
        for process in self._primary:
            _end(process)

    def _limit(self, group: str, cpus: float) -> None:
        folder = self._groups.folder("cpu", group)
        assert folder is not None
        quota = round(cpus * PERIOD_US)
        if self._groups.version == 2:
            (folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")
        else:
            (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (folder / "cpu.cfs_quota_us").write_text(str(quota))

    def _hold(self, memory_bytes: int) -> None:
        folder = self._groups.folder("memory", self.within)
        assert folder is not None
        name = "memory.max" if self._groups.version == 2 else "memory.limit_in_bytes"
        (folder / name).write_text(str(memory_bytes))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(10)
