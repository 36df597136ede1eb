"""The options every benchmark has, and where its figures go."""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def options_of(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with `--json`, which `write` looks at; the benchmark adds its own options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here instead of printing them")
    return parser


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return how many rounds there were, and median, 99th percentile and largest of what they took."""
    return {
        "rounds": len(seconds),
        "p50": round(statistics.median(seconds), 2),
        "p99": round(statistics.quantiles(seconds, n=100, method="inclusive")[98], 2),
        "largest": max(seconds),
    }


def write(figures: dict[str, Any], options: argparse.Namespace) -> None:
    """Write figures where `--json` says, or to standard output."""
    text = json.dumps(figures, indent=2) + "\n"
    if options.json is None:
        sys.stdout.write(text)
    else:
        options.json.write_text(text, encoding="utf-8")
