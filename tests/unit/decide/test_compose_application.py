"""Whole files: names, top-level keys, several services, keys that cannot be honoured, and the documentation of all."""

import re
from pathlib import Path

import pytest

from fallow.decide.compose import Application, ComposeError, parse_compose
from fallow.decide.compose.problems import MAX_ERRORS, MAX_WARNINGS, Problems
from fallow.decide.compose.service import HANDLERS
from fallow.decide.compose.unsupported import IGNORED, REFUSED

ROOT = Path(__file__).parents[3]
MINIMAL = "services:\n  web:\n    image: app\n"


def errors(text: str, project: str = "") -> tuple[str, ...]:
    with pytest.raises(ComposeError) as caught:
        parse_compose(text, project=project)
    return caught.value.errors


def with_key(key: str) -> Application:
    return parse_compose(f"{MINIMAL}    {key}\n")


@pytest.mark.parametrize(
    ("text", "project", "expected"),
    [
        (MINIMAL, "", "default"),
        ("name: shop\n" + MINIMAL, "", "shop"),
        ("name: ${NAME:-shop}\n" + MINIMAL, "", "shop"),
        ("name:\n" + MINIMAL, "", "default"),
        ("name: shop\n" + MINIMAL, "other", "other"),
        ("name: Not_A_Name\n" + MINIMAL, "other", "other"),
    ],
)
def test_compose_project(text: str, project: str, expected: str) -> None:
    assert parse_compose(text, project=project).project == expected


def test_compose_deployments_keep_the_order_of_the_file() -> None:
    found = parse_compose("services: {b: {image: x}, a: {image: y}, x-c: {image: z}}")
    assert [(name, spec.container.image) for name, spec in found.deployments] == [("b", "x"), ("a", "y"), ("x-c", "z")]


def test_compose_anchors_and_extension_fields() -> None:
    found = parse_compose("x-app: &app {image: app, restart: no}\nservices: {a: {<<: *app}, b: {<<: *app, image: b}}")
    assert [spec.container.image for _, spec in found.deployments] == ["app", "b"]
    assert found.warnings == ()


REFUSED_FILES = [
    ("", "", "the file must be a mapping with a key `services`"),
    ("name: a", "", "services: is missing: the file names nothing to run"),
    ("services: {}", "", "services (line 1): names nothing to run"),
    ("services:", "", "services (line 1): names nothing to run"),
    ("services: [a]", "", "services (line 1): must be a mapping"),
    ("services: {web: }", "", "services.web (line 1): must be a mapping with at least `image`"),
    ("services: {web: {}}", "", "services.web (line 1): needs `image`: there is nothing to run"),
    ("service: {web: {image: a}}\n" + MINIMAL, "", "service (line 1): is not a known key; did you mean 'services'?"),
    ("include: [a.yaml]\n" + MINIMAL, "", "include (line 1): is not supported: write the services into one file"),
    ("x-fallow: {routes: []}\n" + MINIMAL, "", "x-fallow.routes (line 1): belongs into a service"),
    ("name: My_Shop\n" + MINIMAL, "", "name (line 1): 'My_Shop' must be at most 40 letters a-z, digits and '-', and"),
    ("name: [a]\n" + MINIMAL, "", "name (line 1): must be text, not a list"),
    (MINIMAL, "My_Shop", "project: 'My_Shop' must be at most 40 letters a-z, digits and '-', and begin with a letter"),
    ("services: {My_Web: {image: a}}", "", "services.My_Web (line 1): the name 'My_Web' must be at most 40 letters"),
    ("services: {My_Web: {image: a}}", "", "; write 'my-web'"),
    ("services: {5x: {image: a}}", "", "; write 'x'"),
    ("services: {__: {image: a}}", "", "and begin with a letter"),
    ("services: {" + "a" * 41 + ": {image: a}}", "", "; write '" + "a" * 40 + "'"),
    (
        "services: {" + ", ".join(f"w{n}: {{image: a}}" for n in range(501)) + "}",
        "",
        "services (line 1): names 501 services; one file may have 500",
    ),
    (
        "services:\n  a: {image: x, ports: ['80:1']}\n  b: {image: x, ports: ['80:2']}",
        "",
        "services.b (line 3): claims tcp://:80, which services.a has already",
    ),
    (
        "x: &x\n  image: x\n  expose: [1]\n  x-fallow: {routes: http://a.test/b}\nservices: {a: *x, b: *x}".replace(
            "x: &x", "x-x: &x"
        ),
        "",
        "claims http://a.test/b, which services.a has already",
    ),
]


