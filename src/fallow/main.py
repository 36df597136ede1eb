"""The entry point: the command line, with the processes it can start."""

from fallow.cli.app import build_cli
from fallow.cli.launchers import (
    GatewayOptions,
    JoinOptions,
    Launchers,
    ServerOptions,
    StoreCopied,
    StoreTask,
    UpOptions,
)


def main() -> None:
    """Run the command line."""
    build_cli(Launchers(server=_server, join=_join, gateway=_gateway, up=_up, store=_store))()


# The wiring is imported only by the commands that run processes, so that all the others start quickly.


def _server(options: ServerOptions) -> int:
    from fallow.wiring import run_server

    return run_server(options)


def _join(options: JoinOptions) -> int:
    from fallow.wiring import run_join

    return run_join(options)


def _gateway(options: GatewayOptions) -> int:
    from fallow.wiring import run_gateway

    return run_gateway(options)


def _up(options: UpOptions) -> int:
    from fallow.wiring import run_up

    return run_up(options)


def _store(task: StoreTask) -> StoreCopied:
    from fallow.wiring.store_tools import run_store

    return run_store(task)
