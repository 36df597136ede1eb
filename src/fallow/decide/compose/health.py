"""`healthcheck` and `x-fallow.health`, and what is checked when neither is given."""

from collections.abc import Callable
from typing import Any

from fallow.decide.compose.draft import Draft, HealthWish
from fallow.decide.compose.fields import Field, dispatch, each
from fallow.decide.compose.paths import check_path
from fallow.decide.compose.problems import shown
from fallow.model.containers import HealthCheck, PortSpec

# What Compose says of a command; our own probes keep the model's defaults, since they start no process.
_COMMAND_TIMING: dict[str, Any] = {"interval_seconds": 30.0, "timeout_seconds": 30.0, "retries": 3}


def read_healthcheck(field: Field, draft: Draft) -> None:
    """Read `healthcheck`; without `test` its times are those of the probe made by `finish_health`."""
    draft.healthcheck = HealthWish(field=field)
    dispatch(field, _HEALTHCHECK, draft.healthcheck)


def read_probe(field: Field, draft: Draft) -> None:
    """Read `x-fallow.health`: an HTTP path or a TCP port."""
    wish = HealthWish(field=field)
    dispatch(field, _PROBE, wish)
    if wish.kind == "none":
        raise field.refusal("needs `http: /path` or `tcp: port`")
    draft.probe = wish


def finish_health(draft: Draft, route_ports: list[int]) -> HealthCheck:
    """Return the service's health check once its ports and routes are known; a probe's port becomes one of them.

    Without any wish it is a TCP connect to the first route's port, else to the first TCP port, else nothing.
    """
    written = draft.healthcheck or HealthWish(field=draft.service)
    if written.command or written.off:
        if draft.probe is not None:
            raise draft.probe.field.refusal("contradicts `healthcheck`; keep one of them")
        if written.off:
            return HealthCheck(kind="none")
        return HealthCheck(kind="command", command=written.command, **(_COMMAND_TIMING | written.timing))
    ports = route_ports or draft.tcp_ports()
    if draft.probe is None:
        if not ports:
            return HealthCheck(kind="none")
        return HealthCheck(kind="tcp", port=ports[0], **written.timing)
    port = draft.probe.port or (ports[0] if route_ports else draft.only_port(draft.probe.field))
    draft.add_port(draft.probe.field, PortSpec(container=port))
    return HealthCheck(kind=draft.probe.kind, path=draft.probe.path, port=port, **(written.timing | draft.probe.timing))


def _test(field: Field, wish: HealthWish) -> None:
    if not field.is_list:
        wish.command = ("/bin/sh", "-c", _content(field))
        return
    words = each(field.items(), Field.content)
    kind, rest = (words[0], tuple(words[1:])) if words else ("", ())
    if kind == "NONE" and not rest:
        wish.off = True
    elif kind == "CMD" and rest and rest[0]:
        wish.command = rest
    elif kind == "CMD-SHELL" and len(rest) == 1 and rest[0]:
        wish.command = ("/bin/sh", "-c", rest[0])
    else:
        raise field.refusal(
            f'must be ["CMD", command, ...], ["CMD-SHELL", command] or ["NONE"]; it begins with {shown(kind)}'
        )


def _content(field: Field) -> str:
    found = field.content()
    if not found.strip():
        raise field.refusal("must not be empty; is a variable not set?")
    return found


def _disable(field: Field, wish: HealthWish) -> None:
    wish.off = wish.off or field.boolean()


def _http(field: Field, wish: HealthWish) -> None:
    _one_kind(field, wish)
    wish.kind = "http"
    wish.path = check_path(field)


def _tcp(field: Field, wish: HealthWish) -> None:
    _one_kind(field, wish)
    wish.kind = "tcp"
    wish.port = field.integer(1, 65535)


def _one_kind(field: Field, wish: HealthWish) -> None:
    if wish.kind != "none":
        raise field.refusal("contradicts the other probe; keep `http` or `tcp`")


def _port(field: Field, wish: HealthWish) -> None:
    wish.port = field.integer(1, 65535)


def _interval(field: Field, wish: HealthWish) -> None:
    wish.timing["interval_seconds"] = field.seconds(0.1, 3600)


def _timeout(field: Field, wish: HealthWish) -> None:
    wish.timing["timeout_seconds"] = field.seconds(0.1, 3600)


def _retries(field: Field, wish: HealthWish) -> None:
    wish.timing["retries"] = field.integer(1, 1000)


def _start_period(field: Field, wish: HealthWish) -> None:
    wish.timing["start_period_seconds"] = field.seconds(0, 86400)


def _start_interval(field: Field, _wish: HealthWish) -> None:
    field.warn("is ignored: `interval` holds from the start")


_TIMING: dict[str, Callable[[Field, HealthWish], None]] = {
    "interval": _interval,
    "timeout": _timeout,
    "retries": _retries,
    "start_period": _start_period,
}
_HEALTHCHECK = _TIMING | {"test": _test, "disable": _disable, "start_interval": _start_interval}
_PROBE = _TIMING | {"http": _http, "tcp": _tcp, "port": _port}
