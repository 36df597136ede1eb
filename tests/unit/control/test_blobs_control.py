"""Who fetches from whom, as sessions come and go."""

import pytest
from blob_nodes import made_image
from records import member
from test_hub import Line

from fallow.control.blobs import BEGIN_SECONDS, Blobs
from fallow.model.image_frames import BlobsChanged
from fallow.model.images import BlobSource
from fallow.model.members import Lease

MADE = made_image(100, 200)
MANIFEST = MADE.image.manifest.digest
LAYERS = tuple(layer.digest for layer in MADE.image.layers)


class Members:
    """Stands where the cache does: members, and nothing else."""

    def __init__(self, count: int) -> None:
        self.known = {
            f"n-{n}": member(f"{n}", lease=Lease(address=f"10.0.0.{n}"), labels={"zone": "ab"[n % 2]})
            for n in range(count)
        }

    def get(self, _kind, id_):
        return self.known.get(id_)


class Rig:
    def __init__(self, count: int = 12) -> None:
        self.now = 100.0
        self.members = Members(count)
        self.blobs = Blobs(self.members, lambda: self.now)
        self.lines = {}
        for id_ in self.members.known:
            self.open(id_)

    def open(self, id_: str, **told) -> None:
        self.lines[id_] = Line(id_)
        self.tell(id_, full=True, port=7000, **told)

    def tell(self, id_: str, **told) -> None:
        self.blobs.heard(self.lines[id_], BlobsChanged(**told))

    def ask(self, number: int) -> list[str]:
        mirror, sources = self.blobs.sources(self.members.known[f"n-{number}"], MADE.image)
        assert mirror == ""
        return [source.member_id for source in sources]

    def done(self, number: int) -> None:
        self.tell(f"n-{number}", whole=(MANIFEST, *LAYERS), gone=())
        self.now += 1


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_one_node_goes_to_the_registry_and_the_others_to_each_other(rig):
    firsts = [rig.ask(n)[:1] for n in range(12)]
    assert firsts[0] == []
    parents = [first[0] for first in firsts[1:]]
    assert all(parents.count(parent) <= 2 for parent in parents)


def test_a_source_is_told_with_its_leases_address_and_the_port_it_serves_at(rig):
    rig.ask(3)
    assert rig.blobs.sources(rig.members.known["n-4"], MADE.image) == (
        "",
        (BlobSource(member_id="n-3", address="10.0.0.3", port=7000),),
    )


def test_the_same_zone_is_preferred(rig):
    rig.ask(0)
    assert rig.ask(1) == ["n-0"]
    assert rig.ask(2)[0] == "n-0"
    assert rig.ask(3)[0] == "n-1"
    assert rig.ask(4)[0] == "n-2"
    assert rig.ask(5)[0] == "n-1"


def test_who_is_done_frees_its_source(rig):
    rig.ask(0)
    assert [rig.ask(2)[0], rig.ask(4)[0]] == ["n-0", "n-0"]
    rig.done(2)
    rig.done(4)
    rig.done(0)
    assert rig.ask(6)[0] == "n-0"


def test_who_never_began_frees_its_source(rig):
    rig.ask(0)
    rig.done(0)
    rig.ask(2)
    rig.ask(4)
    rig.tell("n-4", fetching=LAYERS)
    rig.now += BEGIN_SECONDS + 1
    assert rig.ask(6)[0] == "n-0"
    assert rig.ask(8)[0] != "n-0"


def test_what_a_session_told_is_forgotten_with_it(rig):
    rig.ask(0)
    rig.tell("n-0", whole=(MANIFEST, *LAYERS))
    rig.blobs.closed(rig.lines["n-0"])
    assert rig.ask(1) == []
    rig.open("n-0", whole=(MANIFEST, *LAYERS))
    assert "n-0" in rig.ask(2)


def test_an_old_session_that_ends_late_takes_nothing_with_it(rig):
    old = rig.lines["n-0"]
    rig.open("n-0", whole=(MANIFEST, *LAYERS))
    rig.blobs.closed(old)
    assert rig.ask(1) == ["n-0"]


def test_a_node_that_failed_with_its_source_gets_another(rig):
    rig.ask(0)
    rig.ask(1)
    rig.ask(2)
    first = rig.ask(3)[0]
    assert rig.ask(3)[0] != first


def test_a_node_that_serves_nothing_is_no_source_and_what_is_gone_is_not_there(rig):
    rig.lines["n-0"] = Line("n-0")
    rig.tell("n-0", full=True, whole=(MANIFEST, *LAYERS))  # no port
    assert rig.ask(1) == []
    rig.tell("n-5", whole=(MANIFEST, *LAYERS))
    assert rig.ask(3)[0] in ("n-1", "n-5")
    rig.now += BEGIN_SECONDS + 1
    rig.ask(7)
    rig.tell("n-5", gone=(MANIFEST,))
    assert "n-5" not in rig.ask(9)


def test_a_thousand_nodes_at_once_are_planned_quickly():
    rig = Rig(0)
    rig.members = rig.blobs._cache = Members(1000)
    for id_ in rig.members.known:
        rig.open(id_)
    firsts = [rig.ask(n)[:1] for n in range(1000)]
    assert firsts.count([]) == 1
    parents = [first[0] for first in firsts if first]
    assert max(map(parents.count, set(parents))) == 2
