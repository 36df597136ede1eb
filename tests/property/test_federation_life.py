"""A host and its clusters in any trouble: moves never leave fewer ready than wanted, and all comes to rest."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scripted_clusters import DEAD_SECONDS, SUSPECT_SECONDS, Federation

from fallow.model.clusters import HERE_ID, ClusterPolicy
from fallow.model.members import Scheduling

ANY = st.sampled_from((HERE_ID, "c-east", "c-west", "c-old"))
FAR = st.sampled_from(("c-east", "c-west", "c-old"))
OF = st.sampled_from(("d-web", "d-api"))
SOME = st.integers(1, 6)
POLICIES = st.sampled_from(
    (
        ClusterPolicy(),
        ClusterPolicy(divide="weighted", weights={"east": 3, "west": 1}),
        ClusterPolicy(divide="weighted", weights={"old": 2, "here": 1}),
        ClusterPolicy(divide="aggregate"),
        ClusterPolicy(floor=2),
        ClusterPolicy(max={"east": 2, "west": 3}),
    )
)


class Life(RuleBasedStateMachine):
    """Rules are what clusters do, what befalls them, and what people wish."""

    world: Federation

    @initialize(
        totals=st.tuples(st.integers(0, 12), st.integers(0, 12)),
        capacities=st.lists(st.integers(0, 16), min_size=4, max_size=4),
    )
    def begin(self, totals: tuple[int, int], capacities: list[int]) -> None:
        names = ("here", "east", "west", "old")
        self.world = Federation(
            dict(zip(("web", "api"), totals, strict=True)), dict(zip(names, capacities, strict=True))
        )
        self.world.settle()

    @rule(id_=ANY)
    def deliver(self, id_: str) -> None:
        self.world.deliver(id_)

    @rule(id_=ANY, most=SOME)
    def act(self, id_: str, most: int) -> None:
        self.world.act(id_, most)

    @rule(id_=ANY, most=SOME)
    def mature(self, id_: str, most: int) -> None:
        self.world.mature(id_, most)

    @rule(id_=ANY, answers=st.booleans())
    def report(self, id_: str, answers: bool) -> None:
        self.world.report(id_)
        if answers:
            self.world.answer(id_)

    @rule(seconds=st.sampled_from((0.0, 0.5, 3.0, 6.0, 20.0, 120.0)))
    def run(self, seconds: float) -> None:
        self.world.run(seconds)
        self.world.settle()

    @rule()
    def go_on(self) -> None:
        self.world.round()

    @rule(id_=FAR)
    def cut(self, id_: str) -> None:
        self.world.cut(id_)

    @rule(id_=FAR)
    def kill(self, id_: str) -> None:
        self.world.kill(id_)

    @rule(id_=FAR)
    def come_back(self, id_: str) -> None:
        self.world.come_back(id_)

    @rule(id_=ANY, of=OF, count=SOME)
    def lose(self, id_: str, of: str, count: int) -> None:
        self.world.lose(id_, of, count)

    @rule(id_=FAR)
    def save(self, id_: str) -> None:
        self.world.save(id_)

    @rule(id_=FAR)
    def restore(self, id_: str) -> None:
        self.world.restore(id_)

    @rule(id_=FAR, lies=st.booleans())
    def lie(self, id_: str, lies: bool) -> None:
        self.world.clusters[id_].lies = lies

    @rule(id_=ANY, scheduling=st.sampled_from(tuple(Scheduling)))
    def schedule(self, id_: str, scheduling: Scheduling) -> None:
        self.world.schedule(id_, scheduling)

    @rule(of=OF, total=st.integers(0, 14))
    def scale(self, of: str, total: int) -> None:
        self.world.wish(of, total=total)

    @rule(of=OF, policy=POLICIES)
    def rewrite(self, of: str, policy: ClusterPolicy) -> None:
        self.world.wish(of, policy=policy)

    @rule(id_=FAR)
    def glitch(self, id_: str) -> None:
        """A silence under the threshold of death changes what nobody is told, where all was at rest."""
        if not all(found.heard for found in self.world.clusters.values()) or self.world.run().steps:
            return
        if any(share.short_since for share in self.world.shares()):
            return  # what one cluster has not placed for long goes to others, glitch or not
        told = {share.id: share.replicas for share in self.world.shares()}
        self.world.cut(id_)
        self.world.run(SUSPECT_SECONDS + 1.0)
        self.world.run(DEAD_SECONDS - SUSPECT_SECONDS - 2.0)
        self.world.come_back(id_)
        self.world.run(0.5)
        after = {share.id: share.replicas for share in self.world.shares()}
        assert not {id_ for id_, count in told.items() if after.get(id_) not in (count, None)}

    @rule(id_=FAR, of=OF, total=st.integers(0, 14))
    def scale_while_suspect(self, id_: str, of: str, total: int) -> None:
        """A cluster is silent for a moment while another total is wished for."""
        self.world.cut(id_)
        self.world.run(SUSPECT_SECONDS + 1.0)
        self.world.wish(of, total=total)
        self.world.settle()
        self.world.come_back(id_)
        self.world.run(0.5)
        self.all_obey()

    @rule(of=OF, fewer=st.integers(0, 6), more=st.integers(6, 14), other=ANY)
    def change_of_mind(self, of: str, fewer: int, more: int, other: str) -> None:
        """Orders to go down and up again are obeyed, and reported late, while another cluster begins to be drained."""
        self.world.wish(of, total=fewer)
        self.world.settle()
        self.all_obey()
        self.world.report(other)
        self.world.wish(of, total=more)
        self.world.schedule(other, Scheduling.DRAINING)
        self.world.settle()
        self.all_obey()

    @rule(id_=FAR, other=ANY)
    def return_into_a_drain(self, id_: str, other: str) -> None:
        """A cluster that lost all it ran, and was replaced, is back and says nothing yet; another is drained."""
        self.world.kill(id_)
        self.world.run(SUSPECT_SECONDS + 1.0)
        for _ in range(3):
            self.world.round()  # others take over
        self.world.come_back(id_)
        self.world.schedule(other, Scheduling.DRAINING)
        self.world.run(0.5)
        self.world.settle()
        self.all_obey()

    def all_obey(self) -> None:
        for id_ in self.world.clusters:
            self.world.deliver(id_)
            self.world.act(id_, 0)
        self.world.check()

    @invariant()
    def enough_stay_ready(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.heal()
        for of in self.world.names:
            division = self.world.ledger.division(of)
            told = {id_: count for id_, count in self.world.ledger.told(of).items() if count}
            assert self.world.ready(of) == sum(told.values())
            assert sum(told.values()) <= division.total
            if not division.unplaced:  # else what has no place elsewhere stays where it is
                assert told == division.shares


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_drain_and_a_death_in_one_go() -> None:
    world = Federation({"web": 12}, dict.fromkeys(("here", "east", "west", "old"), 20))
    for _ in range(4):
        world.round()
    assert world.ready("d-web") == 12
    world.schedule("c-old", Scheduling.DRAINING)
    for _ in range(4):
        world.round()
    assert "c-old" not in world.ledger.told()
    assert world.ready("d-web") == 12
    world.kill("c-east")
    for _ in range(4):
        world.round()
    assert world.ready("d-web") == 12
