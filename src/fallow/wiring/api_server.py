"""The API of a control plane on a server of ours."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import uvicorn

from fallow.api.app import build_app
from fallow.api.connections import Connection
from fallow.api.services import Services
from fallow.control.door import Door
from fallow.control.ids import new_id
from fallow.control.plane import ControlPlane

STOP_SECONDS = 5


class Server(uvicorn.Server):
    """Leaves signals to us, for more than the API has to stop; lets connections in through a door of ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on these listening sockets."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the API did not start")

        def protocol() -> Connection:
            return Connection(self.config, self.server_state, self.lifespan.state)

        context = self.config.ssl
        assert context is not None
        context.num_tickets = 0  # our clients do not resume: making tickets would only cost time
        self.servers = [cast(Any, Door(door, protocol, context)) for door in sockets or []]
        self.started = True


def api_server(plane: ControlPlane, ca_pem: str, pair: Path) -> uvicorn.Server:
    """Return the API's server, not yet started; `pair` is the file with its certificate and key."""
    return Server(
        uvicorn.Config(
            build_app(_services(plane, ca_pem)),
            ssl_certfile=str(pair),
            log_config=None,
            access_log=False,
            http=Connection,
            server_header=False,
            proxy_headers=False,  # or a caller could choose the address its lease is made of
            timeout_graceful_shutdown=STOP_SECONDS,
            lifespan="on",
        )
    )


def _services(plane: ControlPlane, ca_pem: str) -> Services:
    return Services(
        store=plane.store,
        cache=plane.cache,
        applier=plane.applier,
        admission=plane.admission,
        registrations=plane.registrations,
        tokens=plane.tokens,
        hub=plane.hub,
        names=plane.names,
        leadership=plane.leadership,
        packages=plane.packages,
        archives=plane.archives,
        registries=plane.distribution.registries,
        image_requests=plane.image_requests,
        hosts=plane.hosts,
        image_progress=plane.images.reports.progress,
        cluster_logs=plane.shares.logs,
        resolver=plane.distribution.resolver,
        settings=plane.settings,
        ca_pem=ca_pem,
        clock=plane.clock,
        new_id=new_id,
        registry=plane.registry,
        ready=plane.not_ready,
    )
