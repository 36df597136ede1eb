"""A control plane, a node and a gateway together on one machine."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fallow.cli.launchers import GatewayOptions, JoinOptions, ServerOptions, UpOptions
from fallow.wiring.addresses import bracketed, reachable, split_address
from fallow.wiring.control_plane import serve
from fallow.wiring.logs import say
from fallow.wiring.members import gateway, haproxy_of, node

if TYPE_CHECKING:
    from fallow.control.plane import ControlPlane

READY_SECONDS = 60.0


async def everything(options: UpOptions, stop: asyncio.Event) -> int:
    """Run a control plane with this machine as its node and gateway until `stop`."""
    from fallow.drivers.engine.detect import find_engine

    # What is missing should be said at once, not after a control plane was set up.
    engine = await find_engine(options.engine)
    await engine.close()
    host, port = split_address(options.listen)
    server = ServerOptions(
        data=options.data / "server",
        listen=options.listen,
        session_listen=options.session_listen,
        dns_listen=options.dns_listen,
        domain=options.domain,
        public_url=f"https://{bracketed(reachable(host))}:{port}",
        log=options.log,
    )
    join = JoinOptions(data=options.data / "node", engine=engine.url, log=options.log)
    serve_http = GatewayOptions(
        data=options.data / "gateway",
        name="gateway",
        http_port=options.http_port,
        haproxy=options.haproxy,
        log=options.log,
    )
    await haproxy_of(serve_http).version()

    async def members(plane: "ControlPlane", url: str) -> int:
        node_token = await _token(plane, join.data, "node")
        gateway_token = await _token(plane, serve_http.data, "gateway")
        parts = (
            node(replace(join, url=url, token=node_token), stop),
            gateway(replace(serve_http, url=url, token=gateway_token), stop),
        )
        telling = asyncio.create_task(_tell_when_ready(plane, options.http_port))
        outcomes = await asyncio.gather(*(_or_stop(part, stop) for part in parts), return_exceptions=True)
        telling.cancel()
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return max(code for code in outcomes if isinstance(code, int))

    return await serve(server, stop, members)


async def _token(plane: "ControlPlane", folder: Path, role: str) -> str:
    """Return a new join token, or nothing when the folder holds an identity already."""
    from fallow.model.tokens import TokenRequest

    if (folder / "identity.json").exists():
        return ""
    return (await plane.tokens.create(TokenRequest(role=role), "fallow up")).secret or ""


async def _tell_when_ready(plane: "ControlPlane", http_port: int) -> None:
    """Say what can be done now, once node and gateway are ready."""
    from fallow.model.members import MemberState

    changes = plane.cache.subscribe()
    try:
        async with asyncio.timeout(READY_SECONDS):
            while sum(found.state is MemberState.READY for found in plane.cache.snapshot().members.values()) < 2:
                await anext(changes)
    except TimeoutError:
        say(f"Node and gateway are not ready after {READY_SECONDS:.0f} s; `fallow node list` and the log may say why.")
        return
    finally:
        changes.close()
    say(
        f"Ready. This machine runs containers and serves them at http://localhost:{http_port} (names under .localhost "
        "lead here).\nIn another terminal: fallow deploy compose.yaml\n"
        "Ctrl-C ends this; containers go on, and the next `fallow up` takes them over."
    )


async def _or_stop(part: Coroutine[Any, Any, int], stop: asyncio.Event) -> int:
    """Run a part; when it ends, for whatever reason, everything does."""
    try:
        return await part
    finally:
        stop.set()
