"""Why a server lends what it lends: the numbers of its offer and its limit, and what stands against lending more."""

from collections.abc import Callable, Iterator

from fallow.decide.harvest.heard import HeardServer
from fallow.decide.harvest.pools import pool_of
from fallow.decide.harvest.views import load_of, server_view, standing_of
from fallow.decide.placement.request import NANO
from fallow.decide.placement.standing import Amount, Standing
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import PrimaryUse, ServerReport
from fallow.model.units import format_bytes, format_duration


def server_explained(snapshot: Snapshot, server: Member, heard: HeardServer | None, now: float) -> Iterator[str]:
    """Yield lines on a server, the most important first."""
    view, (pool, policy) = server_view(snapshot, server, heard, now), pool_of(snapshot, server)
    standing = standing_of(snapshot, server, heard, now)
    yield f"it gets nothing new: it {view.why_not}" if view.why_not else "it may get new replicas"
    if view.evictions:
        last = f", last {format_duration(now - view.evicted_at)} ago" if view.evicted_at else ""
        why = f": {view.evicted_why}" if view.evicted_why else ""
        yield f"it has sent away {_count(view.evictions, 'replica')}{last}{why}"
    vms = snapshot.vms_by_server.get(server.id, ())
    yield (
        f"holds {_count(view.replicas, 'replica')} on {_count(len(vms), 'virtual machine')}, "
        f"which ask for {view.requested_cpus:g} processors and {format_bytes(view.requested_memory_bytes)} of memory"
    )
    if heard is not None:
        report = heard.report
        if not heard.fresh:
            yield f"the figures below are {format_duration(heard.age_seconds)} old"
        yield from _processors(report, policy, view.requested_cpus, standing)
        yield from _memory(report, policy, view.requested_memory_bytes, standing)
        if report.classes:
            yield f"what is lent is held to {report.classes}"
        yield from _prediction(report)
        yield from (_primary(found) for found in report.primaries)
        yield from (f"problem: {text}" for text in report.problems)
    yield from (
        f"virtual machine {vm.name}: {vm.state}{', draining' if vm.draining else ''}, {vm.cpus:g} processors and "
        f"{format_bytes(vm.memory_bytes)}, {_count(load_of(snapshot, (vm,)).replicas, 'replica')}"
        + (f": {vm.problem}" if vm.problem else "")
        for vm in sorted(vms, key=lambda found: found.name)
    )
    yield f"lends by the pool {pool}: {_hours(policy)}"


def _processors(report: ServerReport, policy: LendingPolicy, requested: float, standing: Standing) -> Iterator[str]:
    yield (
        f"offers {report.offer_cpus:.1f} processors: {report.cpus:g} x {policy.cpu_threshold:.0%} - "
        f"{report.predicted_cpus:.1f} that the primary may need - {policy.reserve_cpus:g} in reserve, smoothed; "
        f"{requested:g} are taken"
    )
    yield (
        f"lent may use {report.limit_cpus:.1f} processors now and uses {report.lent_cpus:.1f}: "
        f"{report.cpus:g} x {policy.cpu_ceiling:.0%} - {report.primary_cpus:.1f} of the primary - "
        f"{report.system_cpus:.1f} of the system - the reserve; it waited {report.lent_waiting:.0%} of the time"
    )
    yield _admits("processors", standing.cpus, _tenths)
    if report.relief_cpus or report.relief_memory_bytes:
        yield (
            f"{report.relief_cpus:.1f} processors and {format_bytes(report.relief_memory_bytes)} have to go"
            f"{', at once' if report.urgent else ''}, since {format_duration(report.relief_seconds)}"
        )


def _memory(report: ServerReport, policy: LendingPolicy, requested: int, standing: Standing) -> Iterator[str]:
    used = report.used_memory_bytes / report.memory_bytes if report.memory_bytes else 1.0
    yield (
        f"offers {format_bytes(report.offer_memory_bytes)} of memory: {format_bytes(report.memory_bytes)} x "
        f"{policy.memory_threshold:.0%} - {format_bytes(report.predicted_memory_bytes)} that the primary may need - "
        f"{format_bytes(policy.reserve_memory_bytes)} in reserve, smoothed; {format_bytes(requested)} are taken"
    )
    yield _admits("memory", standing.memory, format_bytes)
    yield (
        f"memory is used to {used:.0%}: {format_bytes(report.primary_memory_bytes)} by the primary, "
        f"{format_bytes(report.system_memory_bytes)} by the system, {format_bytes(report.lent_memory_bytes)} lent"
    )


def _admits(what: str, amount: Amount, write: Callable[[int], str]) -> str:
    """Say how much more placement would admit, and which numbers that follows from."""
    share = amount.used / amount.capacity if amount.capacity else 1.0
    return (
        f"admits {write(max(amount.free, 0))} more of {what}: {write(amount.used)} are used ({share:.0%}) and "
        f"{write(amount.coming)} on the way of at most {write(amount.most)} ({amount.threshold:.0%}); "
        f"{write(amount.placed)} asked for of {write(max(amount.offered, 0))} offered"
    )


def _prediction(report: ServerReport) -> Iterator[str]:
    if report.predictor:
        yield f"predicted by {report.predictor}" + (f": {report.predictor_why}" if report.predictor_why else "")


def _primary(use: PrimaryUse) -> str:
    if not use.found:
        return f"primary {use.name} is not found" + (f": {use.problem}" if use.problem else "")
    waits = ((use.cpu_waiting, "processors"), (use.memory_waiting, "memory"), (use.io_waiting, "disks"))
    waiting = ", ".join(f"{share:.0%} for {what}" for share, what in waits if share >= 0.005)
    return (
        f"primary {use.name} uses {use.cpus:.1f} processors and {format_bytes(use.memory_bytes)}"
        + (f", waits {waiting}" if waiting else "")
        + (f": {use.problem}" if use.problem else "")
    )


def _hours(policy: LendingPolicy) -> str:
    if not policy.lends:
        return "it does not lend"
    return f"{' and '.join(policy.hours)} ({policy.timezone})" if policy.hours else "at all hours"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _tenths(nanos: int) -> str:
    """Write billionths of a processor to a tenth: `7.7`."""
    return f"{nanos / NANO:.1f}"
