"""Nodes and gateways: identity, driver, agent."""

import asyncio
import os
import sys
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
    from fallow.drivers.proxy.haproxy import HAProxy


async def node(options: JoinOptions, stop: asyncio.Event) -> int:
    """Join as a node and run its agent until `stop`; its containers outlive it."""
    from fallow.agent.node import NodeAgent
    from fallow.drivers.engine.detect import find_engine
    from fallow.drivers.engine.docker_api import DockerApiEngine

    found = await find_engine(options.engine)  # without an engine no token should be used up
    await found.close()
    identity = await join(options, Role.NODE)
    if options.install:
        return _install(options, ["join", *(["--engine", options.engine] if options.engine else [])])
    engine = DockerApiEngine(found.url, identity.identity.member_id)
    try:
        await NodeAgent(engine, options.data, identity, variables=options.variables).run(stop)
    finally:
        await engine.close()
    return 0


async def gateway(options: GatewayOptions, stop: asyncio.Event) -> int:
    """Join as a gateway and drive HAProxy until `stop`."""
    from fallow.agent.gateway import GatewayAgent
    from fallow.agent.names import NameService

    proxy = haproxy_of(options)
    await proxy.version()  # without HAProxy no token should be used up
    identity = await join(options, Role.GATEWAY)
    if options.install:
        places = [word for place in options.dns_listen for word in ("--dns-listen", place)]
        words = ["gateway", "--http-port", str(options.http_port), "--haproxy", options.haproxy, *places]
        return _install(options, words)
    names = NameService(options.data, [split_address(place) for place in options.dns_listen])
    try:
        await names.start()
        port = Variable(name=HTTP_PORT_VARIABLE, value=str(options.http_port), type="number")
        served = names if options.dns_listen else None
        variables = (*options.variables, port)
        await GatewayAgent(proxy, options.data, identity, variables=variables, names=served).run(stop)
    finally:
        await names.stop()
        # As a service, a restart must not interrupt requests: the next agent adopts the proxy left running. A gateway
        # that was removed has no next agent.
        await (proxy.release() if "INVOCATION_ID" in os.environ and identity.exists else proxy.stop())
    return 0


def haproxy_of(options: GatewayOptions) -> "HAProxy":
    """Return the HAProxy of a gateway, not yet started."""
    from fallow.drivers.proxy.haproxy import HAProxy

    return HAProxy(options.data / "haproxy", http_port=options.http_port, program=options.haproxy)


async def join(options: MemberOptions, role: Role) -> "IdentityStore":
    """Return the identity kept in the data folder; with a token, join for one first."""
    from fallow.agent import joining
    from fallow.agent.identity import IdentityStore
    from fallow.agent.vitals import Vitals

    store = IdentityStore(options.data)
    if options.token:
        application = joining.Application(
            role=role,
            name=options.name,
            function=options.function,
            facts=Vitals(folder=options.data).facts(""),
            variables=options.variables,
        )
        say((await joining.join(options.url, options.token, application, options.data)).message)
    elif not store.exists:
        raise Failure(
            f"This machine has not joined as a {role} yet",
            detail=f"{options.data} holds no identity",
            hint=f"`fallow token create --role {role}` where the control plane is, then paste the line it prints.",
            code=Exit.USAGE,
        )
    return IdentityStore(options.data)


def _install(options: MemberOptions, words: list[str]) -> int:
    from fallow.agent.install import install

    program = str(Path(sys.argv[0]).resolve())
    path = install([program, *words, "--data", str(options.data.resolve())], f"Fallow {words[0]}")
    say(f"{path} runs from now on, also after a boot; `journalctl -u {path.stem} -f` shows its log.")
    return 0
