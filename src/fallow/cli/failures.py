"""Why a command failed: the exit code for scripts and the problem for people."""

from enum import IntEnum

from fallow.client.contexts import ContextsError, NoContext
from fallow.client.errors import ClientError, Unreachable, Untrusted
from fallow.model.problems import Problem


class Exit(IntEnum):
    """What `fallow` ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNREACHABLE = 5
    NOT_ALLOWED = 6
    INTERRUPTED = 130


_OF_STATUS = {
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    412: Exit.CONFLICT,
    502: Exit.UNREACHABLE,
    503: Exit.UNREACHABLE,
    504: Exit.UNREACHABLE,
}


class Failure(Exception):  # noqa: N818 - what a command ends with, good or bad
    """A command cannot do what it was asked; all texts are for people."""

    def __init__(
        self, title: str, *, detail: str = "", hint: str = "", errors: tuple[str, ...] = (), code: Exit = Exit.FAILED
    ) -> None:
        super().__init__(title)
        self.code = code
        self.problem = Problem(
            type=f"urn:fallow:cli:{code.name.lower().replace('_', '-')}",
            title=title,
            status=0,
            detail=detail,
            hint=hint,
            errors=errors,
        )


def usage(title: str, hint: str = "") -> Failure:
    """Return the failure of a command that was called wrongly."""
    return Failure(title, hint=hint, code=Exit.USAGE)


def sentence(text: str) -> str:
    """Return `text` with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def as_failure(error: Exception) -> Failure | None:
    """Return what to tell of an error that may happen without a fault of ours; None: it should not have."""
    refusal = getattr(error, "problem", None)  # of an API request, or of a join
    found: Failure | None = None
    match error:
        case Failure():
            found = error
        case ClientError() if isinstance(refusal, Problem):
            found = Failure(refusal.title, code=_OF_STATUS.get(refusal.status, Exit.FAILED))
            found.problem = refusal
        case Unreachable(url=url, text=text):
            found = Failure(
                f"The control plane at {url} cannot be reached",
                detail=text,
                hint="Is it running, and is this its address? `fallow context show` tells where commands go.",
                code=Exit.UNREACHABLE,
            )
        case Untrusted(url=url, text=text):
            found = Failure(
                f"What answers at {url} is not the control plane this context trusts",
                detail=text,
                hint="If it was set up anew, get its CA again: `fallow context add NAME URL --ca-file FILE`.",
                code=Exit.UNREACHABLE,
            )
        case NoContext():
            found = Failure(
                sentence(str(error)),
                hint="Start one here with `fallow up`, name one with `fallow context add NAME URL`, "
                "or choose one with `fallow context use NAME`.",
                code=Exit.USAGE,
            )
        case ContextsError():
            found = Failure(str(error), hint="`fallow context list` shows the contexts.", code=Exit.USAGE)
        case ClientError():
            found = Failure(str(error), hint="`fallow version` compares this command and the control plane.")
    return found
