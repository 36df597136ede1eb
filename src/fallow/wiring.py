"""The one place that chooses back-ends and wires them: what `fallow server`, `join`, `gateway` and `up` really start.

Each imports what it needs when it starts: a node needs nothing of a control plane.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fallow.cli.failures import Exit, Failure, sentence
from fallow.cli.launchers import (
    GatewayOptions,
    JoinOptions,
    LogOptions,
    MemberOptions,
    ServerOptions,
    UpOptions,
)
from fallow.model.labels import Variable
from fallow.model.members import Role

if TYPE_CHECKING:
    import uvicorn

    from fallow.agent.identity import IdentityStore
    from fallow.control.plane import ControlPlane
    from fallow.control.settings import Settings

STOP_SECONDS = 5

Beside = Callable[["ControlPlane", str], Coroutine[Any, Any, int]]


def run_server(options: ServerOptions) -> int:
    """Run a control plane until told to stop."""
    configure_logs(options.log)
    return asyncio.run(_until_stopped(lambda stop: serve(options, stop)))


def run_join(options: JoinOptions) -> int:
    """Join as a node, or go on as the node this machine is already, and run its agent until told to stop."""
    configure_logs(options.log)
    return asyncio.run(_until_stopped(lambda stop: node(options, stop)))


def run_gateway(options: GatewayOptions) -> int:
    """Join as a gateway, or go on as the one this folder is already, and drive HAProxy until told to stop."""
    configure_logs(options.log)
    return asyncio.run(_until_stopped(lambda stop: gateway(options, stop)))


def run_up(options: UpOptions) -> int:
    """Run a control plane with this machine as its node and gateway until told to stop."""
    configure_logs(options.log)
    return asyncio.run(_until_stopped(lambda stop: everything(options, stop)))


async def _until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run `work`, telling it to stop on SIGTERM and Ctrl-C. What may go wrong without a fault of ours is a Failure."""
    from fallow.agent.folder import FolderError
    from fallow.agent.identity import IdentityError
    from fallow.agent.install import InstallError
    from fallow.agent.session import SessionRefused
    from fallow.drivers.authority import AuthorityError
    from fallow.drivers.engine.contract import EngineError
    from fallow.drivers.proxy.contract import ProxyError
    from fallow.store.contract import StoreError

    ours = (FolderError, IdentityError, InstallError, AuthorityError, EngineError, ProxyError, StoreError)
    expected = (*ours, OSError, ValueError)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        return await work(stop)
    except SessionRefused as refused:
        _say(f"The control plane refuses this member: {refused}")
        return SessionRefused.exit_code
    except expected as error:
        raise Failure(sentence(str(error))) from error


async def serve(options: ServerOptions, stop: asyncio.Event, beside: Beside | None = None) -> int:
    """Run a control plane until `stop`; `beside` is run with it, told its address, and gives the exit code."""
    async with control_plane(options) as (plane, api, url):
        serving = asyncio.create_task(api.serve(), name="api")
        work = asyncio.create_task(beside(plane, url) if beside is not None else _wait(stop), name="beside")
        await asyncio.wait({serving, work}, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        api.should_exit = True
        await serving
        return await work


@contextlib.asynccontextmanager
async def control_plane(options: ServerOptions) -> "AsyncIterator[tuple[ControlPlane, uvicorn.Server, str]]":
    """Give a started control plane, its API ready to serve, and its address; stop it in the end."""
    from fallow.control.plane import ControlPlane, session_context
    from fallow.drivers.authority import Authority
    from fallow.store.open import open_store

    options.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = _settings(options)
    authority = Authority.create_or_load(options.data / "ca")
    store = await open_store(options.store or f"sqlite:{options.data / 'fallow.db'}")
    plane = ControlPlane(store, authority, settings, time.time)
    try:
        await plane.start()
        host, port = split_address(options.listen)
        names = sorted({*options.names, reachable(host), *filter(None, [settings.session_host])})
        pair = _write_pair(options.data / "server.pem", *authority.issue_server(names, time.time()))
        session_host, session_port = split_address(options.session_listen)
        await plane.listen(session_host, session_port, session_context(pair, authority.ca_pem))
        await _first_context(plane, authority.ca_pem, options)
        yield plane, _api_server(plane, authority.ca_pem, pair, (host, port)), settings.public_url
    finally:
        await plane.stop()


def _settings(options: ServerOptions) -> "Settings":
    from fallow.control.settings import Settings

    host, port = split_address(options.listen)
    _, session_port = split_address(options.session_listen)
    advertised_host, advertised_port = split_address(options.advertise, session_port)
    return Settings(
        session_host=advertised_host,
        session_port=advertised_port,
        public_url=f"https://{_bracketed(reachable(host))}:{port}",
        heartbeat_seconds=options.heartbeat_seconds,
        suspect_after_seconds=options.suspect_seconds,
        dead_after_seconds=options.dead_seconds,
    )


def _api_server(plane: "ControlPlane", ca_pem: str, pair: Path, address: tuple[str, int]) -> "uvicorn.Server":
    import uvicorn

    from fallow.api.app import build_app
    from fallow.api.services import Services
    from fallow.control.ids import new_id

    services = Services(
        store=plane.store,
        cache=plane.cache,
        applier=plane.applier,
        admission=plane.admission,
        tokens=plane.tokens,
        hub=plane.hub,
        settings=plane.settings,
        ca_pem=ca_pem,
        clock=plane.clock,
        new_id=new_id,
        registry=plane.registry,
        ready=plane.not_ready,
    )

    class Server(uvicorn.Server):
        """Leaves signals to us: more than the API has to stop."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(
        uvicorn.Config(
            build_app(services),
            host=address[0],
            port=address[1],
            ssl_certfile=str(pair),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # or a caller could choose the address its lease is made of
            timeout_graceful_shutdown=STOP_SECONDS,
            lifespan="on",
        )
    )


async def _first_context(plane: "ControlPlane", ca_pem: str, options: ServerOptions) -> None:
    """Create the first admin token and keep it where the command line finds it, once in a cluster's life."""
    from fallow.client.contexts import Context, save_context

    token = await plane.tokens.ensure_admin("admin")
    if token is None:
        return
    if options.write_context:
        path = save_context(Context(name="default", url=plane.settings.public_url, token=token, ca_pem=ca_pem))
        _say(f"The first admin token is in {path}; `fallow node list` works from here.")
    else:
        _say(f"The first admin token, shown once: {token}")


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
        await NodeAgent(engine, options.data, identity, variables=_variables(options)).run(stop)
    finally:
        await engine.close()
    return 0


async def gateway(options: GatewayOptions, stop: asyncio.Event) -> int:
    """Join as a gateway and drive HAProxy until `stop`."""
    from fallow.agent.gateway import GatewayAgent
    from fallow.drivers.proxy.haproxy import HAProxy

    proxy = HAProxy(options.data / "haproxy", http_port=options.http_port, program=options.haproxy)
    await proxy.version()  # without HAProxy no token should be used up
    identity = await join(options, Role.GATEWAY)
    if options.install:
        return _install(options, ["gateway", "--http-port", str(options.http_port), "--haproxy", options.haproxy])
    try:
        await GatewayAgent(proxy, options.data, identity, variables=_variables(options)).run(stop)
    finally:
        # As a service, a restart must not interrupt requests: the next agent adopts the proxy left running.
        if "INVOCATION_ID" not in os.environ:
            await proxy.stop()
    return 0


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
            variables=_variables(options),
        )
        _say((await joining.join(options.url, options.token, application, options.data)).message)
    elif not store.exists:
        raise Failure(
            f"This machine has not joined as a {role} yet",
            detail=f"{options.data} holds no identity",
            hint=f"`fallow token create --role {role}` where the control plane is, then paste the line it prints.",
            code=Exit.USAGE,
        )
    return IdentityStore(options.data)


