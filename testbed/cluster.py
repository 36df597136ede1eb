"""A whole Fallow on a fabric: control plane, nodes and gateways as real processes, started as a user starts them.

Several clusters may live on one fabric: the first one's control plane is on this machine, that of any other on a
machine of its own, whose cable can be pulled (`fabric.cut(cluster.control_name)`).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fallow.client.api import Client
from fallow.client.contexts import resolve
from fallow.client.errors import ClientError
from testbed import processes
from testbed.engines import EngineNode, engine_node
from testbed.fabric import Fabric, NodeNetwork
from testbed.processes import InsideProcess, TestbedError

FALLOW = str(Path(sys.executable).parent / "fallow")
LOOK_SECONDS = 0.1  # between two looks at whether something has come true


@dataclass
class Cluster:
    """One control plane, and what has joined it; `name` tells a further cluster from the first."""

    fabric: Fabric
    insecure_registries: Sequence[str] = ()
    port: int = 7443
    server_options: Sequence[str] = ()
    nodes: dict[str, EngineNode] = field(default_factory=dict)
    agents: dict[str, InsideProcess] = field(default_factory=dict)
    gateways: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    server: subprocess.Popen[bytes] | None = None
    peers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    server_environment: Mapping[str, str] = field(default_factory=dict)
    agent_environment: Mapping[str, str] = field(
        default_factory=dict
    )  # of agents and gateways that are started from now on
    name: str = ""
    network: NodeNetwork | None = None
    _asking: Client | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Give a further cluster a machine for its control plane."""
        if self.name:
            self.folder.mkdir(mode=0o755)
            self.network = self.fabric.node(self.control_name)

    @property
    def control_name(self) -> str:
        """Return what the control plane's machine is called on the fabric."""
        return f"{self.name}-cp"

    @property
    def folder(self) -> Path:
        """Return where the control plane and its gateways keep what they have."""
        return self.fabric.folder / self.name if self.name else self.fabric.folder

    @property
    def address(self) -> str:
        """Return where the control plane is reached."""
        return self._address(self.network)

    @property
    def url(self) -> str:
        """Return the control plane's address."""
        return self._url(self.network, self.port)

    def _address(self, network: NodeNetwork | None) -> str:
        return network.address if network is not None else self.fabric.host_address

    def _url(self, network: NodeNetwork | None, port: int) -> str:
        return f"https://{self._address(network)}:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """Return what makes the command line talk to this cluster."""
        return {"XDG_CONFIG_HOME": str(self.folder / "config"), "NO_COLOR": "1"}

    def start_server(self) -> None:
        """Start the control plane, or start it again, and wait until it is ready."""
        self.server = self._launch("server", self.port, self.network)
        self.wait(self._server_answers, 20, "control plane", self.folder / "server.log")

    def start_peer(self, name: str, port: int, network: NodeNetwork | None = None, *options: str) -> None:
        """Start a further process of the control plane on the same store, and wait until it is on record.

        It is on the machine of `network`, the first one's unless given; `options` come after those of all.
        """
        network = network or self.network
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        if not (folder / "cluster.key").exists():
            shutil.copy2(self.folder / "server/cluster.key", folder / "cluster.key")
        self.peers[name] = self._launch(name, port, network, *options)
        url = self._url(network, port)

        def known() -> bool:
            if self.peers[name].poll() is not None:
                raise TestbedError(f"{name} ended:\n" + tail(self.folder / f"{name}.log"))
            try:
                with self.client_at(url) as client:
                    return any(peer.url == url and peer.answers for peer in client.peers().items)
            except ClientError:
                return False

        self.wait(known, 20, f"control plane {name}", self.folder / f"{name}.log")

    def _launch(self, name: str, port: int, network: NodeNetwork | None, *options: str) -> subprocess.Popen[bytes]:
        # Without a fork: the process started is the control plane itself.
        address = self._address(network)
        process = processes.start(
            [
                *_inside(network), FALLOW, "server", "--data", str(self.folder / name),
                "--listen", f"{address}:{port}",
                "--session-listen", f"{address}:{port + 1}", *self.server_options, *options,
            ],
            self.folder / f"{name}.log",
            self.environment | dict(self.server_environment),
        )  # fmt: skip
        self.fabric.remember(process)
        return process

    def client(self, port: int | None = None) -> Client:
        """Return a client of the control plane, or of its process that listens at `port`."""
        return self.client_at(self._url(self.network, port or self.port))

    def client_at(self, url: str) -> Client:
        """Return a client of the process of the control plane that is reached there."""
        context = resolve(environment=self.environment)
        return Client(url, context.token, context.ca_pem)

    def _server_answers(self) -> bool:
        if self.server is None or self.server.poll() is not None:
            raise TestbedError("the control plane ended:\n" + tail(self.folder / "server.log"))
        try:
            self.members()
        except TestbedError:
            return False
        return True

    def kill_server(self) -> None:
        """Kill the control plane without a chance to say goodbye."""
        if self.server is not None:
            self.server.kill()
            self.server.wait(10)

    def boot(self, *names: str) -> None:
        """Make machines with a container engine each, and switch them on side by side; wait until all are on."""
        self.power_on(*(name for name in names if name not in self.nodes))
        for name in names:
            self.nodes[name].wait_ready()

    def power_on(self, *names: str) -> None:
        """Make machines with a container engine each, and switch them on without waiting for them."""
        for name in names:
            self.nodes[name] = engine_node(self.fabric, name, insecure_registries=self.insecure_registries)
            self.nodes[name].power_on(wait=False)

    def join(self, name: str, *options: str, token: str | None = None, url: str = "") -> None:
        """Start the agent on a machine; with a token it joins, without one it uses the identity it has.

        `url` is of the process it joins at, the first unless given.
        """
        node = self.nodes[name]
        with_token = {"FALLOW_JOIN_TOKEN": token} if token else {}
        self.agents[name] = node.run_inside(
            [FALLOW, "join", url or self.url, "--data", str(node.folder / "agent"), *options],
            node.folder / "agent.log",
            self.environment | dict(self.agent_environment) | with_token,
        )

    def start_gateway(
        self,
        name: str,
        http_port: int,
        token: str | None = None,
        *options: str,
        network: NodeNetwork | None = None,
        url: str = "",
    ) -> None:
        """Start a gateway, serving HTTP on `http_port`; with a token it joins at `url`, the first process unless given.

        It is on this machine, or on that of `network`.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        with_token = {"FALLOW_JOIN_TOKEN": token} if token else {}
        self.gateways[name] = processes.start(
            [
                *_inside(network), FALLOW, "gateway", url or self.url, "--data", str(folder), "--name", name,
                "--http-port", str(http_port), *options,
            ],
            folder / "gateway.log",
            self.environment | dict(self.agent_environment) | with_token,
        )  # fmt: skip
        self.fabric.remember(self.gateways[name])

    def token(self, role: str, *options: str) -> str:
        """Return a new join token."""
        return self.fallow("token", "create", "--role", role, "--quiet", *options).strip()

    def fallow(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 120) -> str:
        """Run the command line and return its output. Raises TestbedError with its error text."""
        done = subprocess.run(
            [FALLOW, *arguments], capture_output=True, text=True, timeout=timeout, check=False,
            env={**os.environ, **self.environment, **(env or {})},
        )  # fmt: skip
        if done.returncode != 0:
            raise TestbedError(f"fallow {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def call(self, *arguments: str, check: bool = True) -> Any:
        """Run a command that prints JSON and return what it says; None when it fails and `check` is off."""
        try:
            return json.loads(self.fallow(*arguments))
        except TestbedError:
            if check:
                raise
            return None

    def members(self, role: str = "") -> dict[str, dict[str, Any]]:
        """Return members by name. Raises TestbedError."""
        return {found["name"]: found for found in self.ask(lambda client: client.members(role))["items"]}

    def deployments(self) -> dict[str, dict[str, Any]]:
        """Return deployments by `project/name`. Raises TestbedError."""
        found = self.ask(lambda client: client.deployments())["items"]
        return {f"{each['project']}/{each['name']}": each for each in found}

    def replicas(self) -> list[dict[str, Any]]:
        """Return all replicas, ended ones too. Raises TestbedError."""
        return list(self.ask(lambda client: client.replicas())["items"])

    def ask(self, ask: Callable[[Client], object]) -> Any:
        """Return what the control plane answers, as JSON has it. Raises TestbedError.

        Without the command line, whose start would cost most of what waiting for something costs.
        """
        try:
            if self._asking is None:
                context = resolve(environment=self.environment)
                self._asking = Client(context.url, context.token, context.ca_pem)
            return json.loads(msgspec.json.encode(ask(self._asking)))
        except ClientError as error:
            raise TestbedError(str(error)) from error

    def wait_ready(self, *names: str, seconds: float = 30) -> None:
        """Wait until these members are ready."""

        def ready() -> bool:
            members = self.members()
            return all(members.get(name, {}).get("state") == "ready" for name in names)

        try:
            self.wait(ready, seconds, f"members {', '.join(names)} ready")
        except TestbedError as error:
            folders = [folder / name for name in names for folder in (self.folder, self.fabric.folder)]
            logs = dict.fromkeys(folder / f"{kind}.log" for folder in folders for kind in ("agent", "gateway"))
            told = "\n".join(f"{path.parent.name}: {tail(path, 5)}" for path in logs if path.exists())
            raise TestbedError(f"{error}\n{told}") from None

    def wait(self, condition: Callable[[], bool], seconds: float, what: str, log: Path | None = None) -> None:
        """Wait until `condition()`; say what was waited for, with the end of a log, when it does not come."""
        try:
            processes.wait_until(condition, seconds, what, LOOK_SECONDS)
        except TestbedError as error:
            logs = [log] if log is not None else [self.folder / "server.log"]
            raise TestbedError(f"{error}\n" + "\n".join(tail(path) for path in logs)) from None

    def close(self) -> None:
        """Stop everything, agents before engines; the fabric is closed by whoever made it."""
        for process in (*self.agents.values(), *self.gateways.values()):
            processes.stop(process, 10)
        for server in (*self.peers.values(), *filter(None, [self.server])):
            processes.stop(server)
        for node in self.nodes.values():
            node.power_cut()
        if self._asking is not None:
            self._asking.close()


def _inside(network: NodeNetwork | None) -> Sequence[str]:
    """Return what runs a command in a machine's network."""
    return ("nsenter", f"--net={network.path}") if network is not None else ()


def tail(path: Path, lines: int = 25) -> str:
    """Return the end of a log file."""
    if not path.exists():
        return f"(no {path.name})"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
