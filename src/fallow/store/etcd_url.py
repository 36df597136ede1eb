"""What an etcd URL says: members, key prefix, TLS files. User and password come from elsewhere: a URL shows in `ps`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from fallow.model.hosts import REGION_LABEL
from fallow.model.labels import is_label
from fallow.store.contract import StoreError

DEFAULT_PORT = 2379
DEFAULT_PREFIX = "/fallow/"
DEFAULT_MAX_TXN_OPS = 128  # etcd's own default: of comparisons, and of writes
USER_VARIABLE = "FALLOW_STORE_USER"
PASSWORD_VARIABLE = "FALLOW_STORE_PASSWORD"  # noqa: S105 - its name, not its value

_OPTIONS = ("ca", "cert", "key", "password_file", "max_txn_ops", "places")
_FORM = "etcd://host1:2379,host2:2379,host3:2379[/prefix][?ca=FILE&cert=FILE&key=FILE&password_file=FILE]"


@dataclass(frozen=True, kw_only=True, slots=True)
class EtcdUrl:
    """`endpoints` are `host:port`; keys begin with `prefix`. With `ca` the members are spoken to over TLS.

    `max_txn_ops` is what the members were started with. `places` are region and zone of each endpoint, or none at all.
    """

    endpoints: tuple[str, ...]
    prefix: str = DEFAULT_PREFIX
    ca: bytes | None = None
    certificate: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    max_txn_ops: int = DEFAULT_MAX_TXN_OPS
    places: tuple[tuple[str, str], ...] = ()


def parse(rest: str, environ: Mapping[str, str] = os.environ) -> EtcdUrl:
    """Read what follows `etcd:` and the files it names.

    Raises ValueError for a malformed URL, StoreError for a file that cannot be read. Neither repeats what stands
    before an `@`, where a password may have been written.
    """
    # Not by urlsplit, which takes a list of members for one host and may find it malformed.
    address, _, query = rest.partition("?")
    members, slash, path = address.removeprefix("//").partition("/")
    if not address.startswith("//") or not members:
        raise ValueError(f"an etcd store is named as {_FORM}")
    if "@" in members:
        raise ValueError(
            f"an etcd URL carries no user and no password, since others could read them in the list of processes: "
            f"set {USER_VARIABLE} and {PASSWORD_VARIABLE}"
        )
    options = _options(query)
    user, password = _credentials(options.get("password_file"), environ)
    endpoints = tuple(dict.fromkeys(_endpoint(text) for text in members.split(",")))
    return EtcdUrl(
        endpoints=endpoints,
        prefix=_prefix(unquote(slash + path)),
        ca=_read(options.get("ca")),
        certificate=_read(options.get("cert")),
        private_key=_read(options.get("key")),
        user=user,
        password=password,
        max_txn_ops=_number(options.get("max_txn_ops")),
        places=_places(options.get("places"), len(endpoints)),
    )


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ValueError(f"an etcd URL has no option {name!r}; it knows {', '.join(_OPTIONS)}")
        if name in options or not value:
            raise ValueError(f"the option {name} of an etcd URL is given once, with a value")
        options[name] = value
    if ("cert" in options) != ("key" in options):
        raise ValueError("the options cert and key of an etcd URL go together")
    if "cert" in options and "ca" not in options:
        raise ValueError("with cert and key an etcd URL needs ca, too: the CA that the members' certificates are from")
    return options


def _number(text: str | None) -> int:
    if text is None:
        return DEFAULT_MAX_TXN_OPS
    if not text.isascii() or not text.isdecimal() or not DEFAULT_MAX_TXN_OPS <= int(text) <= 100_000:
        raise ValueError(f"max_txn_ops is what etcd was started with, {DEFAULT_MAX_TXN_OPS} or more, not {text!r}")
    return int(text)


def _places(text: str | None, members: int) -> tuple[tuple[str, str], ...]:
    """Read `region/zone,region,...`, one for each member in their order."""
    if text is None:
        return ()
    places = tuple((region, zone) for region, _, zone in (place.partition("/") for place in text.split(",")))
    if len(places) != members or not all(is_label(REGION_LABEL, part) for place in places for part in place):
        raise ValueError(f"places are REGION or REGION/ZONE of each of the {members} members of etcd, not {text!r}")
    return places


def _endpoint(text: str) -> str:
    try:
        split = urlsplit(f"//{text}")
        host, port = split.hostname, split.port or DEFAULT_PORT
    except ValueError as error:
        raise ValueError(f"{text!r} is not the address of an etcd member: {error}") from error
    if not host:
        raise ValueError(f"{text!r} is not the address of an etcd member: give host or host:port")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _prefix(path: str) -> str:
    trimmed = path.strip("/")
    return f"/{trimmed}/" if trimmed else DEFAULT_PREFIX


def _credentials(password_file: str | None, environ: Mapping[str, str]) -> tuple[str, str]:
    user = environ.get(USER_VARIABLE, "")
    found = _read(password_file)
    password = found.decode(errors="replace").strip() if found is not None else environ.get(PASSWORD_VARIABLE, "")
    if bool(user) != bool(password):
        given, absent = (USER_VARIABLE, "a password") if user else ("a password", USER_VARIABLE)
        raise ValueError(f"{given} is given for etcd, but not {absent}: both are needed, or neither")
    return user, password


def _read(file: str | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {file}, which the etcd URL names: {error.strerror}") from error
