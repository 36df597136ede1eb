"""How properties are tried, whichever tests are run; pytest loads it by its name (pyproject.toml)."""

import os

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes, or is drawn, says something of the machine, and nothing of the code.
settings.register_profile("fallow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fallow")

FEWEST = 5
_SETTINGS = "_hypothesis_internal_use_settings"  # Hypothesis has no other way to change what a decorator has set


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Try only the share FALLOW_EXAMPLES of all examples: `make check` looks quickly, `make test` tries all of them."""
    share = float(os.environ.get("FALLOW_EXAMPLES", "1"))
    for item in items if share < 1 else ():
        found, machine = getattr(item, "function", None), getattr(item, "cls", None)
        if hasattr(machine, "settings"):
            machine.settings = _fewer(machine.settings, share)  # type: ignore[union-attr]
        elif getattr(found, "is_hypothesis_test", False):
            setattr(found, _SETTINGS, _fewer(getattr(found, _SETTINGS, None) or settings.default, share))


def _fewer(asked: settings, share: float) -> settings:
    return settings(asked, max_examples=min(asked.max_examples, max(FEWEST, round(asked.max_examples * share))))
