"""Services: every key that is honoured, with the forms it takes, and the message of every form it refuses."""

from typing import Any

import msgspec
import pytest

from fallow.decide.compose import ComposeError, parse_compose
from fallow.model.deployments import DeploymentSpec

VARIABLES = {"SET": "value", "EMPTY": ""}
ENV_FILES = {
    "a.env": "A=1\nB=2\nSET",
    "b.env": "B=3\nC=$GONE",
    "raw.env": "A='$X'",
    "bad.env": "A=1\ns3cret line",
    "${SET}.env": "FROM=written",
    "nul.env": "A=\x07",
}


def service(keys: str, variables: dict[str, str] = VARIABLES) -> tuple[DeploymentSpec, tuple[str, ...]]:
    """Return what a service with these keys becomes; `keys` is YAML, one key a line without indentation."""
    image = "" if keys.startswith(("image:", "build:")) else "image: app\n"
    lines = "\n".join("    " + line for line in (image + keys).splitlines())
    found = parse_compose(f"services:\n  web:\n{lines}\n", variables=variables, env_files=ENV_FILES)
    return found.deployments[0][1], found.warnings


def errors(keys: str) -> tuple[str, ...]:
    with pytest.raises(ComposeError) as caught:
        service(keys)
    return caught.value.errors


CONTAINER: list[tuple[str, dict[str, Any]]] = [
    ("image: nginx", {"image": "nginx"}),
    ("image: a/b/c_d.e-f:1.0@sha256:" + "0" * 64, {"image": "a/b/c_d.e-f:1.0@sha256:" + "0" * 64}),
    ("image: localhost:5000/shop:1", {"image": "localhost:5000/shop:1"}),
    ("image: '[::1]:5000/shop'", {"image": "[::1]:5000/shop"}),
    ("image: Registry.Example.com/shop", {"image": "Registry.Example.com/shop"}),
    ("image: shop:${TAG:-2}", {"image": "shop:2"}),
    ("command: run --name 'a b'", {"command": ["run", "--name", "a b"]}),
    ("command: [run, 5, '']", {"command": ["run", "5", ""]}),
    ("command: []", {"command": []}),
    ("command: ''", {"command": []}),
    ("command:", {"command": None}),
    ("entrypoint: /bin/sh -c", {"entrypoint": ["/bin/sh", "-c"]}),
    ("entrypoint: [a]", {"entrypoint": ["a"]}),
    (
        "environment: {A: b, N: 1.10, T: true, S: '', SET: }",
        {"environment": {"A": "b", "N": "1.10", "T": "true", "S": "", "SET": "value"}},
    ),
    ("environment: [A=b=c, S=, SET]", {"environment": {"A": "b=c", "S": "", "SET": "value"}}),
    ("environment: {A: '$$x ${SET}'}", {"environment": {"A": "$x value"}}),
    ("environment:", {"environment": {}}),
    ("env_file: a.env", {"environment": {"A": "1", "B": "2", "SET": "value"}}),
    ("env_file: [a.env, raw.env]", {"environment": {"A": "$X", "B": "2", "SET": "value"}}),
    ("env_file: [{path: raw.env, format: raw}]", {"environment": {"A": "'$X'"}}),
    ("env_file: [{path: gone.env, required: false}]", {"environment": {}}),
    ("env_file: ${SET}.env", {"environment": {"FROM": "written"}}),
    ("environment: {A: 9}\nenv_file: a.env", {"environment": {"A": "9", "B": "2", "SET": "value"}}),
    ("labels: {a: b, c: 1, d: }", {"labels": {"a": "b", "c": "1", "d": ""}}),
    ("labels: [a=b, c]", {"labels": {"a": "b", "c": ""}}),
    ("user: 1000", {"user": "1000"}),
    ("user: app:staff", {"user": "app:staff"}),
    ("working_dir: /srv/app", {"working_dir": "/srv/app"}),
    ("hostname: web-1", {"hostname": "web-1"}),
    ("read_only: true", {"read_only": True}),
    ("read_only: yes", {"read_only": True}),
    ("read_only: 'false'", {"read_only": False}),
    ("init: ${INIT:-true}", {"init": True}),
    ("cap_add: [NET_BIND_SERVICE, cap_chown, CHOWN]", {"cap_add": ["NET_BIND_SERVICE", "CHOWN"]}),
    ("cap_drop: [ALL]", {"cap_drop": ["ALL"]}),
    ("tmpfs: /run", {"tmpfs": ["/run"]}),
    ("tmpfs: [/run, '/tmp:size=64m,mode=1777']", {"tmpfs": ["/run", "/tmp:size=64m,mode=1777"]}),
    ("volumes: [{type: tmpfs, target: /scratch}]\ntmpfs: /run", {"tmpfs": ["/scratch", "/run"]}),
    ("volumes: []", {"tmpfs": []}),
    ("stop_grace_period: 1m30s", {"stop_grace_seconds": 90.0}),
    ("stop_signal: SIGQUIT", {"stop_signal": "SIGQUIT"}),
    ("stop_signal: 3", {"stop_signal": "3"}),
    ("stop_signal: SIGRTMIN+3", {"stop_signal": "SIGRTMIN+3"}),
]


