"""Judging a control plane by what it tells of itself: one small function a question, and what to mend."""

from collections.abc import Sequence

from fallow.client.errors import ApiError, ClientError, Untrusted
from fallow.model.control import ControlStatus
from fallow.model.doctor import Finding
from fallow.model.units import format_duration
from fallow.version import VERSION

CLOCK_SECONDS = 2.0  # certificates begin five minutes in the past, so a little matters to people only
CLOCK_BROKEN_SECONDS = 240.0
SLOW_STORE_SECONDS = 0.1
STUCK_LOOP_SECONDS = 180.0  # every loop runs at least once a minute
CERTIFICATE_SECONDS = 14 * 86400.0
MANY_EVENTS = 200_000


def unanswered(url: str, error: ClientError) -> Finding:
    """Say why the control plane could not be asked at all."""
    if isinstance(error, Untrusted):
        return _broken(
            "trust", f"what answers at {url} does not have the CA of this context: {error.text}",
            "if it was set up anew: fallow context add NAME URL --ca-file FILE; if not, somebody is in between",
        )  # fmt: skip
    if isinstance(error, ApiError) and error.problem.status in (401, 403):
        return _broken("token", str(error), error.problem.hint or "fallow token create, then fallow context add")
    if isinstance(error, ApiError) and error.problem.status == 404:
        return _broken("version", f"{url} is too old to be asked for its status", "upgrade the control plane")
    return _broken("reachable", str(error), "is `fallow server` running there, and is the port open on the way?")


def control(url: str, status: ControlStatus, expires_at: float | None, asked: tuple[float, float]) -> Sequence[Finding]:
    """Judge a control plane that has answered; `asked` says when it was asked and when it answered, by our clock."""
    return (
        _ok("reachable", f"{url} answers in {(asked[1] - asked[0]) * 1000:.0f} ms"),
        _certificate(expires_at, asked[1]),
        _clock(status, asked),
        _version(status),
        _ready(status),
        _store(status),
        _leader(status),
        _loops(status),
        _members(status),
        _size(status),
    )


def _certificate(expires_at: float | None, now: float) -> Finding:
    if expires_at is None:
        return _warning("certificate", "plain HTTP, without a certificate", "use the https URL of the control plane")
    left = expires_at - now
    text = f"of the CA this context trusts, for another {format_duration(left)}"
    if left < CERTIFICATE_SECONDS:
        return _warning("certificate", text, "start the control plane anew: every start makes a new one")
    return _ok("certificate", text)


def _clock(status: ControlStatus, asked: tuple[float, float]) -> Finding:
    # It was read at some moment between asking and the answer.
    apart = max(0.0, asked[0] - status.now, status.now - asked[1])
    text = f"{apart:.1f} s apart from this machine's"
    mend = "let both machines take their time from the same NTP servers (timedatectl, chronyc tracking)"
    if apart > CLOCK_BROKEN_SECONDS:
        return _broken("clock", text + ": certificates are not valid yet, or no more, on one side", mend)
    return _warning("clock", text, mend) if apart > CLOCK_SECONDS else _ok("clock", text)


def _version(status: ControlStatus) -> Finding:
    if status.version == VERSION:
        return _ok("version", f"{VERSION}, like this command")
    return _warning("version", f"{status.version}; this command is {VERSION}", "upgrade the older of the two")


def _ready(status: ControlStatus) -> Finding:
    if status.not_ready:
        return _broken("ready", status.not_ready, "its log says why; a supervisor should start it anew")
    return _ok("ready", f"{status.sessions} sessions of members are open")


def _store(status: ControlStatus) -> Finding:
    text = f"a read takes {status.store_seconds * 1000:.1f} ms, revision {status.store_revision}"
    if status.store_seconds > SLOW_STORE_SECONDS:
        return _warning("store", text, "a slow or busy disk? `iostat -x 1` where the data folder is")
    silent = [member.address for member in status.store_members if not member.answers]
    if silent:
        told = f"{text}; {len(silent)} of {len(status.store_members)} members do not answer: {', '.join(silent)}"
        return _warning("store", told, "etcdctl endpoint status; does etcd run there, and can it be reached from here?")
    if status.cache_behind > 1000:
        return _warning("store", f"{text}; {status.cache_behind} commits not seen yet", "is the machine overloaded?")
    return _ok("store", text)


def _loops(status: ControlStatus) -> Finding:
    stuck = sorted(name for name, seconds in status.loops.items() if seconds > STUCK_LOOP_SECONDS)
    if stuck:
        told = ", ".join(f"{name} for {format_duration(status.loops[name])}" for name in stuck)
        return _broken("loops", f"have not run through: {told}", "its log says why, under `control loop failed`")
    if not status.loops:
        return _note("loops", "none has run here yet")
    return _ok("loops", f"all of {len(status.loops)} run")


def _leader(status: ControlStatus) -> Finding:
    if not status.leader:
        mend = "wait a few seconds; if it stays so, its log says why, under `this process is not on record`"
        return _broken("leader", "no process leads: nothing is decided", mend)
    if status.leads:
        return _ok("leader", f"this process, one of {status.peers}")
    return _ok("leader", f"{status.leader}, one of {status.peers}")


def _members(status: ControlStatus) -> Finding:
    if not status.silent:
        return _ok("members", f"all of {status.records.get('members', 0)} are ready")
    told = ", ".join(
        f"{name} ({format_duration(seconds)})" if seconds >= 0 else f"{name} (not since the start)"
        for name, seconds in sorted(status.silent.items())[:10]
    )
    more = f" and {len(status.silent) - 10} more" if len(status.silent) > 10 else ""
    return _warning(
        "members", f"{len(status.silent)} are not ready, last heard: {told}{more}",
        "fallow explain NAME; on the machine: fallow doctor, journalctl -u fallow-agent\n"
        "gone for good: fallow node remove NAME",
    )  # fmt: skip


def _size(status: ControlStatus) -> Finding:
    told = ", ".join(f"{count} {kind}" for kind, count in status.records.items() if count) or "nothing yet"
    if status.records.get("events", 0) + status.records.get("audit", 0) > MANY_EVENTS:
        return _warning("records", told, "keep the audit record for a shorter time: fallow server --keep-audit 90d")
    return _ok("records", told)


def _ok(check: str, text: str) -> Finding:
    return Finding(check=check, verdict="ok", text=text)


def _note(check: str, text: str) -> Finding:
    return Finding(check=check, verdict="note", text=text)


def _warning(check: str, text: str, mend: str) -> Finding:
    return Finding(check=check, verdict="warning", text=text, mend=mend)


def _broken(check: str, text: str, mend: str) -> Finding:
    return Finding(check=check, verdict="broken", text=text, mend=mend)
