"""A whole node agent: a real TLS session with a scripted control plane, and a scripted engine."""

import asyncio
import contextlib
import time

import msgspec
import pytest
from records import overlaid
from scripted_engine import ScriptedEngine
from session_peer import Peer, TestCa, until

from fallow.agent import node as node_module
from fallow.agent.folder import FolderError
from fallow.agent.network import Networking
from fallow.agent.node import NodeAgent
from fallow.agent.session import SessionRefused
from fallow.drivers.engine.contract import EngineError
from fallow.drivers.network.fake import FakeNetwork
from fallow.model import wire
from fallow.model.containers import ContainerSpec, RestartPolicy
from fallow.model.deployments import Activity, Health
from fallow.model.network import NetworkState


def assignment(id_="r1", run=True, **spec):
    spec.setdefault("image", "web:1")
    return wire.Assignment(
        replica_id=id_, deployment="default/web", generation=1, run=run, container=ContainerSpec(**spec)
    )


def assign(*assignments, full=True, removed=()):
    return wire.Assign(revision=1, full=full, assignments=assignments, removed=removed)


@pytest.fixture
def ca(tmp_path):
    return TestCa(tmp_path)


@pytest.fixture
def engine():
    return ScriptedEngine()


class Setting:
    """A peer, and agents that come and go on one folder and engine."""

    def __init__(self, ca, engine, folder):
        self.ca, self.engine, self.folder = ca, engine, folder
        self.peer = Peer(ca)
        self.port = 0
        self.network = None
        self.stop = asyncio.Event()
        self.task = None

    async def begin(self, **store):
        self.port = self.port or await self.peer.start()
        self.identity = self.ca.store(self.folder, self.port, **store)
        self.go()

    def go(self):
        self.stop = asyncio.Event()
        self.agent = NodeAgent(self.engine, self.folder, self.identity, network=self.network)
        self.task = asyncio.create_task(self.agent.run(self.stop))

    async def kill(self):
        """End the agent without a word, as kill -9 would."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def is_(self, id_, activity, health=None):
        await self.peer.until(
            lambda: (
                id_ in self.peer.observed
                and self.peer.observed[id_].activity is activity
                and (health is None or self.peer.observed[id_].health is health)
            )
        )


@pytest.fixture
async def setting(ca, engine, tmp_path):
    made = Setting(ca, engine, tmp_path / "data")
    yield made
    if made.task is not None:
        await made.kill()
    if made.peer.server is not None:
        await made.peer.stop()


async def test_it_says_who_it_is_and_runs_what_is_assigned(setting, engine):
    setting.peer.greet_with = [assign(assignment("a"), assignment("b"))]
    await setting.begin()
    await setting.is_("a", Activity.RUNNING, Health.HEALTHY)
    await setting.is_("b", Activity.RUNNING, Health.HEALTHY)
    hello = setting.peer.hellos[0]
    assert hello.facts.engine == "podman 4.3.1"
    assert hello.facts.architecture == "amd64"
    assert 0 < hello.facts.cpus <= 2
    assert hello.boot_id
    assert {found.status for found in engine.containers.values()} == {"running"}
    assert engine.calls["pull"] == 1, "one pull for both"
    await setting.peer.until(lambda: any(beat.usage.containers == 2 for beat in setting.peer.of(wire.Heartbeat)))
    setting.peer.send(assign(assignment("a", run=False), full=False))
    await setting.is_("a", Activity.STOPPED)
    setting.peer.send(assign(full=False, removed=("b",)))
    await until(lambda: not engine.containers)


async def test_a_crash_is_noticed_and_repaired(setting, engine):
    setting.peer.greet_with = [assign(assignment(restart=RestartPolicy(delay_seconds=0.01)))]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING, Health.HEALTHY)
    engine.crash("r1", 3)
    await setting.peer.until(lambda: setting.peer.observed["r1"].restarts == 1)
    assert setting.peer.observed["r1"].activity is Activity.RUNNING


async def test_observations_are_repeated_until_acknowledged(setting):
    setting.peer.ack = False
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    setting.agent._outbox._repeat_seconds = 0.02
    await setting.peer.until(lambda: len(setting.peer.of(wire.Observed)) >= 3)
    repeated = setting.peer.of(wire.Observed)
    assert len({frame.batch for frame in repeated}) == 1
    setting.peer.send(wire.ObservedAck(batch=repeated[0].batch))
    setting.peer.ack = True
    await setting.is_("r1", Activity.RUNNING, Health.HEALTHY)
    await until(lambda: setting.agent._outbox.empty)


async def test_after_a_lost_session_it_comes_back_with_everything_it_knows(setting):
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING, Health.HEALTHY)
    setting.peer.drop()
    await setting.peer.until(lambda: setting.peer.sessions == 2)
    (seen,) = setting.peer.hellos[1].observations
    assert (seen.activity, seen.health) == (Activity.RUNNING, Health.HEALTHY)
    assert setting.engine.calls["create"] == 1


@pytest.mark.parametrize(
    "junk", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x03abc", wire.encode_frame(wire.Goodbye(reason="bye"))]
)
async def test_what_makes_no_sense_ends_the_session_but_not_the_agent(setting, junk):
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING)
    setting.peer.send_raw(junk)
    await setting.peer.until(lambda: setting.peer.sessions == 2)
    assert setting.engine.containers["r1"].status == "running"


async def test_a_fault_of_its_own_ends_the_session_but_not_the_agent(setting, monkeypatch):
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING)

    def faulty(frame):
        monkeypatch.undo()
        raise KeyError("a bug")

    monkeypatch.setattr(setting.agent, "received", faulty)
    setting.peer.send(assign(assignment()))
    await setting.peer.until(lambda: setting.peer.sessions == 2)
    assert setting.engine.containers["r1"].status == "running"
    assert not setting.task.done()


async def test_a_final_refusal_ends_the_agent_and_not_the_containers(setting, engine):
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING)
    setting.peer.send(wire.Reject(reason="this member was removed", final=True))
    with pytest.raises(SessionRefused, match="this member was removed"):
        await asyncio.wait_for(setting.task, 10)
    assert engine.containers["r1"].status == "running"
    assert "this member was removed" in setting.identity.refusal
    setting.go()
    await setting.peer.until(lambda: setting.peer.sessions == 2)
    await until(lambda: not setting.identity.refusal)  # it was let in again


async def test_refused_for_now_it_asks_again(setting):
    setting.peer.refuse_with = wire.Reject(reason="starting")
    await setting.begin()
    await until(lambda: setting.peer.sessions >= 2)
    setting.peer.refuse_with = None
    await until(lambda: setting.agent.connected)


async def test_a_server_of_another_name_or_ca_is_told_nothing(setting, tmp_path):
    setting.port = await setting.peer.start(names=("localhost", "127.0.0.1"))
    await setting.begin()
    await asyncio.sleep(0)
    await until(lambda: setting.agent._session._complained[0] != "")
    assert "CERTIFICATE_VERIFY_FAILED" in setting.agent._session._complained[0]
    assert not setting.peer.hellos


async def test_it_shows_its_certificate(setting):
    await setting.begin()
    await setting.peer.until(lambda: setting.peer.sessions == 1)
    assert setting.peer.certificates[0]


async def test_a_restarted_agent_touches_nothing_and_runs_on_without_a_control_plane(setting, engine):
    setting.peer.greet_with = [assign(assignment(restart=RestartPolicy(delay_seconds=0.01)), assignment("b"))]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING)
    await setting.is_("b", Activity.RUNNING)
    serial = setting.peer.observed["r1"].serial
    await setting.kill()
    await setting.peer.stop()
    ids = {found.id for found in engine.containers.values()}
    engine.crash("b", 1)  # while nobody looks
    # Serials begin at the clock, which a burst of reports may outrun by milliseconds; no real restart is that quick.
    await until(lambda: time.time() * 1000 > serial + 10)
    setting.go()
    await until(lambda: engine.containers["b"].status == "running")
    assert {found.id for found in engine.containers.values()} == ids
    assert engine.calls["stop"] == 0
    assert all(seen.serial > serial for seen in setting.agent._machine.observations())


async def test_a_corrupt_journal_is_set_aside_and_containers_wait_for_the_control_plane(setting, engine):
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING)
    await setting.kill()
    (setting.folder / "journal.json").write_bytes(b"{half")
    setting.peer.greet_with = []
    setting.go()
    await setting.peer.until(lambda: setting.peer.sessions == 2)
    await until(lambda: setting.agent._machine.listed)
    assert engine.containers["r1"].status == "running"
    assert (setting.folder / "journal.json.1").read_bytes() == b"{half"
    setting.peer.send(assign())
    await until(lambda: not engine.containers)


async def test_without_an_engine_it_connects_and_begins_when_there_is_one(setting, engine, monkeypatch):
    monkeypatch.setattr(node_module, "ENGINE_WAIT_SECONDS", 0.01)
    engine.down = True
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    await setting.peer.until(lambda: "cannot be reached" in getattr(setting.peer.observed.get("r1"), "message", ""))
    engine.down = False
    await setting.is_("r1", Activity.RUNNING, Health.HEALTHY)


async def test_a_broken_event_stream_is_opened_again(setting, engine):
    setting.peer.greet_with = [assign(assignment(restart=RestartPolicy(delay_seconds=0.01)))]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING)
    engine.break_stream()
    engine.crash("r1")  # nobody hears this one
    await setting.peer.until(lambda: setting.peer.observed["r1"].restarts == 1)


async def test_at_most_four_creates_at_once(setting, engine):
    engine.create_gate = asyncio.Event()
    setting.peer.greet_with = [assign(*(assignment(f"r{number}") for number in range(9)))]
    await setting.begin()
    await until(lambda: engine.creating == 4)
    engine.create_gate.set()
    await until(lambda: sum(found.status == "running" for found in engine.containers.values()) == 9)
    assert engine.most_creating == 4


async def test_the_engines_words_reach_the_control_plane(setting, engine):
    engine.failures["pull"] = [EngineError("not-found", "manifest unknown")]
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    await setting.peer.until(lambda: "manifest unknown" in getattr(setting.peer.observed.get("r1"), "message", ""))
    await setting.is_("r1", Activity.RUNNING)


async def test_nothing_is_started_that_the_journal_does_not_know(setting, engine):
    setting.folder.mkdir(mode=0o700)
    (setting.folder / "journal.json.new").mkdir()
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    await setting.peer.until(lambda: "journal" in getattr(setting.peer.observed.get("r1"), "message", ""))
    assert engine.calls["create"] == 0
    (setting.folder / "journal.json.new").rmdir()
    await setting.is_("r1", Activity.RUNNING)


async def test_logs_are_sent_and_closed(setting, engine):
    setting.peer.greet_with = [assign(assignment())]
    engine.log_lines = [f"line {number}" for number in range(1200)]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING)
    setting.peer.send(wire.OpenLog(stream_id="s1", replica_id="r1", tail=1100))
    await setting.peer.until(lambda: any(chunk.end for chunk in setting.peer.of(wire.LogChunk)))
    chunks = setting.peer.of(wire.LogChunk)
    assert [line for chunk in chunks for line in chunk.lines] == engine.log_lines[-1100:]
    assert len(chunks) < 10, "lines travel in batches"
    setting.peer.send(wire.OpenLog(stream_id="s2", replica_id="r1", follow=True))
    await until(lambda: setting.agent._logs.count == 1)
    setting.peer.send(wire.CloseLog(stream_id="s2"))
    await until(lambda: setting.agent._logs.count == 0)
    setting.peer.send(wire.OpenLog(stream_id="s3", replica_id="nobody"))
    await setting.peer.until(lambda: any("no container" in chunk.error for chunk in setting.peer.of(wire.LogChunk)))


async def test_a_lost_session_ends_its_logs(setting, engine):
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING)
    setting.peer.send(wire.OpenLog(stream_id="s1", replica_id="r1", follow=True))
    await until(lambda: setting.agent._logs.count == 1)
    setting.peer.drop()
    await until(lambda: setting.agent._logs.count == 0)


async def test_a_certificate_is_renewed_through_the_session(setting, ca):
    await setting.begin(seconds=2)
    await setting.peer.until(lambda: setting.peer.of(wire.RenewAsked))
    asked = setting.peer.of(wire.RenewAsked)[0]
    before = setting.identity.expires_at()
    stranger = ca.identity(asked.csr_pem, setting.port, member_id="n-2")
    setting.peer.send(wire.Renewed(identity=stranger))
    setting.peer.send(assign(assignment()))
    await setting.is_("r1", Activity.RUNNING)
    assert setting.identity.identity.member_id == "n-1", "another member's certificate is not kept"
    setting.peer.send(wire.Renewed(identity=ca.identity(asked.csr_pem, setting.port, seconds=7200)))
    await until(lambda: setting.identity.expires_at() > before)
    setting.peer.drop()
    await setting.peer.until(lambda: setting.peer.sessions == 2)
    assert setting.peer.certificates[1] != setting.peer.certificates[0]


async def test_stopped_it_says_goodbye_and_leaves_containers_running(setting, engine):
    setting.peer.greet_with = [assign(assignment())]
    await setting.begin()
    await setting.is_("r1", Activity.RUNNING)
    setting.stop.set()
    await asyncio.wait_for(setting.task, 5)
    await setting.peer.until(lambda: setting.peer.of(wire.Goodbye))
    assert engine.containers["r1"].status == "running"


async def test_two_agents_cannot_share_a_folder(setting, engine):
    await setting.begin()
    await setting.peer.until(lambda: setting.peer.sessions == 1)
    with pytest.raises(FolderError, match="another agent"):
        await NodeAgent(engine, setting.folder, setting.identity).run(asyncio.Event())


async def test_a_member_that_was_removed_removes_its_containers_and_forgets_who_it_was(setting, engine):
    setting.peer.greet_with = [assign(assignment("a"), assignment("b"))]
    await setting.begin()
    await setting.is_("a", Activity.RUNNING, Health.HEALTHY)
    await setting.is_("b", Activity.RUNNING, Health.HEALTHY)
    setting.peer.send(wire.Reject(reason="removed", final=True, clean=True))
    with pytest.raises(SessionRefused, match="removed"):
        await asyncio.wait_for(setting.task, 10)
    assert not engine.containers
    assert not setting.identity.exists
    assert list(setting.folder.glob("identity.json.*")), "set aside, not lost"
    setting.task = None


async def test_one_that_is_told_to_keep_its_containers_keeps_them(setting, engine):
    setting.peer.greet_with = [assign(assignment("a"))]
    await setting.begin()
    await setting.is_("a", Activity.RUNNING, Health.HEALTHY)
    setting.peer.send(wire.Reject(reason="removed", final=True))
    with pytest.raises(SessionRefused):
        await asyncio.wait_for(setting.task, 10)
    assert len(engine.containers) == 1
    setting.task = None


async def test_a_removed_member_cleans_when_it_comes_back_even_if_killed_in_between(setting, engine):
    setting.peer.greet_with = [assign(assignment("a"))]
    await setting.begin()
    await setting.is_("a", Activity.RUNNING, Health.HEALTHY)
    await setting.kill()
    setting.peer.refuse_with = wire.Reject(reason="removed", final=True, clean=True)
    setting.go()
    while not setting.task.done() and engine.containers:
        await asyncio.sleep(0)
    await setting.kill() if not setting.task.done() else None
    if setting.identity.exists:
        setting.go()
        with pytest.raises(SessionRefused):
            await asyncio.wait_for(setting.task, 10)
    assert not engine.containers
    assert not setting.identity.exists
    with contextlib.suppress(SessionRefused):
        await setting.task
    setting.task = None


async def test_each_start_of_an_agent_says_another_instance(setting):
    await setting.begin()
    await setting.peer.until(lambda: setting.peer.sessions == 1)
    setting.peer.drop()
    await setting.peer.until(lambda: setting.peer.sessions == 2)
    await setting.kill()
    setting.go()
    await setting.peer.until(lambda: setting.peer.sessions == 3)
    first, again, restarted = (hello.instance for hello in setting.peer.hellos)
    assert first == again != restarted
    assert len(first) == 16


async def test_other_name_servers_are_for_containers_to_come_and_leave_those_that_run(setting, engine):
    setting.peer.greet_with = [assign(assignment("a"))]
    await setting.begin()
    await setting.is_("a", Activity.RUNNING, Health.HEALTHY)
    running = engine.containers["a"]
    await setting.kill()
    state = NetworkState(lease=overlaid("m1", 1).lease, name_servers=("10.86.0.9",), domain="d.test")
    (setting.folder / "network.json").write_bytes(msgspec.json.encode(state))
    setting.network = Networking(FakeNetwork(""), "", setting.folder, state.lease)
    setting.peer.greet_with = [wire.SetNetwork(state=state), assign(assignment("a"), assignment("b"))]
    setting.go()
    await setting.is_("b", Activity.RUNNING, Health.HEALTHY)
    assert engine.containers["a"].id == running.id, "it was adopted as it is"
    assert engine.calls["create"] == 2
    assert [engine.requests[name].resolving.servers[:1] for name in "ab"] == [(), ("10.86.0.9",)]
    assert engine.requests["b"].resolving.search == ("default.svc.d.test",)