@pytest.mark.parametrize(("keys", "expected"), CONTAINER)
def test_compose_container_key(keys: str, expected: dict[str, Any]) -> None:
    spec, _ = service(keys)
    found = msgspec.json.decode(msgspec.json.encode(spec.container))
    assert {name: found[name] for name in expected} == expected


def test_compose_service_defaults() -> None:
    spec, warnings = service("image: app")
    assert spec == DeploymentSpec(container=spec.container)
    assert spec.container == type(spec.container)(image="app")
    assert warnings == ()


REFUSED = [
    ("image: ''", "image (line 3): must not be empty; is a variable not set?"),
    (
        "image: Shop",
        "'Shop' is not an image reference such as registry.example.com/shop/web:1.4: the name must be in lower case",
    ),
    ("image: ${GONE?no tag}", "image (line 3): the variable GONE is required: no tag"),
    ("ports: ${GONE?no}", "ports (line 4): the variable GONE is required: no"),
    ("command: ${GONE?no}", "command (line 4): the variable GONE is required: no"),
    ("image: a b", "'a b' is not an image reference"),
    ("image: a:b:c", "is not an image reference"),
    ("image: https://a/b", "is not an image reference"),
    ("image: a@sha256:" + "0" * 63, "has a digest of 63 digits; sha256 has 64"),
    ("image: " + "a" * 600, "is not an image reference"),
    ("image: [a]", "image (line 3): must be text, not a list"),
    ("image: true", "must be text, not the truth value true"),
    ("image:", "image (line 3): must have a value"),
    ("build: .", "web (line 3): needs `image`: `build` is not supported; push an image to a registry and name it"),
    ('command: "a \'b"', "command (line 4): cannot be split into words: no closing quotation"),
    ("command: " + "a " * 40_000, "command (line 4): has 79999 characters; at most 65536 are allowed"),
    ("command: {a: b}", "command (line 4): must be text, not a mapping"),
    ("command: [a, [b]]", "command[1] (line 4): must be text, not a list"),
    ("environment: {A: [b]}", "environment.A (line 4): must be text, not a list"),
    ("environment: {'A B': c}", "environment.A B (line 4): needs a name of 1 to 256 characters"),
    ("environment: ['=b']", "environment[0] (line 4): needs a name"),
    ("environment: text", "environment (line 4): must be a mapping"),
    ("environment: {'A': '${GONE?no}'}", "environment.A (line 4): the variable GONE is required: no"),
    ("env_file: gone.env", "env_file (line 4): the file 'gone.env' is missing"),
    ("env_file: [a.env, gone.env]", "env_file[1] (line 4): the file 'gone.env' is missing"),
    ("env_file: [{required: true}]", "env_file[0] (line 4): needs `path`"),
    ("env_file: [{path: a.env, format: x}]", "env_file[0].format (line 4): must be raw, not 'x'"),
    (
        "env_file: [{path: a.env, requird: x}]",
        "env_file[0].requird (line 4): is not a known key; did you mean 'required'?",
    ),
    ("env_file: bad.env", "env_file (line 4): 'bad.env': line 2 is not NAME=value"),
    ("env_file: nul.env", "env_file (line 4): 'nul.env': holds the character U+0007"),
    (
        "labels: {io.fallow.replica: x}",
        "labels.io.fallow.replica (line 4): labels that begin with io.fallow. are set by Fallow itself",
    ),
    ("user: a b", "user (line 4): 'a b' is not a user such as 1000, app or 1000:1000"),
    ("working_dir: srv", "working_dir (line 4): 'srv' is not an absolute path"),
    ("hostname: a_b", "hostname (line 4): 'a_b' is not a host name"),
    ("read_only: maybe", "read_only (line 4): must be true or false, not 'maybe'"),
    ("cap_add: [ALL]", "cap_add[0] (line 4): ALL cannot be added; name the capabilities that are needed"),
    ("cap_add: [a b]", "'A B' is not a capability such as NET_BIND_SERVICE"),
    ("tmpfs: run", "tmpfs (line 4): 'run' is not an absolute path"),
    ("stop_grace_period: soon", "stop_grace_period (line 4): 'soon' is not a duration (examples: 30s, 1m30s, 500ms)"),
    ("stop_grace_period: 2h", "must be a duration from 0s to 3600s, not '2h'"),
    ("stop_grace_period: " + "9" * 400, "has too many digits"),
    ("stop_grace_period: " + "9" * 39, "must be a duration from 0s to 3600s"),
    ("stop_signal: now", "stop_signal (line 4): 'now' is not a signal such as SIGTERM"),
    (
        "volumes: [data:/var/lib]",
        "volumes[0] (line 4): volumes are not supported: replicas move between nodes and keep no data",
    ),
    ("volumes: [{type: bind, source: /a, target: /b}]", "volumes[0] (line 4): volumes are not supported"),
    ("comand: a", "comand (line 4): is not a known key; did you mean 'command'?"),
    ("x: a", "services.web.x (line 4): is not a known key"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_compose_service_refused(keys: str, message: str) -> None:
    found = errors(keys)
    assert len(found) == 1
    assert found[0].startswith("services.web")
    assert message in found[0]
    assert "s3cret" not in found[0]


WARNED = [
    ("image: a\nbuild: .", "services.web.build (line 4): is ignored: the image is pulled, not built"),
    (
        "environment: [GONE]",
        "environment[0] (line 4): GONE has no value and there is no variable of that name; it is left out",
    ),
    ("environment: {GONE: }", "environment.GONE (line 4): GONE has no value"),
    ("hostname: a${GONE}", "hostname (line 4): the variable GONE is not set; it is taken as empty"),
    ("env_file: b.env", "env_file (line 4): 'b.env': the variable GONE is not set; it is taken as empty"),
]


@pytest.mark.parametrize(("keys", "message"), WARNED)
def test_compose_service_warned(keys: str, message: str) -> None:
    _, warnings = service(keys)
    assert len(warnings) == 1
    assert message in warnings[0]


def test_compose_extensions_are_passed_over() -> None:
    spec, warnings = service("x-mine: {a: [b]}\nx-other: 5")
    assert spec.container.image == "app"
    assert warnings == ()


def test_compose_a_variable_may_not_bring_control_characters() -> None:
    for keys in ("hostname: $BELL", "environment: [BELL]"):
        with pytest.raises(ComposeError, match=r"U\+0007"):
            service(keys, {"BELL": "\x07"})


def test_compose_a_spec_has_a_bounded_size() -> None:
    with pytest.raises(ComposeError, match="at most 262144 are allowed"):
        service("environment: {A: $BIG}", {"BIG": "x" * 262_144})


def test_compose_bounds_of_the_model_are_errors() -> None:
    many = ", ".join(f"K{n}=v" for n in range(1025))
    assert "services.web (line 3): Expected `object` of length <= 1024" in errors(f"environment: [{many}]")[0]


def test_compose_all_errors_at_once() -> None:
    found = errors("image: A B\ncomand: x\nports: [x, '99999']\ndeploy: {replicas: many}\nprivileged: true")
    assert [text.partition(" (")[0] for text in found] == [
        "services.web.image",
        "services.web.comand",
        "services.web.ports[0]",
        "services.web.ports[1]",
        "services.web.deploy.replicas",
        "services.web.privileged",
    ]
