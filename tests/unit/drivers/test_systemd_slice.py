"""The slice of what is lent is made once, and nothing is done where systemd does not run."""

import subprocess

import pytest

from fallow.drivers import systemd


@pytest.fixture
def called(monkeypatch, tmp_path):
    calls = []

    def run(words, **_):
        calls.append(words[1:])
        return subprocess.CompletedProcess(words, 0, stdout="stopping\n", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(systemd, "_RUNS_SYSTEMD", tmp_path)
    return calls


def test_a_slice_is_written_once_and_started(called, tmp_path):
    for _ in range(2):
        assert systemd.start_slice("fallow.slice", ("CPUWeight=1",), tmp_path) == ""
    assert called == [["daemon-reload"], ["start", "fallow.slice"], ["start", "fallow.slice"]]
    assert (tmp_path / "fallow.slice").read_text().endswith("[Slice]\nCPUWeight=1\n")


def test_what_systemd_says_against_it_is_returned(called, tmp_path):
    assert "could not start" in systemd.start_slice("fallow.slice", (), tmp_path / "nowhere")


def test_without_systemd_nothing_is_done(called, monkeypatch, tmp_path):
    assert systemd.shutting_down()
    monkeypatch.setattr(systemd, "_RUNS_SYSTEMD", tmp_path / "nowhere")
    assert systemd.start_slice("fallow.slice", (), tmp_path) == ""
    assert not systemd.shutting_down()
    assert called == [["is-system-running"]]
