"""`fallow up`, `server`, `join` and `gateway`: the commands that run until they are stopped."""

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from fallow.cli.failures import sentence, usage
from fallow.cli.launchers import (
    DNS_OFF,
    Accelerator,
    GatewayOptions,
    JoinOptions,
    LendOptions,
    LogFormat,
    LogOptions,
    MachineOptions,
    ServerOptions,
    UpOptions,
)
from fallow.cli.options import key_values, seconds, secret
from fallow.cli.process_options import (
    Address,
    Advertise,
    CgroupParent,
    CleanImages,
    ClusterDeadAfter,
    ClusterKey,
    ClusterSuspectAfter,
    Data,
    DeadAfter,
    DnsListen,
    Domain,
    DrainOnStop,
    Engine,
    Format,
    Function,
    GatewayDnsListen,
    Haproxy,
    HeartbeatEvery,
    Hosts,
    Install,
    JoinRole,
    KeepAudit,
    KeepImages,
    Level,
    Libvirt,
    Listen,
    MemberName,
    Primaries,
    PurgeAfter,
    SessionListen,
    Store,
    SuspectAfter,
    Timeout,
    Token,
    Url,
    Variables,
    VmAccelerator,
    VmBridge,
    VmFolder,
    VmNetwork,
    Within,
    WriteContext,
)
from fallow.cli.session import session_of
from fallow.model.control import Level as LogLevel
from fallow.model.credentials import parse_join_credential
from fallow.model.labels import Variable, typed_variable, variables_problem
from fallow.model.meta import is_name
from fallow.model.names import DEFAULT_DOMAIN, domain_name
from fallow.model.servers import Primary, parse_primaries
from fallow.model.watermarks import Watermarks, parse_watermarks

VM_FOLDER = MachineOptions().folder
JOIN_TOKEN = "FALLOW_JOIN_TOKEN"  # noqa: S105 - the name of a variable
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]/]*):(\d{1,5})")


def server(
    ctx: typer.Context,
    data: Data = None,
    listen: Listen = "0.0.0.0:7443",
    session_listen: SessionListen = "0.0.0.0:7444",
    store: Store = None,
    cluster_key: ClusterKey = None,
    name: Hosts = None,
    advertise: Advertise = "",
    heartbeat: HeartbeatEvery = "1s",
    suspect: SuspectAfter = "3s",
    dead: DeadAfter = "8s",
    cluster_suspect: ClusterSuspectAfter = "5s",
    cluster_dead: ClusterDeadAfter = "10s",
    keep_audit: KeepAudit = "400d",
    keep_images: KeepImages = "30d",
    dns_listen: DnsListen = None,
    domain: Domain = DEFAULT_DOMAIN,
    purge: PurgeAfter = "24h",
    install: Install = False,
    write_context: WriteContext = True,
    log_level: Level = "info",
    log_format: Format = "auto",
) -> None:
    """Run a control plane; with a command after it, look after the servers that lend what they do not use."""
    if ctx.invoked_subcommand is not None:
        return
    silences = seconds(heartbeat), seconds(suspect), seconds(dead)
    if not 0 < silences[0] < silences[1] < silences[2]:
        raise usage("--heartbeat, --suspect-after and --dead-after must grow in this order")
    of_clusters = seconds(cluster_suspect), seconds(cluster_dead)
    if not silences[0] < of_clusters[0] < of_clusters[1]:
        raise usage("--heartbeat, --cluster-suspect-after and --cluster-dead-after must grow in this order")
    options = ServerOptions(
        data=data or data_folder("server"),
        listen=_address(listen),
        session_listen=_address(session_listen),
        store=store,
        cluster_key=cluster_key,
        names=tuple(name or ()),
        advertise=_advertised(advertise),
        heartbeat_seconds=silences[0],
        suspect_seconds=silences[1],
        dead_seconds=silences[2],
        cluster_suspect_seconds=of_clusters[0],
        cluster_dead_seconds=of_clusters[1],
        keep_audit_seconds=_kept("--keep-audit", keep_audit),
        keep_image_tasks_seconds=_kept("--keep-image-record", keep_images),
        dns_listen=_dns_listen(dns_listen),
        domain=_domain(domain),
        purge_seconds=seconds(purge),
        install=install,
        write_context=write_context,
        log=LogOptions(level=log_level, format=log_format),
    )
    raise typer.Exit(session_of(ctx).launchers.server(options))


