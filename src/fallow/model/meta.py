"""What every stored record has, and the names a record may carry."""

import re
from typing import Annotated

import msgspec

# A DNS label (RFC 1123), kept to 40 characters so that names made from it still fit in 63.
# `$` alone would also match before a newline at the end.
NAME_PATTERN = r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$(?!\n)"
Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, description="A DNS label of at most 40 characters")]
_NAME = re.compile(NAME_PATTERN + r"\Z")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A stored value: `revision` is the store's, set when read; times are UTC seconds since the epoch."""

    id: str
    created_at: float
    updated_at: float
    revision: int = 0


def is_name(text: str) -> bool:
    """Say whether `text` is a DNS label we accept as a name."""
    return _NAME.match(text) is not None and "\n" not in text


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why something is as it is, for a machine (`code`) and for a person (`text`)."""

    code: str
    text: str
