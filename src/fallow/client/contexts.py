"""Which control planes this user knows, kept in `~/.config/fallow/contexts.json`."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from fallow.client.errors import ClientError

DEFAULT_PROJECT = "default"
URL, TOKEN, CA_FILE = "FALLOW_URL", "FALLOW_TOKEN", "FALLOW_CA_FILE"
CONTEXT, PROJECT = "FALLOW_CONTEXT", "FALLOW_PROJECT"


class ContextsError(ClientError):
    """The contexts cannot be read, written or used."""


class NoContext(ContextsError):  # noqa: N818
    """Nothing says which control plane is meant."""


class Context(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One control plane: where it is (URLs with commas), what opens it, whom to trust, the project commands mean."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    url: str
    token: str = ""
    ca_pem: str = ""  # empty: the system's authorities
    project: str = ""

    def __repr__(self) -> str:
        """Keep the token out of logs and tracebacks."""
        return f"Context({self.name!r}, {self.url!r})"


class Contexts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in the file; `current` is empty or names one of them."""

    current: str = ""
    contexts: tuple[Context, ...] = ()

    def named(self, name: str) -> Context | None:
        """Return the context called `name`."""
        return next((context for context in self.contexts if context.name == name), None)

    def with_context(self, context: Context, *, use: bool) -> "Contexts":
        """Return these with `context` added or replaced, and current if `use` or if it is the only one."""
        others = tuple(other for other in self.contexts if other.name != context.name)
        contexts = tuple(sorted((*others, context), key=lambda each: each.name))
        return Contexts(current=context.name if use or not self.current else self.current, contexts=contexts)

    def without(self, name: str) -> "Contexts":
        """Return these without one; no other becomes current by itself."""
        return Contexts(
            current="" if self.current == name else self.current,
            contexts=tuple(context for context in self.contexts if context.name != name),
        )


def contexts_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the file is, by XDG_CONFIG_HOME or in the home folder."""
    base = environment.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if base.startswith("/") else Path.home() / ".config"
    return folder / "fallow" / "contexts.json"


def load_contexts(path: Path | None = None) -> Contexts:
    """Read the file; none is the same as an empty one. Raises ContextsError when it is unreadable or corrupt."""
    path = path or contexts_path()
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Contexts)
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise ContextsError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContextsError(
            f"{path} is damaged: {error}; repair it, or move it away and run `fallow context add`"
        ) from error
    if found.current and found.named(found.current) is None:
        return Contexts(contexts=found.contexts)
    return found


def save_contexts(contexts: Contexts, path: Path | None = None) -> Path:
    """Write the file, for its owner alone, whole or not at all. Raises ContextsError."""
    path = path or contexts_path()
    text = msgspec.json.format(msgspec.json.encode(contexts), indent=2) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".contexts-")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ContextsError(f"{path} cannot be written: {error.strerror}") from error
    return path


def save_context(context: Context, *, use: bool = True, path: Path | None = None) -> Path:
    """Add or replace one context in the file and return the file. Raises ContextsError."""
    return save_contexts(load_contexts(path).with_context(context, use=use), path)


def resolve(name: str = "", environment: Mapping[str, str] = os.environ, path: Path | None = None) -> Context:
    """Return the context meant: `name`, else FALLOW_CONTEXT, else FALLOW_URL by itself, else the current one.

    FALLOW_URL, FALLOW_TOKEN, FALLOW_CA_FILE and FALLOW_PROJECT override single fields; but a stored token is sent to
    another URL only when the context's own CA vouches for what answers there. Raises NoContext, or ContextsError when
    one is named that does not exist.
    """
    url = environment.get(URL, "")
    wanted = name or environment.get(CONTEXT, "")
    if wanted or not url:
        context = _stored(wanted, path or contexts_path(environment))
        if url:
            known = set(url.split(",")) <= set(context.url.split(","))
            vouched = known or (context.ca_pem and not environment.get(CA_FILE))
            context = msgspec.structs.replace(context, url=url, token=context.token if vouched else "")
    else:
        context = Context(name="environment", url=url)
    return msgspec.structs.replace(
        context,
        token=environment.get(TOKEN) or context.token,
        ca_pem=_read_ca(environment[CA_FILE]) if environment.get(CA_FILE) else context.ca_pem,
        project=environment.get(PROJECT) or context.project,
    )


def _stored(name: str, path: Path) -> Context:
    contexts = load_contexts(path)
    if not name and not contexts.current:
        raise NoContext("no control plane is chosen" if contexts.contexts else "no control plane is known yet")
    context = contexts.named(name or contexts.current)
    if context is None:
        known = ", ".join(each.name for each in contexts.contexts) or "none"
        raise ContextsError(f"there is no context {name!r} (known: {known})")
    return context


def _read_ca(file: str) -> str:
    try:
        return Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ContextsError(f"the CA file {file} ({CA_FILE}) cannot be read: {error}") from error
