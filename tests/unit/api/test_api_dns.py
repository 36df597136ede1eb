"""DNS names through the API."""

from typing import Any

import msgspec
import pytest
from api_rig import NOW, Rig, node, problem

from fallow.model.labels import Variable
from fallow.model.members import Role
from fallow.model.names import DNS_PORT_VARIABLE, NamesReport


async def look(rig: Rig) -> None:
    """Let names be made of what is stored, as their loop does."""
    rig.services.names.controller().decide(rig.services.cache.snapshot(), NOW)


async def get(rig: Rig, path: str, **query: Any) -> Any:
    answer = await rig.call("GET", path, "viewer", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_before_anything_is_known_there_is_an_empty_domain(rig: Rig) -> None:
    told = await get(rig, "/v1/dns")
    assert (told["domain"], told["hosts"], told["servers"], told["ask"]) == ("fallow.internal", 0, [], "")


async def test_status_tells_where_names_are_served_and_how_new(rig: Rig) -> None:
    gateway = msgspec.structs.replace(
        node("gw", "g-1"), role=Role.GATEWAY, variables=(Variable(name=DNS_PORT_VARIABLE, value="53"),)
    )
    await rig.put(node(), gateway)
    await look(rig)
    port = await rig.services.names.server.listen("127.0.0.1", 0)
    told = await get(rig, "/v1/dns")
    await rig.services.names.server.close()
    assert told["hosts"] == 2
    assert told["ask"].startswith(f"dig @127.0.0.1 -p {port} ")
    own, other = told["servers"]
    assert (own["name"], own["current"], own["report"]["listens"]) == ("control plane", True, [f"127.0.0.1:{port}"])
    assert (other["name"], other["current"], other["report"]["revision"]) == ("gw", False, 0)
    rig.services.hub.named("g-1", NamesReport(revision=told["revision"], listens=("0.0.0.0:53",), queries=9))
    told = await get(rig, "/v1/dns")
    (other,) = told["servers"]
    assert (other["current"], other["report"]["queries"]) == (True, 9)
    assert told["ask"].startswith(f"dig @{gateway.lease.address} -p 53 ")


async def test_records_and_answers(rig: Rig) -> None:
    await rig.put(node())
    await look(rig)
    address = node().lease.address
    listed = await get(rig, "/v1/dns/records")
    assert {"name": f"{node().name}.node.fallow.internal", "type": "A", "ttl": 5, "value": address} in listed["items"]
    assert (await get(rig, "/v1/dns/records", project="shop"))["items"] == []
    found = await get(rig, "/v1/dns/query", name=f"{node().name}.NODE.fallow.internal.")
    assert [record["value"] for record in found["answers"]] == [address]
    found = await get(rig, "/v1/dns/query", name=address)
    assert (found["type"], found["answers"][0]["value"]) == ("PTR", f"{node().name}.node.fallow.internal")
    for name, kind, rcode, meaning in (
        ("x.node.fallow.internal", "a", "NXDOMAIN", "no such name"),
        (f"{node().name}.node.fallow.internal", "AAAA", "NOERROR", "no AAAA record"),
        ("example.com", "", "REFUSED", "only names below"),
    ):
        found = await get(rig, "/v1/dns/query", name=name, type=kind)
        assert (found["rcode"], found["answers"]) == (rcode, [])
        assert meaning in found["meaning"]


@pytest.mark.parametrize(
    "query", [{}, {"name": ""}, {"name": "a" * 256}, {"name": "a", "type": "A\n"}, {"name": "a", "type": "x" * 17}]
)
async def test_what_is_no_question_is_refused(rig: Rig, query: dict[str, str]) -> None:
    problem(await rig.call("GET", "/v1/dns/query", "viewer", params=query), 400, "bad-request")


@pytest.mark.parametrize("name", ["a\nb", "\0", "..", ".", "é", "a" * 255, "%s", "::ffff:1.2.3.4", "*"])
async def test_any_name_is_answered(rig: Rig, name: str) -> None:
    found = await get(rig, "/v1/dns/query", name=name)
    assert found["answers"] == []
