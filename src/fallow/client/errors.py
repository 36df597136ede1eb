"""What can go wrong between a client and its control plane."""

from fallow.model.problems import Problem


class ClientError(Exception):
    """Anything that kept a request from succeeding."""


class ApiError(ClientError):
    """The control plane refused; `problem` says why and what to do next."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.title}: {problem.detail}" if problem.detail else problem.title)
        self.problem = problem


class Unreachable(ClientError):  # noqa: N818 - the field's word
    """Nothing that answers was found at `url`; `text` says what was seen instead."""

    def __init__(self, url: str, text: str) -> None:
        super().__init__(f"{url} cannot be reached: {text}")
        self.url = url
        self.text = text


class Untrusted(ClientError):  # noqa: N818
    """What answers at `url` does not prove to be the control plane its CA belongs to; nothing was sent to it."""

    def __init__(self, url: str, text: str) -> None:
        super().__init__(f"{url} is not trusted: {text}")
        self.url = url
        self.text = text


class BadAnswer(ClientError):  # noqa: N818
    """The answer has a shape this client does not know, as from a control plane of another version."""

    def __init__(self, url: str, text: str) -> None:
        super().__init__(f"the answer of {url} could not be read: {text}")
        self.url = url
        self.text = text


class WatchLost(ClientError):  # noqa: N818
    """The changes after `revision` are no longer kept: list again and watch from there."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"the changes after revision {revision} are no longer kept")
        self.revision = revision
