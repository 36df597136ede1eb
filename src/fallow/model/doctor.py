"""What `fallow doctor` finds."""

from typing import Literal

import msgspec

Verdict = Literal["ok", "note", "warning", "broken"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check: what was looked at, how it is, and what to mend when it is not well."""

    check: str
    verdict: Verdict
    text: str
    mend: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, and the worst of their verdicts."""

    verdict: Verdict
    machine: tuple[Finding, ...] = ()
    control: tuple[Finding, ...] = ()
