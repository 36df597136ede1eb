"""Refusals, as RFC 9457 problem documents."""

import msgspec


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was refused and what to do next; `type` is a stable code such as `urn:fallow:not-found`."""

    type: str
    title: str
    status: int
    detail: str = ""
    hint: str = ""  # what to do next
    errors: tuple[str, ...] = ()  # every single thing wrong, when there are several
    request_id: str = ""
    clean: bool = False  # to a member that was removed: it should remove what it runs for us


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope of every list: `revision` is where a watch goes on without a gap."""

    revision: int
