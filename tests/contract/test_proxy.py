"""What every proxy must do; the same tests over the fake and over a real HAProxy with real servers behind it."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from proxy_rigs import HOST, KEY, Rig, both, reported, rig_of, web, wire

from fallow.drivers.proxy.contract import ProxyError
from fallow.model.routes import Backend, Endpoint, HttpRoute, ProxyState
from testbed.ports import free_port


@pytest.fixture(params=["fake", pytest.param("haproxy", marks=pytest.mark.real)])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig_of(request.param, tmp_path / "proxy") as found:
        yield found


async def test_requests_go_by_host_and_by_the_longest_path_that_ends_at_a_segment(rig: Rig) -> None:
    names = ["shop", "cart", "items", "other", "any"]
    endpoints = {name: await rig.endpoint(name) for name in names}
    routes = {"shop": (HOST, "/"), "cart": (HOST, "/cart"), "items": (HOST, "/cart/items"), "any": ("", "/open")}
    routes["other"] = ("Other.Test", "/")
    state = ProxyState(
        revision=1,
        http=tuple(HttpRoute(host=host, path=path, backend=name) for name, (host, path) in routes.items()),
        backends=tuple(Backend(key=name, endpoints=(endpoints[name],)) for name in names),
    )
    await rig.proxy.start(None)
    await rig.proxy.apply(state)
    for host, path, expected in [
        (HOST, "/", "shop"),
        (HOST, "/anything", "shop"),
        (HOST, "/cart", "cart"),
        (HOST, "/cart/", "cart"),
        (HOST, "/cart/items/7", "items"),
        (HOST, "/cart/itemsold", "cart"),
        (HOST, "/cartoon", "shop"),
        ("SHOP.test:8080", "/cart", "cart"),
        ("shop.test.", "/cart", "cart"),
        ("other.test", "/cart", "other"),
        ("unknown.test", "/open/door", "any"),
        (HOST, "/open", "shop"),
    ]:
        answer = await rig.get(host, path)
        assert (answer.status, answer.body) == (200, expected), (host, path)
    assert (await rig.get("unknown.test", "/")).status == 404


async def test_a_backend_without_endpoints_answers_503(rig: Rig) -> None:
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1))
    assert (await rig.get(HOST)).status == 503


async def test_an_unreachable_endpoint_is_refused_and_serves_once_it_answers(rig: Rig) -> None:
    one, other = await rig.endpoint("one"), await rig.endpoint("other")
    await rig.kill(other)
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, one, other))
    report = await rig.proxy.report()
    assert (report.applied_revision, report.refused) == (1, ("other",))
    assert {(await rig.get(HOST)).body for _ in range(6)} == {"one"}
    await rig.revive(other)
    await rig.proxy.apply(web(1, one, other))
    assert (await rig.proxy.report()).refused == ()
    assert {(await rig.get(HOST)).body for _ in range(20)} <= {"one", "other"}


async def test_an_endpoint_drains_until_its_requests_are_finished(rig: Rig) -> None:
    old, new = await rig.endpoint("old"), await rig.endpoint("new")
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, old))
    held = await rig.hold(HOST)
    await rig.proxy.apply(web(2, new))
    report = await rig.proxy.report()
    assert (report.applied_revision, report.draining) == (2, ("old",))
    assert {(await rig.get(HOST)).body for _ in range(6)} == {"new"}
    assert (await rig.proxy.report()).draining == ("old",)
    answer = await held.finish()
    assert (answer.status, answer.body) == (200, "old")
    await reported(rig.proxy, lambda found: found.draining == ())


async def test_a_draining_endpoint_that_is_wanted_again_serves(rig: Rig) -> None:
    one = await rig.endpoint("one")
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, one))
    held = await rig.hold(HOST)
    await rig.proxy.apply(web(2))
    assert (await rig.get(HOST)).status == 503
    await rig.proxy.apply(web(3, one))
    assert (await rig.get(HOST)).body == "one"
    assert (await rig.proxy.report()).draining == ()
    assert (await held.finish()).status == 200


async def test_what_serves_goes_on_while_nothing_of_its_replacement_answers(rig: Rig) -> None:
    old, new = await rig.endpoint("old"), await rig.endpoint("new")
    await rig.kill(new)
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, old))
    await rig.proxy.apply(web(2, new))
    report = await rig.proxy.report()
    assert (report.draining, report.refused) == (("old",), ("new",))
    assert (await rig.get(HOST)).body == "old"
    await rig.revive(new)
    await rig.proxy.apply(web(2, new))
    await reported(rig.proxy, lambda found: found.draining == () and found.refused == ())
    assert (await rig.get(HOST)).body == "new"


async def test_the_same_state_again_only_counts_its_revision(rig: Rig) -> None:
    one = await rig.endpoint("one")
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, one))
    await rig.proxy.apply(web(7, one))
    report = await rig.proxy.report()
    assert (report.applied_revision, report.draining, report.refused) == (7, (), ())
    assert (await rig.get(HOST)).body == "one"


async def test_a_new_weight_is_taken_while_it_serves(rig: Rig) -> None:
    one, other = await rig.endpoint("one"), await rig.endpoint("other")
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, one, other))
    await rig.proxy.apply(web(2, msgspec.structs.replace(one, weight=0), other))
    assert {(await rig.get(HOST)).body for _ in range(10)} == {"other"}


def _malformed() -> dict[str, ProxyState]:
    good = Endpoint(id="x", address="127.0.0.1", port=80)
    return {
        "command in an id": web(2, Endpoint(id="x;shutdown frontend http", address="127.0.0.1", port=80)),
        "line end in an id": web(2, Endpoint(id="x\ndel", address="127.0.0.1", port=80)),
        "name for an address": web(2, Endpoint(id="x", address="localhost", port=80)),
        "options after an address": web(2, Endpoint(id="x", address="127.0.0.1:1 backup", port=80)),
        "scope of an address": web(2, Endpoint(id="x", address="fe80::1%x;quit", port=80)),
        "port too large": web(2, Endpoint(id="x", address="127.0.0.1", port=65536)),
        "weight too large": web(2, Endpoint(id="x", address="127.0.0.1", port=80, weight=257)),
        "space in a host": web(2, good, host="a b"),
        "payload in a host": web(2, good, host="<<"),
        "quote in a path": web(2, good, path='/"'),
        "line end in a path": web(2, good, path="/a\nb"),
        "relative path": web(2, good, path="a"),
        "endpoint twice": web(2, good, good),
        "route to nothing": ProxyState(revision=2, http=(HttpRoute(host=HOST, path="/", backend="none"),)),
        "route to another mode": msgspec.structs.replace(wire(2, 5000, good), http=web(2, key="shop/db:5432").http),
        "same place twice": both(2, web(2, good), web(2, good, host="SHOP.test", key="b")),
        "same port twice": both(2, wire(2, 5000, good), wire(2, 5000, good, key="b")),
        "impossible port": wire(2, 0, good),
    }


async def test_a_malformed_state_is_refused_and_nothing_changes(rig: Rig) -> None:
    one = await rig.endpoint("one")
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, one))
    for what, state in _malformed().items():
        try:
            await rig.proxy.apply(state)
        except ProxyError as error:
            assert "\n" not in str(error)
        else:
            pytest.fail(f"taken: {what}")
        assert (await rig.proxy.report()).applied_revision == 1
        assert (await rig.get(HOST)).body == "one", what


async def test_requests_are_counted_by_backend(rig: Rig) -> None:
    one = await rig.endpoint("one")
    await rig.proxy.start(None)
    await rig.proxy.apply(both(1, web(1, one), web(1, host="empty.test", key="shop/empty:80")))
    for _ in range(5):
        await rig.get(HOST)
    await rig.get("empty.test")
    held = await rig.hold(HOST)

    stats = {found.key: found for found in (await rig.proxy.report()).backends}
    assert (stats[KEY].active, stats[KEY].endpoints_up) == (1, 1)
    assert stats["shop/empty:80"].endpoints_up == 0
    await held.finish()
    report = await reported(rig.proxy, lambda found: not any(backend.active for backend in found.backends))
    stats = {found.key: found for found in report.backends}
    assert (stats[KEY].requests, stats[KEY].errors_5xx) == (6, 0)
    assert (stats["shop/empty:80"].requests, stats["shop/empty:80"].errors_5xx) == (1, 1)


async def test_a_successor_goes_on_with_the_last_known_state(rig: Rig) -> None:
    one = await rig.endpoint("one")
    await rig.proxy.start(None)
    await rig.proxy.apply(web(3, one))
    await rig.successor()
    await rig.proxy.start(None)
    assert (await rig.get(HOST)).body == "one"
    assert (await rig.proxy.report()).applied_revision == 3


async def test_a_state_given_at_the_start_is_served_at_once(rig: Rig) -> None:
    one = await rig.endpoint("one")
    await rig.proxy.start(web(4, one))
    assert (await rig.get(HOST)).body == "one"
    assert (await rig.proxy.report()).applied_revision == 4


async def test_tcp_routes_come_and_go(rig: Rig) -> None:
    one, listen = await rig.endpoint("one"), free_port()
    await rig.proxy.start(None)
    assert (await rig.get_by_port(listen)).status == 0
    await rig.proxy.apply(both(1, wire(1, listen, one), web(1, one)))
    assert (await rig.get_by_port(listen)).body == "one"
    assert (await rig.get(HOST)).body == "one"
    await rig.proxy.apply(web(2, one))
    assert (await rig.get_by_port(listen)).status == 0
    assert (await rig.get(HOST)).body == "one"
    await reported(rig.proxy, lambda found: found.draining == ())


async def test_a_proxy_that_is_not_started_says_so(rig: Rig) -> None:
    with pytest.raises(ProxyError, match="not started"):
        await rig.proxy.apply(web(1))
    with pytest.raises(ProxyError, match="not started"):
        await rig.proxy.report()
    await rig.proxy.start(None)
    with pytest.raises(ProxyError, match="started already"):
        await rig.proxy.start(None)
    name, version = (await rig.proxy.version()).split(" ")
    assert name
    assert version[0].isdigit()
