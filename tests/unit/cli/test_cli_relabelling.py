"""`fallow node list -l`, `fallow node label -l` and `fallow label-set`."""

import json
from typing import Any

import pytest
from cli_fake_api import Asked, FakeApi, listing, member
from conftest import Fallow

from fallow.model.labels import LabelSetView, RelabelItem, RelabelResult, Variable

WEST = LabelSetView(
    name="west", selector="zone=west", revision=4, created_at=1000.0, created_by="api:ci", members=("a", "b"),
    used_by=("deployment shop/web",),
)  # fmt: skip


def item(name: str, revision: int = 1, outcome: str = "would-change", **more: Any) -> RelabelItem:
    given: dict[str, Any] = {"before": {"zone": "a"}, "after": {"zone": "b"}, **more}
    return RelabelItem(id=f"n-{name}", name=name, revision=revision, outcome=outcome, **given)  # type: ignore[arg-type]


class Server:
    """Answers relabelling: members at revisions, of which some change under the hands of the caller."""

    def __init__(self, api: FakeApi, revisions: dict[str, int]) -> None:
        self.revisions = revisions
        self.touch: list[dict[str, int]] = []  # revisions that others bring about before a call is carried out
        self.done: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        api.on("POST /v1/relabel", self.answer)

    def answer(self, asked: Asked) -> RelabelResult:
        self.bodies.append(asked.body)
        if asked.body["dry_run"]:
            found = [
                item(name, at, *(["unchanged"] if name in self.done else [])) for name, at in self.revisions.items()
            ]
            return RelabelResult(items=tuple(found), dry_run=True)
        self.revisions |= self.touch.pop(0) if self.touch else {}
        told = []
        for id_, seen in asked.body["revisions"].items():
            name = id_.removeprefix("n-")
            same = self.revisions[name] == seen
            self.done += [name] * same
            told.append(item(name, self.revisions[name], "changed" if same else "conflict"))
        return RelabelResult(items=tuple(told), dry_run=False)


def test_list_by_selector(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/members", listing(member()))
    assert fallow("node", "list", "-l", "zone in (west),disk.free>=20GiB").code == 0
    assert api.asked[0].query == {"role": "node", "selector": "zone in (west),disk.free>=20GiB"}


def test_show_tells_what_is_measured(api: FakeApi, fallow: Fallow) -> None:
    measured = (
        Variable(name="cpu.free", value="3.5", type="number"),
        Variable(name="disk.free", value=f"{120 << 30}B", type="bytes", unit="B"),
    )
    api.on("GET /v1/members/node-1", member(measured=measured))
    api.on("GET /v1/replicas", listing())
    assert "cpu.free=3.5 disk.free=120GiB" in fallow("node", "show", "node-1").out


def test_relabel_dry_run_shows_and_changes_nothing(api: FakeApi, fallow: Fallow) -> None:
    server = Server(api, {"a": 1, "b": 2})
    ran = fallow("node", "label", "--selector", "zone=a", "zone=b", "old-", "--dry-run")
    assert ran.code == 0, ran
    assert [line.split() for line in ran.out.splitlines()] == [
        ["NAME", "BEFORE", "AFTER", "OUTCOME"],
        ["a", "zone=a", "zone=b", "would-change"],
        ["b", "zone=a", "zone=b", "would-change"],
    ]
    assert "2 of 2 would change" in ran.err
    (body,) = server.bodies
    assert (body["labels"], body["role"], body["dry_run"]) == ({"zone": "b", "old": None}, "node", True)


def test_relabel_holds_members_to_what_was_seen(api: FakeApi, fallow: Fallow) -> None:
    server = Server(api, {"a": 1, "b": 2})
    ran = fallow("node", "label", "-l", "zone=a", "zone=b", "--yes", "--role", "all", "--json")
    assert ran.code == 0, ran
    assert server.bodies[1]["revisions"] == {"n-a": 1, "n-b": 2}
    assert server.bodies[1]["role"] == ""
    assert [each["outcome"] for each in json.loads(ran.out)["items"]] == ["changed", "changed"]


def test_relabel_tries_again_what_others_touched(api: FakeApi, fallow: Fallow) -> None:
    server = Server(api, {"a": 1, "b": 2})
    server.touch = [{"b": 3}, {"b": 4}]
    assert fallow("node", "label", "-l", "zone=a", "zone=b", "--yes").code == 0
    assert server.done == ["a", "b"]


def test_relabel_tells_what_is_left_when_others_go_on(api: FakeApi, fallow: Fallow) -> None:
    server = Server(api, {"a": 1, "b": 2})
    server.touch = [{"b": number} for number in range(3, 20)]
    ran = fallow("node", "label", "-l", "zone=a", "zone=b", "--yes")
    assert ran.code == 1
    assert "1 of 2 were changed by others" in ran.err
    assert "Run it again" in ran.err


def test_relabel_asks_first_and_takes_silence_for_no(api: FakeApi, fallow: Fallow) -> None:
    server = Server(api, {"a": 1})
    ran = fallow("node", "label", "-l", "zone=a", "zone=b")
    assert ran.code == 2
    assert "--yes" in ran.err
    assert server.done == []


@pytest.mark.parametrize(
    "words",
    [("zone=b",), ("node-1",), ("node-1", "zone=b", "--dry-run"), ("-l", "a=b", "node-1", "zone=b"),
     ("-l", "a=b", "zone=b", "--role", "boss")],
)  # fmt: skip
def test_relabel_refuses_half_a_command(api: FakeApi, fallow: Fallow, words: tuple[str, ...]) -> None:
    ran = fallow("node", "label", *words)
    assert ran.code == 2, ran
    assert api.asked == []


def test_label_set_commands(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/label-sets", listing(WEST))
    api.on("GET /v1/label-sets/west", WEST)
    api.on("POST /v1/label-sets", WEST)
    api.on("PATCH /v1/label-sets/west", WEST)
    api.on("DELETE /v1/label-sets/west", "")
    head, line = fallow("label-set", "list").out.splitlines()
    assert head.split() == ["NAME", "SELECTOR", "MEMBERS", "USED", "BY", "DESCRIPTION"]
    assert line.split() == ["west", "zone=west", "2", "1", "-"]
    shown = fallow("label-set", "show", "west").out
    assert "2: a, b" in shown
    assert "deployment shop/web" in shown
    assert fallow("label-set", "create", "west", "-l", "zone=west").out == "@west: zone=west (2 members now)\n"
    assert api.bodies("POST /v1/label-sets") == [{"name": "west", "selector": "zone=west", "description": ""}]
    assert json.loads(fallow("label-set", "update", "west", "-l", "zone=w", "--json").out)["name"] == "west"
    assert api.bodies("PATCH /v1/label-sets/west") == [{"selector": "zone=w", "description": None}]
    assert fallow("label-set", "update", "west").code == 2
    assert fallow("label-set", "delete", "west").out == "west: deleted\n"


def test_label_set_that_is_used_is_not_deleted(api: FakeApi, fallow: Fallow) -> None:
    api.refuse("DELETE /v1/label-sets/west", 409, "Still in use", detail="@west is used by deployment shop/web")
    ran = fallow("label-set", "delete", "west")
    assert ran.code == 4
    assert "shop/web" in ran.err
