"""How properties are tried, whichever tests are run; pytest loads it by its name (pyproject.toml)."""

from hypothesis import settings

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("fallow", deadline=None)
settings.load_profile("fallow")
