"""What every message of a session is; `wire` has all of them."""

import msgspec


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """Any message of a session."""
