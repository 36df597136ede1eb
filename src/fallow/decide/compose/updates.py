"""`deploy.update_config`, `deploy.rollback_config`, and `x-fallow.update` for what they have no word for."""

from collections.abc import Callable
from typing import Any

from fallow.decide.compose.draft import Draft
from fallow.decide.compose.fields import Field, dispatch
from fallow.model.updates import UpdateConfig

MAX_PORTION = 100_000
MAX_SECONDS = 7 * 86400.0

Wish = dict[str, Any]  # arguments of UpdateConfig


def read_update(field: Field, draft: Draft) -> None:
    """Read `deploy.update_config`."""
    dispatch(field, {**_COMMON, "failure_action": _update_action}, draft.update)


def read_rollback(field: Field, draft: Draft) -> None:
    """Read `deploy.rollback_config`."""
    dispatch(field, {**_COMMON, "failure_action": _rollback_action}, draft.rollback)


def read_progress(field: Field, draft: Draft) -> None:
    """Read `x-fallow.update`."""
    dispatch(field, {"progress_deadline": _progress}, draft.progress)


def finish_updates(draft: Draft) -> tuple[UpdateConfig, UpdateConfig]:
    """Return how the service is updated and rolled back; what starts or stops first, does so both ways."""
    order = {"order": draft.update["order"]} if "order" in draft.update else {}
    return (
        UpdateConfig(**draft.progress, **draft.update),
        UpdateConfig(**{"failure_action": "pause"} | draft.progress | order | draft.rollback),
    )


def _parallelism(field: Field, wish: Wish) -> None:
    wish["parallelism"] = field.integer(0, MAX_PORTION)


def _delay(field: Field, wish: Wish) -> None:
    wish["delay_seconds"] = field.seconds(0, MAX_SECONDS)


def _monitor(field: Field, wish: Wish) -> None:
    wish["monitor_seconds"] = field.seconds(0, MAX_SECONDS)


def _ratio(field: Field, wish: Wish) -> None:
    wish["max_failure_ratio"] = field.number(0, 1)


def _order(field: Field, wish: Wish) -> None:
    wish["order"] = field.choice("start-first", "stop-first")


def _update_action(field: Field, wish: Wish) -> None:
    wish["failure_action"] = field.choice("rollback", "pause", "continue")


def _rollback_action(field: Field, wish: Wish) -> None:
    wish["failure_action"] = field.choice("pause", "continue")


def _progress(field: Field, wish: Wish) -> None:
    wish["progress_seconds"] = field.seconds(1, MAX_SECONDS)


_COMMON: dict[str, Callable[[Field, Wish], None]] = {
    "parallelism": _parallelism,
    "delay": _delay,
    "monitor": _monitor,
    "max_failure_ratio": _ratio,
    "order": _order,
}
