"""`fallow up`, `server`, `join` and `gateway`: the commands that run until they are stopped."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fallow.cli import process_values
from fallow.cli.failures import usage
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
from fallow.cli.options import seconds
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
    ImageRate,
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
    Region,
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
    Zone,
)
from fallow.cli.session import session_of
from fallow.model.control import Level as LogLevel
from fallow.model.names import DEFAULT_DOMAIN

VM_FOLDER = MachineOptions().folder


def server(
    ctx: typer.Context,
    data: Data = None,
    listen: Listen = "0.0.0.0:7443",
    session_listen: SessionListen = "0.0.0.0:7444",
    store: Store = None,
    cluster_key: ClusterKey = None,
    name: Hosts = None,
    advertise: Advertise = "",
    region: Region = "",
    zone: Zone = "",
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
        listen=process_values.listening(listen),
        session_listen=process_values.listening(session_listen),
        store=store,
        cluster_key=cluster_key,
        names=tuple(name or ()),
        advertise=process_values.advertised(advertise),
        region=process_values.place("--region", region),
        zone=process_values.place("--zone", zone),
        heartbeat_seconds=silences[0],
        suspect_seconds=silences[1],
        dead_seconds=silences[2],
        cluster_suspect_seconds=of_clusters[0],
        cluster_dead_seconds=of_clusters[1],
        keep_audit_seconds=process_values.kept("--keep-audit", keep_audit),
        keep_image_tasks_seconds=process_values.kept("--keep-image-record", keep_images),
        dns_listen=process_values.serving_names(dns_listen),
        domain=process_values.domain(domain),
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
    image_rate: ImageRate = "",
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
        primaries, group = process_values.primaries(primary), process_values.group(within)
        lending = LendOptions(
            primaries=primaries, machines=machines, within=group, drain_on_stop=drain_on_stop, **member, **process
        )
        raise typer.Exit(session_of(ctx).launchers.lend(lending))
    marks, group = process_values.watermarks(clean_images), process_values.group(cgroup_parent)
    rate = process_values.image_rate(image_rate)
    options = JoinOptions(engine=engine, watermarks=marks, image_rate=rate, cgroup=group, **member, **process)
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
        dns_listen=tuple(place for place in process_values.serving_names(dns_listen) if place != DNS_OFF),
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
        listen=process_values.listening(listen),
        session_listen=process_values.listening(session_listen),
        http_port=http_port,
        engine=engine,
        haproxy=haproxy,
        dns_listen=process_values.serving_names(dns_listen),
        domain=process_values.domain(domain),
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
        "url": process_values.url(url),
        "token": process_values.join_token(url, token),
        "name": process_values.name(name),
        "variables": process_values.variables(var),
        "function": function,
        "address": process_values.own_address(address),
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
        bridge=process_values.interface(bridge),
        network=network,
        accelerator=accelerator,
        folder=folder.absolute(),
        engine=engine,
    )
