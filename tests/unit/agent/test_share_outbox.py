"""Reports on their way to the host: full sets, portions, what is repeated, and when the host was heard."""

from records import deployment

from fallow.agent.cluster_member import first_steps
from fallow.agent.share_outbox import BATCH_REPORTS, MAX_BATCH_BYTES, ShareOutbox
from fallow.decide.plan import Step
from fallow.model.shares import RemoteEndpoint, ShareReport
from fallow.model.wire import MAX_FRAME_BYTES, encode_frame


class Steady:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def report(name: str, ready: int = 0, endpoints: int = 0) -> ShareReport:
    found = tuple(
        RemoteEndpoint(id=f"{name}-{number}" + "x" * 60, address="10.0.0.1", ports={"8080/tcp": 20000})
        for number in range(endpoints)
    )
    return ShareReport(deployment_id=name, ready=ready, endpoints=found)


async def test_a_full_set_comes_first_even_when_it_is_empty() -> None:
    outbox = ShareOutbox(Steady())
    assert outbox.empty
    outbox.begin([])
    frame = await outbox.next()
    assert (frame.full, frame.more, frame.reports) == (True, False, ())
    outbox.ack(frame.batch)
    outbox.put([report("a", 1)])
    frame = await outbox.next()
    assert (frame.full, frame.reports) == (False, (report("a", 1),))


async def test_a_full_set_of_many_says_that_more_follows() -> None:
    outbox = ShareOutbox(Steady())
    outbox.put([report("gone")])
    outbox.begin(report(f"d{number}") for number in range(BATCH_REPORTS + 1))
    first = await outbox.next()
    assert (first.full, first.more, len(first.reports)) == (True, True, BATCH_REPORTS)
    outbox.ack(first.batch)
    second = await outbox.next()
    assert (second.full, second.more, len(second.reports)) == (True, False, 1)
    assert "gone" not in {each.deployment_id for each in (*first.reports, *second.reports)}


async def test_no_frame_is_larger_than_a_session_takes() -> None:
    outbox = ShareOutbox(Steady())
    outbox.put(report(f"d{number}", endpoints=10_000) for number in range(8))
    seen = 0
    while not outbox.empty:
        frame = await outbox.next()
        assert len(encode_frame(frame)) < MAX_FRAME_BYTES
        assert len(frame.reports) == 1 or len(encode_frame(frame)) <= MAX_BATCH_BYTES + 4096
        seen += len(frame.reports)
        outbox.ack(frame.batch)
    assert seen == 8


async def test_only_the_newest_of_a_share_is_sent_and_one_that_was_lost_comes_again() -> None:
    outbox = ShareOutbox(Steady())
    outbox.put([report("a", 1), report("b", 1)])
    outbox.put([report("a", 2)])
    frame = await outbox.next()
    assert {each.deployment_id: each.ready for each in frame.reports} == {"a": 2, "b": 1}
    outbox.put([report("a", 3)])
    outbox.restart()  # the session ended before it was acknowledged
    again = await outbox.next()
    assert {each.deployment_id: each.ready for each in again.reports} == {"a": 3, "b": 1}
    outbox.ack(frame.batch)
    assert not outbox.empty
    outbox.ack(again.batch)
    assert outbox.empty
    outbox.put([report("c")])
    outbox.forget("c")
    assert outbox.empty


async def test_the_host_was_heard_when_what_it_answers_was_sent() -> None:
    steady = Steady()
    outbox = ShareOutbox(steady)
    outbox.ask_for_a_sign()
    frame = await outbox.next()
    assert frame.reports == ()
    assert outbox.heard_at is None
    steady.now = 150.0
    outbox.ack(frame.batch + 1)
    assert outbox.heard_at is None
    outbox.ack(frame.batch)
    assert outbox.heard_at == 100.0


def test_as_many_deployments_are_made_at_once_as_a_commit_holds() -> None:
    steps = [Step(puts=(deployment(f"d{number}"),) * 3) for number in range(10)]
    assert len(first_steps(steps, 9)) == 3
    assert len(first_steps(steps, 1)) == 1
    assert len(first_steps(steps, 1000)) == 10
    assert first_steps([], 9) == []
