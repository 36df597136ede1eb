"""Deleting images on a node as it was planned: by full name, one after another, never by force."""

from collections.abc import Callable
from typing import Literal

import msgspec
import structlog

from fallow.agent.inventory import Inventory, Look
from fallow.agent.pulling import LINE_CHARS, TEXT_CHARS, failure_of, quickly
from fallow.decide.image_removal import freed_bytes, names_of, plan
from fallow.drivers.engine.contract import Engine, EngineError
from fallow.model.image_jobs import CleanRules, ImageAction, ImageOrder, TaskReport, Verdict
from fallow.model.images import ImageErrorKind, NodeImage
from fallow.model.units import format_bytes

_log = structlog.get_logger("fallow.agent.removing")

DELETE_SECONDS = 300.0
LOG_LINES = 200
MAX_VERDICTS = 2000
_REFUSED: dict[str, ImageErrorKind] = {"in-use": "in-use", "protected": "protected", "needed": "protected"}


_Outcome = Literal["in-use", "needed", "kept", "absent", "failed"]


class Remover:
    """Plans and carries out removals. `needed` tells which references and image ids this node's replicas wait for."""

    def __init__(self, engine: Engine, inventory: Inventory, needed: Callable[[], set[str]]) -> None:
        self._engine = engine
        self._inventory = inventory
        self._needed = needed

    async def run(self, order: ImageOrder, now: float, alone: Callable[[], bool]) -> TaskReport:
        """Delete or clean; the report always comes. `alone` says whether nothing else writes to the engine's disk."""
        rules = rules_of(order)
        try:
            look = await self._inventory.look()
        except EngineError as error:
            return _broken(failure_of(error).kind, str(error))
        verdicts = self.planned(rules, look, now)
        if rules.dry_run:
            return _report(verdicts, rules, freed_bytes(verdicts))
        alone_before = alone()
        done, trouble = await self._carry_out(verdicts, look)
        freed = freed_bytes(done)
        if freed and alone_before and alone():
            freed = await self._measured(look, freed)
        for verdict in done:
            if verdict.outcome in ("deleted", "failed"):
                _log.info("image " + verdict.outcome, image=verdict.reference, id=verdict.image_id, reason=verdict.text)
        return _report(done, rules, freed, trouble)

    def planned(self, rules: CleanRules, look: Look, now: float) -> tuple[Verdict, ...]:
        """Return what would be deleted."""
        needed = (*rules.needed, *sorted(self._needed()))
        return plan(
            look.images,
            msgspec.structs.replace(rules, needed=needed),
            now=now,
            free_bytes=look.disk_free_bytes,
            layer_bytes=look.layer_bytes,
        )

    async def _measured(self, before: Look, planned: int) -> int:
        """Return how much more of the disk is free now; what was planned where that cannot be told."""
        try:
            _, free = await quickly(self._engine.disk())
        except EngineError:
            return planned
        return max(0, free - before.disk_free_bytes) if before.disk_bytes else planned

    async def _carry_out(self, verdicts: tuple[Verdict, ...], look: Look) -> tuple[tuple[Verdict, ...], ImageErrorKind]:
        """Delete what is planned; return what became of it, and why it failed. Without an engine no more is tried."""
        done: list[Verdict] = []
        images = {image.id: image for image in look.images}
        trouble: ImageErrorKind = ""
        for verdict in verdicts:
            if verdict.outcome != "delete":
                done.append(verdict)
            elif trouble == "unreachable":
                done.append(_turned(verdict, "failed", "not tried: the engine cannot be reached"))
            else:
                try:
                    done.append(await self._one(verdict, images[verdict.image_id]))
                except EngineError as error:
                    in_use = error.kind == "in-use"
                    done.append(_turned(verdict, "in-use" if in_use else "failed", str(error)))
                    trouble = trouble if in_use else failure_of(error).kind
        return tuple(done), trouble

    async def _one(self, verdict: Verdict, planned: NodeImage) -> Verdict:
        """Look once more, and delete one name. Raises EngineError."""
        now = next((each for each in await quickly(self._engine.images()) if each.id == planned.id), None)
        if now is None:
            return _turned(verdict, "absent", "it is gone by now")
        names = (*now.references, *now.digests)
        if verdict.reference not in (names or (now.id,)):
            return _turned(verdict, "kept", f"it is called {', '.join(names) or 'nothing'} by now")
        if now.containers:
            return _turned(verdict, "in-use", "a container was made from it in the meantime")
        if self._needed().intersection((*names, now.id)):
            return _turned(verdict, "needed", "a replica needs it in the meantime")
        current = msgspec.structs.replace(planned, references=now.references, digests=now.digests)
        for name in names_of(current, verdict.reference):
            await quickly(self._engine.delete_image(name), DELETE_SECONDS)
        return msgspec.structs.replace(verdict, outcome="deleted")


def rules_of(order: ImageOrder) -> CleanRules:
    """Return an order's rules; a delete without any is one of its reference."""
    rules = order.rules or CleanRules()
    if order.action is ImageAction.DELETE and not rules.references:
        return msgspec.structs.replace(rules, references=(order.reference,))
    return rules


def _turned(verdict: Verdict, outcome: _Outcome, text: str) -> Verdict:
    return Verdict(reference=verdict.reference, image_id=verdict.image_id, outcome=outcome, text=text[:TEXT_CHARS])


def _broken(kind: ImageErrorKind, text: str) -> TaskReport:
    line = f"failed ({kind}): {text}"[:LINE_CHARS]
    return TaskReport(task_id="", attempt=0, state="failed", kind=kind, text=text[:TEXT_CHARS], log=(line,))


def _report(verdicts: tuple[Verdict, ...], rules: CleanRules, freed: int, trouble: ImageErrorKind = "") -> TaskReport:
    """Return what to report: a delete of an image that has to stay has failed, a clean has not."""
    kind, text = trouble, ""
    for verdict in () if rules.dry_run else verdicts:
        refused = _REFUSED.get(verdict.outcome) if rules.references else None
        if verdict.outcome == "failed" or (refused and not trouble):
            kind, text = trouble or refused or "failed", f"{verdict.reference}: {verdict.text}"[:TEXT_CHARS]
            break
    lines = [_line(verdict) for verdict in verdicts[: LOG_LINES - 1]]
    lines.append(f"{format_bytes(freed)} {'would be freed' if rules.dry_run else 'freed'}")
    return TaskReport(
        task_id="",
        attempt=0,
        state="failed" if kind else "done",
        kind=kind,
        text=text,
        freed_bytes=0 if rules.dry_run else freed,
        verdicts=verdicts[:MAX_VERDICTS],
        log=tuple(lines),
    )


def _line(verdict: Verdict) -> str:
    return f"{verdict.outcome}: {verdict.reference}{' - ' + verdict.text if verdict.text else ''}"[:LINE_CHARS]
