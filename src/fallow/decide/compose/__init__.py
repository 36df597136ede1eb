"""Compose files: from text to deployments, or to everything that is wrong with it.

`document` reads YAML into located values, `variables` replaces variables, `service` hands every key to the one
function that reads it (`container`, `environment`, `ports`, `health`, `deploy`, `extension`, `routes`, `unsupported`)
and makes a DeploymentSpec of the whole.
"""

from fallow.decide.compose.application import Application, parse_compose
from fallow.decide.compose.problems import ComposeError

__all__ = ["Application", "ComposeError", "parse_compose"]
