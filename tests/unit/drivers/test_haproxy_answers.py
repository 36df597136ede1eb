"""What HAProxy's answers mean, and counters that go on where it begins at zero."""

import pytest

from fallow.drivers.proxy.contract import ProxyError
from fallow.drivers.proxy.counters import Counters
from fallow.drivers.proxy.runtime import Processes, ServerRow, parse_processes, parse_servers, parse_statistics

PROCESSES = """\
#<PID>          <type>          <reloads>       <uptime>        <version>
1162            master          5 [failed: 2]   0d00h02m07s     2.6.12
# workers
1271            worker          0               0d00h00m00s     2.6.12
# old workers
1233            worker          3               0d00h00m43s     2.6.12
1240            worker          1               0d00h00m13s     2.6.12
# programs

"""

SERVERS = """\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_port
4 b001 1 w:2 127.0.0.1 2 0 100 19001
4 b001 2 x:2 fd00::1 0 8 7 19002
5 b002 1 y:2 127.0.0.1 0 1 1 19003

"""


def test_processes_are_told_by_section() -> None:
    assert parse_processes(PROCESSES) == Processes(1162, 2, (1271,), (1233, 1240))


def test_no_master_is_an_error() -> None:
    with pytest.raises(ProxyError):
        parse_processes("Unknown command.\n")


def test_servers_are_ready_unless_in_maintenance_or_draining() -> None:
    assert parse_servers(SERVERS) == [
        ServerRow("b001", "w:2", "127.0.0.1", 19001, 100, True),
        ServerRow("b001", "x:2", "fd00::1", 19002, 7, False),
        ServerRow("b002", "y:2", "127.0.0.1", 19003, 1, False),
    ]
    with pytest.raises(ProxyError):
        parse_servers("Permission denied\n")


def _rows(requests: int, active: int = 0, name: str = "b000") -> list[dict[str, str]]:
    head = "# pxname,svname,mode,scur,act,econ,wretr,bin,bout,stot,hrsp_2xx,hrsp_5xx,"
    text = f"{head}\n{name},BACKEND,http,{active},2,0,,10,20,{requests},{requests},,\nhttp,FRONTEND,http,9,,,,,,,,,\n\n"
    return parse_statistics(text)


def test_counters_add_up_across_restarts_of_haproxy() -> None:
    counters = Counters()
    keys = {"b000": "shop/web:80"}
    counters.update(_rows(5), keys)
    counters.update(_rows(8, active=1), keys)
    (stats,) = counters.stats()
    assert (stats.requests, stats.active, stats.endpoints_up, stats.bytes_out) == (8, 1, 2, 20)
    counters.begin_anew()
    counters.update(_rows(9), keys)
    assert counters.stats()[0].requests == 17
    counters.update(_rows(2), keys)  # a restart that nobody told of
    assert counters.stats()[0].requests == 19


def test_a_new_tenant_of_a_backend_does_not_inherit_its_counts() -> None:
    counters = Counters()
    counters.update(_rows(5), {"b000": "old"})
    counters.update(_rows(7), {"b000": "new"})
    assert [(stats.key, stats.requests) for stats in counters.stats()] == [("new", 2)]
