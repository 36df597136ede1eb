"""Requests that gateways of a member cluster could not have answered, as its host counts them."""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from fallow.decide.services import remote_services
from fallow.decide.snapshot import Snapshot
from fallow.model.routes import ProxyReport
from fallow.model.wire import MOST_ROUTES, Usage

_MOST = 2**53


def errors_for_host(snapshot: Snapshot, reports: Mapping[str, ProxyReport]) -> dict[str, int] | msgspec.UnsetType:
    """Return the errors of a server that gateways here have answered, by backend, of what the host deploys.

    `reports` are by gateway id. Of very many backends those with the most errors; UNSET: no gateway has reported.
    """
    told = [report for id_, report in reports.items() if id_ in snapshot.gateways]
    if not told:
        return msgspec.UNSET
    found: Counter[str] = Counter()
    for report in told:
        for backend in report.backends:
            if backend.errors_5xx > 0:
                found[backend.key] += backend.errors_5xx
    ours = _of_host(snapshot, found)
    return {key: min(_MOST, found[key]) for key in heapq.nlargest(MOST_ROUTES, ours, key=found.__getitem__)}


def errors_elsewhere(snapshot: Snapshot, usages: Mapping[str, Usage]) -> dict[str, Mapping[str, int]]:
    """Return what member clusters said last that their gateways count, by the cluster's name and by backend.

    `usages` are by member id. Clusters that do not count are left out.
    """
    found = {member.name: usages[id_].errors_5xx for id_, member in snapshot.clusters.items() if id_ in usages}
    return {name: errors for name, errors in found.items() if errors is not msgspec.UNSET}


def _of_host(snapshot: Snapshot, keys: Iterable[str]) -> set[str]:
    """Return the backends that are of deployments of the host: ordered here, or served for others of its clusters."""
    if not keys:
        return set()
    elsewhere = {f"{found.project}/{found.name}" for found in remote_services(snapshot).values()}
    ours = set()
    for key in keys:
        path = key.rpartition(":")[0]
        project, _, name = path.partition("/")
        own = snapshot.deployment_named(project, name)
        if own.origin is not None if own is not None else path in elsewhere:
            ours.add(key)
    return ours