@pytest.mark.parametrize(("text", "project", "message"), REFUSED_FILES)
def test_compose_file_refused(text: str, project: str, message: str) -> None:
    found = errors(text, project)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize("key", ["version: '3.8'", "networks: {a: }", "volumes: {a: }", "secrets: {a: {file: x}}"])
def test_compose_top_level_key_ignored_with_a_warning(key: str) -> None:
    found = parse_compose(f"{key}\n{MINIMAL}")
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith(f"{key.partition(':')[0]} (line 1): is ignored: ")


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_compose_unsupported_key_refused_with_what_to_do(key: str) -> None:
    assert errors(f"{MINIMAL}    {key}: true\n") == (f"services.web.{key} (line 4): is not supported: {REFUSED[key]}",)


@pytest.mark.parametrize("key", sorted(IGNORED))
def test_compose_unsupported_key_ignored_with_a_warning(key: str) -> None:
    assert with_key(f"{key}: true").warnings == (f"services.web.{key} (line 4): is ignored: {IGNORED[key]}",)


@pytest.mark.parametrize("key", sorted(REFUSED | IGNORED))
@pytest.mark.parametrize("value", ["", "false", "[]", "{}", "''"])
def test_compose_unsupported_key_may_stand_empty(key: str, value: str) -> None:
    assert with_key(f"{key}: {value}").warnings == ()


SPECIAL = [
    ("depends_on: [db]", "depends_on (line 4): is ignored: all services start at once"),
    ("depends_on: {db: {condition: service_started}}", "is ignored: all services start at once"),
    ("depends_on: {db: {restart: true}}", "is ignored: all services start at once"),
    ("network_mode: bridge", ""),
    ("network_mode: default", ""),
    ("security_opt: [no-new-privileges:true]", ""),
    ("security_opt: [no-new-privileges]", ""),
]


@pytest.mark.parametrize(("key", "warning"), SPECIAL)
def test_compose_special_key_accepted(key: str, warning: str) -> None:
    assert [warning in found for found in with_key(key).warnings] == ([True] if warning else [])


SPECIAL_REFUSED = [
    ("depends_on: {db: {condition: service_healthy}}", "depends_on.db (line 4): waiting for db is not supported"),
    ("depends_on: {db: {condition: service_completed_successfully}}", "waiting for db is not supported"),
    ("network_mode: host", "network_mode (line 4): is not supported: a replica shares no namespace with its node"),
    ("network_mode: service:db", "network_mode (line 4): is not supported"),
    ("network_mode: none", "network_mode (line 4): is not supported"),
    ("security_opt: [seccomp:unconfined]", "security_opt[0] (line 4): is not supported"),
    ("security_opt: [no-new-privileges:false]", "security_opt[0] (line 4): is not supported"),
]


@pytest.mark.parametrize(("key", "message"), SPECIAL_REFUSED)
def test_compose_special_key_refused(key: str, message: str) -> None:
    found = errors(f"{MINIMAL}    {key}\n")
    assert len(found) == 1
    assert message in found[0]


def test_compose_error_lists_everything_and_ends_somewhere() -> None:
    found = errors("services:\n  web:\n    image: A\n" + "".join(f"    key{n}: 1\n" for n in range(300)))
    assert len(found) == MAX_ERRORS + 1
    assert found[-1] == f"reading stopped after {MAX_ERRORS} errors"


def test_compose_warnings_end_somewhere() -> None:
    problems = Problems()
    for _ in range(MAX_WARNINGS + 5):
        problems.warn("a", 1, "is odd")
    assert len(problems.warnings) == MAX_WARNINGS + 1
    assert problems.warnings[-1] == "more warnings are left out"


@pytest.mark.parametrize("name", ["hello", "shop"])
def test_compose_examples_are_accepted_without_warnings(name: str) -> None:
    found = parse_compose((ROOT / "examples" / name / "compose.yaml").read_text())
    assert found.project == name
    assert found.warnings == ()


def test_compose_example_shop_has_its_routes() -> None:
    found = dict(parse_compose((ROOT / "examples/shop/compose.yaml").read_text()).deployments)
    assert {name: spec.replicas for name, spec in found.items()} == {"web": 6, "api": 2}
    assert [(r.host, r.path) for r in found["web"].routes] == [("shop.localhost", "/")]
    assert [(r.host, r.path) for r in found["api"].routes] == [
        ("shop.localhost", "/api"),
        ("api.shop.localhost", "/"),
    ]
    assert {spec.container.image for spec in found.values()} == {"localhost:5000/shop:1"}


def test_compose_reference_names_every_key() -> None:
    reference = (ROOT / "docs/reference/compose.md").read_text()
    named = set(re.findall(r"`([a-z_-]+)`", reference))
    assert set(HANDLERS) - named == set()
