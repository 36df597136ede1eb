"""`deploy`, `x-fallow` placement, and the older keys for replicas, resources and restarts."""

import pytest

from fallow.decide.compose import ComposeError, parse_compose
from fallow.decide.selectors import format_selector
from fallow.model.containers import Resources, RestartCondition, RestartPolicy
from fallow.model.deployments import DeploymentSpec, PlacementPolicy
from fallow.model.updates import UpdateConfig


def service(keys: str) -> tuple[DeploymentSpec, tuple[str, ...]]:
    lines = "\n".join("    " + line for line in keys.splitlines())
    found = parse_compose(f"services:\n  web:\n    image: app\n{lines}\n", variables={"N": "5"})
    return found.deployments[0][1], found.warnings


def errors(keys: str) -> tuple[str, ...]:
    with pytest.raises(ComposeError) as caught:
        service(keys)
    return caught.value.errors


@pytest.mark.parametrize(
    ("keys", "replicas"),
    [
        ("x-none: 1", 1),
        ("scale: 3", 3),
        ("deploy: {replicas: 0}", 0),
        ("deploy: {replicas: $N}", 5),
        ("deploy: {replicas: '7', mode: replicated}", 7),
        ("scale: 3\ndeploy: {replicas: 3}", 3),
    ],
)
def test_compose_replicas(keys: str, replicas: int) -> None:
    assert service(keys)[0].replicas == replicas


RESOURCES = [
    ("cpus: 0.5", Resources(cpu_limit=0.5)),
    ("mem_limit: 64m", Resources(memory_limit_bytes=64 << 20)),
    ("mem_reservation: 1.5GiB", Resources(memory_bytes=3 << 29)),
    ("pids_limit: 100", Resources(pids_limit=100)),
    ("pids_limit: -1", Resources()),
    (
        "deploy: {resources: {limits: {cpus: '2', memory: 1gb, pids: 9}}}",
        Resources(cpu_limit=2, memory_limit_bytes=1 << 30, pids_limit=9),
    ),
    ("deploy: {resources: {reservations: {cpus: .25, memory: 1024}}}", Resources(cpus=0.25, memory_bytes=1024)),
    ("deploy: {resources: {limits: {cpus: 1}, reservations: {cpus: 1}}}", Resources(cpus=1, cpu_limit=1)),
    ("cpus: 0.5\ndeploy: {resources: {limits: {cpus: '0.50'}}}", Resources(cpu_limit=0.5)),
    ("deploy: {resources: {reservations: {devices: []}}}", Resources()),
]


@pytest.mark.parametrize(("keys", "expected"), RESOURCES)
def test_compose_resources(keys: str, expected: Resources) -> None:
    assert service(keys)[0].container.resources == expected


NEVER = RestartPolicy(condition=RestartCondition.NEVER)
ALWAYS = RestartPolicy(condition=RestartCondition.ALWAYS)
ON_FAILURE = RestartPolicy(condition=RestartCondition.ON_FAILURE)

RESTARTS = [
    ("x-none: 1", ALWAYS),
    ("restart: no", NEVER),
    ("restart: 'no'", NEVER),
    ("restart: false", NEVER),
    ("restart: always", ALWAYS),
    ("restart: unless-stopped", ALWAYS),
    ("restart: on-failure", ON_FAILURE),
    ("restart: on-failure:3", RestartPolicy(condition=RestartCondition.ON_FAILURE, max_attempts=3)),
    ("deploy: {restart_policy: {condition: none}}", NEVER),
    ("deploy: {restart_policy: {condition: any}}", ALWAYS),
    (
        "deploy: {restart_policy: {condition: on-failure, delay: 5s, max_attempts: 2, window: 2m}}",
        RestartPolicy(condition=RestartCondition.ON_FAILURE, delay_seconds=5, max_attempts=2, window_seconds=120),
    ),
    ("deploy: {restart_policy: {delay: 10m}}", RestartPolicy(delay_seconds=600, max_delay_seconds=600)),
    ("restart: always\ndeploy: {restart_policy: {condition: none}}", NEVER),
]


@pytest.mark.parametrize(("keys", "expected"), RESTARTS)
def test_compose_restart(keys: str, expected: RestartPolicy) -> None:
    assert service(keys)[0].container.restart == expected


