"""Refusals that a person can act on, raised anywhere on this floor and answered as problem documents by the API."""

from fallow.model.problems import Problem


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """The request is understood and refused; `problem` says why and what to do next."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail or problem.title)
        self.problem = problem


def refuse(status: int, code: str, title: str, detail: str = "", hint: str = "") -> Refused:
    """Return a refusal to raise; `code` becomes the type `urn:fallow:CODE`."""
    return Refused(Problem(type=f"urn:fallow:{code}", title=title, status=status, detail=detail, hint=hint))


def not_found(what: str, hint: str = "") -> Refused:
    """Return the refusal for something that is not there: `what` reads like `member web-1`."""
    return refuse(404, "not-found", "Not found", f"there is no {what}", hint)
