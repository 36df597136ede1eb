"""`x-fallow.clusters`, in a service and for all services of a file."""

import pytest
from records import NOW, deployment, ids

from fallow.decide.compose import ComposeError, parse_compose
from fallow.decide.deploy import changed
from fallow.decide.selectors import parse_selector
from fallow.model.clusters import ClusterPolicy, ClusterSpread, Rebalance
from fallow.model.taints import Toleration

SERVICE = "services:\n  web:\n    image: app\n"


def clusters(lines: str) -> ClusterPolicy:
    text = "".join(f"        {line}\n" for line in lines.splitlines())
    found = parse_compose(f"{SERVICE}    x-fallow:\n      clusters:\n{text}")
    return found.deployments[0][1].clusters


def test_everything_that_can_be_said_of_clusters() -> None:
    found = clusters(
        """divide: weighted
where: region in (east,west),name!=old
weights: {a: 2, b: 0}
min: {a: 1}
max: {a: 9}
spread: {label: region, min_groups: 3}
fallback: ["region=east", "region=west"]
tolerate: [gpu, dedicated=shop]
rebalance: {after: 10m, at_once: 4}
fence: 60s
floor: 5"""
    )
    assert found == ClusterPolicy(
        divide="weighted",
        where=parse_selector("region in (east,west),name!=old"),
        weights={"a": 2, "b": 0},
        min={"a": 1},
        max={"a": 9},
        spread=ClusterSpread(label="region", min_groups=3),
        fallback=(parse_selector("region=east"), parse_selector("region=west")),
        tolerate=(Toleration(key="gpu"), Toleration(key="dedicated", value="shop")),
        rebalance=Rebalance(after_seconds=600.0, at_once=4),
        fence_seconds=60.0,
        floor=5,
    )


def test_short_forms() -> None:
    assert clusters("spread: region").spread == ClusterSpread(label="region", min_groups=2)
    assert clusters("tolerate: gpu").tolerate == (Toleration(key="gpu"),)
    assert clusters("rebalance: true").rebalance == Rebalance()
    assert clusters("rebalance: false").rebalance is None


def test_what_the_file_says_holds_for_services_that_say_nothing() -> None:
    own = "  api:\n    image: app\n    x-fallow: {clusters: {divide: duplicate}}\n"
    whole = f"{SERVICE}{own}x-fallow:\n  clusters: {{divide: '${{HOW}}', max: {{a: 3}}}}\n"
    found = dict(parse_compose(whole, variables={"HOW": "aggregate"}).deployments)
    assert found["web"].clusters == ClusterPolicy(divide="aggregate", max={"a": 3})
    assert found["api"].clusters == ClusterPolicy(divide="duplicate")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("divide: equally", "must be weighted or capacity or aggregate or duplicate"),
        ("divde: weighted", "did you mean 'divide'"),
        ("where: node:name=a", "of a cluster only its labels and its `name` are known"),
        ("where: region in (", "expected a value"),
        ("weights: {a: 1}", "has weights, which count with `divide: weighted` alone"),
        ("divide: weighted\nweights: {a: 0}", "at least one cluster a weight above 0"),
        ("divide: weighted\nweights: {A_: 1}", "is not the name of a cluster"),
        ("divide: weighted\nweights: {a: -1}", "must be a whole number from 0"),
        ("divide: weighted\nweights: [a]", "must be a mapping"),
        ("min: {a: 3}\nmax: {a: 2}", "wants at least 3 replicas in a, and fewer at the most"),
        ("divide: duplicate\nspread: region", "duplicates the total in every cluster"),
        ("spread: {min_groups: 2}", "needs `label`"),
        ("spread: {label: region, min_groups: 0}", "from 1 to 100"),
        ("spread: '-'", "is not a label key"),
        ("fallback: 'region=a'", "must be a list"),
        ("tolerate: ['=a']", "must be KEY or KEY=VALUE of a taint"),
        ("rebalance: {at_once: 3, percent: 10}", "write `at_once` or `percent`"),
        ("rebalance: soon", "must be true or false"),
        ("fence: long", "long"),
        ("floor: -1", "must be a whole number"),
    ],
)
def test_what_is_wrong_is_said(lines: str, message: str) -> None:
    with pytest.raises(ComposeError) as caught:
        clusters(lines)
    assert message in " ".join(caught.value.errors)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x-fallow: {clusters: weighted}\n", "x-fallow.clusters (line 1): must be a mapping, such as {divide:"),
        ("x-fallow: clusters\n", "x-fallow (line 1): must be a mapping with `clusters`"),
        ("x-fallow: {spread: [zone]}\n", "x-fallow.spread (line 1): belongs into a service"),
    ],
)
def test_what_is_wrong_at_the_top_is_said(text: str, message: str) -> None:
    with pytest.raises(ComposeError) as caught:
        parse_compose(text + SERVICE)
    assert message in " ".join(caught.value.errors)


def test_another_division_is_no_new_version_of_the_container() -> None:
    import msgspec

    before = deployment("web", generation=4)
    spec = msgspec.structs.replace(before.spec, clusters=ClusterPolicy(divide="aggregate"))
    (after,) = changed(before, spec, NOW, ids()).after
    assert (after.generation, after.spec.clusters.divide) == (4, "aggregate")