PLACEMENTS = [
    ("deploy: {placement: {constraints: [node.labels.zone == a]}}", "zone=a", PlacementPolicy()),
    (
        "deploy: {placement: {constraints: ['node.labels.zone!=a', node.labels.x.y/z==1.2]}}",
        "zone!=a,x.y/z=1.2",
        PlacementPolicy(),
    ),
    (
        "deploy: {placement: {constraints: [node.platform.arch == x86_64]}}",
        "",
        PlacementPolicy(architectures=("amd64",)),
    ),
    (
        "deploy: {placement: {preferences: [{spread: node.labels.zone}, {spread: node.labels.rack}]}}",
        "",
        PlacementPolicy(spread_by=("zone", "rack")),
    ),
    ("deploy: {placement: {max_replicas_per_node: 2}}", "", PlacementPolicy(max_per_node=2)),
    ("x-fallow: {selector: 'role=web,!gpu'}", "role=web,!gpu", PlacementPolicy()),
    ("deploy: {placement: {constraints: [node.labels.a == b]}}\nx-fallow: {selector: c}", "a=b,c", PlacementPolicy()),
    ("x-fallow: {spread: zone}", "", PlacementPolicy(spread_by=("zone",))),
    ("x-fallow: {spread: [zone, rack, zone]}", "", PlacementPolicy(spread_by=("zone", "rack"))),
    ("x-fallow: {strategy: pack}", "", PlacementPolicy(strategy="pack")),
    ("x-fallow: {class: spot}", "", PlacementPolicy(service_class="spot")),
    ("x-fallow: {max_per_node: 1}", "", PlacementPolicy(max_per_node=1)),
    ("x-fallow: {architectures: [amd64, aarch64]}", "", PlacementPolicy(architectures=("amd64", "arm64"))),
    ("x-fallow: {architectures: arm64}\nplatform: linux/arm64/v8", "", PlacementPolicy(architectures=("arm64",))),
    ("platform: linux", "", PlacementPolicy()),
]


@pytest.mark.parametrize(("keys", "selector", "expected"), PLACEMENTS)
def test_compose_placement(keys: str, selector: str, expected: PlacementPolicy) -> None:
    found = service(keys)[0].placement
    assert format_selector(found.selector) == selector
    assert (
        PlacementPolicy(
            strategy=found.strategy,
            spread_by=found.spread_by,
            max_per_node=found.max_per_node,
            architectures=found.architectures,
            service_class=found.service_class,
        )
        == expected
    )


