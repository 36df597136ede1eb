"""How properties are tried, whichever tests are run; pytest loads it by its name (pyproject.toml)."""

from hypothesis import HealthCheck, settings

# How long an example takes, or is drawn, says something of the machine, and nothing of the code.
settings.register_profile("fallow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fallow")
