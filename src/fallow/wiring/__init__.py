"""The one place that chooses back-ends and wires them: what `fallow server`, `join`, `gateway` and `up` really start.

Each imports what it needs when it starts: a node needs nothing of a control plane.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from fallow.cli.failures import Failure, sentence
from fallow.cli.launchers import GatewayOptions, JoinOptions, LendOptions, ServerOptions, UpOptions
from fallow.wiring.control_plane import serve
from fallow.wiring.everything import everything
from fallow.wiring.logs import configure_logs, say
from fallow.wiring.members import gateway, node, supervised
from fallow.wiring.servers import lend


def run_server(options: ServerOptions) -> int:
    """Run a control plane until told to stop."""
    configure_logs(options.log)
    if options.install:
        return asyncio.run(_until_stopped(lambda _: _install(options)))
    return asyncio.run(_until_stopped(lambda stop: serve(options, stop)))


def run_join(options: JoinOptions) -> int:
    """Join as a node, or go on as the node this machine is already, and run its agent until told to stop."""
    configure_logs(options.log)
    return supervised(options, lambda: asyncio.run(_until_stopped(lambda stop: node(options, stop, upgrades=True))))


def run_lend(options: LendOptions) -> int:
    """Join as a server, or go on as the one this folder is already, and lend until told to stop."""
    configure_logs(options.log)
    return supervised(options, lambda: asyncio.run(_until_stopped(lambda stop: lend(options, stop, upgrades=True))))


def run_gateway(options: GatewayOptions) -> int:
    """Join as a gateway, or go on as the one this folder is already, and drive HAProxy until told to stop."""
    configure_logs(options.log)
    return supervised(options, lambda: asyncio.run(_until_stopped(lambda stop: gateway(options, stop, upgrades=True))))


def run_up(options: UpOptions) -> int:
    """Run a control plane with this machine as its node and gateway until told to stop."""
    configure_logs(options.log)
    return asyncio.run(_until_stopped(lambda stop: everything(options, stop)))


async def _install(options: ServerOptions) -> int:
    from fallow.wiring.service import install_server

    return install_server(options)


async def _until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run `work`, telling it to stop on SIGTERM and Ctrl-C. What may go wrong without a fault of ours is a Failure."""
    from fallow.agent.folder import FolderError
    from fallow.agent.identity import IdentityError
    from fallow.agent.joining import NotApprovedError
    from fallow.agent.session import SessionRefused
    from fallow.drivers.authority import AuthorityError
    from fallow.drivers.dns.failures import NameServerError
    from fallow.drivers.engine.contract import EngineError
    from fallow.drivers.limits.contract import LimitsError
    from fallow.drivers.proxy.contract import ProxyError
    from fallow.drivers.systemd import InstallError
    from fallow.store.contract import StoreError

    ours = (
        FolderError,
        IdentityError,
        NotApprovedError,
        InstallError,
        AuthorityError,
        EngineError,
        LimitsError,
        NameServerError,
        ProxyError,
        StoreError,
    )
    expected = (*ours, OSError, ValueError)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        return await work(stop)
    except SessionRefused as refused:
        say(f"The control plane refuses this member: {refused}")
        return SessionRefused.exit_code
    except expected as error:
        raise Failure(sentence(str(error))) from error
