"""Answers of the control plane, decoded."""

from typing import Generic, TypeVar

import httpx
import msgspec

from fallow.client.errors import BadAnswer
from fallow.model.problems import Page

T = TypeVar("T")


class Listing(Page, Generic[T], frozen=True, kw_only=True, omit_defaults=True):
    """A list as it was at `revision`, from which a watch goes on without a gap."""

    items: tuple[T, ...]
    next: str = ""  # of a list in pages: where the next one begins; empty: this is the last


def decoded(kind: type[T], response: httpx.Response, url: str) -> T:
    """Return what an answer holds. Raises BadAnswer."""
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadAnswer(url, str(error)) from error
