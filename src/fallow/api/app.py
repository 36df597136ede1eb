"""The HTTP API as one ASGI application."""

from litestar import Litestar, Router
from litestar.di import Provide

from fallow.api.auth import guards
from fallow.api.docs import openapi_config
from fallow.api.errors import HANDLERS
from fallow.api.metrics import ClusterCollector
from fallow.api.routes import (
    audit,
    clusters,
    control,
    deployments,
    dns,
    harvest,
    health,
    host,
    image_archives,
    image_jobs,
    image_schedules,
    image_tasks,
    images,
    insight,
    joining,
    label_sets,
    members,
    mirrors,
    peers,
    plans,
    pools,
    registrations,
    registries,
    relabelling,
    replicas,
    server_pools,
    servers,
    tokens,
    trust,
    updates,
    upgrades,
    vms,
    watch,
)
from fallow.api.services import Services
from fallow.api.telemetry import Telemetry

# Whoever calls these needs an API token.
GUARDED = (
    host,
    members,
    clusters,
    servers,
    server_pools,
    vms,
    harvest,
    mirrors,
    image_archives,
    registrations,
    pools,
    relabelling,
    label_sets,
    tokens,
    deployments,
    updates,
    upgrades,
    images,
    image_jobs,
    image_tasks,
    image_schedules,
    replicas,
    insight,
    plans,
    audit,
    peers,
    watch,
    control,
    dns,
    registries,
    trust,
)
MAX_BODY = 2 * 1024 * 1024


def build_app(services: Services) -> Litestar:
    """Return the API over `services`. One registry serves one application: metrics are registered here."""
    guarded = guards(services)
    app = Litestar(
        route_handlers=[
            Router("/", route_handlers=health.HANDLERS, tags=["health"]),
            Router("/", route_handlers=joining.HANDLERS, tags=["joining"]),
            *(
                Router("/", route_handlers=noun.handlers(guarded), tags=[noun.__name__.rpartition(".")[2]])
                for noun in GUARDED
            ),
        ],
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        exception_handlers=HANDLERS,
        openapi_config=openapi_config(),
        on_shutdown=[services.attempts.flush],
        request_max_body_size=MAX_BODY,
        logging_config=None,
        debug=False,
    )
    services.registry.register(ClusterCollector(services))
    # Not as Litestar middleware: that does not see requests for unknown paths.
    app.asgi_handler = Telemetry(app.asgi_handler, services.registry)
    return app
