"""How n identical replicas are laid out over nodes, all at once.

Filling to a common level gives what placing one replica after another on the emptiest node would give, without the
steps between ("water filling"). Spreading by labels fills a tree, as Swarm's placement preferences do: the values of
the first label are filled evenly, then within each of them those of the second, and so on down to the nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fallow.decide.placement.preferences import preference, ranks
from fallow.decide.placement.request import Request
from fallow.decide.placement.scores import lowest
from fallow.decide.placement.table import Floats, Ints, NodeTable


@dataclass(frozen=True, slots=True)
class Job:
    """One layout: by row, the `room` for replicas and how many of the same deployment are `held` already.

    `liked` says how far each row is what the request prefers, more is better; None: it prefers nothing.
    """

    table: NodeTable
    request: Request
    room: Ints
    held: Ints
    liked: Floats | None = None


def assign(job: Job, count: int) -> tuple[Ints, Ints]:
    """Return rows and how many replicas each of them gets: `count` in all, or as many as there is room for."""
    given = np.zeros(len(job.table), dtype=np.int64)
    if job.request.policy.prefer:
        job = replace(job, liked=preference(job.table.known, job.request.policy.prefer, job.room > 0))
    if job.table.lent is not None:
        job = replace(job, room=divided(job))
    _branch(job, np.arange(len(job.table)), count, job.request.policy.spread_by, given)
    rows = np.flatnonzero(given)
    return rows, given[rows]


def divided(job: Job) -> Ints:
    """Return the job's room where no server is asked for more than it has by several of its nodes together."""
    if job.table.lent is None:
        return job.room
    pack = job.request.policy.strategy == "pack"

    def order(rows: Ints) -> Floats:
        score = job.table.score(rows, job.request)
        score = -score if pack else score
        return score if job.liked is None else ranks(job.liked[rows], score)

    return job.table.lent.divided(job.room, job.request, job.held, order, pack)


def fill(held: Ints, room: Ints, count: int, order: Callable[[Ints, Ints], Floats]) -> Ints:
    """Return how much each place gets of `count`, so that the lowest level of held + given is as high as it can be.

    Where a level cannot be filled whole, the places lowest in `order(places, given)` go first, then the first.
    """
    if int(room.sum()) <= count:
        return room.copy()
    level = _full_level(held, room, count)
    given = np.minimum(np.maximum(level - held, 0), room)
    left = count - int(given.sum())
    if left:
        next_ones = np.flatnonzero((held + given == level) & (room > given))
        given[next_ones[lowest(order(next_ones, given[next_ones]), left)]] += 1
    return given


def _full_level(held: Ints, room: Ints, count: int) -> int:
    """Return the highest level to which everything with room can be filled by at most `count` (bisection)."""
    low = int(held[room > 0].min())
    if int(np.count_nonzero((held == low) & (room > 0))) > count:
        return low
    high = low + count + 1  # one place alone would be above it
    while high - low > 1:
        middle = (low + high) // 2
        if int(np.minimum(np.maximum(middle - held, 0), room).sum()) <= count:
            low = middle
        else:
            high = middle
    return low


def _branch(job: Job, rows: Ints, count: int, keys: tuple[str, ...], given: Ints) -> None:
    """Lay `count` replicas out over `rows`, dividing them by the first of `keys`."""
    if not keys:
        _leaf(job, rows, count, given)
        return
    sorted_rows, starts = job.table.labels.groups(keys[0], rows)
    parts = np.split(sorted_rows, starts[1:])

    def order(places: Ints, so_far: Ints) -> Floats:
        if so_far.any() and job.request.policy.strategy == "spread":
            return np.array([_best_after(job, parts[place], int(n)) for place, n in zip(places, so_far, strict=True)])
        return np.minimum.reduceat(_order(job, sorted_rows), starts)[places]

    quotas = fill(
        np.add.reduceat(job.held[sorted_rows], starts), np.add.reduceat(job.room[sorted_rows], starts), count, order
    )
    for quota, part in zip(quotas.tolist(), parts, strict=True):
        if quota:
            _branch(job, part, quota, keys[1:], given)


def _leaf(job: Job, rows: Ints, count: int, given: Ints) -> None:
    """Lay replicas out over nodes that no label tells apart."""
    rows = rows[job.room[rows] > 0]
    room = job.room[rows]
    if job.request.policy.strategy == "pack":
        fullest_first = np.argsort(_order(job, rows), kind="stable")
        before = np.cumsum(room[fullest_first]) - room[fullest_first]
        given[rows[fullest_first]] = np.minimum(np.maximum(count - before, 0), room[fullest_first])
        return

    def load(places: Ints, so_far: Ints) -> Floats:
        if not so_far.any():
            score = job.table.score(rows[places], job.request)
        else:
            score = job.table.score_with(rows[places], so_far, job.request)
        return score if job.liked is None else ranks(job.liked[rows[places]], score)

    given[rows] = fill(job.held[rows], room, count, load)


def _best_after(job: Job, rows: Ints, count: int) -> float:
    """Return how `_order` compares the best of `rows` once `count` replicas more are laid out over them."""
    held, room = job.held.copy(), job.room.copy()
    given = np.zeros(len(held), dtype=np.int64)
    _leaf(job, rows, count, given)
    held[rows] += given[rows]
    room[rows] -= given[rows]
    return float(_order(replace(job, held=held, room=room), rows).min())


def _order(job: Job, rows: Ints) -> Floats:
    """Return what compares nodes, smaller is better; a node without room is last."""
    scores = job.table.score(rows, job.request)
    pack = job.request.policy.strategy == "pack"
    scores = -scores if pack else scores
    if job.liked is not None:
        scores = ranks(job.liked[rows], scores)
    if not pack:
        scores = scores + job.held[rows] * 2.0**20
    return np.where(job.room[rows] > 0, scores, np.inf)