REFUSED = [
    ("deploy: {replicas: many}", "deploy.replicas (line 4): must be a whole number from 0 to 100000, not 'many'"),
    ("deploy: {replicas: -1}", "must be a whole number from 0 to 100000, not '-1'"),
    ("deploy: {replicas: 1.5}", "must be a whole number from 0 to 100000, not '1.5'"),
    ("deploy: {replicas: 1000001}", "must be a whole number"),
    ("deploy: {replicas: }", "deploy.replicas (line 4): must have a value"),
    ("scale: 2\ndeploy: {replicas: 3}", "deploy.replicas (line 5): says 3 where the service says 2 elsewhere"),
    ("deploy: {mode: global}", "deploy.mode (line 4): 'global' is not supported: write replicas, and"),
    ("deploy: {mode: replicated-job}", "must be replicated, not 'replicated-job'"),
    ("deploy: {replcas: 3}", "deploy.replcas (line 4): is not a known key; did you mean 'replicas'?"),
    ("deploy: 3", "deploy (line 4): must be a mapping"),
    ("cpus: lots", "cpus (line 4): must be a number from 0 to 65536, not 'lots'"),
    ("cpus: .inf", "must be a number"),
    ("cpus: 1e3", "must be a number"),
    ("mem_limit: much", "mem_limit (line 4): 'much' is not an amount of bytes (examples: 64m, 1.5GiB, 200kb)"),
    ("mem_limit: " + "9" * 400, "has too many digits"),
    ("mem_limit: 1." + "0" * 50 + "k", "has too many digits"),
    ("mem_limit: 2000000t", "must be at most 1048576 TiB"),
    ("pids_limit: -2", "must be a whole number from -1 to 4194304"),
    (
        "mem_limit: 1g\ndeploy: {resources: {limits: {memory: 2g}}}",
        "limits.memory (line 5): says another amount than the service does elsewhere",
    ),
    ("mem_limit: 1g\nmem_reservation: 2g", "services.web (line 3): reserves more memory than its limit allows"),
    (
        "deploy: {resources: {reservations: {cpus: 2}, limits: {cpus: 1}}}",
        "reserves more cpus than its limit allows",
    ),
    (
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}",
        "devices cannot be reserved; label the nodes that have them and write x-fallow.selector",
    ),
    ("deploy: {resources: {limits: {cpu: 1}}}", "limits.cpu (line 4): is not a known key; did you mean 'cpus'?"),
    ("restart: sometimes", "restart (line 4): must be no, always, unless-stopped, on-failure or on-failure:5"),
    ("restart: always:3", "must be no, always"),
    ("deploy: {restart_policy: {condition: always}}", "must be any or on-failure or none, not 'always'"),
    ("deploy: {restart_policy: {delay: 2h}}", "must be a duration from 0s to 3600s, not '2h'"),
    (
        "deploy: {placement: {constraints: [node.hostname == a]}}",
        "constraints[0] (line 4): 'node.hostname' is not supported: write node.labels.KEY == VALUE, node.platform.arch",
    ),
    ("deploy: {placement: {constraints: [engine.labels.a == b]}}", "'engine.labels.a' is not supported"),
    (
        "deploy: {placement: {constraints: [zone]}}",
        "'zone' must be node.labels.KEY == VALUE or node.labels.KEY != VALUE",
    ),
    ("deploy: {placement: {constraints: ['node.labels.a == ']}}", "'' is not a label value"),
    ("deploy: {placement: {constraints: ['node.labels.a == b c']}}", "'b c' is not a label value"),
    ("deploy: {placement: {constraints: ['node.labels.-a == b']}}", "'-a' is not a label key"),
    ("deploy: {placement: {preferences: [{spread: zone}]}}", "spread (line 4): must be node.labels.KEY, not 'zone'"),
    ("deploy: {placement: {preferences: [zone]}}", "preferences[0] (line 4): must be a mapping"),
    ("x-fallow: {selector: 'a in (b'}", "selector (line 4): expected ',' or ')' at character 8, after 'a in (b'"),
    ("x-fallow: {spread: '-a'}", "spread (line 4): '-a' is not a label key"),
    ("x-fallow: {class: best-effort}", "class (line 4): must be standard or harvest or spot, not 'best-effort'"),
    ("x-fallow: {strategy: random}", "strategy (line 4): must be spread or pack, not 'random'"),
    ("x-fallow: {max_per_node: 1}\ndeploy: {placement: {max_replicas_per_node: 2}}", "differs from what the service"),
    (
        "x-fallow: {architectures: [z80]}",
        "architectures[0] (line 4): 'z80' is not an architecture; known are 386, amd64",
    ),
    ("x-fallow: {architectures: amd64}\nplatform: linux/arm64", "platform (line 5): names other architectures"),
    ("platform: windows/amd64", "platform (line 4): must be linux/ARCHITECTURE, not 'windows/amd64'"),
    (
        "deploy: {update_config: {order: both}}",
        "update_config.order (line 4): must be start-first or stop-first, not 'b",
    ),
    ("deploy: {update_config: {paralelism: 2}}", "is not a known key; did you mean 'parallelism'?"),
    ("deploy: {update_config: {max_failure_ratio: 2}}", "must be a number from 0 to 1, not '2'"),
    ("deploy: {rollback_config: {failure_action: rollback}}", "must be pause or continue, not 'rollback'"),
    ("x-fallow: {update: {progress_deadline: 0s}}", "must be a duration from 1s to 604800s"),
    ("x-fallow: {selectr: a}", "x-fallow.selectr (line 4): is not a known key; did you mean 'selector'?"),
    ("x-fallow: {spread: [" + ",".join(f"a{n}" for n in range(17)) + "]}", "spreads over more than 16 labels"),
    ("x-fallow: {selector: '" + ",".join(f"a{n}" for n in range(65)) + "'}", "has 65 constraints; at most 64"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_compose_deploy_refused(keys: str, message: str) -> None:
    found = errors(keys)
    assert len(found) == 1
    assert message in found[0]


WARNED = [
    ("deploy: {labels: {a: b}}", "deploy.labels (line 4): is ignored: labels of a service"),
    ("deploy: {endpoint_mode: vip}", "is ignored: gateways spread requests"),
    ("restart: always\ndeploy: {restart_policy: {condition: none}}", "has both `restart` and `deploy.restart_policy`"),
]


@pytest.mark.parametrize(("keys", "message"), WARNED)
def test_compose_deploy_warned(keys: str, message: str) -> None:
    _, warnings = service(keys)
    assert len(warnings) == 1
    assert message in warnings[0]


UPDATES = """deploy:
  update_config:
    {parallelism: 2, delay: 10s, failure_action: pause, monitor: 1m, max_failure_ratio: 0.2, order: stop-first}
  rollback_config: {parallelism: 0, failure_action: continue}
x-fallow: {update: {progress_deadline: 2m}}"""


def test_compose_updates() -> None:
    spec, warnings = service(UPDATES)
    assert warnings == ()
    assert spec.update == UpdateConfig(
        parallelism=2,
        delay_seconds=10,
        failure_action="pause",
        monitor_seconds=60,
        max_failure_ratio=0.2,
        order="stop-first",
        progress_seconds=120,
    )
    # What stops first does so on the way back, too: there may be no room for both.
    assert spec.rollback == UpdateConfig(
        parallelism=0, failure_action="continue", order="stop-first", progress_seconds=120
    )


def test_compose_updates_without_a_word() -> None:
    spec, _ = service("restart: always")
    assert spec.update == UpdateConfig(failure_action="rollback", order="start-first", monitor_seconds=5)
    assert spec.rollback == UpdateConfig(failure_action="pause", order="start-first")
