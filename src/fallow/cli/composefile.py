"""What a Compose file needs from its author's machine: named variables and env files, and nothing else."""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fallow.cli.failures import Failure, usage

DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
MAX_BYTES = 1_048_576

# `$NAME` and `${NAME...`; `$$` is a dollar sign. What stands inside `${NAME:-...}` is searched as well.
_REFERENCE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)|([A-Za-z_][A-Za-z0-9_]*))")
_BARE_NAME = re.compile(
    r"^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*$", re.MULTILINE
)  # takes its value from outside
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*=\s*(.*?)\s*\Z")


@dataclass(frozen=True, kw_only=True)
class Collected:
    """A Compose file's text and what goes with it; values may be secrets and are kept out of its repr."""

    text: str
    variables: dict[str, str] = field(repr=False)
    env_files: dict[str, str] = field(repr=False)
    names_project: bool


def find(given: str) -> str:
    """Return the file meant: `given` (`-`: standard input), else the first of DEFAULT_FILES here. Raises Failure."""
    if given:
        return given
    for name in DEFAULT_FILES:
        if Path(name).is_file():
            return name
    raise usage("There is no Compose file here", f"Name one, or create {DEFAULT_FILES[0]}.")


def collect(file: str, environment: Mapping[str, str]) -> Collected:
    """Read a Compose file and all it names: variables of `environment` or `.env` beside it, and its env files.

    Raises Failure when a file cannot be read.
    """
    folder = Path() if file == "-" else Path(file).parent
    text = _standard_input() if file == "-" else _read(Path(file))
    document = _parsed(text)
    dotenv = folder / ".env"
    known = {**(parse_env(_read(dotenv)) if dotenv.is_file() else {}), **environment}
    env_files = {}
    for written, required in _env_files(document):
        path = folder / _substituted(written, known)
        if required or path.is_file():
            env_files[written] = _read(path)
    wanted = {*references(text), *_passed_through(document)}
    for content in env_files.values():
        wanted |= {*references(content), *_BARE_NAME.findall(content)}
    return Collected(
        text=text,
        variables={name: known[name] for name in sorted(wanted) if name in known},
        env_files=env_files,
        names_project=isinstance(document, dict) and bool(document.get("name")),
    )


def references(text: str) -> Iterator[str]:
    """Yield the names of the variables that `text` refers to."""
    for match in _REFERENCE.finditer(text):
        if match[2] or match[3]:
            yield match[2] or match[3]


def parse_env(text: str) -> dict[str, str]:
    """Read `NAME=VALUE` lines; quotes around a value go, comments and other lines are skipped."""
    found = {}
    for line in text.splitlines():
        match = None if line.lstrip().startswith("#") else _ASSIGNMENT.match(line)
        if match:
            found[match[1]] = _unquoted(match[2])
    return found


def _unquoted(value: str) -> str:
    for quote in ("'", '"'):
        if value.startswith(quote) and (end := value.find(quote, 1)) > 0:
            return value[1:end]
    return re.split(r"\s#", value, maxsplit=1)[0].rstrip()


def _substituted(written: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: known.get(match[1] or match[2], match[0]), written)


def _read(path: Path) -> str:
    try:
        # Not by its size: a device has none and does not end.
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise usage(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise usage(f"{path} is not UTF-8 text") from error
    if len(text) > MAX_BYTES:
        raise usage(f"{path} is larger than {MAX_BYTES // 1024} KiB")
    return text


def _standard_input() -> str:
    try:
        text = sys.stdin.read(MAX_BYTES + 1)
    except UnicodeDecodeError as error:
        raise usage("Standard input is not UTF-8 text") from error
    if len(text) > MAX_BYTES:
        raise Failure(f"Standard input is longer than {MAX_BYTES // 1024} KiB")
    return text


def _parsed(text: str) -> object:
    """Return the document, or None when it is none: what is wrong with it the control plane says best."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError):
        return None  # the last three: PyYAML at `!!int ""`, `!!bool x` and `!!timestamp x`


def _services(document: object) -> Iterator[dict[str, object]]:
    services = document.get("services") if isinstance(document, dict) else None
    if isinstance(services, dict):
        yield from (service for service in services.values() if isinstance(service, dict))


def _env_files(document: object) -> Iterator[tuple[str, bool]]:
    """Yield every `env_file` as written, and whether it must exist."""
    for service in _services(document):
        given = service.get("env_file")
        for entry in given if isinstance(given, list) else [given]:
            if isinstance(entry, str):
                yield entry, True
            elif isinstance(entry, dict) and isinstance(entry.get("path"), str):
                yield entry["path"], entry.get("required", True) is not False


def _passed_through(document: object) -> Iterator[str]:
    """Yield variables that `environment` names without a value: they come from where the file is deployed from."""
    for service in _services(document):
        given = service.get("environment")
        if isinstance(given, list):
            yield from (entry for entry in given if isinstance(entry, str) and "=" not in entry)
        elif isinstance(given, dict):
            yield from (str(name) for name, value in given.items() if value is None)
