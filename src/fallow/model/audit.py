"""The audit record: who changed what through the API, from where, and who was refused."""

from typing import Literal

import msgspec

from fallow.model.meta import Record


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One property before and after a change; empty: it was not, or is no more."""

    field: str
    before: str
    after: str


class AuditEntry(Record, frozen=True, kw_only=True):
    """One change, stored in the commit that made it, or attempts that were refused. Never holds a secret."""

    who: str  # "api:ci", "node:web-1"; empty: whoever it was proved nothing
    token_id: str = ""
    operation: str  # what was called: change_member, deploy; empty: not known (made before version 2)
    outcome: Literal["done", "forbidden", "unauthorized"] = "done"
    subject_kind: str = ""
    subject_id: str = ""
    subject: str = ""  # its name, for people
    summary: str
    differences: tuple[Difference, ...] = ()
    source: str = ""  # the address the request came from
    request_id: str = ""
    times: int = 1  # attempts like this one that share the entry; more than one only when refused
