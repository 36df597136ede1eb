"""What the audit record says of a change: pure, from the writes of one commit and what was there before."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fallow.decide.plan import Step
from fallow.decide.selectors import format_selector
from fallow.model.audit import AuditEntry, Difference
from fallow.model.deployments import Deployment
from fallow.model.events import Event
from fallow.model.kinds import KIND_OF, key_of
from fallow.model.labels import LabelSet
from fallow.model.members import Member
from fallow.model.meta import Record
from fallow.model.pools import Pool
from fallow.model.registrations import Registration
from fallow.model.server_pools import ServerPool
from fallow.model.tokens import ApiToken, JoinToken
from fallow.model.vms import Vm

MAX_VALUE = 200


@dataclass(kw_only=True, slots=True)
class Call:
    """One request of the API while it is served: who makes it is known only once its credential is checked."""

    request_id: str
    source: str = ""
    operation: str = ""
    who: str = ""
    token_id: str = ""


def entries(call: Call, step: Step, before: Mapping[str, Record], now: float, suffix: str) -> tuple[AuditEntry, ...]:
    """Return one entry for every event that the commit stores, and one for the whole when it stores none.

    `before` holds the records the commit replaces or deletes, by key. An entry of an event has the event's id, so both
    sort by time; `suffix` is for the other kind.
    """
    events = [record for record in step.puts if isinstance(record, Event)]
    changed = {record.id: record for record in step.puts if not isinstance(record, Event)}
    old = {record.id: record for record in before.values()}
    made = [
        _entry(
            call,
            event.id,
            event.created_at,
            who=call.who or event.actor,
            subject_kind=event.subject_kind,
            subject_id=event.subject_id,
            subject=event.subject,
            summary=event.message,
            differences=_differences(old.get(event.subject_id), changed.get(event.subject_id)),
        )
        for event in events
    ]
    asking = next((record for record in step.puts if isinstance(record, Registration)), None)
    if not made and asking is not None:
        made.append(
            _entry(
                call,
                f"{int(now * 1000):013d}-{suffix}",
                now,
                who=call.who or f"token:{asking.token_id}",
                subject_kind="registration",
                subject_id=asking.id,
                subject=asking.name or asking.facts.hostname,
                summary=f"a {asking.role} asks to join with token {asking.token_id}",
            )
        )
    elif not made and (step.puts or step.deletes):
        kinds = sorted({KIND_OF[type(record)] for record in (*step.puts, *step.deletes)})
        keys = [key_of(record) for record in (*step.puts, *step.deletes)]
        summary = f"{', '.join(kinds)}: {', '.join(keys[:5])}{' and more' if len(keys) > 5 else ''}"
        made.append(_entry(call, f"{int(now * 1000):013d}-{suffix}", now, who=call.who, summary=summary))
    return tuple(made)


def refused(call: Call, now: float, suffix: str, outcome: str, summary: str, times: int = 1) -> AuditEntry:
    """Return the entry for attempts that were refused, `outcome` forbidden or unauthorized."""
    id_ = f"{int(now * 1000):013d}-{suffix}"
    return _entry(call, id_, now, who=call.who, outcome=outcome, summary=summary, times=times)


def chosen(
    found: Sequence[AuditEntry], who: str | None, subject: str | None, outcome: str | None, since: float | None
) -> Iterator[AuditEntry]:
    """Yield the entries asked for: `who` is `api:NAME`, a token's name or its id, `subject` an id or a name."""
    for entry in found:
        if (
            (who is None or who in (entry.who, entry.who.partition(":")[2], entry.token_id))
            and (subject is None or subject in (entry.subject, entry.subject_id))
            and (outcome is None or outcome == entry.outcome)
            and (since is None or entry.created_at >= since)
        ):
            yield entry


def _entry(call: Call, id_: str, now: float, **more: object) -> AuditEntry:
    return AuditEntry(
        id=id_,
        created_at=now,
        updated_at=now,
        token_id=call.token_id,
        operation=call.operation,
        source=call.source,
        request_id=call.request_id,
        **more,  # type: ignore[arg-type]
    )


def _differences(before: Record | None, after: Record | None) -> tuple[Difference, ...]:
    old, new = _told(before), _told(after)
    return tuple(
        Difference(field=field, before=old.get(field, "")[:MAX_VALUE], after=new.get(field, "")[:MAX_VALUE])
        for field in dict.fromkeys([*old, *new])
        if old.get(field, "") != new.get(field, "")
    )


def _told(record: Record | None) -> dict[str, str]:
    """Return the properties worth comparing: a list of what may be told, as environments hold secrets."""
    match record:
        case Deployment():
            told = {
                "replicas": str(record.spec.replicas),
                "image": record.spec.container.image,
                "generation": str(record.generation),
                "deleting": "yes" if record.deleting else "",
            }
        case Member():
            labels = ",".join(f"{key}={value}" for key, value in sorted(record.labels.items()))
            told = {"name": record.name, "scheduling": str(record.scheduling), "labels": labels}
        case LabelSet():
            told = {"selector": format_selector(record.selector), "description": record.description}
        case JoinToken():
            told = {"role": str(record.role), "uses": str(record.uses), "revoked": "yes" if record.revoked else ""}
        case ApiToken():
            told = {"name": record.name, "role": str(record.role)}
        case Pool():
            told = {
                "cidr": record.cidr,
                "mode": str(record.mode),
                "agent_port": str(record.agent_port),
                "quarantine_seconds": f"{record.quarantine_seconds:g}",
            }
        case ServerPool():
            told = {"selector": format_selector(record.selector), **_fields(record.policy)}
        case Vm():
            told = {
                "cpus": f"{record.cpus:g}",
                "memory_bytes": str(record.memory_bytes),
                "wanted": str(record.wanted),
                "draining": "yes" if record.draining else "",
            }
        case _:
            told = {}
    return told


def _fields(of: msgspec.Struct, before: str = "") -> dict[str, str]:
    """Return plain fields as `name: text`, those of a struct within as `outer.name`."""
    told: dict[str, str] = {}
    for name, value in msgspec.structs.asdict(of).items():
        if isinstance(value, msgspec.Struct):
            told |= _fields(value, f"{before}{name}.")
        else:
            told[before + name] = ", ".join(value) if isinstance(value, tuple) else f"{value}"
    return told