def join(
    ctx: typer.Context,
    url: Url = "",
    token: Token = "",
    name: MemberName = "",
    var: Variables = None,
    function: Function = "",
    address: Address = "",
    timeout: Timeout = "",
    role: JoinRole = "node",
    engine: Engine = None,
    clean_images: CleanImages = "85%:80%",
    primary: Primaries = None,
    vm_bridge: VmBridge = "",
    vm_network: VmNetwork = "default",
    libvirt: Libvirt = "qemu:///system",
    vm_accelerator: VmAccelerator = "auto",
    vm_folder: VmFolder = VM_FOLDER,
    within: Within = "",
    drain_on_stop: DrainOnStop = False,
    cgroup_parent: CgroupParent = "",
    data: Data = None,
    install: Install = False,
    log_level: Level = "info",
    log_format: Format = "auto",
) -> None:
    """Make this machine a node, or a server that lends what it does not use, and run its agent.

    Without URL and TOKEN it goes on with the identity it has from an earlier join.
    """
    lends = role == "server"
    if not lends and (primary or within or drain_on_stop):
        raise usage("--primary, --within and --drain-on-stop are of servers", "Add --role server.")
    member = _member(url, token, name, var, function, address, timeout)
    process = _process(data, "lending" if lends else "node", install, log_level, log_format)
    if lends:
        machines = _machines(libvirt, vm_bridge, vm_network, vm_accelerator, vm_folder, engine)
        primaries, group = _primaries(primary), _group(within)
        lending = LendOptions(
            primaries=primaries, machines=machines, within=group, drain_on_stop=drain_on_stop, **member, **process
        )
        raise typer.Exit(session_of(ctx).launchers.lend(lending))
    marks, group = _watermarks(clean_images), _group(cgroup_parent)
    options = JoinOptions(engine=engine, watermarks=marks, cgroup=group, **member, **process)
    raise typer.Exit(session_of(ctx).launchers.join(options))


def gateway(
    ctx: typer.Context,
    url: Url = "",
    token: Token = "",
    name: MemberName = "",
    var: Variables = None,
    function: Function = "",
    address: Address = "",
    timeout: Timeout = "",
    http_port: Annotated[int, typer.Option("--http-port", min=1, max=65535, help="Where HTTP requests come in.")] = 80,
    haproxy: Haproxy = "haproxy",
    dns_listen: GatewayDnsListen = None,
    data: Data = None,
    install: Install = False,
    log_level: Level = "info",
    log_format: Format = "auto",
) -> None:
    """Make this machine a gateway, and run its agent and HAProxy.

    Without URL and TOKEN it goes on with the identity it has from an earlier join.
    """
    options = GatewayOptions(
        http_port=http_port,
        haproxy=haproxy,
        dns_listen=tuple(place for place in _dns_listen(dns_listen) if place != DNS_OFF),
        **_member(url, token, name, var, function, address, timeout),
        **_process(data, "gateway", install, log_level, log_format),
    )
    raise typer.Exit(session_of(ctx).launchers.gateway(options))


def up(
    ctx: typer.Context,
    data: Data = None,
    listen: Listen = "0.0.0.0:7443",
    session_listen: SessionListen = "0.0.0.0:7444",
    http_port: Annotated[
        int, typer.Option("--http-port", min=1, max=65535, help="Where HTTP requests come in.")
    ] = 8080,
    engine: Engine = None,
    haproxy: Haproxy = "haproxy",
    dns_listen: DnsListen = None,
    domain: Domain = DEFAULT_DOMAIN,
    log_level: Level = "info",
    log_format: Format = "auto",
) -> None:
    """Run everything here: a control plane, a node and a gateway.

    For more machines than this one, start with `fallow server`."""
    options = UpOptions(
        data=data or data_folder("up"),
        listen=_address(listen),
        session_listen=_address(session_listen),
        http_port=http_port,
        engine=engine,
        haproxy=haproxy,
        dns_listen=_dns_listen(dns_listen),
        domain=_domain(domain),
        log=LogOptions(level=log_level, format=log_format),
    )
    raise typer.Exit(session_of(ctx).launchers.up(options))


def data_folder(part: str) -> Path:
    """Return where state is kept when nothing else is said; `part` is the process it is for, empty: all of them."""
    if os.geteuid() == 0:
        return Path("/var/lib/fallow") / part
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".local/share") / "fallow" / part


def _member(
    url: str, token: str, name: str, var: list[str] | None, function: str, address: str, timeout: str
) -> dict[str, Any]:
    """Return what every member is asked to join with, as fields of MemberOptions."""
    return {
        "url": _url(url),
        "token": _join_token(url, token),
        "name": _name(name),
        "variables": _variables(var),
        "function": function,
        "address": _own_address(address),
        "timeout_seconds": seconds(timeout) if timeout else None,
    }


