"""`x-fallow.resources` and `x-fallow.prefer`, and what `x-fallow.selector` never looks at."""

import pytest

from fallow.decide.compose import ComposeError, parse_compose
from fallow.decide.selectors import parse_selector
from fallow.model.deployments import PlacementPolicy, Preference


def placement(lines: str) -> PlacementPolicy:
    text = "".join(f"      {line}\n" for line in lines.splitlines())
    found = parse_compose(f"services:\n  web:\n    image: app\n    x-fallow:\n{text}")
    return found.deployments[0][1].placement


def test_compose_resources_and_preferences() -> None:
    found = placement(
        """selector: "@west,label:role=web"
resources: disk.free>=20GiB,!var:busy
prefer:
  - ssd=yes
  - match: "@west"
    weight: 3
  - most: disk.free
  - {least: "var:load", weight: 10}"""
    )
    assert found.selector == parse_selector("@west,label:role=web")
    assert found.resources == parse_selector("disk.free>=20GiB,!var:busy")
    assert found.prefer == (
        Preference(selector=parse_selector("ssd=yes")),
        Preference(selector=parse_selector("@west"), weight=3),
        Preference(order="most", key="disk.free"),
        Preference(order="least", key="var:load", weight=10),
    )
    assert placement("prefer: ssd").prefer == (Preference(selector=parse_selector("ssd")),)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("selector: var:rack=r7", "sees assigned labels only"),
        ("selector: '!var:rack'", "sees assigned labels only"),
        ("selector: node:name=a", "sees assigned labels only"),
        ("resources: disk.free>", "expected an amount"),
        ("resources: [a]", "must be text"),
        ("prefer:\n  - {weight: 3}", "needs one of match, most and least"),
        ("prefer:\n  - {most: a, least: b}", "stands beside most"),
        ("prefer:\n  - {most: a>3}", "must be a variable or a label"),
        ("prefer:\n  - {most: '@west'}", "must be a variable or a label"),
        ("prefer:\n  - {most: a, weight: 0}", "from 1 to 100"),
        ("prefer:\n  - {most: a, wieght: 1}", "did you mean 'weight'"),
        ("prefer: [" + ",".join(["a"] * 17) + "]", "more than 16"),
    ],
)
def test_compose_resources_refused(lines: str, message: str) -> None:
    with pytest.raises(ComposeError) as caught:
        placement(lines)
    assert message in " ".join(caught.value.errors)
