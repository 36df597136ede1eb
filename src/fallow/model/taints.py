"""Taints: why a cluster should get nothing, or keep nothing, unless a deployment tolerates it."""

from typing import Annotated, Literal

import msgspec

from fallow.model.labels import LabelKey, LabelValue


class Taint(msgspec.Struct, frozen=True, kw_only=True):
    """`no-new`: no replica comes that does not tolerate it. `move`: those that are there leave as well."""

    key: LabelKey
    value: LabelValue = ""
    effect: Literal["no-new", "move"] = "no-new"


class Toleration(msgspec.Struct, frozen=True, kw_only=True):
    """Taints with this key do not count, whatever their value; or only those with `value`, where one is given."""

    key: LabelKey
    value: LabelValue | None = None


Taints = Annotated[tuple[Taint, ...], msgspec.Meta(max_length=16)]
Tolerations = Annotated[tuple[Toleration, ...], msgspec.Meta(max_length=16)]


def taint_text(taint: Taint) -> str:
    """Return a taint as people write it: `key=value:effect`."""
    return f"{taint.key}{f'={taint.value}' if taint.value else ''}:{taint.effect}"
