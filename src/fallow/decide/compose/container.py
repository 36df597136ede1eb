"""The keys of a service that say what its container is made of."""

import re
import shlex
from collections.abc import Callable

from fallow.decide.compose.draft import Draft
from fallow.decide.compose.extension import add_architectures, architecture
from fallow.decide.compose.fields import Field, each
from fallow.decide.compose.problems import shown

Handler = Callable[[Field, Draft], None]

MAX_COMMAND = 64 * 1024
MAX_REFERENCE = 512
MAX_NAME = 255  # of an image, without tag and digest

# The grammar of image references: github.com/distribution/reference.
_DOMAIN = (
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])"
)
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<name>(?:{_DOMAIN}(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@(?P<algorithm>[a-z0-9]+(?:[+._-][a-z0-9]+)*):(?P<hex>[0-9a-f]{32,128}))?"
)
_USER = re.compile(r"[A-Za-z0-9_.-]{1,64}(?::[A-Za-z0-9_.-]{1,64})?")
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9]{1,8}(?:[+-][0-9]{1,2})?|[1-9][0-9]?")
_CAPABILITY = re.compile(r"[A-Z][A-Z_]{1,40}")
_TMPFS = re.compile(r"/[^\s:,'\"]{1,255}(?::[A-Za-z0-9=,._%-]{1,255})?")


def check_image(field: Field) -> str:
    """Return an image reference. Raises Refusal, with a hint for the usual mistakes."""
    text = field.text()
    match = _REFERENCE.fullmatch(text) if len(text) <= MAX_REFERENCE else None
    if match is None or len(match["name"]) > MAX_NAME:
        lower = text.lower()[:MAX_REFERENCE]
        hint = ": the name must be in lower case" if lower != text and _REFERENCE.fullmatch(lower) else ""
        raise field.refusal(f"{shown(text)} is not an image reference such as registry.example.com/shop/web:1.4{hint}")
    if match["algorithm"] == "sha256" and len(match["hex"]) != 64:
        raise field.refusal(f"{shown(text)} has a digest of {len(match['hex'])} digits; sha256 has 64")
    return text


def _image(field: Field, draft: Draft) -> None:
    draft.container["image"] = check_image(field)


def _words(field: Field) -> tuple[str, ...] | None:
    """Return a command: a list as it stands, text split as a shell would; None when no value is written."""
    if field.is_null:
        return None
    if field.is_list:
        return tuple(each(field.items(), _argument))
    text = field.content()
    if len(text) > MAX_COMMAND:
        raise field.refusal(f"has {len(text)} characters; at most {MAX_COMMAND} are allowed")
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise field.refusal(f"cannot be split into words: {str(error).lower()}") from None


def _argument(field: Field) -> str:
    return field.content()


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[Field], str]:
    def read(field: Field) -> str:
        text = field.text()
        if not pattern.fullmatch(text):
            raise field.refusal(f"{shown(text)} is not {what}")
        return text

    return read


def _capability(field: Field) -> str:
    text = field.text().upper().removeprefix("CAP_")
    if not _CAPABILITY.fullmatch(text):
        raise field.refusal(f"{shown(text)} is not a capability such as NET_BIND_SERVICE")
    return text


def _added_capability(field: Field) -> str:
    text = _capability(field)
    if text == "ALL":
        raise field.refusal("ALL cannot be added; name the capabilities that are needed")
    return text


def _listed(read: Callable[[Field], str]) -> Callable[[Field], tuple[str, ...]]:
    def read_all(field: Field) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each(field.items_or_one(), read)))

    return read_all


def _grace(field: Field) -> float:
    return field.seconds(0, 3600)


def _kept(name: str, read: Callable[[Field], object]) -> Handler:
    """Return a handler that keeps what `read` returns as ContainerSpec's `name`; a null leaves the default."""

    def keep(field: Field, draft: Draft) -> None:
        if not field.is_null:
            draft.container[name] = read(field)

    return keep


def _platform(field: Field, draft: Draft) -> None:
    """Read `linux/arm64` as an architecture."""
    system, _, rest = field.text().partition("/")
    if system.lower() != "linux":
        raise field.refusal(f"must be linux/ARCHITECTURE, not {shown(field.text())}")
    if rest:
        add_architectures(draft, field, [architecture(field, rest.partition("/")[0])])


def _volumes(field: Field, draft: Draft) -> None:
    each(field.items(), lambda item: _volume(item, draft))


def _volume(field: Field, draft: Draft) -> None:
    """Read a volume of type tmpfs; any other holds data, which no replica may count on."""
    entries = dict(field.entries()) if field.is_mapping else {}
    if "type" not in entries or entries["type"].text() != "tmpfs" or "target" not in entries:
        raise field.refusal(
            "volumes are not supported: replicas move between nodes and keep no data; "
            "use a service outside, an object store, or `tmpfs` for scratch space"
        )
    _add_tmpfs(draft, [_tmpfs_entry(entries["target"])])


def _tmpfs(field: Field, draft: Draft) -> None:
    _add_tmpfs(draft, each(field.items_or_one(), _tmpfs_entry))


def _tmpfs_entry(field: Field) -> str:
    return _matching(_TMPFS, "an absolute path, or one with options such as /run:size=64m")(field)


def _add_tmpfs(draft: Draft, entries: list[str]) -> None:
    draft.container["tmpfs"] = tuple(dict.fromkeys((*draft.container.get("tmpfs", ()), *entries)))


CONTAINER: dict[str, Handler] = {
    "image": _image,
    "command": _kept("command", _words),
    "entrypoint": _kept("entrypoint", _words),
    "user": _kept("user", _matching(_USER, "a user such as 1000, app or 1000:1000")),
    "working_dir": _kept("working_dir", _matching(re.compile(r"/[^\n]{0,4095}"), "an absolute path")),
    "hostname": _kept("hostname", _matching(_HOSTNAME, "a host name of at most 63 letters, digits and '-'")),
    "read_only": _kept("read_only", Field.boolean),
    "init": _kept("init", Field.boolean),
    "cap_add": _kept("cap_add", _listed(_added_capability)),
    "cap_drop": _kept("cap_drop", _listed(_capability)),
    "tmpfs": _tmpfs,
    "stop_grace_period": _kept("stop_grace_seconds", _grace),
    "stop_signal": _kept("stop_signal", _matching(_SIGNAL, "a signal such as SIGTERM")),
    "platform": _platform,
    "volumes": _volumes,
}
