"""A control plane: store, CA, loops, sessions and API."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fallow.cli.failures import Exit
from fallow.cli.launchers import ServerOptions
from fallow.wiring.addresses import EVERY_ADDRESS, bracketed, listener, primary_address, split_address
from fallow.wiring.logs import say
from fallow.wiring.memory import keep_for_long
from fallow.wiring.names import serve_names

if TYPE_CHECKING:
    import uvicorn

    from fallow.control.plane import ControlPlane
    from fallow.control.settings import Settings

Beside = Callable[["ControlPlane", str], Coroutine[Any, Any, int]]


async def serve(options: ServerOptions, stop: asyncio.Event, beside: Beside | None = None) -> int:
    """Run a control plane until `stop`; `beside` is run with it, told its address, and gives the exit code.

    When the control loops or the API end by themselves all of it ends, with the exit code of a failure: whoever
    supervises this process should start it anew rather than let it go on half dead.
    """
    with listener(*split_address(options.listen)) as door:
        async with control_plane(options) as (plane, api):
            serving = asyncio.create_task(api.serve(sockets=[door]), name="api")
            work = beside(plane, plane.settings.public_url) if beside is not None else _wait(stop)
            working = asyncio.create_task(work, name="beside")
            loops = asyncio.create_task(plane.ended(), name="loops")
            await asyncio.wait({serving, working, loops}, return_when=asyncio.FIRST_COMPLETED)
            broken = [part for part, task in (("control loops", loops), ("API", serving)) if task.done()]
            stop.set()
            api.should_exit = True
            loops.cancel()
            outcomes = await asyncio.gather(serving, working, return_exceptions=True)
    return _exit_code(broken, outcomes)


def _exit_code(broken: Sequence[str], outcomes: Sequence[object]) -> int:
    """Return what the process ends with, once all of it has ended. Raises what a part has raised."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    if broken:
        say(f"The {' and the '.join(broken)} ended unexpectedly; the log says why.")
        return Exit.FAILED
    return next(code for code in outcomes if isinstance(code, int))


@contextlib.asynccontextmanager
async def control_plane(options: ServerOptions) -> "AsyncIterator[tuple[ControlPlane, uvicorn.Server]]":
    """Give a started control plane and its API, ready to serve; stop it in the end."""
    from fallow.control.plane import ControlPlane, session_context
    from fallow.drivers.authority import write_pair
    from fallow.drivers.folders import make_private
    from fallow.store.open import open_store
    from fallow.wiring.api_server import api_server
    from fallow.wiring.authority import shared_authority

    make_private(options.data, ("ca", "fallow.db"))
    settings = _settings(options)
    store = await open_store(options.store or f"sqlite:{options.data / 'fallow.db'}")
    try:
        key_file = options.cluster_key or options.data / "cluster.key"
        authority = await shared_authority(store, options.data / "ca", key_file, time.time())
    except BaseException:
        await store.close()
        raise
    plane = ControlPlane(store, authority, settings, time.time, options.data)
    be_member(plane, options.data)
    try:
        await plane.start()
        keep_for_long()
        await serve_names(plane.names.server, options.dns_listen)
        pair = write_pair(options.data / "server.pem", *authority.issue_server(_names(options), time.time()))
        session_host, session_port = split_address(options.session_listen)
        await plane.listen(session_host, session_port, session_context(pair, authority.ca_pem))
        context = session_context(pair, authority.ca_pem)
        await plane.archives.start(session_host, session_port + 1, context, settings.session_host)
        await _first_context(plane, authority.ca_pem, options.write_context)
        yield plane, api_server(plane, authority.ca_pem, pair)
    finally:
        await plane.stop()


def be_member(plane: "ControlPlane", folder: Path) -> None:
    """Let a control plane be the member of a host, once it has joined one."""
    from fallow.agent.cluster import ClusterAgent
    from fallow.agent.cluster_member import Home
    from fallow.control.ids import new_id
    from fallow.control.remote_services import RemoteServices
    from fallow.control.replica_logs import OrderedLogs
    from fallow.control.rosters import guarded
    from fallow.decide.federation.failures import errors_for_host

    home = Home(
        cache=plane.cache,
        secrets=plane.vault,
        folder=folder,
        new_id=new_id,
        guard=lambda step, now: guarded(plane.cache, step, "deployments", now),
        heard=plane.hub.usages,
        servers=plane.hub.servers,
        most_records=min(2000, plane.store.max_operations - 1),  # one check is the fence
        remotes=lambda applier, send: RemoteServices(plane.cache, applier, plane.hub, plane.clock, send),
        logs=OrderedLogs(plane.cache, plane.hub).lines,
        errors=lambda: errors_for_host(plane.cache.snapshot(), plane.hub.proxy_reports()),
        clock=plane.clock,
        steady=plane.steady,
    )
    plane.member = ClusterAgent(home).run


def _settings(options: ServerOptions) -> "Settings":
    from fallow.control.settings import Settings

    host, port = split_address(options.listen)
    _, session_port = split_address(options.session_listen)
    advertised_host, advertised_port = split_address(options.advertise, session_port)
    called = primary_address() if host in EVERY_ADDRESS else host
    return Settings(
        session_host=advertised_host,
        session_port=advertised_port,
        public_url=options.public_url or f"https://{bracketed(called)}:{port}",
        heartbeat_seconds=options.heartbeat_seconds,
        suspect_after_seconds=options.suspect_seconds,
        dead_after_seconds=options.dead_seconds,
        cluster_suspect_seconds=options.cluster_suspect_seconds,
        cluster_dead_seconds=options.cluster_dead_seconds,
        keep_audit_seconds=options.keep_audit_seconds,
        keep_image_tasks_seconds=options.keep_image_tasks_seconds,
        domain=options.domain,
        purge_after_seconds=options.purge_seconds,
        cluster_key=options.cluster_key,
        region=options.region,
        zone=options.zone,
    )


def _names(options: ServerOptions) -> list[str]:
    """Return what the server's certificate is for, beside the name that every member asks for."""
    host, _ = split_address(options.listen)
    advertised, _ = split_address(options.advertise)
    called = {primary_address()} if host in EVERY_ADDRESS else {host}
    return sorted({*options.names, *called, *filter(None, [advertised])})


async def _first_context(plane: "ControlPlane", ca_pem: str, write_context: bool) -> None:
    """Give this user an admin token and a context, unless there is one for this control plane already.

    Also when admin tokens exist: whoever may read our data folder may do everything anyway, and a token whose context
    was never written, because we were killed in between, would otherwise leave nobody in charge.
    """
    from fallow.client.contexts import Context, load_contexts, save_context
    from fallow.model.tokens import ApiRole, TokenRequest

    if not write_context:
        token = await plane.tokens.ensure_admin("admin")
        if token is not None:
            say(f"The first admin token, shown once: {token}")
        return
    known = load_contexts().contexts
    if any(context.ca_pem == ca_pem and context.token for context in known):
        return
    token = (await plane.tokens.create(TokenRequest(role=ApiRole.ADMIN, name="admin"), "server")).secret or ""
    taken = {context.name for context in known}
    names = itertools.chain(["default"], (f"default-{number}" for number in itertools.count(2)))
    name = next(name for name in names if name not in taken)
    path = save_context(Context(name=name, url=plane.settings.public_url, token=token, ca_pem=ca_pem))
    say(f"An admin token is in {path} as the context {name!r}: `fallow node list` works from here.")


async def _wait(stop: asyncio.Event) -> int:
    await stop.wait()
    return 0
