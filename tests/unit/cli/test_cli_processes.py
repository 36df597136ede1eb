"""The commands that run processes hand over what they were told."""

from pathlib import Path

import pytest
from conftest import Fallow

from fallow.cli.launchers import GatewayOptions, JoinOptions, LendOptions, LogOptions, ServerOptions, UpOptions
from fallow.model.labels import Variable

JOIN = f"fallow-join.t1.hunter2.{'a' * 64}"
URL = "https://control.example:7443"


def test_server(alone: Fallow, launched: list[object]) -> None:
    ran = alone(
        *("server", "--data", "/srv/x", "--listen", "[::]:1", "--session-listen", "127.0.0.1:2", "--host", "a"),
        *("--host", "10.0.0.9", "--advertise", "a:9", "--heartbeat", "500ms", "--suspect-after", "3s"),
        *(
            "--region",
            "west",
            "--zone",
            "west-1",
            "--dead-after",
            "1m",
            "--no-write-context",
            "--log-level",
            "debug",
            "--log-format",
            "json",
        ),
    )
    assert ran.code == 0, ran
    assert launched == [
        ServerOptions(
            data=Path("/srv/x"),
            listen="[::]:1",
            session_listen="127.0.0.1:2",
            names=("a", "10.0.0.9"),
            advertise="a:9",
            region="west",
            zone="west-1",
            heartbeat_seconds=0.5,
            suspect_seconds=3,
            dead_seconds=60,
            write_context=False,
            log=LogOptions(level="debug", format="json"),
        )
    ]


def test_defaults_are_those_of_the_options(alone: Fallow, launched: list[object]) -> None:
    for command in ("server", "up", "join", "gateway"):
        assert alone(command, "--data", "d").code == 0
    data = Path("d")
    assert launched == [
        ServerOptions(data=data),
        UpOptions(data=data),
        JoinOptions(data=data),
        GatewayOptions(data=data),
    ]


@pytest.mark.parametrize(("euid", "data"), [(0, "/var/lib/fallow/node"), (1000, "data/fallow/node")])
def test_where_state_goes(
    alone: Fallow, launched: list[object], home: Path, monkeypatch: pytest.MonkeyPatch, euid: int, data: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: euid)
    assert alone("join", URL, JOIN).code == 0
    (options,) = launched
    assert isinstance(options, JoinOptions)
    assert options.data == home / data


def test_join(alone: Fallow, launched: list[object]) -> None:
    ran = alone(
        *("join", URL + "/", JOIN, "--name", "n1", "--var", "rack=r12", "--var", "disk.free:bytes=1GiB"),
        *("--function", "build machine", "--engine", "unix:///run/x.sock", "--data", "d", "--install"),
        *("--image-rate", "20MiB"),
    )
    assert ran.code == 0, ran
    assert launched == [
        JoinOptions(
            url=URL,
            token=JOIN,
            name="n1",
            variables=(
                Variable(name="rack", value="r12"),
                Variable(name="disk.free", value="1GiB", type="bytes", unit="GiB"),
            ),
            function="build machine",
            engine="unix:///run/x.sock",
            image_rate=20 * 2**20,
            data=Path("d"),
            install=True,
        )
    ]
    assert "hunter2" not in repr(launched)


@pytest.mark.parametrize("rate", ["1023KiB", "0", "-1", "fast", "1e9GiB"])
def test_join_refuses_a_rate_that_helps_nobody(alone: Fallow, launched: list[object], rate: str) -> None:
    ran = alone("join", URL, JOIN, "--data", "d", f"--image-rate={rate}")
    assert (ran.code, launched) == (2, [])
    assert "--image-rate" in ran.err


@pytest.mark.parametrize(
    "words",
    [
        ("a=b\nc",), ("a=b\x1b[2J",), ("a:bytes=r7",), ("a:color=red",), ("@a=b",), ("a=" + "x" * 257,), ("a",),
        ("a=1", "a=2"), tuple(f"a{number}=1" for number in range(65)),
    ],
)  # fmt: skip
def test_join_refuses_variables_that_nobody_would_take(
    alone: Fallow, launched: list[object], words: tuple[str]
) -> None:
    ran = alone("join", URL, JOIN, *(part for word in words for part in ("--var", word)), "--data", "d")
    assert ran.code == 2, ran
    assert launched == []
    assert "\x1b" not in ran.err


def test_join_as_a_server(alone: Fallow, launched: list[object]) -> None:
    ran = alone(
        *("join", "--role", "server", "--primary", "systemd:db,cgroup:/shop", "--primary", "process:java", URL, JOIN),
        *("--vm-bridge", "br0", "--drain-on-stop", "--data", "d"),
    )
    assert ran.code == 0, ran
    (options,) = launched
    assert isinstance(options, LendOptions)
    assert [primary.text for primary in options.primaries] == ["systemd:db.service", "cgroup:/shop", "process:java"]
    assert (options.url, options.token, options.machines.bridge) == (URL, JOIN, "br0")
    assert options.drain_on_stop and not options.install


@pytest.mark.parametrize(
    "words",
    [("--role", "server", "--primary", "db"), ("--role", "server", "--primary", "cgroup:/"), ("--primary", "process:x"),
     ("--role", "gateway")],
)  # fmt: skip
def test_join_refuses_what_is_not_of_that_role(alone: Fallow, launched: list[object], words: tuple[str, ...]) -> None:
    ran = alone("join", *words, "--data", "d")
    assert ran.code == 2 and launched == [], ran


@pytest.mark.parametrize("way", ["stdin", "environment"])
def test_the_token_need_not_be_an_argument(
    alone: Fallow, launched: list[object], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "stdin":
        ran = alone("gateway", URL, "-", "--http-port", "8080", stdin=JOIN + "\n")
    else:
        monkeypatch.setenv("FALLOW_JOIN_TOKEN", JOIN)
        ran = alone("gateway", URL, "--http-port", "8080")
    assert ran.code == 0, ran
    (options,) = launched
    assert isinstance(options, GatewayOptions)
    assert (options.token, options.http_port) == (JOIN, 8080)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("join", "http://x", JOIN), "not the URL"),
        (("join", URL, "fallow-join.t1.hunter2"), "not a join token"),
        (("join", URL, "fallow-api.t1.hunter2"), "API token"),
        (("join", URL, "-"), "standard input"),
        (("join", URL, JOIN, "--var", "x"), "'x' is not a variable"),
        (("join", URL, JOIN, "--var", "a b=c"), "cannot be a variable"),
        (("join", URL, JOIN, "--name", "Node_1"), "cannot be a name"),
        (("server", "--listen", "7443"), "not an address"),
        (("server", "--listen", "x:99999"), "not an address"),
        (("server", "--advertise", "a/b"), "not a host"),
        (("server", "--advertise", "a:70000"), "not a host"),
        (("server", "--suspect-after", "90s"), "must grow"),
        (("server", "--region", "we st"), "--region"),
        (("server", "--zone", "-"), "--zone"),
        (("server", "--heartbeat", "soon"), "not a duration"),
        (("up", "--http-port", "0"), "--http-port"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(
    alone: Fallow, launched: list[object], arguments: tuple[str, ...], told: str
) -> None:
    ran = alone(*arguments, stdin="")
    assert ran.code == 2
    assert told in ran.err
    assert "hunter2" not in ran.err
    assert launched == []
