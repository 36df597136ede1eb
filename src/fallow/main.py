"""The entry point: the command line, with the processes it can start."""

from collections.abc import Sequence

from fallow.cli.app import build_cli
from fallow.cli.launchers import (
    DoctorOptions,
    GatewayOptions,
    JoinOptions,
    Launchers,
    LendOptions,
    ServerOptions,
    StoreCopied,
    StoreTask,
    UpOptions,
    VmImageTask,
    VmImageView,
)
from fallow.model.doctor import Finding


def main() -> None:
    """Run the command line."""
    launchers = Launchers(
        server=_server,
        join=_join,
        lend=_lend,
        gateway=_gateway,
        up=_up,
        store=_store,
        doctor=_doctor,
        vm_image=_vm_image,
    )
    build_cli(launchers)()


# The wiring is imported only by the commands that run processes, so that all the others start quickly.


def _server(options: ServerOptions) -> int:
    from fallow.wiring import run_server

    return run_server(options)


def _join(options: JoinOptions) -> int:
    from fallow.wiring import run_join

    return run_join(options)


def _lend(options: LendOptions) -> int:
    from fallow.wiring import run_lend

    return run_lend(options)


def _gateway(options: GatewayOptions) -> int:
    from fallow.wiring import run_gateway

    return run_gateway(options)


def _up(options: UpOptions) -> int:
    from fallow.wiring import run_up

    return run_up(options)


def _store(task: StoreTask) -> StoreCopied:
    from fallow.wiring.store_tools import run_store

    return run_store(task)


def _doctor(options: DoctorOptions) -> Sequence[Finding]:
    from fallow.wiring.doctor import check_machine

    return check_machine(options)


def _vm_image(task: VmImageTask) -> Sequence[VmImageView]:
    from fallow.wiring.vm_images import run_vm_image

    return run_vm_image(task)