def _variables(options: MemberOptions) -> tuple[Variable, ...]:
    return tuple(Variable(name=name, value=value) for name, value in options.variables)


def _install(options: MemberOptions, words: list[str]) -> int:
    from fallow.agent.install import install

    program = str(Path(sys.argv[0]).resolve())
    path = install([program, *words, "--data", str(options.data.resolve())], f"Fallow {words[0]}")
    _say(f"{path} runs from now on, also after a boot; `journalctl -u {path.stem} -f` shows its log.")
    return 0


async def everything(options: UpOptions, stop: asyncio.Event) -> int:
    """Run a control plane with this machine as its node and gateway until `stop`."""
    server = ServerOptions(
        data=options.data / "server", listen=options.listen, session_listen=options.session_listen, log=options.log
    )

    async def members(plane: "ControlPlane", url: str) -> int:
        from fallow.model.tokens import TokenRequest

        async def token(role: str, folder: Path) -> str:
            if (folder / "identity.json").exists():
                return ""
            return (await plane.tokens.create(TokenRequest(role=role), "fallow up")).secret or ""

        node_folder, gateway_folder = options.data / "node", options.data / "gateway"
        join = JoinOptions(
            url=url, token=await token("node", node_folder), data=node_folder, engine=options.engine, log=options.log
        )
        serve_http = GatewayOptions(
            url=url, token=await token("gateway", gateway_folder), data=gateway_folder,
            http_port=options.http_port, haproxy=options.haproxy, log=options.log,
        )  # fmt: skip
        codes = await asyncio.gather(node(join, stop), gateway(serve_http, stop))
        return max(codes)

    return await serve(server, stop, members)


async def _wait(stop: asyncio.Event) -> int:
    await stop.wait()
    return 0


def split_address(text: str, default_port: int = 0) -> tuple[str, int]:
    """Read `host:port`, `[::1]:port` or, where a default is given, `host`."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        return text.strip("[]"), default_port
    return host.strip("[]"), int(port)


def reachable(host: str) -> str:
    """Return a host to dial for one to listen on: every address means this machine."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _write_pair(file: Path, certificate_pem: str, key_pem: str) -> Path:
    """Write certificate and key to one file that only we can read: the TLS library loads them from nowhere else."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(certificate_pem + key_pem)
    return file


def configure_logs(options: LogOptions) -> None:
    """Send logs to standard error: for people on a terminal, as JSON lines elsewhere."""
    import structlog

    people = options.format == "console" or (options.format == "auto" and sys.stderr.isatty())
    level = getattr(logging, options.level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if not people else structlog.dev.set_exc_info,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if people
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")


def _say(text: str) -> None:
    """Tell whoever started this process something that is no log line."""
    sys.stderr.write(text + "\n")
