"""Names for tab completion, asked of the control plane; silent and quick when it does not answer."""

from collections.abc import Callable, Iterable

import typer

from fallow.cli.failures import Failure
from fallow.cli.session import session_of
from fallow.client.contexts import DEFAULT_PROJECT, load_contexts
from fallow.client.errors import ClientError

PATIENCE_SECONDS = 1.0


def _quietly(find: Callable[[], Iterable[str]], incomplete: str) -> list[str]:
    try:
        return sorted({name for name in find() if name.startswith(incomplete)})
    except (ClientError, Failure, OSError, ValueError):
        return []


def deployments(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return deployments as `project/name`, and as `name` in the project that commands mean."""

    def find() -> Iterable[str]:
        session = session_of(ctx)
        project = session.context().project or DEFAULT_PROJECT
        with session.client(seconds=PATIENCE_SECONDS) as client:
            for found in client.deployments().items:
                yield f"{found.project}/{found.name}"
                if found.project == project:
                    yield found.name

    return _quietly(find, incomplete)


def projects(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return projects that have deployments."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.project for found in client.deployments().items)

    return _quietly(find, incomplete)


def members(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of all members."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.name for found in client.members().items)

    return _quietly(find, incomplete)


def clusters(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of all clusters."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.member.name for found in client.clusters.all().items)

    return _quietly(find, incomplete)


def servers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of all servers."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.name for found in client.servers.all().items)

    return _quietly(find, incomplete)


def server_pools(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of all server pools."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.name for found in client.server_pools.all().items)

    return _quietly(find, incomplete)


def vms(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of all virtual machines."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.name for found in client.vms.all().items)

    return _quietly(find, incomplete)


def label_sets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of all label sets."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.name for found in client.label_sets().items)

    return _quietly(find, incomplete)


def selectors(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the label sets as a selector names them."""
    return [f"@{name}" for name in label_sets(ctx, incomplete.removeprefix("@"))]


def targets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return what `--on` may be: everybody, a node, or a label set."""
    found = members(ctx, incomplete) + (selectors(ctx, incomplete) if incomplete[:1] in ("", "@") else [])
    return [*(["all"] if "all".startswith(incomplete) else []), *found]


def images(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the references of images that nodes have."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            for found in client.images.images().items:
                yield from found.references
                yield from (name.removeprefix("docker.io/library/") for name in found.references)

    return _quietly(find, incomplete)


def image_jobs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of the newest image jobs."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.id for found in client.images.jobs().items)

    return _quietly(find, incomplete)


def image_schedules(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of image schedules."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.name for found in client.images.schedules().items)

    return _quietly(find, incomplete)


def tokens(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of all tokens."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.id for found in client.tokens().items)

    return _quietly(find, incomplete)


def pools(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of all pools."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.name for found in client.pools().items)

    return _quietly(find, incomplete)


def registries(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the hosts of the registries that are known."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.host for found in client.registries.known().items)

    return _quietly(find, incomplete)


def mirrors(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the mirrors that we run."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.name for found in client.registries.mirrors().items)

    return _quietly(find, incomplete)


def log_sources(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return deployments, and the ids of replicas once something is typed."""

    def find() -> Iterable[str]:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            yield from (found.id for found in client.replicas().items)

    return deployments(ctx, incomplete) + (_quietly(find, incomplete) if incomplete else [])


def subjects(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return everything that can be explained."""
    return log_sources(ctx, incomplete) + members(ctx, incomplete)


def contexts(incomplete: str) -> list[str]:
    """Return the contexts in the file."""
    return _quietly(lambda: (context.name for context in load_contexts().contexts), incomplete)
