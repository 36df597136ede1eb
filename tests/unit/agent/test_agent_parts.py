"""The small parts of an agent: outbox, journal, vitals, probes, and the systemd unit."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine

from fallow.agent import install, journal, probes
from fallow.agent.folder import FolderError, lock, write_private
from fallow.agent.outbox import BATCH_OBSERVATIONS, Outbox
from fallow.agent.probes import Prober
from fallow.agent.vitals import Vitals, architecture
from fallow.decide.agent.messages import ContainerFact, Probe
from fallow.drivers.engine.contract import EngineError
from fallow.model.containers import ContainerSpec, HealthCheck
from fallow.model.deployments import Activity, Observation
from fallow.model.wire import Assignment


def seen(id_, serial, activity=Activity.RUNNING):
    return Observation(replica_id=id_, serial=serial, activity=activity)


# outbox


async def test_the_outbox_sends_only_the_newest_and_one_batch_at_a_time():
    outbox = Outbox(repeat_seconds=60)
    outbox.put([seen("a", 1), seen("b", 1)])
    outbox.put([seen("a", 3), seen("a", 2)])
    first = await outbox.next()
    assert {found.replica_id: found.serial for found in first.observations} == {"a": 3, "b": 1}
    outbox.put([seen("a", 4)])
    waiting = asyncio.create_task(outbox.next())
    await asyncio.sleep(0)
    outbox.ack(first.batch + 1)
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.ack(first.batch)
    second = await waiting
    assert [found.serial for found in second.observations] == [4]
    assert second.batch > first.batch
    outbox.ack(second.batch)
    assert outbox.empty


async def test_a_new_session_gets_what_was_not_acknowledged_unless_it_is_old():
    outbox = Outbox(repeat_seconds=60)
    outbox.put([seen("a", 1), seen("b", 1)])
    first = await outbox.next()
    outbox.put([seen("a", 2)])
    outbox.restart()
    again = await outbox.next()
    assert {found.replica_id: found.serial for found in again.observations} == {"a": 2, "b": 1}
    outbox.ack(first.batch)
    assert not outbox.empty


async def test_many_observations_leave_in_batches():
    outbox = Outbox()
    outbox.put(seen(f"r{number}", 1) for number in range(BATCH_OBSERVATIONS + 1))
    first = await outbox.next()
    outbox.ack(first.batch)
    assert (len(first.observations), len((await outbox.next()).observations)) == (BATCH_OBSERVATIONS, 1)


# folder and journal


def test_files_are_private_and_a_folder_has_one_user(tmp_path):
    write_private(tmp_path / "f", b"1")
    write_private(tmp_path / "f", b"2")
    assert (tmp_path / "f").read_bytes() == b"2"
    assert os.stat(tmp_path / "f").st_mode & 0o777 == 0o600
    with lock(tmp_path / "data"), pytest.raises(FolderError, match="another agent"):
        lock(tmp_path / "data")
    lock(tmp_path / "data").close()
    with pytest.raises(FolderError, match="cannot be made"):
        lock(tmp_path / "f" / "data")


def kept(*ids):
    spec = ContainerSpec(image="x", environment={"A": "b"})
    return journal.Journal(
        assignments=tuple(
            Assignment(replica_id=id_, deployment="d/e", generation=1, run=True, container=spec) for id_ in ids
        ),
        failed={"f": "why"},
        serial=7,
    )


async def test_the_journal_comes_back_as_it_was(tmp_path):
    assert journal.load(tmp_path) is None
    writer = journal.JournalWriter(tmp_path)
    writer.put(kept("a"))
    writer.put(kept("a", "b"))
    await asyncio.gather(writer.flush(), writer.flush())
    assert journal.load(tmp_path) == kept("a", "b")
    assert os.stat(tmp_path / journal.FILE).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"version": 2}', b'{"assignments": [{}]}'])
def test_an_unreadable_journal_is_set_aside(tmp_path, content):
    (tmp_path / journal.FILE).write_bytes(content)
    assert journal.load(tmp_path) is None
    assert (tmp_path / f"{journal.FILE}.1").read_bytes() == content
    assert journal.load(tmp_path) is None


async def test_a_journal_that_cannot_be_written_is_an_error_until_it_can(tmp_path):
    writer = journal.JournalWriter(tmp_path / "gone")
    writer.put(kept("a"))
    with pytest.raises(journal.JournalError, match="cannot be written"):
        await writer.flush()
    (tmp_path / "gone").mkdir()
    await writer.flush()
    assert journal.load(tmp_path / "gone") == kept("a")


# vitals


def vitals(tmp_path, **files):
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Vitals(folder=tmp_path, proc=tmp_path / "proc", cgroup=tmp_path / "cg")


def test_vitals_of_this_machine():
    here = Vitals(folder=Path("/"))
    facts = here.facts("podman 4.3.1")
    assert facts.cpus > 0
    assert facts.memory_bytes > 2**20
    assert facts.disk_bytes > 0
    assert facts.architecture in {"amd64", "arm64", "arm", "riscv64", "ppc64le", "s390x", "386"}
    assert here.boot_id()
    assert here.usage().cpus == 0.0
    assert here.usage(3).containers == 3


def test_a_machine_tells_its_disk_before_its_folder_is_there(tmp_path):
    later = Vitals(folder=tmp_path / "not" / "yet")
    assert later.facts("").disk_bytes == Vitals(folder=tmp_path).facts("").disk_bytes > 0


def test_quotas_of_any_group_above_count(tmp_path):
    found = vitals(
        tmp_path,
        proc__self__cgroup="0::/a/b\n",
        cg__a__cpuDOTmax="5000 100000",
        cg__a__b__cpuDOTmax="max 100000",
        cg__a__memoryDOTmax="1048576",
        cg__a__b__memoryDOTmax="max",
        proc__meminfo="MemTotal: 2048 kB\nMemAvailable: 1024 kB\n",
    )
    assert found.cpus() == 0.05
    assert found.memory_bytes() == 2**20
    assert found.usage().memory_bytes == 2**20


def test_quotas_of_version_one_groups_count(tmp_path):
    found = vitals(
        tmp_path,
        proc__self__cgroup="4:memory:/a\n2:cpu,cpuacct:/a\n0::/\n",
        cg__cpu__a__cpuDOTcfs_quota_us="2500",
        cg__cpu__a__cpuDOTcfs_period_us="100000",
        cg__cpu__cpuDOTcfs_quota_us="-1",
        cg__memory__a__memoryDOTlimit_in_bytes="9223372036854771712",
        proc__meminfo="MemTotal: 2048 kB\n",
    )
    assert found.cpus() == 0.025
    assert found.memory_bytes() == 2**21


def test_processors_used_since_the_last_sample(tmp_path):
    found = vitals(tmp_path, proc__stat="cpu  100 0 0 100 0 0 0 0 0 0\n")
    assert found.usage().cpus == 0
    vitals(tmp_path, proc__stat="cpu  150 0 0 150 0 0 0 0 0 0\n")
    assert found.usage().cpus == pytest.approx((os.cpu_count() or 1) / 2)


def test_architectures_are_named_as_images_name_them():
    assert [architecture(name) for name in ("x86_64", "aarch64", "loongarch64")] == ["amd64", "arm64", "loongarch64"]


# probes


@contextlib.asynccontextmanager
async def serve(answer, hold=False):
    """Listen as a container would; yields the port."""
    handling = set()

    async def handle(reader, writer):
        handling.add(asyncio.current_task())
        with contextlib.suppress(OSError, EOFError):  # a probe hangs up when it knows enough
            if answer is not None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
            if hold:
                await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*handling)


def order(check, host_ports=None, address="", port=8080):
    fact = ContainerFact(
        id="c1", replica_id="r1", spec_hash="", status="running", address=address, host_ports=host_ports or {}
    )
    return Probe(replica_id="r1", serial=1, check=check, container=fact, port=port)


@pytest.mark.parametrize(
    ("kind", "answer", "hold", "outcome", "text"),
    [
        ("http", b"HTTP/1.1 204 No Content\r\n\r\n", False, "ok", ""),
        ("http", b"HTTP/1.0 302 Found\r\n\r\n", False, "ok", ""),
        ("http", b"HTTP/1.1 503 Busy\r\n\r\n", False, "failed", "HTTP status 503"),
        ("http", b"SSH-2.0-x\r\n", False, "failed", "no HTTP answer"),
        ("http", b"x" * 5000, False, "failed", ""),
        ("tcp", None, True, "ok", ""),
        ("tcp", None, False, "failed", "closed at once"),
    ],
)
async def test_network_probes(kind, answer, hold, outcome, text, monkeypatch):
    if outcome == "failed":  # a busy machine may take its time to close
        monkeypatch.setattr(probes, "SETTLE_SECONDS", 4.0)
    async with serve(answer, hold) as port:
        check = HealthCheck(kind=kind, path="/ready?x=ä b")
        result = await Prober(ScriptedEngine()).probe(order(check, {"8080/tcp": port}))
        assert (result.outcome, result.serial) == (outcome, 1)
        assert text in result.text
        inside = await Prober(ScriptedEngine()).probe(order(check, address="127.0.0.1", port=port))
        assert inside.outcome == outcome


async def test_a_published_port_is_probed_where_it_is_published():
    check = HealthCheck(kind="http", path="/")
    async with serve(b"HTTP/1.1 204 No Content\r\n\r\n", False) as port:
        bound = await Prober(ScriptedEngine(), lambda: "127.0.0.1").probe(order(check, {"8080/tcp": port}))
        elsewhere = await Prober(ScriptedEngine(), lambda: "127.0.0.2").probe(order(check, {"8080/tcp": port}))
    assert bound.outcome == "ok"
    assert (elsewhere.outcome, "127.0.0.2" in elsewhere.text) == ("failed", True)


async def test_a_published_port_that_refuses_falls_back_to_the_containers_address():
    async with serve(None) as free:
        pass
    async with serve(None, hold=True) as port:
        check = HealthCheck(kind="tcp")
        both = order(check, {f"{port}/tcp": free}, address="127.0.0.1", port=port)
        assert (await Prober(ScriptedEngine()).probe(both)).outcome == "ok"
        refused = await Prober(ScriptedEngine()).probe(order(check, {"8080/tcp": free}))
        assert refused.outcome == "failed"
        assert f"127.0.0.1:{free}" in refused.text


async def test_probes_without_a_port_or_an_answer():
    prober = Prober(ScriptedEngine())
    assert "names no port" in (await prober.probe(order(HealthCheck(kind="tcp"), port=None))).text
    assert "not published" in (await prober.probe(order(HealthCheck(kind="tcp")))).text
    async with serve(b"", hold=True) as port:
        slow = await prober.probe(order(HealthCheck(kind="http", timeout_seconds=0.1), {"8080/tcp": port}))
        assert (slow.outcome, slow.text) == ("failed", "no answer in 0.1 s")


async def test_command_probes():
    engine = ScriptedEngine()
    engine.exit_codes = {("bad",): 1}
    prober = Prober(engine)
    assert (await prober.probe(order(HealthCheck(kind="command", command=("good",))))).outcome == "ok"
    bad = await prober.probe(order(HealthCheck(kind="command", command=("bad",))))
    assert (bad.outcome, bad.text) == ("failed", "the health command exited with code 1")
    engine.failures["execute"] = [EngineError("unreachable", "gone"), EngineError("not-found", "no such container")]
    check = HealthCheck(kind="command", command=("good",))
    assert [(await prober.probe(order(check))).outcome for _ in range(2)] == ["unknown", "failed"]


# the service


def test_the_unit_runs_the_command_and_holds_no_secret():
    text = install.render_unit(["/usr/bin/fallow", "join", "--data", "/var/lib/my fallow", "100%"], "Fallow node")
    assert 'ExecStart=/usr/bin/fallow join --data "/var/lib/my fallow" 100%%\n' in text
    assert "RestartPreventExitStatus=77\n" in text
    assert "KillMode=process\n" in text
    for words in (
        ["fallow"],
        [],
        ["/bin/fallow", "fallow-join.a.b.c"],
        ["/bin/fallow", "--token=fallow-join.a.b.c"],
        ["/bin/fallow", "a\nExecStartPost=/bin/sh"],
    ):
        with pytest.raises(ValueError, match=r"service|token|lines"):
            install.render_unit(words, "x")


@pytest.mark.skipif(os.path.isdir("/run/systemd/system") or os.geteuid() != 0, reason="needs root without systemd")
def test_without_systemd_nothing_is_installed(tmp_path):
    with pytest.raises(install.InstallError, match="does not run systemd"):
        install.install(["/usr/bin/fallow"], "x", tmp_path)
    assert not list(tmp_path.iterdir())
