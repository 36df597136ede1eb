"""From our values to the Docker Engine API's JSON, and back. No input or output here.

Fields: https://docs.docker.com/reference/api/engine/version/v1.41/ (ContainerCreate, ContainerInspect).
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from fallow.drivers.engine.contract import (
    LABEL_DEPLOYMENT,
    LABEL_NODE,
    LABEL_REPLICA,
    LABEL_SPEC,
    Container,
    ContainerRequest,
    StoredImage,
)
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.references import qualified

# What usual images need to start as root, drop to a user of their own and listen on port 80. The engines' own set is
# larger: raw packets, device nodes, file capabilities and changing roots are not in ours.
DEFAULT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")

# As Kubernetes does: who reserved nothing gets what others leave (a weight of 2 where a whole processor has 1024).
_SHARES_PER_CPU = 1024
_MIN_SHARES = 2
_MAX_SHARES = 262_144

_STATUS: dict[str, Literal["created", "running", "paused", "exited"]] = {
    "created": "created",
    "configured": "created",
    "initialized": "created",
    "running": "running",
    "stopping": "running",
    "restarting": "running",
    "paused": "paused",
}


IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}\Z")
_NO_NAME = "<none>"


def container_name(replica_id: str) -> str:
    """Return the name of a replica's container; it makes a second one impossible."""
    return f"fallow-{replica_id}"


def capabilities(spec: ContainerSpec) -> list[str]:
    """Return the capabilities a container keeps, without `CAP_`: the default ones, less `cap_drop`, with `cap_add`."""
    dropped = {_capability(name) for name in spec.cap_drop}
    kept = set() if "ALL" in dropped else set(DEFAULT_CAPABILITIES) - dropped
    return sorted(kept | {_capability(name) for name in spec.cap_add})


def create_body(
    request: ContainerRequest, node_id: str, log_config: Mapping[str, Any], cgroup_parent: str = ""
) -> dict[str, Any]:
    """Return the body of `POST /containers/create`; `cgroup_parent` as the engine's driver of control groups has it."""
    spec = request.spec
    body: dict[str, Any] = {
        "Image": request.image_id or qualified(spec.image),
        "Hostname": spec.hostname or request.replica_id[:63],
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "ExposedPorts": {port.key: {} for port in spec.ports},
        "Labels": {**spec.labels, **_labels(request, node_id)},
        "User": spec.user,
        "WorkingDir": spec.working_dir,
        "StopTimeout": math.ceil(spec.stop_grace_seconds),
        "Healthcheck": {"Test": ["NONE"]},  # the agent probes
        "HostConfig": _host_config(request, log_config),
    }
    if cgroup_parent:
        body["HostConfig"]["CgroupParent"] = cgroup_parent
    if spec.command is not None:
        body["Cmd"] = list(spec.command)
    if spec.entrypoint is not None:
        body["Entrypoint"] = list(spec.entrypoint)
    if spec.stop_signal:
        body["StopSignal"] = spec.stop_signal
    return body


def cgroup_parent(group: str, driver: str) -> str:
    """Return how an engine is told of a control group: where systemd makes them by its last name, which is a slice.

    Elsewhere by one in it, since Podman takes no slice there.
    """
    if not group:
        return ""
    return group.rpartition("/")[2] if driver == "systemd" else f"{group}/containers"


def unapplied(asked: Resources, container: Container) -> tuple[str, ...]:
    """Return, in words, every limit that was asked for and is not there."""
    faults = []
    if asked.cpu_limit and abs(container.applied_cpus - asked.cpu_limit) > 0.01 * asked.cpu_limit + 0.001:
        faults.append(f"cpu limit {asked.cpu_limit:g} (applied: {container.applied_cpus:g})")
    if asked.memory_limit_bytes and container.applied_memory_bytes != asked.memory_limit_bytes:
        faults.append(f"memory limit {asked.memory_limit_bytes} bytes (applied: {container.applied_memory_bytes})")
    if asked.pids_limit and container.applied_pids != asked.pids_limit:
        faults.append(f"pids limit {asked.pids_limit} (applied: {container.applied_pids})")
    return tuple(faults)


def belongs_to(raw: Mapping[str, Any], node_id: str) -> bool:
    """Say whether an inspected container is one of this node's."""
    return bool(_labels_of(raw).get(LABEL_NODE) == node_id and LABEL_REPLICA in _labels_of(raw))


def read_container(raw: Mapping[str, Any]) -> Container:
    """Read what `GET /containers/{id}/json` answers."""
    labels, state, host = _labels_of(raw), raw["State"], raw["HostConfig"]
    status = _STATUS.get(state["Status"], "exited")
    return Container(
        id=raw["Id"],
        replica_id=labels.get(LABEL_REPLICA, ""),
        deployment=labels.get(LABEL_DEPLOYMENT, ""),
        spec_hash=labels.get(LABEL_SPEC, ""),
        status=status,
        address=_address(raw.get("NetworkSettings") or {}),
        host_ports=_host_ports(host.get("PortBindings") or {}),
        started_at=read_time(state.get("StartedAt", "")),
        exit_code=state.get("ExitCode") if status == "exited" else None,
        out_of_memory=bool(state.get("OOMKilled")),
        applied_cpus=_applied_cpus(host),
        applied_memory_bytes=host.get("Memory") or 0,
        applied_pids=max(0, host.get("PidsLimit") or 0),  # -1: none
    )


