"""Nothing that a node or a user says becomes a command or a line of configuration."""

import re

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from records import NOW, cluster, deployment, remote_endpoint, share, snapshot

from fallow.decide.routes import render
from fallow.drivers.proxy.checks import check_state
from fallow.drivers.proxy.config import Layout, Settings, map_entries, render_config, server_words
from fallow.drivers.proxy.contract import ProxyError
from fallow.drivers.proxy.runtime import command, payloads
from fallow.drivers.proxy.slots import assign, by_backend, placements
from fallow.model.deployments import RouteSpec
from fallow.model.hosts import HOST_ID, Host
from fallow.model.remotes import RemoteCluster, RemoteService
from fallow.model.routes import Backend, Endpoint, HttpRoute, ProxyState, TcpRoute
from fallow.model.shares import RemoteEndpoint

SETTINGS = Settings(http_port=80, bind_address="", spare_backends=4, drain_seconds=1.0, program="haproxy")
NASTY = ["\n", "\r", "\0", ";", " ", "<<", "#", '"', "'", "\\", "%", "{", "`", "\u212a", "é", "\u2028"]

nasty = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=3)), max_size=4).map("".join)
GOOD = {"host": "shop.test", "path": "/", "id": "web-0", "address": "10.0.0.1", "key": "shop/web:80"}
# One field at a time is nasty: otherwise nearly every state would be refused for several reasons at once.
fields = st.one_of(
    st.fixed_dictionaries({"host": st.one_of(nasty, nasty.map(lambda text: f"shop{text}.test"))}),
    st.fixed_dictionaries({"path": st.one_of(nasty, nasty.map(lambda text: f"/a{text}"))}),
    st.fixed_dictionaries({"id": st.one_of(nasty, nasty.map(lambda text: f"web{text}"))}),
    st.fixed_dictionaries(
        {
            "address": st.one_of(
                nasty, nasty.map(lambda text: f"10.0.0.1{text}"), nasty.map(lambda text: f"fe80::1%{text}")
            )
        }
    ),
    st.fixed_dictionaries({"key": nasty}),
)


def _state(changes: dict[str, str]) -> ProxyState:
    it = GOOD | changes
    endpoints = (Endpoint(id=it["id"], address=it["address"], port=80),)
    return ProxyState(
        http=(HttpRoute(host=it["host"], path=it["path"], backend=it["key"]),),
        tcp=(TcpRoute(listen=5432, backend=it["key"]),),
        backends=(
            Backend(key=it["key"], endpoints=endpoints),
            Backend(key=it["key"], mode="tcp", endpoints=endpoints),
        ),
    )


states = fields.map(_state)


@settings(max_examples=200, deadline=None)
@given(states)
def test_a_state_is_refused_or_adds_only_what_it_should(state: ProxyState) -> None:
    try:
        check_state(state)
    except ProxyError:
        return
    slots, backends = assign(state, {}, (), 4)
    layout = Layout(generation=1, backends=backends, listens=(5432,))
    placed = placements(state, slots, layout.listens)
    text = render_config(SETTINGS, layout, by_backend(placed))
    plain = render_config(SETTINGS, layout, {})
    added = [line for line in text.splitlines() if line not in set(plain.splitlines())]
    assert len(text.splitlines()) == len(plain.splitlines()) + 2
    assert all(re.fullmatch(r"    server [\w.:-]+ [\da-f.:\[\]]+:80 check [\w -]+", line) for line in added)
    for endpoint in placed.values():
        assert re.fullmatch(r"[a-zA-Z0-9 .:\[\]-]+", command(*server_words(endpoint).split()))
    (entry,) = map_entries(state.http, slots)
    assert re.fullmatch(r"[!-~]+/ b000", entry)
    assert not set(entry) & set("\n\r\0;<#\"'\\")


@st.composite
def told_endpoints(draw: st.DrawFn) -> RemoteEndpoint:
    """Return an endpoint as another cluster may name it: one of its texts is nasty."""
    texts = {"id": "web-0", "address": "10.0.0.1", "key": "80/tcp"}
    field = draw(st.sampled_from(sorted(texts)))
    texts[field] = draw(st.one_of(nasty, nasty.map(lambda text: texts[field] + text)))
    return RemoteEndpoint(id=texts["id"], address=texts["address"], ports={texts["key"]: 20000, "80/tcp": 20000})


@settings(max_examples=200, deadline=None)
@given(st.lists(told_endpoints(), max_size=4), nasty)
def test_what_other_clusters_name_is_left_out_or_adds_only_what_it_should(
    found: list[RemoteEndpoint], cluster_id: str
) -> None:
    web = deployment("web")
    web = msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, routes=(RouteSpec(port=80),)))
    good = remote_endpoint("good")
    host = Host(id=HOST_ID, created_at=NOW, updated_at=NOW, url="", member_id="m", name="me")
    told = RemoteService(
        id="d-far", created_at=NOW, updated_at=NOW, project="shop", name="far", deployed_at=NOW,
        routes=(RouteSpec(host="far.test", port=80),),
        clusters=(RemoteCluster(cluster_id=cluster_id, endpoints=(good, *found)),),
    )  # fmt: skip
    state = render(snapshot(web, cluster("one"), share(web, "c-one", good, *found), host, told))
    check_state(state)  # otherwise one cluster's words would spoil the routes of all
    assert "c-one.good" in {endpoint.id for backend in state.backends for endpoint in backend.endpoints}
    slots, backends = assign(state, {}, (), 4)
    placed = placements(state, slots, ())
    text = render_config(SETTINGS, Layout(generation=1, backends=backends), by_backend(placed))
    lines = [line for line in text.splitlines() if line.startswith("    server ") and "handover" not in line]
    assert len(lines) == len(placed)
    assert all(re.fullmatch(r"    server [\w.:-]+ [\da-f.:\[\]]+:20000 check [\w -]+", line) for line in lines)
    for (backend, name), endpoint in placed.items():
        assert re.fullmatch(r"[a-zA-Z0-9 .:\[\]_/-]+", command(f"{backend}/{name}", *server_words(endpoint).split()))


@settings(max_examples=200, deadline=None)
@given(st.lists(nasty, min_size=1, max_size=3))
def test_a_command_is_refused_or_is_one_command(words: list[str]) -> None:
    try:
        line = command(*words)
    except ProxyError:
        assert not all(re.fullmatch(r"[a-zA-Z0-9]+", word) for word in words)
    else:
        assert line.isascii()
        assert not set(line) & set("\n\r\0;<#\"'\\")
        assert line.split(" ") == words


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a.test/x/ b001", "b.test/" + "y" * 250 + "/ b002"]), max_size=200))
def test_payloads_hold_every_entry_once_in_order_and_fit_a_command(entries: list[str]) -> None:
    blocks = list(payloads(entries))
    assert [line for block in blocks for line in block.split("\n")] == entries
    assert all(len(block) < 16000 for block in blocks)
