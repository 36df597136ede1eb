"""Mistakes of hosting made on purpose. Each must break its promise in some run."""

import importlib
from typing import Any
from unittest import mock

import msgspec

import fallow.agent.lending
import fallow.decide.harvest.lending
import fallow.decide.harvest.orders
from fallow.decide.placement.request import Request, request_of
from fallow.decide.placement.standing import NOTHING, Lenders
from simulation.hosting.limits import HELD, SLOWLY, WAITED
from simulation.hosting.watch import ADMITTED, BACKOFF, EMPTY, ENOUGH, LOWEST, STANDARD
from simulation.mutations import Mutation
from simulation.promises import HOSTING_FROM

# By name: the package has functions of these names.
_place = importlib.import_module("fallow.decide.placement.place")
_fits = importlib.import_module("fallow.decide.placement.fits")
_evict = importlib.import_module("fallow.decide.harvest.evict")
_lending = fallow.decide.harvest.lending


def _in_flight_not_counted() -> list[Any]:
    held = Lenders._held

    def only_measured(self: Any, server_id: str, seconds: float) -> Any:
        return held(self, server_id, seconds)[0], NOTHING

    return [mock.patch.object(Lenders, "_held", only_measured)]


def _offer_ignored() -> list[Any]:
    held = Lenders._held

    def nothing_placed(self: Any, server_id: str, seconds: float) -> Any:
        return NOTHING, held(self, server_id, seconds)[1]

    return [mock.patch.object(Lenders, "_held", nothing_placed)]


def _grows_at_once() -> list[Any]:
    def hasty(before: float, wanted: float, capacity: float, seconds: float) -> float:
        return min(capacity, max(0.05, wanted))

    return [mock.patch.object(_lending, "next_limit", hasty)]


def _shrinks_slowly() -> list[Any]:
    before_it = _lending.next_limit

    def lazy(before: float, wanted: float, capacity: float, seconds: float) -> float:
        return max(before_it(before, wanted, capacity, seconds), before - 0.1 * capacity * seconds)

    return [mock.patch.object(_lending, "next_limit", lazy)]


def _waiting_unnoticed() -> list[Any]:
    return [mock.patch.object(_lending, "felt", lambda pressure, **_: pressure)]


def _blindness_unnoticed() -> list[Any]:
    return [mock.patch.object(fallow.agent.lending, "blind", lambda held, seconds: held)]


def _standard_anywhere() -> list[Any]:
    requested = request_of

    def classless(template: Any) -> Request:
        request = requested(template)
        policy = msgspec.structs.replace(request.policy, service_class="")
        return msgspec.structs.replace(request, policy=policy)

    return [
        mock.patch.object(_place, "request_of", classless),
        mock.patch.object(_fits, "request_of", classless),
    ]


def _stopped_while_full() -> list[Any]:
    return [mock.patch.object(fallow.decide.harvest.orders, "empty", lambda snapshot, vm: True)]


def _highest_class_first() -> list[Any]:
    cost = _evict._World._cost

    def reversed_(self: Any, replica: Any, freed: Any, need: Any) -> Any:
        rank, *rest = cost(self, replica, freed, need)
        return (-rank, *rest)  # type: ignore[operator]

    return [mock.patch.object(_evict._World, "_cost", reversed_)]


def _one_more_goes() -> list[Any]:
    chosen = _evict._World._chosen

    def generous(self: Any, candidates: Any, freed: Any, need: Any, most: int) -> Any:
        found = chosen(self, candidates, freed, need, most)
        return [*found, *candidates[:1]] if found else found  # those that were chosen are taken out

    return [mock.patch.object(_evict._World, "_chosen", generous)]


def _nobody_backs_off() -> list[Any]:
    backing = _evict._World._backing_off

    def at_once(self: Any, server: Any, count: int) -> Any:
        return msgspec.structs.replace(backing(self, server, count), backoff_until=self.now)

    return [mock.patch.object(_evict._World, "_backing_off", at_once)]


MUTATIONS = (
    Mutation("what is in flight is not counted", ADMITTED, _in_flight_not_counted, HOSTING_FROM),
    Mutation("more is placed than is offered", ADMITTED, _offer_ignored, HOSTING_FROM + 3),
    Mutation("the limit grows at once", SLOWLY, _grows_at_once, HOSTING_FROM),
    Mutation("the limit shrinks slowly", HELD, _shrinks_slowly, HOSTING_FROM),
    Mutation("nobody notices that nothing is measured", HELD, _blindness_unnoticed, HOSTING_FROM + 62, 40),
    Mutation("standard goes anywhere", STANDARD, _standard_anywhere, HOSTING_FROM + 6),
    Mutation("machines stop with what they hold", EMPTY, _stopped_while_full, HOSTING_FROM),
    Mutation("the highest class goes first", LOWEST, _highest_class_first, HOSTING_FROM + 5, 40),
    Mutation("one more goes than has to", ENOUGH, _one_more_goes, HOSTING_FROM + 5, 40),
    Mutation("nobody notices that primaries wait", WAITED, _waiting_unnoticed, HOSTING_FROM + 15),
    Mutation("nobody backs off", BACKOFF, _nobody_backs_off, HOSTING_FROM),
)
