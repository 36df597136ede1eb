"""How a process tells what it does."""

import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

from fallow.cli.launchers import LogOptions


def configure_logs(options: LogOptions) -> None:
    """Send logs to standard error: for people on a terminal, as JSON lines elsewhere."""
    import structlog

    plain_traceback = structlog.dev.plain_traceback  # the richer ones print local variables, which hold secrets
    colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    people = options.format == "console" or (options.format == "auto" and sys.stderr.isatty())
    level = getattr(logging, options.level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if not people else structlog.dev.set_exc_info,
            *(
                (_printable, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain_traceback))
                if people
                else (structlog.processors.JSONRenderer(),)
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")


def _printable(logger: Any, method: str, said: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write control characters as escapes: what machines and callers say must not drive an operator's terminal."""
    for key, value in said.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            said[key] = value.encode("unicode_escape").decode("ascii")
    return said


def say(text: str) -> None:
    """Tell whoever started this process something that is no log line."""
    sys.stderr.write(text + "\n")
