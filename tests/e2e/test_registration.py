"""Registration against a real control plane over real TLS: approval by the command line, replacement, and guessers."""

import asyncio
import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from victim import _BLIND, FALLOW, JOIN, Victim, attacked, unharmed, wish

from fallow.agent.joining import Application, Patience, join
from fallow.client.joining import JoinError
from fallow.model.members import Facts, Role
from testbed import processes

NODE = Application(role=Role.NODE, function="a test", facts=Facts(hostname="box-1", cpus=4.0, memory_bytes=2**33))


@pytest.fixture(scope="module")
def plane() -> Iterator[Victim]:
    with attacked() as found:
        yield found


@pytest.fixture(autouse=True)
def _unharmed(plane: Victim) -> Iterator[None]:
    with unharmed(plane):
        yield


def fallow(plane: Victim, *words: str) -> str:
    """Run a command as its user would, and return what it prints."""
    environment = {**os.environ, **plane.environment}
    done = subprocess.run([FALLOW, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_machine_waits_is_looked_at_and_let_in(plane: Victim, tmp_path: Path) -> None:
    url, told = f"https://127.0.0.1:{plane.port}", []
    token = (
        await asyncio.to_thread(fallow, plane, "token", "create", "--approve", "manual", "-l", "zone=a", "-q")
    ).strip()
    joining = asyncio.create_task(join(url, token, NODE, tmp_path / "data", Patience(tell=told.append)))
    await asyncio.to_thread(
        processes.wait_until, lambda: "box-1" in fallow(plane, "node", "pending"), 20, "a machine that waits"
    )
    (view,) = json.loads(await asyncio.to_thread(fallow, plane, "node", "pending", "--json"))["items"]
    assert (view["function"], view["labels"], view["source_address"]) == ("a test", {"zone": "a"}, "127.0.0.1")
    assert not joining.done()
    await asyncio.to_thread(fallow, plane, "node", "approve", view["id"][:8], "--name", "web-1", "-l", "rack=r7")
    async with asyncio.timeout(20):
        joined = await joining
    assert joined.identity.name == "web-1"
    shown = json.loads(await asyncio.to_thread(fallow, plane, "node", "show", "web-1", "--json"))
    assert shown["labels"] == {"zone": "a", "rack": "r7"}
    used = await asyncio.to_thread(fallow, plane, "token", "show", token.split(".")[1])
    assert "web-1" in used

    again = (await asyncio.to_thread(fallow, plane, "token", "create", "--replace", "web-1", "-q")).strip()
    replaced = await join(url, again, NODE, tmp_path / "fresh")
    assert (replaced.identity.member_id, replaced.identity.lease) == (joined.identity.member_id, joined.identity.lease)
    (tmp_path / "data" / "identity.json").unlink()
    with pytest.raises(JoinError, match="took the place of"):
        await join(url, token, NODE, tmp_path / "data")


async def test_a_machine_is_told_why_it_is_turned_away(plane: Victim, tmp_path: Path) -> None:
    url = f"https://127.0.0.1:{plane.port}"
    token = (await asyncio.to_thread(fallow, plane, "token", "create", "--approve", "manual", "-q")).strip()
    joining = asyncio.create_task(join(url, token, NODE, tmp_path / "data"))
    await asyncio.to_thread(
        processes.wait_until, lambda: "box-1" in fallow(plane, "node", "pending"), 20, "a machine that waits"
    )
    await asyncio.to_thread(fallow, plane, "node", "reject", "box-1", "--reason", "not one of ours")
    async with asyncio.timeout(20):
        with pytest.raises(JoinError, match="not one of ours"):
            await joining


def test_who_guesses_as_fast_as_it_goes_gets_nothing_and_stops_nobody(plane: Victim) -> None:
    good = plane.create("node", uses=5)
    kind, id_, secret, ca = good.split(".")
    guesses = [json.dumps(wish(f"{kind}.{id_}.{number:0{len(secret)}d}.{ca}")) for number in range(8)]
    statuses: dict[int, int] = {}
    done = threading.Event()

    def guess(number: int) -> None:
        while not done.is_set():
            line = http.client.HTTPSConnection("127.0.0.1", plane.port, context=_BLIND, timeout=20)
            try:
                for _ in range(200):
                    line.request("POST", JOIN, guesses[number], {"Content-Type": "application/json"})
                    answer = line.getresponse()
                    answer.read()
                    statuses[answer.status] = statuses.get(answer.status, 0) + 1
                    if done.is_set():
                        break
            except (OSError, http.client.HTTPException):
                pass
            finally:
                line.close()

    before = len(plane.ask("GET", "/v1/audit?limit=10000").body["items"])
    threads = [threading.Thread(target=guess, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        processes.wait_until(lambda: statuses.get(429, 0) > 300, 60, "guesses")
        for _ in range(5):  # from the very address that guesses
            began = time.monotonic()
            assert plane.ask("POST", JOIN, wish(good), token="").status == 201
            assert time.monotonic() - began < 10
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(statuses) <= {403, 429}, statuses
    assert statuses.get(403, 0) < 60, "very few learn even that the token is wrong"
    entries = len(plane.ask("GET", "/v1/audit?limit=10000").body["items"]) - before
    assert entries < 60, "who guesses does not fill the store"

    def told_why() -> bool:
        answer = plane.ask("POST", JOIN, wish(good), token="")
        return answer.status == 403 and "was already used" in answer.body["detail"]

    processes.wait_until(told_why, 20, "the address may ask again, and is told why it is refused")
