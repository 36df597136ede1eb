"""Processes are found by name with their children, and measured by differences; /proc is the kernel's or a test's."""

import os
import shutil
import subprocess
import sys
import time

import pytest
from session_peer import until

from fallow.agent import processes as processes_module
from fallow.agent.processes import AGAIN_LOOKS, TITLE_LOOKS, Named, Watched

SLEEPS = "import time; time.sleep(60)"
PARENT = (
    "import subprocess, sys, time\n"
    f"child = subprocess.Popen([sys.executable, '-I', '-S', '-c', {SLEEPS!r}])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)"
)


@pytest.fixture
def program(tmp_path):
    """A program of a name that nothing else here has."""
    name = f"fl{os.getpid()}x{time.monotonic_ns() % 100000}"
    (tmp_path / name).symlink_to(sys.executable)
    return tmp_path / name


@pytest.fixture
def start(program):
    started = []

    def go(code, **more):
        started.append(subprocess.Popen([str(program), "-I", "-S", "-c", code], stdout=subprocess.PIPE, **more))
        return started[-1]

    yield go
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.fixture
def spawn():
    started = []

    def go(code):
        started.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE))
        return started[-1]

    yield go
    for child in started:
        child.kill()
        child.wait()


async def test_processes_are_found_as_they_come_and_go(program, start):
    named = Named(name=program.name, apart="/none")
    assert named.find() == set()
    child = start(SLEEPS)
    await until(lambda: named.find() == {child.pid})
    child.kill()
    child.wait()
    assert named.find() == set()


async def test_children_belong_to_it_also_when_their_parent_has_ended(program, start):
    named = Named(name=program.name, apart="/none")
    parent = start(PARENT)
    child = int(parent.stdout.readline())
    await until(lambda: named.find() == {parent.pid, child})
    parent.kill()
    parent.wait()
    try:
        assert named.find() == {child}
    finally:
        os.kill(child, 9)


async def test_a_process_that_becomes_another_program_is_found(program, start, spawn):
    named = Named(name=program.name, apart="/none")
    words = [str(program), "-I", "-S", "-c", SLEEPS]
    other = spawn(f"import os, sys; sys.stdin.read(); os.execv({words[0]!r}, {words!r})")
    assert named.find() == set()
    other.stdin.close()
    await until(lambda: named.find() == {other.pid})


def made(proc, pid, name, parent=1, group="/shop", ticks=0, thread_waits=(0,)):
    """Write one process of a /proc of our own."""
    folder = proc / str(pid)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    after = [0] * 10 + [ticks, 0, 0, 0, 20, 0, len(thread_waits), 0, 100 + pid, 0, 0]
    (folder / "stat").write_text(f"{pid} ({name}) S {parent} " + " ".join(map(str, after[1:])))
    (folder / "cmdline").write_bytes(b"/usr/bin/" + name.encode() + b"\0-x\0")
    (folder / "cgroup").write_text(f"4:memory:{group}\n0::/\n")
    (folder / "statm").write_text("500 300 100 0 0 0 0")
    (folder / "io").write_text(f"rchar: 5\nread_bytes: {ticks * 100}\nwrite_bytes: 0\n")
    for number, wait in enumerate(thread_waits):
        thread = folder / "task" / str(pid + number)
        thread.mkdir(parents=True)
        (thread / "schedstat").write_text(f"1 {wait} 1\n")


def test_what_is_lent_is_never_a_primary_though_it_has_the_same_name(tmp_path):
    made(tmp_path, 10, "java")
    made(tmp_path, 11, "java", group="/fallow.slice/pod-1")
    made(tmp_path, 12, "java", group="/fallow.slice")
    made(tmp_path, 13, "java", group="/fallow.slices")
    made(tmp_path, 14, "sh", parent=10, group="/fallow.slice/pod-2")
    assert Named(name="java", apart="/fallow.slice", proc=tmp_path).find() == {10, 13}


def test_names_with_brackets_and_spaces_are_read(tmp_path):
    made(tmp_path, 10, "a) (b c")
    assert Named(name="a) (b c", apart="/none", proc=tmp_path).find() == {10}


def test_a_pid_that_is_used_again_is_another_process(tmp_path):
    named, watched = Named(name="java", apart="/none", proc=tmp_path), Watched(proc=tmp_path)
    made(tmp_path, 10, "java", ticks=500)
    assert named.find() == {10}
    watched.use({10})
    made(tmp_path, 10, "sh", ticks=900)
    stat = tmp_path / "10" / "stat"
    stat.write_text(stat.read_text().replace(" 110 0 0", " 4711 0 0"))
    assert named.find() == set()
    assert watched.use({10}).cpu_seconds == 0


@pytest.mark.parametrize(("command", "looks"), [("java", AGAIN_LOOKS), ("sh", AGAIN_LOOKS * TITLE_LOOKS)])
def test_an_old_process_that_becomes_another_is_found(tmp_path, command, looks):
    named = Named(name="java", apart="/none", proc=tmp_path)
    made(tmp_path, 10, "sh")
    assert all(not named.find() for _ in range(3 * AGAIN_LOOKS))
    made(tmp_path, 10, command)
    (tmp_path / "10" / "cmdline").write_bytes(b"/usr/bin/java\0-x\0")
    assert any(named.find() == {10} for _ in range(looks))


def test_use_is_what_came_since_the_last_look(tmp_path):
    watched = Watched(proc=tmp_path)
    made(tmp_path, 10, "java", ticks=500, thread_waits=(1_000_000_000, 0))
    made(tmp_path, 11, "java", ticks=10)
    first = watched.use({10, 11})
    assert (first.cpu_seconds, first.waited_seconds) == (0, 0)
    assert first.memory_bytes == (2 * 200 + 100) * os.sysconf("SC_PAGE_SIZE")  # what is shared counts once
    made(tmp_path, 10, "java", ticks=600, thread_waits=(1_500_000_000, 250_000_000))
    second = watched.use({10, 11})
    assert second.cpu_seconds == pytest.approx(100 / os.sysconf("SC_CLK_TCK"))
    assert second.waited_seconds == pytest.approx(0.75)
    assert watched.use(set()).cpu_seconds == 0


def test_of_very_many_threads_a_part_is_asked_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(processes_module, "THREADS", 10)
    watched = Watched(proc=tmp_path)
    made(tmp_path, 1000, "java", thread_waits=(0,) * 25)
    for _ in range(3):
        watched.use({1000})
    made(tmp_path, 1000, "java", thread_waits=(10_000_000,) * 25)
    assert sum(watched.use({1000}).waited_seconds for _ in range(5)) == pytest.approx(0.25)


def test_a_process_that_ends_while_it_is_looked_at_does_no_harm(tmp_path):
    made(tmp_path, 10, "java")
    for name in ("cmdline", "cgroup", "statm", "io"):
        (tmp_path / "10" / name).unlink()
    assert Named(name="java", apart="/none", proc=tmp_path).find() == {10}
    assert Watched(proc=tmp_path).use({10, 99}).memory_bytes == 0
    (tmp_path / "10" / "stat").write_text("")
    assert Named(name="java", apart="/none", proc=tmp_path).find() == set()
