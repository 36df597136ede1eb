"""`deploy`, and the older keys of a service that say the same: `restart`, `scale`, `cpus`, `mem_limit` and so on."""

import re
from collections.abc import Callable
from typing import Any

from fallow.decide.compose.draft import Draft
from fallow.decide.compose.extension import add_architectures, add_spread, architecture, label_key, set_max_per_node
from fallow.decide.compose.fields import Field, dispatch, each
from fallow.decide.compose.problems import shown
from fallow.decide.compose.updates import read_rollback, read_update
from fallow.model.containers import RestartCondition, RestartPolicy
from fallow.model.labels import VALUE_PATTERN, Requirement

Handler = Callable[[Field, Draft], None]

MAX_REPLICAS = 100_000
MAX_CPUS = 65536
MAX_PIDS = 4_194_304

_CONSTRAINT = re.compile(r"(\S+?)\s*(==|!=)\s*(.*)")
_LABEL_VALUE = re.compile(VALUE_PATTERN)
_NODE_LABEL = "node.labels."
_RESTART = re.compile(r"(no|always|on-failure|unless-stopped)(?::([0-9]{1,9}))?")


def read_deploy(field: Field, draft: Draft) -> None:
    """Read `deploy`."""
    dispatch(field, _DEPLOY, draft)


def read_restart(field: Field, draft: Draft) -> None:
    """Read `restart`: no, always, unless-stopped, on-failure or on-failure:5."""
    text = field.content()
    match = _RESTART.fullmatch("no" if text == "false" else text)
    if match is None or (match[2] and match[1] != "on-failure"):
        raise field.refusal(f"must be no, always, unless-stopped, on-failure or on-failure:5, not {shown(text)}")
    if match[1] == "no":
        draft.restart = RestartPolicy(condition=RestartCondition.NEVER)
    elif match[1] == "on-failure":
        attempts = int(match[2]) if match[2] else None
        draft.restart = RestartPolicy(condition=RestartCondition.ON_FAILURE, max_attempts=attempts)
    else:
        draft.restart = RestartPolicy(condition=RestartCondition.ALWAYS)


def read_replicas(field: Field, draft: Draft) -> None:
    """Read `scale` or `deploy.replicas`."""
    draft.set_replicas(field, field.integer(0, MAX_REPLICAS))


def read_cpu_limit(field: Field, draft: Draft) -> None:
    """Read `cpus` as a limit."""
    draft.set_resource(field, "cpu_limit", field.number(0, MAX_CPUS))


def read_memory_limit(field: Field, draft: Draft) -> None:
    """Read `mem_limit` or the limit of `memory`."""
    draft.set_resource(field, "memory_limit_bytes", field.byte_count())


def read_pids_limit(field: Field, draft: Draft) -> None:
    """Read a limit of processes; -1, as 0, is none."""
    draft.set_resource(field, "pids_limit", max(0, field.integer(-1, MAX_PIDS)))


def read_memory_reservation(field: Field, draft: Draft) -> None:
    """Read `mem_reservation` or the reservation of `memory`."""
    draft.set_resource(field, "memory_bytes", field.byte_count())


def finish_resources(draft: Draft) -> dict[str, Any]:
    """Return the arguments of Resources. Raises Refusal when more is reserved than the limit allows."""
    found = draft.resources
    for reserved, limit, what in (("cpus", "cpu_limit", "cpus"), ("memory_bytes", "memory_limit_bytes", "memory")):
        if found.get(limit) and found.get(reserved, 0) > found[limit]:
            raise draft.service.refusal(f"reserves more {what} than its limit allows")
    return dict(found)


def finish_restart(draft: Draft) -> RestartPolicy:
    """Return the restart policy; `deploy.restart_policy` wins, as in Compose. Without any a container is restarted."""
    if draft.restart is not None and draft.restart_policy is not None:
        draft.service.warn("has both `restart` and `deploy.restart_policy`; the latter is used")
    return draft.restart_policy or draft.restart or RestartPolicy()


def _mode(field: Field, _draft: Draft) -> None:
    mode = field.text()
    if mode == "global":
        raise field.refusal("'global' is not supported: write replicas, and x-fallow.max_per_node: 1 for one a node")
    if mode != "replicated":
        raise field.refusal(f"must be replicated, not {shown(mode)}: only services that keep running are supported")


def _resources(field: Field, draft: Draft) -> None:
    dispatch(field, _RESOURCES, draft)


def _limits(field: Field, draft: Draft) -> None:
    dispatch(field, _LIMITS, draft)


def _reservations(field: Field, draft: Draft) -> None:
    dispatch(field, _RESERVATIONS, draft)


