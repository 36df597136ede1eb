"""The options of the commands that run until they are stopped, as `--help` tells them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fallow.cli.launchers import DNS_LISTEN, Accelerator, LogFormat
from fallow.model.control import Level as LogLevel

# of several commands

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Where to keep state.",
        show_default="/var/lib/fallow, or ~/.local/share/fallow when not root",
    ),
]
Listen = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where the API and the console are served.")]
SessionListen = Annotated[
    str, typer.Option("--session-listen", metavar="HOST:PORT", help="Where members open their sessions.")
]
Level = Annotated[LogLevel, typer.Option("--log-level", help="How much is logged.", rich_help_panel="Log")]
Format = Annotated[
    LogFormat, typer.Option("--log-format", help="auto: for people on a terminal, else JSON.", rich_help_panel="Log")
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="URL",
        help="The Docker or Podman API, such as unix:///run/podman/podman.sock.",
        show_default="found by itself",
    ),
]
CleanImages = Annotated[
    str,
    typer.Option(
        "--clean-images",
        metavar="HIGH:LOW",
        help="Above the first share of the images' disk unused ones are deleted, until the second; off: never.",
    ),
]
ImageRate = Annotated[
    str,
    typer.Option(
        "--image-rate",
        metavar="BYTES",
        help="How much of images this node gives to others each second, such as 20MiB.",
        show_default="as much as they take",
    ),
]
JoinRole = Annotated[
    Literal["node", "server"],
    typer.Option("--role", help="node: it runs containers. server: it lends what its primary application leaves idle."),
]
Primaries = Annotated[
    list[str] | None,
    typer.Option(
        "--primary",
        metavar="WHAT",
        help="The primary application: systemd:UNIT, cgroup:/PATH or process:NAME, several with commas.",
        show_default="all that is not lent",
        rich_help_panel="Of a server",
    ),
]
VmBridge = Annotated[
    str,
    typer.Option(
        "--vm-bridge",
        metavar="NAME",
        help="The bridge that virtual machines are attached to.",
        show_default="libvirt's network",
        rich_help_panel="Of a server",
    ),
]
VmNetwork = Annotated[
    str,
    typer.Option(
        "--vm-network",
        metavar="NAME",
        help="libvirt's network that virtual machines are attached to.",
        rich_help_panel="Of a server",
    ),
]
Libvirt = Annotated[
    str,
    typer.Option(
        "--libvirt", metavar="URI", help="The libvirt that runs virtual machines.", rich_help_panel="Of a server"
    ),
]
VmAccelerator = Annotated[
    Accelerator,
    typer.Option(
        "--vm-accelerator",
        help="kvm: on the processor itself, tcg: emulated, auto: kvm if a guest's clock is seen to run.",
        rich_help_panel="Of a server",
    ),
]
VmFolder = Annotated[
    Path,
    typer.Option(
        "--vm-folder",
        metavar="FOLDER",
        help="Where disks and images of virtual machines are; QEMU has to be able to enter it.",
        rich_help_panel="Of a server",
    ),
]
CgroupParent = Annotated[
    str,
    typer.Option(
        "--cgroup-parent",
        metavar="GROUP",
        help="The control group that containers are to be in, from the root.",
        show_default="as the engine has it",
    ),
]
Within = Annotated[
    str,
    typer.Option(
        "--within",
        metavar="GROUP",
        help="The control group that this server is, where others share the machine, such as /tenant.slice.",
        show_default="it is the whole machine",
        rich_help_panel="Of a server",
    ),
]
DrainOnStop = Annotated[
    bool,
    typer.Option(
        "--drain-on-stop",
        help="Let what is lent move away before the agent stops, as when the machine shuts down.",
        rich_help_panel="Of a server",
    ),
]
Haproxy = Annotated[str, typer.Option("--haproxy", metavar="PROGRAM", help="The HAProxy to run.")]
Url = Annotated[str, typer.Argument(metavar="URL", help="The control plane, https://HOST:7443.", show_default=False)]
Token = Annotated[
    str,
    typer.Argument(
        metavar="TOKEN",
        help="The join token; - reads it from standard input. Left out: FALLOW_JOIN_TOKEN, which `ps` does not show.",
        show_default=False,
    ),
]
MemberName = Annotated[
    str, typer.Option("--name", metavar="NAME", help="What to call it.", show_default="made from the host name")
]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--var",
        metavar="NAME[:TYPE]=VALUE",
        help="Something to tell about this machine, such as rack=r7 or disk.size=2TiB; may be repeated.",
    ),
]
Function = Annotated[str, typer.Option("--function", metavar="TEXT", help="What this machine is for, in words.")]
DnsListen = Annotated[
    list[str] | None,
    typer.Option(
        "--dns-listen",
        metavar="HOST:PORT",
        help="Where DNS names are served; may be repeated, off: nowhere.",
        show_default=f"{DNS_LISTEN}, unless that is taken",
    ),
]
GatewayDnsListen = Annotated[
    list[str] | None,
    typer.Option(
        "--dns-listen",
        metavar="HOST:PORT",
        help="Where DNS names are served; may be repeated.",
        show_default="nowhere",
    ),
]
Domain = Annotated[str, typer.Option("--domain", metavar="NAME", help="Below it members and services have DNS names.")]
Address = Annotated[
    str,
    typer.Option(
        "--address", metavar="ADDRESS", help="The address to get, from a pool.", show_default="any that is free"
    ),
]
Timeout = Annotated[
    str,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        help="How long to wait when somebody has to approve this machine.",
        show_default="until somebody decides",
    ),
]
Install = Annotated[bool, typer.Option("--install", help="Set up a system service that runs this, also after a boot.")]

# of a control plane

Store = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Where state is stored.", show_default="SQLite in the data folder"),
]
Region = Annotated[
    str, typer.Option("--region", metavar="NAME", help="The region this machine is in.", show_default="not said")
]
Zone = Annotated[str, typer.Option("--zone", metavar="NAME", help="Its zone there.", show_default="not said")]
ClusterKey = Annotated[
    Path | None,
    typer.Option(
        "--cluster-key",
        metavar="FILE",
        help="The key that all control planes of one store share.",
        show_default="cluster.key in the data folder, made by the first",
    ),
]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="NAME", help="A further name or address of this machine; may be repeated."),
]
Advertise = Annotated[
    str,
    typer.Option(
        "--advertise",
        metavar="HOST[:PORT]",
        help="Where members open their sessions.",
        show_default="the host they joined at",
    ),
]
HeartbeatEvery = Annotated[str, typer.Option("--heartbeat", metavar="DURATION", help="How often members report.")]
SuspectAfter = Annotated[
    str, typer.Option("--suspect-after", metavar="DURATION", help="Silence after which nothing is routed there.")
]
DeadAfter = Annotated[
    str, typer.Option("--dead-after", metavar="DURATION", help="Silence after which its replicas are replaced.")
]
ClusterSuspectAfter = Annotated[
    str,
    typer.Option(
        "--cluster-suspect-after", metavar="DURATION", help="Silence after which a member cluster gets nothing new."
    ),
]
ClusterDeadAfter = Annotated[
    str,
    typer.Option(
        "--cluster-dead-after", metavar="DURATION", help="Silence after which what a member cluster ran is replaced."
    ),
]
KeepAudit = Annotated[
    str, typer.Option("--keep-audit", metavar="DURATION", help="For how long the audit record is kept.")
]
KeepImages = Annotated[
    str, typer.Option("--keep-image-record", metavar="DURATION", help="For how long ended image jobs are kept.")
]
PurgeAfter = Annotated[
    str,
    typer.Option(
        "--purge-after", metavar="DURATION", help="Members dead for so long are removed, with a warning; 0s: never."
    ),
]
WriteContext = Annotated[
    bool, typer.Option("--write-context/--no-write-context", help="Let this user's commands come here.")
]
