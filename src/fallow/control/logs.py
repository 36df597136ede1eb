"""How much this process logs, which may change while it runs."""

import logging
from typing import cast

import structlog

from fallow.model.control import Level

_LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


def set_level(level: Level) -> None:
    """Log from `level` on. Loggers look the setting up at every call, so it counts from the next line."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())))


def level() -> Level:
    """Return from which level on lines are logged."""
    logger = structlog.get_logger()
    return cast(Level, next((name for name in _LEVELS if logger.is_enabled_for(_number(name))), "error"))


def _number(name: str) -> int:
    return cast(int, logging.getLevelName(name.upper()))
