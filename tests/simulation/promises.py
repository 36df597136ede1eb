"""What a deployment promises while it changes. The one place that knows the rules of rolling updates."""

from collections.abc import Iterable
from math import ceil, floor
from random import Random

from fallow.decide.updates import DEFAULT_SHARE
from fallow.model.deployments import Deployment, Replica, ReplicaState
from fallow.model.updates import UpdateConfig

WIDE_FROM = 1_000_000
FEDERATION_FROM = 2_000_000
HOSTING_FROM = 3_000_000
# One that has waited for room for too long has failed, too, where updates stop first to make it.
_MAY_HAVE_FAILED = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING, ReplicaState.FAILED)


def config_of(deployment: Deployment) -> UpdateConfig:
    """Return how the newest update, or the way back from it, is to be made."""
    back = deployment.update is not None and deployment.update.rollback
    return deployment.spec.rollback if back else deployment.spec.update


def at_once(deployment: Deployment) -> int:
    """Return how many replicas an update may renew at a time."""
    asked = config_of(deployment).parallelism
    if asked is None:
        return max(1, ceil(deployment.spec.replicas * DEFAULT_SHARE))
    return asked or max(1, deployment.spec.replicas)


def surge(deployment: Deployment) -> int:
    """Return how many replicas more than wanted an update may add at a time (drains add what they move)."""
    return at_once(deployment) if config_of(deployment).order == "start-first" else 0


def least_healthy(deployment: Deployment, replicas: Iterable[Replica]) -> int:
    """Return below how many healthy replicas our own doing may never take it.

    An update that stops first goes on past new replicas that fail, as far as it was told to put up with that: then
    these are missing beside the portion.
    """
    if deployment.deleting:
        return 0
    wanted = deployment.spec.replicas
    if config_of(deployment).order == "start-first":
        return wanted
    newest = (found for found in replicas if found.generation == deployment.generation)
    failed = sum(found.state in _MAY_HAVE_FAILED and not found.healthy for found in newest)
    return max(0, wanted - at_once(deployment) - min(failed, put_up_with(deployment)))


def put_up_with(deployment: Deployment) -> int:
    """Return how many new replicas may fail without an end of the update."""
    config, wanted = config_of(deployment), deployment.spec.replicas
    if config.failure_action == "continue":
        return wanted
    forgiven = deployment.update.forgiven if deployment.update is not None else 0
    return floor(config.max_failure_ratio * wanted) + forgiven


def is_wide(seed: int) -> bool:
    """Say whether the run of this seed has several control planes, bad versions and every kind of update, too.

    Not every promise is kept in all of these yet; see docs/critiques.md.
    """
    return seed >= WIDE_FROM


def is_federation(seed: int) -> bool:
    """Say whether the run of this seed is of a host and its member clusters."""
    return FEDERATION_FROM <= seed < HOSTING_FROM


def is_hosting(seed: int) -> bool:
    """Say whether servers that lend take part in the run of this seed."""
    return seed >= HOSTING_FROM


def is_shared(seed: int) -> bool:
    """Say whether two control planes share the store in the run of this seed."""
    return is_wide(seed) and Random(f"{seed}/shared").random() < 0.5
