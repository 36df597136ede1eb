"""How a process tells what it does."""

import logging
import sys

from fallow.cli.launchers import LogOptions


def configure_logs(options: LogOptions) -> None:
    """Send logs to standard error: for people on a terminal, as JSON lines elsewhere."""
    import structlog

    people = options.format == "console" or (options.format == "auto" and sys.stderr.isatty())
    level = getattr(logging, options.level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if not people else structlog.dev.set_exc_info,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if people
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")


def say(text: str) -> None:
    """Tell whoever started this process something that is no log line."""
    sys.stderr.write(text + "\n")
