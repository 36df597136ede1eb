"""Which backend serves what, and what is kept on disk."""

import socket
from pathlib import Path

from fallow.drivers.proxy import saved
from fallow.drivers.proxy.config import Layout, Settings, map_entries, render_config, server_name, skeleton
from fallow.drivers.proxy.slots import Arrangement, arrange, assign, by_backend
from fallow.model.routes import Backend, Endpoint, HttpRoute, ProxyState, TcpRoute
from testbed.ports import free_port

SETTINGS = Settings(http_port=8080, bind_address="127.0.0.1", spare_backends=2, drain_seconds=1.0, program="haproxy")
ONE = Endpoint(id="web-0", address="10.0.0.1", port=20001, weight=7)
EMPTY = Arrangement(slots={}, layout=Layout(generation=3, backends=2), endpoints={}, closed={})


def _keys(*keys: str) -> ProxyState:
    return ProxyState(backends=tuple(Backend(key=key) for key in keys))


def test_keys_keep_their_slots_and_new_ones_take_the_lowest_free() -> None:
    assert assign(_keys("a", "b"), {}, (), 4) == ({"a": 0, "b": 1}, 4)
    assert assign(_keys("b", "c"), {"a": 0, "b": 1}, (), 4) == ({"b": 1, "c": 0}, 4)


def test_a_slot_is_not_given_on_while_servers_leave_it() -> None:
    assert assign(_keys("b", "c"), {"a": 0, "b": 1}, {"b000"}, 4) == ({"a": 0, "b": 1, "c": 2}, 4)


def test_slots_double_when_they_run_out() -> None:
    slots, backends = assign(_keys("a", "b", "c", "d", "e"), {"a": 1}, (), 2)
    assert (slots["a"], backends) == (1, 8)
    assert sorted(slots.values()) == [0, 1, 2, 3, 4]


def test_only_ports_and_slots_need_another_generation() -> None:
    web = ProxyState(http=(HttpRoute(host="h", path="/", backend="a"),), backends=(Backend(key="a", endpoints=(ONE,)),))
    plan = arrange(SETTINGS, web, EMPTY, (), running=True)
    assert plan.layout == EMPTY.layout
    assert plan.endpoints == {("b000", server_name(ONE)): ONE}
    assert arrange(SETTINGS, web, EMPTY, (), running=False).layout.generation == 4
    assert arrange(SETTINGS, _keys("a", "b", "c"), EMPTY, (), running=True).layout.generation == 4


def test_a_tcp_port_is_opened_unless_it_cannot_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy, good = taken.getsockname()[1], free_port()
        state = ProxyState(
            tcp=tuple(TcpRoute(listen=port, backend="a") for port in (busy, good, 8080)),
            backends=(Backend(key="a", mode="tcp", endpoints=(ONE,)),),
        )
        plan = arrange(SETTINGS, state, EMPTY, (), running=True)
        assert plan.layout.listens == (good,)
        assert plan.closed == {busy: "address already in use", 8080: "it is the gateway's port for http"}
        assert plan.endpoints == {(f"t{good}", server_name(ONE)): ONE}


def test_the_map_ends_every_place_with_a_slash() -> None:
    routes = [
        HttpRoute(host="Shop.Test", path="/cart/", backend="a"),
        HttpRoute(host="shop.test", path="/", backend="b"),
        HttpRoute(host="", path="/open", backend="a"),
    ]
    assert map_entries(routes, {"a": 0, "b": 63}) == ["*/open/ b000", "shop.test/ b063", "shop.test/cart/ b000"]


def test_a_configuration_without_its_servers_depends_on_the_layout_only() -> None:
    layout = Layout(generation=1, backends=2, listens=(5432,))
    full = render_config(SETTINGS, layout, by_backend({("b001", "x"): ONE, ("t5432", "x"): ONE}))
    assert full.count("server web-0:") == 2
    assert " weight 7\n" in full
    assert skeleton(full) == skeleton(render_config(SETTINGS, layout, {}))
    assert skeleton(full) != skeleton(render_config(SETTINGS, Layout(generation=1, backends=2), {}))


def test_the_name_of_a_server_tells_its_place_apart() -> None:
    moved = Endpoint(id="web-0", address="10.0.0.1", port=20002)
    assert server_name(ONE).startswith("web-0:")
    assert server_name(ONE) != server_name(moved)


def test_what_is_saved_can_be_loaded_and_what_is_broken_is_not_there(tmp_path: Path) -> None:
    assert saved.load(tmp_path) is None
    state = ProxyState(revision=3, backends=(Backend(key="a", endpoints=(ONE,)),))
    layout = Layout(generation=2, backends=4, listens=(5432,))
    saved.save(tmp_path, state, {"a": 1}, layout)
    found = saved.load(tmp_path)
    assert found is not None
    assert (found.state, found.slots, found.layout) == (state, {"a": 1}, layout)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert saved.load(tmp_path) is None
