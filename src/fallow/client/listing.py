"""Lists as the API gives them."""

from typing import Generic, TypeVar

from fallow.model.problems import Page

T = TypeVar("T")


class Listing(Page, Generic[T], frozen=True, kw_only=True):
    """A list as it was at `revision`, from which a watch goes on without a gap."""

    items: tuple[T, ...]
    next: str = ""  # of a list in pages: where the next one begins; empty: this is the last