def read_time(text: str) -> float:
    """Return seconds since the epoch of an RFC 3339 time; 0 for the year 1, which stands for never, and for none."""
    if not text or text.startswith("0001-"):
        return 0.0
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def architecture_name(text: str) -> str:
    """Return an architecture as OCI images name it; engines also use the kernel's name."""
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}.get(text, text)


def image_id(text: str) -> str:
    """Return an image's id with its algorithm; Podman leaves it out here and there."""
    return text if not text or ":" in text else f"sha256:{text}"


def fixed_image(raw: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> StoredImage:
    """Read what never changes of an image from `GET /images/{id}/json` and `/history`.

    The history has steps that made no layer, and does not say which: only where as many steps have a size as there are
    layers, or there is a step for each, is it known which size is whose.
    """
    layers = tuple((raw.get("RootFS") or {}).get("Layers") or ())
    steps = [max(0, int(step.get("Size") or 0)) for step in reversed(history)]
    sized = [size for size in steps if size]
    sizes = next((tuple(each) for each in (sized, steps) if len(each) == len(layers)), ())
    return StoredImage(
        id=image_id(raw["Id"]),
        architecture=architecture_name(raw.get("Architecture") or ""),
        layers=layers,
        layer_bytes=sizes,
    )


def stored_image(raw: Mapping[str, Any], fixed: StoredImage, containers: int) -> StoredImage:
    """Add what `GET /images/json` says of an image; Podman has names with a digest among those with a tag."""
    said = [name for key in ("RepoTags", "RepoDigests") for name in raw.get(key) or () if _NO_NAME not in name]
    names = sorted({qualified(name) for name in said})
    return StoredImage(
        id=fixed.id,
        references=tuple(name for name in names if "@" not in name),
        digests=tuple(name for name in names if "@" in name),
        architecture=fixed.architecture,
        size_bytes=max(0, int(raw.get("Size") or 0)),
        layers=fixed.layers,
        layer_bytes=fixed.layer_bytes,
        containers=containers,
    )


def _capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def _labels(request: ContainerRequest, node_id: str) -> dict[str, str]:
    return {
        LABEL_NODE: node_id,
        LABEL_REPLICA: request.replica_id,
        LABEL_DEPLOYMENT: request.deployment,
        LABEL_SPEC: request.spec_hash,
    }


def _labels_of(raw: Mapping[str, Any]) -> Mapping[str, str]:
    return raw["Config"].get("Labels") or {}


def _host_config(request: ContainerRequest, log_config: Mapping[str, Any]) -> dict[str, Any]:
    spec, asked = request.spec, request.spec.resources
    config: dict[str, Any] = {
        "PortBindings": {
            key: [{"HostIp": request.bind_address, "HostPort": str(port)}] for key, port in request.host_ports.items()
        },
        "CpuShares": min(_MAX_SHARES, max(_MIN_SHARES, round(asked.cpus * _SHARES_PER_CPU))),
        "CapDrop": ["ALL"],
        "CapAdd": capabilities(spec),
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": spec.read_only,
        "Tmpfs": dict(_tmpfs(entry) for entry in spec.tmpfs),
        "Init": spec.init,
        "RestartPolicy": {"Name": "no"},  # the agent restarts
    }
    if asked.cpu_limit:
        config["NanoCpus"] = round(asked.cpu_limit * 1e9)
    if asked.memory_limit_bytes:
        # As much with swap as without: otherwise the engines let it swap the same amount again.
        config["Memory"] = config["MemorySwap"] = asked.memory_limit_bytes
    if asked.pids_limit:
        config["PidsLimit"] = asked.pids_limit
    if request.resolving.servers:
        config["Dns"] = list(request.resolving.servers)
        config["DnsSearch"] = list(request.resolving.search)
        config["DnsOptions"] = list(request.resolving.options)
    if log_config:
        config["LogConfig"] = dict(log_config)
    return config


def _tmpfs(entry: str) -> tuple[str, str]:
    """Read `/tmp` or `/tmp:size=64m,mode=1777`."""
    path, _, options = entry.partition(":")
    return path, options


def _address(network: Mapping[str, Any]) -> str:
    addresses = [network.get("IPAddress"), *(net.get("IPAddress") for net in (network.get("Networks") or {}).values())]
    return next((address for address in addresses if address), "")


def _host_ports(bindings: Mapping[str, Any]) -> dict[str, int]:
    return {key: int(hosts[0]["HostPort"]) for key, hosts in bindings.items() if hosts and hosts[0].get("HostPort")}


def _applied_cpus(host: Mapping[str, Any]) -> float:
    if host.get("NanoCpus"):
        return float(host["NanoCpus"]) / 1e9
    quota, period = host.get("CpuQuota") or 0, host.get("CpuPeriod") or 0
    return float(quota) / float(period) if quota > 0 and period > 0 else 0.0