def _cpu_reservation(field: Field, draft: Draft) -> None:
    draft.set_resource(field, "cpus", field.number(0, MAX_CPUS))


def _devices(field: Field, _draft: Draft) -> None:
    if not field.is_empty:
        raise field.refusal("devices cannot be reserved; label the nodes that have them and write x-fallow.selector")


def _restart_policy(field: Field, draft: Draft) -> None:
    policy: dict[str, Any] = {}
    dispatch(field, _POLICY, policy)
    delay = policy.get("delay_seconds", 0)
    draft.restart_policy = RestartPolicy(**policy, max_delay_seconds=max(60.0, delay))


def _condition(field: Field, policy: dict[str, Any]) -> None:
    policy["condition"] = RestartCondition(field.choice("any", "on-failure", "none"))


def _delay(field: Field, policy: dict[str, Any]) -> None:
    policy["delay_seconds"] = field.seconds(0, 3600)


def _max_attempts(field: Field, policy: dict[str, Any]) -> None:
    policy["max_attempts"] = field.integer(0, 10**9)


def _window(field: Field, policy: dict[str, Any]) -> None:
    policy["window_seconds"] = field.seconds(0, 86400 * 366)


def _placement(field: Field, draft: Draft) -> None:
    dispatch(field, _PLACEMENT, draft)


def _constraints(field: Field, draft: Draft) -> None:
    each(field.items(), lambda item: _constraint(item, draft))


def _constraint(field: Field, draft: Draft) -> None:
    """Read `node.labels.KEY == VALUE`, `node.labels.KEY != VALUE` or `node.platform.arch == ARCH`."""
    text = field.text()
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise field.refusal(f"{shown(text)} must be node.labels.KEY == VALUE or node.labels.KEY != VALUE")
    name, sign, value = match[1], match[2], match[3].strip()
    if name == "node.platform.arch" and sign == "==":
        add_architectures(draft, field, [architecture(field, value)])
        return
    if not name.startswith(_NODE_LABEL):
        raise field.refusal(
            f"{shown(name)} is not supported: write node.labels.KEY == VALUE, node.platform.arch == amd64, "
            "or x-fallow.selector; a node is known by its labels only"
        )
    if not value or not _LABEL_VALUE.fullmatch(value):
        raise field.refusal(f"{shown(value)} is not a label value")
    key = label_key(field, name.removeprefix(_NODE_LABEL))
    draft.requirements.append(Requirement(key=key, operator="in" if sign == "==" else "notin", values=(value,)))


def _preferences(field: Field, draft: Draft) -> None:
    each(field.items(), lambda item: dispatch(item, _PREFERENCE, draft))


def _spread(field: Field, draft: Draft) -> None:
    text = field.text()
    if not text.startswith(_NODE_LABEL):
        raise field.refusal(f"must be node.labels.KEY, not {shown(text)}")
    add_spread(draft, field, [label_key(field, text.removeprefix(_NODE_LABEL))])


def _max_replicas_per_node(field: Field, draft: Draft) -> None:
    set_max_per_node(draft, field)


def _ignored(text: str) -> Handler:
    def warn(field: Field, _draft: Draft) -> None:
        if not field.is_empty:
            field.warn(f"is ignored: {text}")

    return warn


_POLICY: dict[str, Callable[[Field, dict[str, Any]], None]] = {
    "condition": _condition,
    "delay": _delay,
    "max_attempts": _max_attempts,
    "window": _window,
}
_LIMITS: dict[str, Handler] = {"cpus": read_cpu_limit, "memory": read_memory_limit, "pids": read_pids_limit}
_RESERVATIONS: dict[str, Handler] = {
    "cpus": _cpu_reservation,
    "memory": read_memory_reservation,
    "devices": _devices,
    "generic_resources": _devices,
}
_RESOURCES: dict[str, Handler] = {"limits": _limits, "reservations": _reservations}
_PREFERENCE: dict[str, Handler] = {"spread": _spread}
_PLACEMENT: dict[str, Handler] = {
    "constraints": _constraints,
    "preferences": _preferences,
    "max_replicas_per_node": _max_replicas_per_node,
}
_DEPLOY: dict[str, Handler] = {
    "mode": _mode,
    "replicas": read_replicas,
    "resources": _resources,
    "restart_policy": _restart_policy,
    "placement": _placement,
    "labels": _ignored("labels of a service; write `labels` for those of its containers"),
    "update_config": read_update,
    "rollback_config": read_rollback,
    "endpoint_mode": _ignored("gateways spread requests over the replicas"),
}
