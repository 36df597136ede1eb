"""What a deployment promises while it changes. The one place that knows the rules of rolling updates."""

from math import ceil

from fallow.decide.deployments import UPDATE_SURGE
from fallow.model.deployments import Deployment


def surge(deployment: Deployment) -> int:
    """Return how many replicas more than wanted an update may add at a time (drains add what they move)."""
    return max(1, ceil(deployment.spec.replicas * UPDATE_SURGE))


def least_healthy(deployment: Deployment) -> int:
    """Return below how many healthy replicas our own doing may never take it."""
    return 0 if deployment.deleting else deployment.spec.replicas
