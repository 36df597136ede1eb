"""`ports` and `expose`.

`80:8080` asks the gateways to listen on 80 and pass connections on to 8080 of any replica; with `mode: host` it asks
for port 80 of every node that runs a replica. A container port alone is reachable through routes only.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fallow.decide.compose.draft import Draft, Published
from fallow.decide.compose.fields import Field, dispatch, each
from fallow.decide.compose.problems import shown
from fallow.model.containers import PortSpec

MAX_RANGE = 64  # ports in one range; a container has no more

_SHORT = re.compile(
    r"(?:(?P<ip>\[[0-9A-Fa-f:.]{2,45}\]|[0-9]{1,3}(?:\.[0-9]{1,3}){3}):)?"
    r"(?:(?P<published>[0-9-]*):)?(?P<target>[0-9-]+)(?:/(?P<protocol>[a-z]+))?"
)
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_FORMS = "8080, 80:8080, 8080/udp or 8000-8003:9000-9003"


@dataclass(slots=True)
class _Wish:
    """One entry of `ports`, whichever way it is written."""

    target: str = ""
    published: str = ""
    protocol: str = "tcp"
    mode: str = "ingress"
    ip: str = ""


def read_ports(field: Field, draft: Draft) -> None:
    """Read `ports`."""
    each(field.items(), lambda item: _read_port(item, draft))


def read_expose(field: Field, draft: Draft) -> None:
    """Read `expose`: container ports that other services may reach."""
    each(field.items(), lambda item: _read_exposed(item, draft))


def _read_exposed(field: Field, draft: Draft) -> None:
    wish = _short(field)
    if wish.published or wish.ip:
        raise field.refusal("names container ports only; publish under `ports`")
    _add(field, draft, wish)


def _read_port(field: Field, draft: Draft) -> None:
    wish = _Wish()
    if field.is_mapping:
        dispatch(field, _LONG, wish)
        if not wish.target:
            raise field.refusal("needs `target`, the container's port")
    else:
        wish = _short(field)
    _add(field, draft, wish)


def _short(field: Field) -> _Wish:
    text = field.text()
    match = _SHORT.fullmatch(text)
    if match is None:
        raise field.refusal(f"{shown(text)} is not a port; write {_FORMS}")
    if match["protocol"] not in (None, "tcp", "udp"):
        raise field.refusal(f"the protocol must be tcp or udp, not {shown(match['protocol'])}")
    return _Wish(
        target=match["target"],
        published=match["published"] or "",
        protocol=match["protocol"] or "tcp",
        ip=match["ip"] or "",
    )


def _add(field: Field, draft: Draft, wish: _Wish) -> None:
    """Add the container ports of a wish, and what is published of them."""
    targets = _range(field, wish.target)
    published = _range(field, wish.published) if wish.published else []
    if published and len(published) != len(targets):
        raise field.refusal(f"publishes {len(published)} ports for {len(targets)} of the container; write one for each")
    if published and _kept_private(field, wish):
        published = []
    protocol: Literal["tcp", "udp"] = "udp" if wish.protocol == "udp" else "tcp"
    for number, target in enumerate(targets):
        host = published[number] if published and wish.mode == "host" else None
        draft.add_port(field, PortSpec(container=target, protocol=protocol, host=host))
        if published and wish.mode == "ingress":
            if protocol == "udp":
                raise field.refusal("gateways pass on TCP only; write the long form with `mode: host` for UDP")
            draft.published.append(Published(field=field, listen=published[number], port=target))


def _kept_private(field: Field, wish: _Wish) -> bool:
    """Warn of an address before the port; say whether it is one that must not be opened to other machines."""
    if not wish.ip:
        return False
    if wish.ip.startswith("127.") or wish.ip == "[::1]":
        field.warn(f"{wish.ip} means the local machine only, so no port is opened; leave it out to publish the port")
        return True
    where = "every address of the node" if wish.mode == "host" else "every address of the gateways"
    field.warn(f"the address {wish.ip} is ignored: the port is open on {where}")
    return False


def _range(field: Field, text: str) -> list[int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise field.refusal(f"{shown(text)} is not a port; write {_FORMS}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise field.refusal(f"ports go from 1 to 65535, not {shown(text)}")
    if last - first >= MAX_RANGE:
        raise field.refusal(f"{shown(text)} is a range of more than {MAX_RANGE} ports")
    return list(range(first, last + 1))


def _target(field: Field, wish: _Wish) -> None:
    wish.target = field.text()


def _published(field: Field, wish: _Wish) -> None:
    wish.published = field.text()


def _protocol(field: Field, wish: _Wish) -> None:
    wish.protocol = field.choice("tcp", "udp")


def _mode(field: Field, wish: _Wish) -> None:
    wish.mode = field.choice("ingress", "host")


def _ip(field: Field, wish: _Wish) -> None:
    wish.ip = field.text()


def _told(field: Field, wish: _Wish) -> None:
    """Take `name` and `app_protocol` as what they are: remarks."""


_LONG: dict[str, Callable[[Field, _Wish], None]] = {
    "target": _target,
    "published": _published,
    "protocol": _protocol,
    "mode": _mode,
    "host_ip": _ip,
    "name": _told,
    "app_protocol": _told,
}
