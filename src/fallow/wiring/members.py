"""Nodes and gateways: identity, driver, agent."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fallow.cli.failures import Exit, Failure
from fallow.cli.launchers import GatewayOptions, JoinOptions, MemberOptions
from fallow.model.labels import Variable
from fallow.model.members import HTTP_PORT_VARIABLE, Role
from fallow.wiring.addresses import split_address
from fallow.wiring.logs import say

if TYPE_CHECKING:
    from fallow.agent.identity import IdentityStore
    from fallow.agent.network import Networking
    from fallow.agent.versions import Upgrader
    from fallow.drivers.proxy.haproxy import HAProxy


async def node(options: JoinOptions, stop: asyncio.Event, upgrades: bool = False) -> int:
    """Join as a node and run its agent until `stop`; its containers outlive it.

    `upgrades`: the agent may be swapped for another version, by whoever gets the exit code SWAPPED.
    """
    from fallow.agent.blobs import Blobs, Settings
    from fallow.agent.blobs.registries import RegistryOrigins
    from fallow.agent.node import NodeAgent
    from fallow.drivers.engine.detect import find_engine
    from fallow.drivers.engine.docker_api import DockerApiEngine
    from fallow.drivers.registry.http import HttpRegistry

    found = await find_engine(options.engine)  # without an engine no token should be used up
    product = await found.product()
    await found.close()
    identity = await join(options, Role.NODE, product)
    if options.install:
        marks = options.watermarks.text if options.watermarks is not None else "off"
        engine_words = ["--engine", options.engine] if options.engine else []
        group_words = ["--cgroup-parent", options.cgroup] if options.cgroup else []
        rate_words = ["--image-rate", str(options.image_rate)] if options.image_rate else []
        return _install(options, ["join", "--clean-images", marks, *rate_words, *engine_words, *group_words])
    engine, registry = DockerApiEngine(found.url, identity.identity.member_id, cgroup=options.cgroup), HttpRegistry()
    try:
        upgrader = upgrader_of(options, stop) if upgrades else None
        network = networking(identity)
        agent = NodeAgent(engine, options.data, identity, variables=options.variables, network=network)
        agent.upgraded_by(upgrader)
        agent.cleans_at(options.watermarks)
        giving = Settings(bytes_per_second=options.image_rate)
        agent.keeps(Blobs(options.data / "blobs", identity, RegistryOrigins(registry), giving))
        await agent.run(stop)
    finally:
        await engine.close()
        await registry.close()
    return ended(upgrader)


async def gateway(options: GatewayOptions, stop: asyncio.Event, upgrades: bool = False) -> int:
    """Join as a gateway and drive HAProxy until `stop`; `upgrades` as for a node."""
    from fallow.agent.gateway import GatewayAgent
    from fallow.agent.names import NameService

    proxy = haproxy_of(options)
    version = await proxy.version()  # without HAProxy no token should be used up
    identity = await join(options, Role.GATEWAY, version)
    if options.install:
        places = [word for place in options.dns_listen for word in ("--dns-listen", place)]
        words = ["gateway", "--http-port", str(options.http_port), "--haproxy", options.haproxy, *places]
        return _install(options, words)
    upgrader = upgrader_of(options, stop) if upgrades else None
    names = NameService(options.data, [split_address(place) for place in options.dns_listen])
    try:
        await names.start()
        port = Variable(name=HTTP_PORT_VARIABLE, value=str(options.http_port), type="number")
        variables, network = (*options.variables, port), networking(identity)
        agent = GatewayAgent(proxy, options.data, identity, variables=variables, network=network)
        if options.dns_listen:
            agent.serves(names)
        agent.upgraded_by(upgrader)
        await agent.run(stop)
    finally:
        await names.stop()
        # As a service, a restart must not interrupt requests: the next agent adopts the proxy left running. A gateway
        # that was removed has no next agent.
        goes_on = upgrader is not None and upgrader.swapped
        service = "INVOCATION_ID" in os.environ and identity.exists
        await (proxy.release() if goes_on or service else proxy.stop())
    return ended(upgrader)


def upgrader_of(options: MemberOptions, stop: asyncio.Event) -> "Upgrader":
    """Return what swaps an agent for another version, by setting `stop`."""
    from fallow.agent.versions import Upgrader, Versions

    loop = asyncio.get_running_loop()

    def swap() -> None:
        loop.call_soon_threadsafe(stop.set)

    return Upgrader(Versions(options.data), swap)


def ended(upgrader: "Upgrader | None") -> int:
    """Return the exit code of an agent that ended in good order."""
    from fallow.agent.launcher import SWAPPED

    return SWAPPED if upgrader is not None and upgrader.swapped else 0


def supervised(options: MemberOptions, run: Callable[[], int]) -> int:
    """Run an agent, or be the launcher of another version of it; start it anew whenever it is swapped."""
    from fallow.agent.launcher import SWAPPED, Launcher, is_child, wanted
    from fallow.agent.versions import Versions

    versions = Versions(options.data)
    if options.install or is_child():
        return run()
    code = SWAPPED if wanted(versions) else run()
    return Launcher(versions, sys.argv[1:]).run() if code == SWAPPED else code


def haproxy_of(options: GatewayOptions) -> "HAProxy":
    """Return the HAProxy of a gateway, not yet started."""
    from fallow.drivers.proxy.haproxy import HAProxy

    return HAProxy(options.data / "haproxy", http_port=options.http_port, program=options.haproxy)


async def join(options: MemberOptions, role: Role, engine: str = "") -> "IdentityStore":
    """Return the identity kept in the data folder; with a token, join for one first.

    `engine` is what the member runs its work with, such as `podman 4.3.1`, for whoever decides about it.
    """
    from fallow.agent import joining
    from fallow.agent.identity import IdentityStore
    from fallow.agent.vitals import Vitals

    store = IdentityStore(options.data)
    if options.token:
        application = joining.Application(
            role=role,
            name=options.name,
            function=options.function,
            facts=Vitals(folder=options.data).facts(engine),
            variables=options.variables,
            address=options.address,
        )
        patience = joining.Patience(seconds=options.timeout_seconds, tell=say)
        say((await joining.join(options.url, options.token, application, options.data, patience)).message)
    elif not store.exists:
        raise Failure(
            f"This machine has not joined as a {role} yet",
            detail=f"{options.data} holds no identity",
            hint=f"`fallow token create --role {role}` where the control plane is, then paste the line it prints.",
            code=Exit.USAGE,
        )
    return IdentityStore(options.data)


def networking(identity: "IdentityStore") -> "Networking":
    """Return what gives a member its lease's address, with its key of the overlay."""
    from fallow.agent.network import Networking, interface_of, key_of
    from fallow.drivers.network.wireguard import WireGuard

    member_id = identity.identity.member_id
    path, key = key_of(identity.folder, member_id)
    return Networking(WireGuard(interface_of(member_id), path, key), key, identity.folder, identity.identity.lease)


def _install(options: MemberOptions, words: list[str]) -> int:
    from fallow.agent.install import install

    program = str(Path(sys.argv[0]).resolve())
    path = install([program, *words, "--data", str(options.data.resolve())], f"Fallow {words[0]}")
    say(f"{path} runs from now on, also after a boot; `journalctl -u {path.stem} -f` shows its log.")
    return 0
