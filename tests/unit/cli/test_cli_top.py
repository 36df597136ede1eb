"""`fallow top` and `fallow harvest report`."""

import json
import time
from typing import Any

import pytest
from cli_fake_api import FakeApi, listing
from cli_servers import GIB, report, server, vm
from conftest import Fallow
from rich.console import Console

from fallow.cli.top import Seen, closeness, picture
from fallow.model.members import MemberState
from fallow.model.servers import HarvestReport, HarvestRow

HOT = server("hot", report=report(primary_cpus=12.0, throttled=0.9, relief_cpus=1.5, relief_memory_bytes=GIB))
SILENT = server(
    "silent", age_seconds=7.0, why_not="has said nothing for more than 5 s, so it counts as full", offered_cpus=0.0
)
FULL = server("full", report=report(primary_memory_bytes=54 * GIB), why_not="memory is above its ceiling")


def test_those_closest_to_a_ceiling_come_first(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/servers", listing(server("calm"), HOT, FULL, SILENT))
    ran = fallow("top")
    assert ran.code == 0, ran
    names = [line.split()[0] for line in ran.out.splitlines()[2:] if line and not line.startswith(" ")]
    assert names[:4] == ["silent", "hot", "full", "calm"]
    assert closeness(HOT) > closeness(FULL) > 1 > closeness(server("calm"))


def test_a_row_is_shares_of_the_server(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/servers", listing(server()))
    total, head, cpus, memory = fallow("top", "--once").out.splitlines()
    assert total == "1 server, 16 cpus, 42% used, 2.0 lent, 4.0 offered, 3 replicas"
    assert head.split() == [
        "SERVER", "OF", "PRIM", "SYS", "LENT", "USED", "LIMIT", "THRES", "PEAK", "OFFER", "WAIT", "THROT", "VMS",
    ]  # fmt: skip
    assert cpus.split() == ["srv1", "16", "cpu", "25%", "5%", "12%", "42%", "50%", "65%", "40%", "4.0", "1%", "2%", "1"]
    assert memory.split() == ["64G", "25%", "2%", "6%", "33%", "50%", "80%", "38%", "20G", "0%"]


def test_a_silent_server_has_no_figures_and_says_so(api: FakeApi, fallow: Fallow) -> None:
    api.on(
        "GET /v1/servers", listing(SILENT, server("never", report=None, age_seconds=None, state=MemberState.JOINING))
    )
    total, _, never, silent, *_, note = fallow("top", "--once").out.splitlines()
    assert total.endswith(", 2 silent")
    assert set(never.split()[1:-1]) == set(silent.split()[1:-1]) == {"-"}
    assert note == "silent has said nothing for more than 5 s, so it counts as full"


def test_what_has_to_go_and_what_is_wrong_is_told(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/servers", listing(HOT, server("odd", report=report(problems=("the quota reads back as 3",)))))
    out = fallow("top").out
    assert "hot: 1.5 cpus and 1 GiB have to go" in out
    assert "odd: the quota reads back as 3" in out


def test_vms_are_shown_when_asked_for(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/servers", listing(server()))
    api.on("GET /v1/vms", listing(vm()))
    assert "srv1-vm" not in fallow("top").out
    assert [asked.path for asked in api.asked] == ["/v1/servers"]
    (line,) = [line for line in fallow("top", "--vms").out.splitlines() if line.startswith("srv1-vm")]
    assert line.split() == ["srv1-vm", "srv1", "running", "2.0/6.0", "of", "8", "4", "GiB/8", "GiB", "2%", "3"]
    told = json.loads(fallow("top", "--vms", "--json").out)
    assert (told["servers"][0]["name"], told["vms"][0]["use"]["cpus_limit"]) == ("srv1", 6.0)


def test_without_servers_it_says_how_one_joins(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/servers", listing())
    assert "fallow server token create" in fallow("top").out


@pytest.mark.parametrize("cores", [1.0, 1024.0])
def test_it_fits_100_columns(cores: float) -> None:
    name = "a-server-whose-name-is-as-long-as-can-be"
    most = 4096 * GIB - 300 * 2**20
    shown: dict[str, Any] = {
        "cpus": cores, "memory_bytes": most, "primary_cpus": cores, "lent_cpus": cores, "primary_memory_bytes": most,
        "limit_cpus": cores, "predicted_cpus": cores, "throttled": 1.0, "cpu_waiting": 1.0, "memory_waiting": 1.0,
    }  # fmt: skip
    found = server(name, report=report(**shown), offered_cpus=cores, offered_memory_bytes=most, vms=("a",) * 64)
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(picture(Seen(servers=(found,), vms=(vm("v" * 40, name, cpus=cores, memory_bytes=most),))))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("…" in line for line in lines) == 2, "only the names are cut"
    assert len(lines) == 7


# The harvest


def test_the_report_is_a_table_with_a_total(api: FakeApi, fallow: Fallow) -> None:
    def row(server: str, times: float = 1.0, **more: Any) -> HarvestRow:
        return HarvestRow(
            server=server, hours=24 * times, capacity_core_hours=384 * times, primary_core_hours=96 * times,
            lent_core_hours=192 * times, used_core_hours=144 * times, over_seconds=90 * times, evictions=int(2 * times),
            replica_days=8 * times, **more,
        )  # fmt: skip

    found = HarvestReport(since=1000.0, until=90000.0, total=row("", 2), servers=(row("srv1"), row("srv2")),
                          price_per_core_hour=0.04, saved=11.52)  # fmt: skip
    api.on("GET /v1/harvest", found)
    before = time.time()
    ran = fallow("harvest", "report", "--since", "7d", "--price", "0.04")
    assert ran.code == 0, ran
    asked = api.asked[-1].query
    assert asked["price"] == "0.04"
    assert before - 7 * 86400 - 1 <= float(asked["since"]) <= time.time() - 7 * 86400
    _, head, first, _, total, saved = ran.out.splitlines()
    assert head.split()[:4] == ["SERVER", "HOURS", "CORE-HOURS", "PRIMARY"]
    assert first.split() == [
        "srv1",
        "24",
        "384.0",
        "96.0",
        "(25%)",
        "192.0",
        "(50%)",
        "144.0",
        "75%",
        "2",
        "0.25",
        "1m30s",
    ]
    assert total.split()[:3] == ["all", "48", "768.0"]
    assert saved == "saved: 11.52 (288.0 core-hours at 0.04)"
    assert json.loads(fallow("harvest", "report", "--json").out)["saved"] == 11.52


def test_a_report_of_nothing_says_so(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/harvest", HarvestReport(since=0.0, until=1.0, total=HarvestRow(server="")))
    assert "nothing was heard of any server" in fallow("harvest", "report").out
    assert fallow("harvest", "report", "--since", "yore").code == 2
    assert fallow("harvest", "report", "--price", "-1").code == 2
