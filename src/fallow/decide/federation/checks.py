"""What a host believes of a cluster's report: its own numbers, cleaned words, and addresses that may be dialled."""

import ipaddress
import re
from collections.abc import Collection, Mapping

import msgspec

from fallow.decide.joining import plain_address, unfit_claim
from fallow.model.cluster_frames import RoomReported
from fallow.model.rooms import RoomAnswer
from fallow.model.shares import RemoteEndpoint, ShareReport

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_PORT = re.compile(r"[0-9]{1,5}/(tcp|udp)\Z")
MAX_ENDPOINTS = 10_000


def cleaned(text: str) -> str:
    """Return a text without what nobody could read, such as line ends and terminal codes."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


def fit_report(report: ShareReport, observed: str, control: Collection[str]) -> tuple[ShareReport, Mapping[str, str]]:
    """Return a report as it may be stored, and why which addresses in it were dropped.

    `observed` is where the cluster called from when it joined, `control` are the control plane's addresses.
    """
    why: dict[str, str] = {}
    known: dict[str, str] = {}  # address as said -> as it is dialled; empty: never
    endpoints: dict[str, RemoteEndpoint] = {}
    for found in report.endpoints:
        if found.address not in known:
            trouble = _trouble(found.address, observed, control)
            known[found.address] = "" if trouble else plain_address(found.address)
            if trouble:
                why[cleaned(found.address)] = trouble
        if known[found.address] and _ID.match(found.id):
            ports = {key: port for key, port in found.ports.items() if _PORT.match(key)}
            endpoints[found.id] = msgspec.structs.replace(found, address=known[found.address], ports=ports)
    whole = len(report.endpoints) >= MAX_ENDPOINTS  # those beyond are counted and not named
    ready = report.ready if whole else min(report.ready, len(endpoints))
    fit = msgspec.structs.replace(
        report,
        ready=ready,
        updated=min(report.updated, ready),
        leaving=tuple(dict.fromkeys(id_ for id_ in report.leaving if _ID.match(id_))),
        state=cleaned(report.state),
        reason=cleaned(report.reason),
        endpoints=tuple(endpoints.values()),
    )
    return fit, why


def fit_room(
    frame: RoomReported, keys: Collection[str], deployments: Collection[str]
) -> tuple[dict[str, RoomAnswer], dict[str, int]]:
    """Return the answers to `keys`, the questions that stand, and the orders of `deployments` that they include."""
    answers = {
        answer.key: msgspec.structs.replace(answer, why=cleaned(answer.why))
        for answer in frame.answers
        if answer.key in keys
    }
    return answers, {id_: revision for id_, revision in frame.orders.items() if id_ in deployments}


def _trouble(address: str, observed: str, control: Collection[str]) -> str:
    """Return why an address must not be dialled; a cluster that called from loopback is on this very machine."""
    if _is_loopback(observed) and _is_loopback(address):
        return ""
    return unfit_claim(address, observed, control)


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
