import dataclasses

import pytest

from fallow.drivers.engine.configuration import (
    DEFAULT_CAPABILITIES,
    belongs_to,
    capabilities,
    create_body,
    read_container,
    read_time,
    unapplied,
)
from fallow.drivers.engine.contract import LABEL_NODE, LABEL_REPLICA, Container, ContainerRequest, Resolving
from fallow.model.containers import ContainerSpec, PortSpec, Resources

CONTAINER = Container(
    id="c", replica_id="r", deployment="d", spec_hash="h", status="running", address="", host_ports={}
)


def wish(**spec: object) -> ContainerRequest:
    return ContainerRequest(
        replica_id="web-0",
        deployment="default/web",
        spec=ContainerSpec(image="nginx", **spec),  # type: ignore[arg-type]
        host_ports={"80/tcp": 20001},
        bind_address="10.0.0.5",
        spec_hash="h",
    )


def test_a_plain_container() -> None:
    body = create_body(wish(ports=(PortSpec(container=80),), environment={"A": "b=c"}), "n1", {})
    assert body["Image"] == "docker.io/library/nginx:latest"
    assert body["Env"] == ["A=b=c"]
    assert body["Hostname"] == "web-0"
    assert body["ExposedPorts"] == {"80/tcp": {}}
    assert body["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "10.0.0.5", "HostPort": "20001"}]}
    assert body["HostConfig"]["RestartPolicy"] == {"Name": "no"}
    assert body["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]
    assert not {"Cmd", "Entrypoint", "StopSignal"} & body.keys()  # the image's own
    assert not {"Memory", "NanoCpus", "PidsLimit", "LogConfig"} & body["HostConfig"].keys()


def test_names_are_asked_for_where_the_agent_says_or_as_the_engine_has_it() -> None:
    assert not {"Dns", "DnsSearch", "DnsOptions"} & create_body(wish(), "n1", {})["HostConfig"].keys()
    resolving = Resolving(servers=("10.86.0.9", "192.0.2.53"), search=("shop.svc.d.test",), options=("timeout:1",))
    host = create_body(dataclasses.replace(wish(), resolving=resolving), "n1", {})["HostConfig"]
    assert (host["Dns"], host["DnsSearch"]) == (["10.86.0.9", "192.0.2.53"], ["shop.svc.d.test"])
    assert host["DnsOptions"] == ["timeout:1"]


def test_our_labels_cannot_be_taken() -> None:
    labels = create_body(wish(labels={LABEL_NODE: "another", "tier": "front"}), "n1", {})["Labels"]
    assert labels[LABEL_NODE] == "n1"
    assert labels[LABEL_REPLICA] == "web-0"
    assert labels["tier"] == "front"


@pytest.mark.parametrize(("cpus", "shares"), [(0.0, 2), (0.001, 2), (0.5, 512), (2.0, 2048), (10_000.0, 262_144)])
def test_reserved_processors_become_shares(cpus: float, shares: int) -> None:
    assert create_body(wish(resources=Resources(cpus=cpus)), "n1", {})["HostConfig"]["CpuShares"] == shares


def test_memory_is_limited_with_swap() -> None:
    host = create_body(wish(resources=Resources(memory_limit_bytes=1000, cpu_limit=0.25)), "n1", {})["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (1000, 1000, 250_000_000)


@pytest.mark.parametrize(
    ("drop", "add", "kept"),
    [
        ((), (), sorted(DEFAULT_CAPABILITIES)),
        (("ALL",), (), []),
        (("all",), ("CAP_NET_RAW",), ["NET_RAW"]),
        (("CAP_CHOWN", "kill"), (), ["DAC_OVERRIDE", "FOWNER", "NET_BIND_SERVICE", "SETGID", "SETUID"]),
        (("CHOWN",), ("CHOWN",), sorted(DEFAULT_CAPABILITIES)),
    ],
)
def test_capabilities(drop: tuple[str, ...], add: tuple[str, ...], kept: list[str]) -> None:
    assert capabilities(ContainerSpec(image="x", cap_drop=drop, cap_add=add)) == kept


def test_tmpfs_options() -> None:
    host = create_body(wish(tmpfs=("/run", "/tmp:size=64m,mode=1777")), "n1", {})["HostConfig"]
    assert host["Tmpfs"] == {"/run": "", "/tmp": "size=64m,mode=1777"}


@pytest.mark.parametrize(
    ("applied", "named"),
    [
        ({"applied_cpus": 0.5, "applied_memory_bytes": 64, "applied_pids": 10}, []),
        ({"applied_cpus": 0.0, "applied_memory_bytes": 64, "applied_pids": 10}, ["cpu"]),
        ({"applied_cpus": 0.5, "applied_memory_bytes": 0, "applied_pids": 2048}, ["memory", "pids"]),
    ],
)
def test_limits_that_are_not_there_are_named(applied: dict[str, float], named: list[str]) -> None:
    asked = Resources(cpu_limit=0.5, memory_limit_bytes=64, pids_limit=10)
    faults = unapplied(asked, dataclasses.replace(CONTAINER, **applied))  # type: ignore[arg-type]
    assert [fault.split()[0] for fault in faults] == named


def test_limits_nobody_asked_for_do_not_matter() -> None:
    assert unapplied(Resources(), dataclasses.replace(CONTAINER, applied_pids=2048)) == ()


def inspected(state: dict[str, object], **host: object) -> dict[str, object]:
    return {
        "Id": "c1",
        "Config": {"Labels": {LABEL_NODE: "n1", LABEL_REPLICA: "web-0"}},
        "State": state,
        "HostConfig": host,
        "NetworkSettings": {"IPAddress": "", "Networks": {"podman": {"IPAddress": "10.88.0.2"}}},
    }


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ("created", "created", None),
        ("initialized", "created", None),
        ("running", "running", None),
        ("stopping", "running", None),
        ("paused", "paused", None),
        ("exited", "exited", 3),
        ("stopped", "exited", 3),
        ("dead", "exited", 3),
        ("a word of a later version", "exited", 3),
    ],
)
def test_states(said: str, status: str, code: int | None) -> None:
    container = read_container(inspected({"Status": said, "ExitCode": 3}))
    assert (container.status, container.exit_code) == (status, code)


def test_limits_as_either_engine_spells_them() -> None:
    docker = read_container(inspected({"Status": "running"}, NanoCpus=250_000_000, Memory=64, PidsLimit=None))
    podman = read_container(inspected({"Status": "running"}, CpuQuota=25_000, CpuPeriod=100_000, PidsLimit=-1))
    assert docker.applied_cpus == podman.applied_cpus == 0.25
    assert (docker.applied_memory_bytes, podman.applied_memory_bytes) == (64, 0)
    assert docker.applied_pids == podman.applied_pids == 0


def test_ports_and_address() -> None:
    bindings = {"80/tcp": [{"HostIp": "", "HostPort": "20001"}], "81/tcp": None}
    container = read_container(inspected({"Status": "running"}, PortBindings=bindings))
    assert container.host_ports == {"80/tcp": 20001}
    assert container.address == "10.88.0.2"


def test_ownership_needs_both_labels() -> None:
    raw = inspected({"Status": "running"})
    assert belongs_to(raw, "n1")
    assert not belongs_to(raw, "n2")
    assert not belongs_to({**raw, "Config": {"Labels": {LABEL_NODE: "n1"}}}, "n1")
    assert not belongs_to({**raw, "Config": {"Labels": None}}, "n1")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
        ("1970-01-01T00:00:10.5Z", 10.5),
        ("1970-01-01T00:00:10.123456789Z", 10.123456),
        ("1970-01-01T02:00:10.5+02:00", 10.5),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert read_time(text) == pytest.approx(seconds, abs=1e-9)
