"""How every deployment's total is divided over clusters, all deployments at once.

What is divided already stays as it is as far as it can: `divide_all` of an unchanged snapshot changes nothing. A policy
that was edited divides afresh; among shares that are equally right it takes those that there are.

Room is given out in turns. All deployments are divided side by side by the room there is; where together they ask for
more than a cluster has, those that ask for much come first, then the older ones, and the others are divided again by
the room that is left. So no cluster is given more than it has room for, however many deployments come at once.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fallow.decide.federation.divide import Counts, within
from fallow.decide.federation.policy import shares_of
from fallow.decide.federation.reservations import Reservations
from fallow.decide.federation.rooms import Mask, Rooms
from fallow.decide.federation.table import Rows, Table
from fallow.decide.federation.why import Reasons, unplaced
from fallow.decide.snapshot import Snapshot

_TURNS = 64  # after so many, who is still not served waits for the next division
_WHOLE_TURNS = 8  # so long, who wants few clusters waits rather than takes a part of what it asked


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """How many replicas of one deployment each cluster should run, by cluster id; who is not named should run none.

    `rules` says what made a cluster's share, `unplaced` how many replicas have no place. `fingerprint` is that of the
    policy; a division keeps it, so that another policy is noticed. One that `waits` stays as it is until clusters have
    said what room they have for it, for `table.WAIT_SECONDS` at the most. `more` says, of one that may be rebalanced,
    how many more each cluster has room for when all targets are met; None: that was not asked for.
    """

    shares: dict[str, int] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)
    unplaced: int = 0
    unplaced_reason: str = ""
    fingerprint: str = ""
    waits: bool = False
    more: Mapping[str, int] | None = None


def divide_all(snapshot: Snapshot, now: float, anew: Collection[str] = ()) -> Mapping[str, Target]:
    """Return the target of every deployment that is divided here, by id; nothing while there are no member clusters.

    A deployment that is new is missing for as long as it waits (`table.WAIT_SECONDS` at the most) for clusters to say
    what room they have for it. Deployments whose ids are in `anew` are divided as their policy wants them now, whatever
    there is: rebalancing moves towards that.
    """
    return Divider()(snapshot, now, anew)


class Divider:
    """`divide_all` for who divides again and again: what is as it was the last time is not worked out again.

    Most of what clusters report, such as which replicas are ready, makes no other division.
    """

    def __init__(self) -> None:
        self._table: Table | None = None
        self._settled: dict[bool, tuple[bytes, Counts]] = {}  # by whether some were divided anew; of which table

    def __call__(self, snapshot: Snapshot, now: float, anew: Collection[str] = ()) -> Mapping[str, Target]:
        """Return what `divide_all` does."""
        if not snapshot.clusters:
            return {}
        table = self._table = Table(snapshot, now, anew, self._table)
        digest = table.digest()
        known = self._settled.get(bool(anew))
        if known is None or known[0] != digest:
            known = self._settled[bool(anew)] = digest, settled(table)
        return _all_targets(table, known[1])


def _all_targets(table: Table, shares: Counts) -> Mapping[str, Target]:
    """Return the targets of all deployments; those that are being deleted should run nowhere."""
    snapshot = table.snapshot
    found = _targets(table, shares)
    for id_, more in _more(table, shares).items():
        if id_ in found:
            found[id_] = replace(found[id_], more=more)
    ended = (each for each in snapshot.deployments.values() if each.deleting and each.origin is None)
    return {**found, **{each.id: Target() for each in ended}}


def settled(table: Table) -> Counts:
    """Return the shares of all deployments, a row each, within the room that there is."""
    rooms = table.rooms
    reservations = Reservations(rooms)
    shares: Counts = np.where((table.anew & ~table.waiting)[:, None], 0, table.was)
    # What was foreseen before comes first: nobody loses it to those who ask now.
    foreseen = np.where(table.may_come(), np.minimum(shares, rooms.caps) - rooms.covered, 0)
    nobody = np.zeros(len(shares), dtype=np.bool_)
    given = _granted(rooms, reservations, np.arange(len(shares)), np.maximum(foreseen, 0), nobody)
    shares = np.where(table.waiting[:, None], shares, np.minimum(shares, rooms.covered + given))
    rows = np.flatnonzero(~table.waiting)
    for turn in range(_TURNS):
        if not len(rows):
            break
        rows = _turn(table, reservations, rows, shares, given, turn)
    return shares


def _turn(table: Table, reservations: Reservations, rows: Rows, shares: Counts, given: Counts, turn: int) -> Rows:
    """Divide some deployments by the room that is left, and return those that did not get what they asked.

    Writes `shares`, and in `given` what clusters get beyond what they are told. The first of `rows` always gets all.
    """
    rooms = table.rooms
    left = reservations.left(set(rooms.shape_of[rows].tolist()))
    asked = table.asked(rows, shares[rows], table.ceilings(rows, left, given), turn)
    found = shares_of(asked)
    wanted = np.maximum(found - rooms.covered[rows], 0)
    kept = np.minimum(given[rows], wanted)
    whole = asked.aggregate & (turn < _WHOLE_TURNS)
    granted = _granted(rooms, reservations, rows, wanted - kept, whole)
    short: Mask = (granted < wanted - kept).any(axis=1)
    done = np.flatnonzero(~(short & whole))
    _take_back(rooms, reservations, rows[done], (given[rows] - kept)[done])
    given[rows[done]] = (kept + granted)[done]
    shares[rows[done]] = np.minimum(found, rooms.covered[rows] + kept + granted)[done]
    return rows[short]


def _granted(rooms: Rooms, reservations: Reservations, rows: Rows, wanted: Counts, whole: Mask) -> Counts:
    """Promise rows what they want: the first ones all of it, later ones what those leave; `whole` ones all or nothing.

    Returns how much it was.
    """
    granted = np.zeros_like(wanted)
    asking = np.flatnonzero(wanted.any(axis=1))
    if not len(asking):
        return granted
    shape_of = rooms.shape_of[rows[asking]]
    starts = np.flatnonzero(np.diff(shape_of, prepend=-1))
    for shape, part in zip(shape_of[starts].tolist(), np.split(asking, starts[1:]), strict=True):
        wish = wanted[part]
        got = within(reservations.left_for(shape) - (np.cumsum(wish, axis=0) - wish), 0, wish)
        got[whole[part] & (got < wish).any(axis=1)] = 0
        reservations.promise(shape, got.sum(axis=0))
        granted[part] = got
    return granted


def _take_back(rooms: Rooms, reservations: Reservations, rows: Rows, counts: Counts) -> None:
    """Take promises back that are not needed any more."""
    if not counts.any():
        return
    by_shape = rooms.by_shape(counts, rooms.shape_of[rows])
    for shape in np.flatnonzero(by_shape.any(axis=1)).tolist():
        reservations.promise(shape, -by_shape[shape])


def _more(table: Table, shares: Counts) -> dict[str, dict[str, int]]:
    """Return how many more of each deployment that may be rebalanced clusters have room for, by cluster id."""
    rooms = table.rooms
    rows = [row for row, found in enumerate(table.deployments) if found.spec.clusters.rebalance is not None]
    if not rows:
        return {}
    reservations = Reservations(rooms)
    promised = rooms.by_shape(np.maximum(shares - rooms.covered, 0), rooms.shape_of)
    for shape in np.flatnonzero(promised.any(axis=1)).tolist():
        reservations.promise(shape, promised[shape])
    columns = [cluster.id for cluster in table.clusters]
    left = {shape: reservations.left_for(shape).tolist() for shape in {rooms.shape_of.item(row) for row in rows}}
    return {table.deployments[row].id: dict(zip(columns, left[rooms.shape_of.item(row)], strict=True)) for row in rows}


def _targets(table: Table, shares: Counts) -> dict[str, Target]:
    """Return targets by deployment id. Words are found only where something changed; others keep those they have."""
    by_row, lacking = _by_cluster(table, shares), unplaced(table, shares).tolist()
    targets: dict[str, Target] = {}
    changed = []
    for row, deployment in enumerate(table.deployments):
        division = table.snapshot.divisions.get(deployment.id)
        if division is None:
            if not table.waiting.item(row):
                changed.append(row)
        elif table.waiting.item(row) or (division.shares, division.unplaced, division.policy) == (
            by_row[row], lacking[row], table.fingerprints[row]
        ):  # fmt: skip
            targets[deployment.id] = Target(
                shares=division.shares,
                rules=division.rules,
                unplaced=division.unplaced,
                unplaced_reason=division.unplaced_reason,
                fingerprint=division.policy,
                waits=table.waiting.item(row),
            )
        else:
            changed.append(row)
    if not changed:
        return targets
    rows = np.array(changed, dtype=np.int64)
    short = rows[np.array([lacking[row] > 0 for row in changed], dtype=np.bool_)]
    reasons = dict(zip(short.tolist(), Reasons(table, short, shares[short]).unplaced(), strict=True))
    for row, rules in zip(changed, Reasons(table, rows, shares[rows]).rules(), strict=True):
        targets[table.deployments[row].id] = Target(
            shares=by_row[row],
            rules=rules,
            unplaced=lacking[row],
            unplaced_reason=reasons.get(row, ""),
            fingerprint=table.fingerprints[row],
        )
    return targets


def _by_cluster(table: Table, shares: Counts) -> list[dict[str, int]]:
    columns = [cluster.id for cluster in table.clusters]
    found: list[dict[str, int]] = [{} for _ in table.deployments]
    rows, places = np.nonzero(shares)
    for row, place, count in zip(rows.tolist(), places.tolist(), shares[rows, places].tolist(), strict=True):
        found[row][columns[place]] = count
    return found
