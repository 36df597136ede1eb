"""Compose files: whatever the text, the answer is an application or a ComposeError, and the same one twice."""

import msgspec
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fallow.decide.compose import Application, ComposeError, parse_compose
from fallow.decide.compose.service import HANDLERS

PLAIN = [
    "",
    "app",
    "80:8080",
    "1-3:4-6",
    "http://a.test/b",
    "tcp://:5",
    "node.labels.a == b",
    "a=b",
    "CMD",
    "1m",
    "64m",
    "$A",
    "${A:-b}",
    "${A?}",
    "/x",
    "no",
    "host",
    "tmpfs",
    "a.env",
    "\x00",
    "\u00e9",
]
KEYS = [*HANDLERS, "name", "services", "replicas", "resources", "limits", "reservations", "memory", "placement"]
KEYS += ["constraints", "preferences", "spread", "routes", "health", "http", "tcp", "port", "host", "path", "listen"]
KEYS += [
    "kind",
    "selector",
    "test",
    "interval",
    "disable",
    "target",
    "published",
    "mode",
    "type",
    "condition",
    "a",
    "x-a",
]

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(PLAIN), st.text(max_size=8), st.dates()
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)),
    max_leaves=12,
)
services = st.dictionaries(st.sampled_from(list(HANDLERS)), values, max_size=6)
files = st.fixed_dictionaries(
    {"services": st.dictionaries(st.sampled_from(["web", "api", "B_d", "5"]), services, min_size=1, max_size=2)},
    optional={"name": values, "x-a": values, "volumes": values},
)

VALID: dict[str, list[object]] = {
    "command": ["run --fast", ["run", 5], "", None],
    "environment": [{"A": 1.5, "B": "${A}-$$"}, ["A=b=c", "A"], None],
    "env_file": ["a.env", [{"path": "gone.env", "required": False}]],
    "labels": [{"a": True}, ["b"]],
    "ports": [["8080", "81:9090"], [{"target": 8080, "published": 82, "mode": "host"}], ["127.0.0.1:1:2"]],
    "expose": [["8080", "7000-7002/udp"]],
    "healthcheck": [{"test": "true", "interval": "5s"}, {"disable": True}, {"retries": 5}],
    "restart": ["no", "on-failure:2"],
    "user": [1000],
    "tmpfs": ["/run", ["/a", "/b:size=1m"]],
    "depends_on": [["db"]],
    "deploy": [
        {"replicas": 3, "placement": {"constraints": ["node.labels.a != b"], "max_replicas_per_node": 1}},
        {"resources": {"limits": {"cpus": "1"}, "reservations": {"memory": "1m"}}, "restart_policy": {"delay": "1s"}},
    ],
    "x-fallow": [
        {"selector": "a in (b,c),d>1Gi", "spread": "zone", "strategy": "pack", "architectures": ["arm64"]},
        {"routes": [{"host": "a.test", "port": 8080}, {"listen": 5432, "port": 5432}]},
    ],
}
valid_services = st.fixed_dictionaries(
    {"image": st.sampled_from(["app", "r.test:5000/a/b:1", "${IMAGE:-c}"])},
    optional={key: st.sampled_from(choices) for key, choices in VALID.items()},
)


def outcome(text: str) -> object:
    try:
        found = parse_compose(text, variables={"A": "x"}, env_files={"a.env": "B=${C}\nD='e'"})
    except ComposeError as error:
        assert error.errors
        assert all(one and "\n" not in one for one in error.errors)
        return error.errors
    msgspec.json.encode([spec for _, spec in found.deployments])
    return found


@settings(max_examples=100, deadline=None)
@given(files)
def test_compose_any_file_is_read_or_refused_alike_twice(file: object) -> None:
    text = yaml.safe_dump(file, allow_unicode=True)
    assert outcome(text) == outcome(text)


@settings(max_examples=100, deadline=None)
@given(valid_services)
def test_compose_valid_keys_are_accepted_together(keys: dict[str, object]) -> None:
    found = outcome(yaml.safe_dump({"services": {"web": keys}}))
    assert isinstance(found, Application), found
    assert {route.port for _, spec in found.deployments for route in spec.routes} <= {
        port.container for _, spec in found.deployments for port in spec.container.ports
    }


@settings(max_examples=150, deadline=None)
@given(valid_services, st.sampled_from(list(HANDLERS)), values)
def test_compose_one_odd_value_among_valid_ones(keys: dict[str, object], key: str, value: object) -> None:
    outcome(yaml.safe_dump({"services": {"web": {**keys, key: value}}}))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%@`?,# \n\t<$=01~\x00\x85\u2028\ufeff\ud800"), max_size=60))
@example("%YAML " + "9" * 5000 + ".1\n---\n")
@example('"\\UFFFFFFFF": a')
@example("? ? ? a")
@example("a: !<tag:%zz> b")
@example("--- >9")
def test_compose_any_text_is_refused_and_nothing_worse(text: str) -> None:
    assert isinstance(outcome(text), tuple)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_compose_any_bytes_are_refused_and_nothing_worse(data: bytes) -> None:
    outcome(data.decode("latin-1"))
