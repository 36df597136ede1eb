"""`environment`, `env_file` and `labels`: names with values."""

import re
from collections.abc import Callable

from fallow.decide.compose.document import forbidden_character
from fallow.decide.compose.draft import Draft
from fallow.decide.compose.fields import Field, dispatch, each
from fallow.decide.compose.problems import Refusal, shown

OWN_LABELS = "io.fallow."

_NAME = re.compile(r"[^\s=]{1,256}")


def read_environment(field: Field, draft: Draft) -> None:
    """Read `environment`; a name without value takes the variable of that name."""
    for name, value, where in _pairs(field):
        _set(draft, draft.environment, name, value, where)


def read_env_files(field: Field, draft: Draft) -> None:
    """Read `env_file`: a path, or a list of paths or of mappings with `path`, `required` and `format`."""
    each(field.items_or_one(), lambda item: _read_env_file(item, draft))


def read_labels(field: Field, draft: Draft) -> None:
    """Read `labels` of the container."""
    labels: dict[str, str] = {}
    for name, value, where in _pairs(field):
        if name.startswith(OWN_LABELS):
            where.error(f"labels that begin with {OWN_LABELS} are set by Fallow itself")
        labels[name] = value or ""
    draft.container["labels"] = labels


def _pairs(field: Field) -> list[tuple[str, str | None, Field]]:
    """Return names with values, and where they stand, from a mapping or from a list of `NAME=value`."""
    if not field.is_list:
        entries = {where.path: name for name, where in field.entries()}
        return each((where for _, where in field.entries()), lambda where: _entry(entries[where.path], where))
    return each(field.items(), _item)


def _entry(name: str, where: Field) -> tuple[str, str | None, Field]:
    return _named(name, where), None if where.is_null else where.content(), where


def _item(where: Field) -> tuple[str, str | None, Field]:
    name, sign, value = where.content().partition("=")
    return _named(name, where), value if sign else None, where


def _named(name: str, where: Field) -> str:
    if not _NAME.fullmatch(name):
        raise where.refusal("needs a name of 1 to 256 characters without spaces and '='")
    return name


def _set(draft: Draft, environment: dict[str, str], name: str, value: str | None, where: Field) -> None:
    """Set a variable of the container, taking its value from the file's variables when none is written."""
    if value is None:
        value = draft.variables.get(name)
        if value is None:
            where.warn(f"{name} has no value and there is no variable of that name; it is left out")
            return
        forbidden = forbidden_character(value)
        if forbidden:
            where.error(f"the variable {name} holds the character {forbidden}, which is not allowed")
            return
    environment[name] = value


def _read_env_file(field: Field, draft: Draft) -> None:
    wish = _EnvFile()
    if field.is_mapping:
        dispatch(field, _ENV_FILE, wish)
    else:
        wish.path = field.written()
    if not wish.path:
        raise field.refusal("needs `path`")
    files = draft.env_files
    known = len(files.missing)
    try:
        entries = files.read(wish.path, wish.raw)
    except Refusal as refusal:
        raise field.refusal(f"{shown(wish.path)}: {refusal.text}") from None
    if entries is None:
        if wish.required:
            raise field.refusal(f"the file {shown(wish.path)} is missing")
        return
    for name in files.missing[known:]:
        field.warn(f"{shown(wish.path)}: the variable {name} is not set; it is taken as empty")
    for name, value in entries.items():
        _set(draft, draft.file_environment, name, value, field)


class _EnvFile:
    """One entry of `env_file`."""

    path = ""
    required = True
    raw = False


def _path(field: Field, wish: _EnvFile) -> None:
    wish.path = field.written()


def _required(field: Field, wish: _EnvFile) -> None:
    wish.required = field.boolean()


def _format(field: Field, wish: _EnvFile) -> None:
    wish.raw = bool(field.choice("raw"))


_ENV_FILE: dict[str, Callable[[Field, _EnvFile], None]] = {"path": _path, "required": _required, "format": _format}
