"""What is wrong with a Compose file: every error and warning, with its path and line."""

from dataclasses import dataclass, field

MAX_ERRORS = 100
MAX_WARNINGS = 200


class ComposeError(ValueError):
    """A Compose file that cannot be run; `errors` holds every single thing that is wrong with it."""

    def __init__(self, errors: tuple[str, ...]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


class Refusal(Exception):  # noqa: N818 (it never leaves this package)
    """Ends the reading of one value; empty when the reason has been told already."""

    def __init__(self, text: str = "", path: str = "", line: int = 0) -> None:
        super().__init__(text)
        self.text = text
        self.path = path
        self.line = line


@dataclass(slots=True)
class Problems:
    """Collects errors and warnings in the order of the file; `faults` also counts values refused once more."""

    errors: list[str] = field(default_factory=list)
    faults: int = 0
    warnings: list[str] = field(default_factory=list)

    def error(self, path: str, line: int, text: str) -> None:
        """Add an error. Raises ComposeError when there are MAX_ERRORS, since more would help nobody."""
        self.faults += 1
        self.errors.append(_located(path, line, text))
        if len(self.errors) >= MAX_ERRORS:
            self.errors.append(f"reading stopped after {MAX_ERRORS} errors")
            raise ComposeError(tuple(self.errors))

    def refuse(self, refusal: Refusal) -> None:
        """Add a refusal's reason, unless it has been told already."""
        self.faults += 1
        if refusal.text:
            self.error(refusal.path, refusal.line, refusal.text)

    def warn(self, path: str, line: int, text: str) -> None:
        """Add a warning; those beyond MAX_WARNINGS are left out, and the last one says so."""
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(_located(path, line, text))
        elif len(self.warnings) == MAX_WARNINGS:
            self.warnings.append("more warnings are left out")

    def finish(self) -> None:
        """Raise ComposeError when there is any error."""
        if self.errors:
            raise ComposeError(tuple(self.errors))


def shown(text: str) -> str:
    """Return `text` in quotes, escaped and cut short, fit for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _located(path: str, line: int, text: str) -> str:
    place = f"{path} (line {line})" if path and line else path or (f"line {line}" if line else "")
    return f"{place}: {text}" if place else text
