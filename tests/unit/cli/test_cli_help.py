"""Every command helps, with an example, and quickly."""

import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Fallow, all_commands


def _paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    children = getattr(command, "commands", {})
    if not children or (path and command.invoke_without_command):
        yield path
    for name, child in children.items():
        yield from _paths(child, (*path, name))


PATHS = list(_paths(all_commands()))


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_has_an_example_of_the_command_itself(alone: Fallow, path: tuple[str, ...]) -> None:
    ran = alone(*path, "--help")
    assert ran.code == 0
    examples = re.split(r"Examples?:", ran.out)[-1]
    assert f"fallow {' '.join(path)}" in examples


def test_all_commands_are_there() -> None:
    expected = """up server join gateway deploy logs explain events doctor version
        token-create token-list token-show token-extend token-revoke
        pool-create pool-list pool-show pool-leases pool-resize pool-change pool-delete
        node-list node-show node-label node-cordon node-drain node-uncordon node-remove
        node-pending node-approve node-reject node-unfence node-upgrade node-upgrades
        cluster-token-create cluster-join cluster-host cluster-leave
        plan-cluster-loss plan-drain plan-add
        server-list server-show server-label server-drain server-undrain server-remove server-token-create
        server-pool-create server-pool-list server-pool-show server-pool-update server-pool-delete
            server-pool-policy-show server-pool-policy-set
        vm-list vm-show vm-create vm-resize vm-drain vm-stop vm-start vm-delete top harvest-report
        vm-image-build vm-image-add vm-image-list
        cluster-list cluster-show cluster-label cluster-set cluster-taint cluster-cordon cluster-uncordon
            cluster-drain cluster-remove cluster-unfence
        label-set-create label-set-list label-set-show label-set-update label-set-delete
        deployment-list deployment-show deployment-scale deployment-delete deployment-division
            deployment-history deployment-restart deployment-rollback deployment-pause deployment-resume
        image-pull image-update image-delete image-clean image-list image-drift image-load
        image-job-list image-job-show image-job-logs image-job-export
        image-job-pause image-job-resume image-job-cancel image-job-retry
        image-schedule-create image-schedule-list image-schedule-delete
        registry-add registry-list registry-show registry-remove registry-test
        registry-mirror-create registry-mirror-list registry-mirror-delete
        trust-set trust-list trust-show trust-remove
        store-backup store-restore store-migrate
        replica-list route-list peer-list
        dns-status dns-list dns-query
        control-status control-log-level context-list context-use context-show context-add context-remove"""
    assert {"-".join(path) for path in PATHS} == set(expected.split())


def test_help_loads_no_http_library() -> None:
    code = (
        "import sys\nfrom fallow.cli.app import build_cli\nfrom fallow.cli.launchers import Launchers\n"
        "app = build_cli(Launchers(server=None, join=None, gateway=None, up=None, store=None))\n"
        "try:\n    app(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'httpx', 'asyncio', 'cryptography'} & set(sys.modules), 'slow'"
    )
    before = _seconds_of_children()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert _seconds_of_children() - before < 5  # far above the half second it takes on a machine at rest


def test_a_command_loads_nothing_of_the_others() -> None:
    code = (
        "import sys\nfrom fallow.main import main\nsys.argv = ['fallow', 'token', 'list', '--help']\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "assert 'fallow.cli.tokens' in sys.modules\n"
        "others = {'nodes', 'servers', 'clusters', 'images', 'processes', 'deploy', 'top'}\n"
        "assert not {f'fallow.cli.{name}' for name in others} & set(sys.modules), 'slow'"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def _seconds_of_children() -> float:
    """Return how long processes that have ended had a core: of a busy machine this says little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_version(alone: Fallow) -> None:
    from fallow.version import VERSION

    assert alone("--version").out == VERSION + "\n"
