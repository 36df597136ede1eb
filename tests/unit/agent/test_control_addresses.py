"""Finding another control plane when one does not answer."""

import asyncio
import contextlib

import pytest
from scripted_engine import ScriptedEngine
from session_peer import Peer, TestCa, until

from fallow.agent.control_addresses import ControlAddresses
from fallow.agent.node import NodeAgent
from fallow.model.peers import ControlAddress
from fallow.model.wire import ControlMoved


def address(name, port=7444):
    return ControlAddress(url=f"https://{name}:7443", session_host=name, session_port=port)


@pytest.fixture
def store(tmp_path):
    return TestCa(tmp_path).store(tmp_path / "data", 7444, url="https://first:7443")


def hosts(found, count):
    seen = []
    for _ in range(count):
        seen.append(found.current.session_host)
        found.move_on()
    return seen


def test_alone_it_dials_where_it_joined(store):
    assert hosts(ControlAddresses(store), 2) == ["127.0.0.1", "127.0.0.1"]


def test_others_are_dialled_in_turn_also_after_a_restart(store):
    found = ControlAddresses(store)
    found.learn((address("b"), address("c")))
    assert found.current.session_host == "127.0.0.1"
    assert hosts(found, 4) == ["127.0.0.1", "b", "c", "127.0.0.1"]
    assert hosts(ControlAddresses(store), 3) == ["127.0.0.1", "b", "c"]


def test_the_one_that_is_dialled_stays_known(store):
    found = ControlAddresses(store)
    found.learn((address("b"),))
    found.move_on()
    found.learn((address("c"),))
    assert found.current.session_host == "b"
    assert hosts(found, 3) == ["b", "c", "127.0.0.1"]


def test_what_cannot_be_read_is_learnt_again(store):
    (store.folder / "control.json").write_text("{")
    assert len(ControlAddresses(store)) == 1


async def test_an_agent_goes_to_another_control_plane_by_itself(tmp_path):
    ca = TestCa(tmp_path)
    first, second = Peer(ca), Peer(ca)
    port, other = await first.start(), await second.start()
    stop = asyncio.Event()
    agent = NodeAgent(ScriptedEngine(), tmp_path / "data", ca.store(tmp_path / "data", port))
    task = asyncio.create_task(agent.run(stop))
    try:
        await first.until(lambda: first.sessions == 1)
        first.send(ControlMoved(control=(address("127.0.0.1", other),)))
        await until((tmp_path / "data/control.json").exists)
        await first.stop()
        await second.until(lambda: second.sessions == 1, 5)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await second.stop()
