"""Finding what a path names, and holding a caller to the revision it has seen."""

import re

from fallow.control.refusals import not_found, refuse
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment
from fallow.model.members import Member, Role
from fallow.model.meta import Record, is_name
from fallow.model.vms import Vm

_ETAG = re.compile(r'(?:W/)?"([^"]*)"')


def member_called(snapshot: Snapshot, reference: str) -> Member:
    """Return the member with this id or name. Raises Refused (404)."""
    member = _member(snapshot, reference)
    if member is None:
        raise not_found(f"member {reference[:80]!r}", "fallow node list shows nodes, with --role gateway gateways")
    return member


def cluster_called(snapshot: Snapshot, reference: str) -> Member:
    """Return the cluster with this id or name. Raises Refused (404)."""
    member = _member(snapshot, reference)
    if member is None or member.id not in snapshot.clusters:
        hint = "fallow cluster list shows all"
        if member is not None:
            hint = f"{member.name} is a {member.role}: fallow node show; {hint}"
        raise not_found(f"cluster {reference[:80]!r}", hint)
    return member


def server_called(snapshot: Snapshot, reference: str) -> Member:
    """Return the server with this id or name. Raises Refused (404)."""
    member = _member(snapshot, reference)
    if member is None or member.role is not Role.SERVER:
        hint = "fallow server list shows all"
        if member is not None:
            hint = f"{member.name} is a {member.role}: fallow node show; {hint}"
        raise not_found(f"server {reference[:80]!r}", hint)
    return member


def vm_called(snapshot: Snapshot, reference: str) -> Vm:
    """Return the virtual machine with this id or name. Raises Refused (404)."""
    vm = snapshot.vms.get(reference) or next(
        (found for found in snapshot.vms.values() if found.name == reference), None
    )
    if vm is None:
        raise not_found(f"virtual machine {reference[:80]!r}", "fallow vm list shows all")
    return vm


def _member(snapshot: Snapshot, reference: str) -> Member | None:
    member = snapshot.members.get(reference)
    return member or next((found for found in snapshot.members.values() if found.name == reference), None)


def deployment_called(snapshot: Snapshot, project: str, name: str) -> Deployment:
    """Return the deployment `project/name`. Raises Refused (404)."""
    found = snapshot.deployment_named(project, name) if is_name(project) and is_name(name) else None
    if found is None:
        raise not_found(f"deployment {f'{project}/{name}'[:120]!r}", "fallow deployment list shows all")
    return found


def check_match(record: Record, if_match: str | None) -> None:
    """Hold the caller to what `If-Match` says, if it says anything. Raises Refused (412)."""
    if if_match is None or if_match.strip() == "*":
        return
    if str(record.revision) not in _ETAG.findall(if_match):
        raise refuse(
            412,
            "changed",
            "Changed meanwhile",
            f"it is at revision {record.revision}, not {if_match[:80]}",
            "read it again, then decide again",
        )


def etag(revision: int) -> dict[str, str]:
    """Return the header that names a record's revision."""
    return {"ETag": f'"{revision}"'}