def _process(data: Path | None, part: str, install: bool, level: LogLevel, format_: LogFormat) -> dict[str, Any]:
    """Return how the process of a member runs, as fields of MemberOptions."""
    log = LogOptions(level=level, format=format_)
    return {"data": data or data_folder(part), "install": install, "log": log}


def _machines(
    libvirt: str, bridge: str, network: str, accelerator: Accelerator, folder: Path, engine: str | None
) -> MachineOptions:
    return MachineOptions(
        libvirt=libvirt,
        bridge=_interface(bridge),
        network=network,
        accelerator=accelerator,
        folder=folder.absolute(),
        engine=engine,
    )


def _kept(option: str, text: str) -> float:
    found = seconds(text)
    if found <= 0:
        raise usage(f"{option} must be longer than nothing")
    return found


def _address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 <= int(match[2]) <= 65535:
        raise usage(
            f"{text!r} is not an address to listen at", "Write HOST:PORT, for example 0.0.0.0:7443 or [::]:7443."
        )
    return text


def _dns_listen(texts: list[str] | None) -> tuple[str, ...]:
    if texts and DNS_OFF in texts and len(texts) > 1:
        raise usage("--dns-listen off goes with no other --dns-listen")
    for text in texts or ():
        match = _ADDRESS.fullmatch(text)
        if text != DNS_OFF and (match is None or not match[1] or not 1 <= int(match[2]) <= 65535):
            raise usage(
                f"{text!r} is not an address to serve names at",
                "Write HOST:PORT with the machine's own address, for example 0.0.0.0:53 or [::]:53, or off.",
            )
    return tuple(texts or ())


def _domain(text: str) -> str:
    try:
        return domain_name(text)
    except ValueError as error:
        raise usage(sentence(str(error))) from None


def _advertised(text: str) -> str:
    match = _ADDRESS.fullmatch(text if text.rpartition("]")[2].count(":") else f"{text}:1")
    if text and (match is None or not 1 <= int(match[2]) <= 65535):
        raise usage(f"{text!r} is not a host members can dial", "Write HOST or HOST:PORT.")
    return text


def _url(text: str) -> str:
    if text and not re.fullmatch(r"https://[^\s/@?#]+/?", text):
        raise usage(f"{text!r} is not the URL of a control plane", "Write https://HOST:7443.")
    return text.rstrip("/")


def _join_token(url: str, given: str) -> str:
    text = secret(given, os.environ.get(JOIN_TOKEN, "") if url else "", "")
    if not text:
        if given == "-":
            raise usage("There is no join token on standard input")
        return ""
    try:
        return parse_join_credential(text).text()
    except ValueError as error:
        raise usage(sentence(str(error)), "`fallow token create` makes one.") from error


def _name(text: str) -> str:
    if text and not is_name(text):
        raise usage(f"{text!r} cannot be a name", "Use at most 40 of a-z, 0-9 and -, beginning with a letter.")
    return text


def _interface(text: str) -> str:
    if text and not re.fullmatch(r"[^\s/]{1,15}", text):
        raise usage(f"{text!r} cannot be the name of a bridge", "Write it as `ip link` shows it, such as br0.")
    return text


def _group(text: str) -> str:
    if text and not re.fullmatch(r"(/(?!\.\.?(/|$))[\w.@:\\-]+)+", text):
        raise usage(f"{text!r} is not a control group", "Write it from the root, such as /fallow.slice/a.slice.")
    return text


def _own_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise usage(f"{text!r} is not an IP address", "Write it as 10.86.0.7 or fd00:86::7.") from None


def _primaries(texts: list[str] | None) -> tuple[Primary, ...]:
    try:
        return parse_primaries(",".join(texts)) if texts else ()
    except ValueError as error:
        raise usage(f"--primary: {error}", "Example: --primary systemd:postgresql.service,process:java") from None


def _watermarks(text: str) -> Watermarks | None:
    try:
        return parse_watermarks(text)
    except ValueError as error:
        raise usage(f"--clean-images: {error}") from None


def _variables(texts: list[str] | None) -> tuple[Variable, ...]:
    """Read `NAME=VALUE` and `NAME:TYPE=VALUE`. Raises Failure."""
    found = []
    for key, value in key_values(texts or [], "variable"):
        name, _, type_ = key.partition(":")
        try:
            found.append(typed_variable(name, value, type_))
        except ValueError as error:
            raise usage(
                f"{key}={value} cannot be a variable", f"{sentence(str(error))} Example: --var disk.size:bytes=2TiB"
            ) from None
    problem = variables_problem(found)
    if problem:
        raise usage("These variables cannot be told together", f"{sentence(problem)} Leave some out.")
    return tuple(found)
