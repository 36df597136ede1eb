"""Mistakes of a host made on purpose. Each must break its promise in some run."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np

import fallow.control.members
import fallow.decide.federation.candidates
import fallow.decide.federation.following
import fallow.decide.federation.migrate
import fallow.decide.federation.rebalancing
import fallow.decide.federation.rooms
import fallow.decide.federation.table
import fallow.decide.members
from fallow.decide.federation.migrate import Side, Told, next_told, reliable, side_of
from fallow.decide.federation.rebalancing import towards
from fallow.decide.federation.table import Policies
from fallow.decide.federation.words import Words
from fallow.model.members import MemberState
from simulation.federation.watch import MINIMUM
from simulation.mutations import Mutation
from simulation.promises import FEDERATION_FROM

_candidates, _following, _migrate, _rooms = (
    fallow.decide.federation.candidates,
    fallow.decide.federation.following,
    fallow.decide.federation.migrate,
    fallow.decide.federation.rooms,
)


def _lowered_before_ready() -> list[Any]:
    def at_once(sides: dict[str, Side], need: int) -> dict[str, Told]:
        return next_told(sides, 0)

    return [mock.patch.object(_following, "next_told", at_once)]


def _silent_count_as_ready() -> list[Any]:
    def believing(share: Any, cluster: Any, target: int, words: Words) -> Side:
        side = side_of(share, cluster, target, words)
        if share is None or cluster.state not in (MemberState.SUSPECT, MemberState.DEAD):
            return side
        return replace(side, sure=reliable(share))

    return [mock.patch.object(_following, "side_of", believing)]


def _room_ignored() -> list[Any]:
    answers = _rooms._answers

    def endless(shapes: Any, rooms: Any) -> Any:
        free, unanswered = answers(shapes, rooms)
        return np.full_like(free, 100), unanswered

    return [mock.patch.object(_rooms, "_answers", endless)]


def _outage_ignored() -> list[Any]:
    never = lambda *_: False  # noqa: E731
    return [
        mock.patch.object(fallow.control.members, "in_outage", never),
        mock.patch.object(fallow.decide.members, "in_outage", never),
    ]


def _reservations_forgotten() -> list[Any]:
    return [mock.patch.object(_rooms, "_uncounted", lambda snapshot, share: 0)]


def _ready_by_now_not_kept() -> list[Any]:
    def sure(sides: dict[str, Side], need: int) -> dict[str, Told]:
        return {id_: replace(told, keep=0) for id_, told in next_told(sides, need).items()}

    return [mock.patch.object(_following, "next_told", sure)]


def _old_words_believed() -> list[Any]:
    return [mock.patch.object(Words, "count", lambda words, cluster: True)]


def _orders_in_flight_forgotten() -> list[Any]:
    def hasty(share: Any) -> int:
        return share.reported.ready if share.reported is not None else 0

    return [mock.patch.object(_migrate, "reliable", hasty)]


def _dead_when_suspect() -> list[Any]:
    before = fallow.control.members._Watch.__init__

    def impatient(self: Any, settings: Any, began: float, clusters: bool) -> None:
        before(self, settings, began, clusters)
        if clusters:
            self.suspect, self.dead = 2.5, 3.5

    return [mock.patch.object(fallow.control.members._Watch, "__init__", impatient)]


def _least_ignored() -> list[Any]:
    return [_policies_with(lambda policies: {"mins": np.zeros_like(policies.mins)})]


def _duplicates_divided() -> list[Any]:
    return [_policies_with(lambda policies: {"duplicate": np.zeros_like(policies.duplicate)})]


def _groups_ignored() -> list[Any]:
    return [_policies_with(lambda policies: {"tiers": np.zeros_like(policies.tiers)})]


def _policies_with(changes: Callable[[Policies], dict[str, Any]]) -> Any:
    before = Policies.__init__

    def read(self: Policies, *of: Any) -> None:
        before(self, *of)
        vars(self).update(changes(self))

    return mock.patch.object(Policies, "__init__", read)


def _tolerations_ignored() -> list[Any]:
    untainted = _candidates._untainted
    return [mock.patch.object(_candidates, "_untainted", lambda cluster, _: untainted(cluster, ()))]


def _portions_ignored() -> list[Any]:
    def at_once(shares: Any, ideal: Any, most: int) -> Any:
        return towards(shares, ideal, 1000)

    return [mock.patch.object(fallow.decide.federation.rebalancing, "towards", at_once)]


def _fences_ignored() -> list[Any]:
    return [mock.patch.object(fallow.decide.federation.table, "stopped_after", lambda deployment: 0.0)]


REST = "it comes to rest"
ROOM = "no cluster is told more than it has room for"

MUTATIONS = (
    Mutation("clusters are lowered before others are ready", MINIMUM, _lowered_before_ready, FEDERATION_FROM),
    Mutation("silent clusters count as ready", MINIMUM, _silent_count_as_ready, FEDERATION_FROM + 35, 60),
    Mutation("clusters are told more than they have room for", ROOM, _room_ignored, FEDERATION_FROM + 10),
    Mutation("a host that hears nobody goes on", "who hears nobody", _outage_ignored, FEDERATION_FROM + 5, 60),
    Mutation("what was just told is not reserved", ROOM, _reservations_forgotten, FEDERATION_FROM, 60),
    Mutation("what may be ready by now is not kept", MINIMUM, _ready_by_now_not_kept, FEDERATION_FROM + 25, 60),
    Mutation("what a cluster said on its last session counts", MINIMUM, _old_words_believed, FEDERATION_FROM + 340, 60),
    Mutation("orders on their way are forgotten", MINIMUM, _orders_in_flight_forgotten, FEDERATION_FROM + 5, 60),
    Mutation("the least of a cluster is ignored", REST, _least_ignored, FEDERATION_FROM, 60),
    Mutation("duplicates are divided", REST, _duplicates_divided, FEDERATION_FROM, 60),
    Mutation("fallback groups are all one", REST, _groups_ignored, FEDERATION_FROM + 30, 60),
    Mutation("tolerations are ignored", REST, _tolerations_ignored, FEDERATION_FROM, 60),
    Mutation("rebalancing moves all at once", "rebalancing moves a portion", _portions_ignored, FEDERATION_FROM, 60),
    Mutation("fenced replicas are replaced at once", "what is fenced", _fences_ignored, FEDERATION_FROM, 60),
    Mutation("a glitch makes clusters dead", "nobody is given up too early", _dead_when_suspect, FEDERATION_FROM),
)
