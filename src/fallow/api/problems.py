"""The refusals that the API's description promises: every status a call may answer with, as a problem document."""

from http import HTTPStatus

from litestar.openapi.datastructures import ResponseSpec

from fallow.model.problems import Problem

PROBLEM_JSON = "application/problem+json"

_GUARDED = (400, 401, 403, 429, 503)
_BODY = (408, 413, 415)


def problems(*more: int, guarded: bool = True, body: bool = False) -> dict[int, ResponseSpec]:
    """Return the refusals of one call: those of every call behind a token, of one that reads a body, and `more`."""
    statuses = {*more, *(_GUARDED if guarded else ()), *(_BODY if body else ())}
    return {
        status: ResponseSpec(
            data_container=Problem,
            generate_examples=False,
            description=HTTPStatus(status).phrase,
            media_type=PROBLEM_JSON,
        )
        for status in sorted(statuses)
    }
