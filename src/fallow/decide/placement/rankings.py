"""What requests for one replica choose their node by, kept by what it hangs on."""

from fallow.decide.placement.favourites import Favourites
from fallow.decide.placement.filters import Eligibility
from fallow.decide.placement.memory import remember
from fallow.decide.placement.request import Request
from fallow.decide.placement.scores import Ranking
from fallow.decide.placement.table import NodeTable


class Rankings:
    """What requests for one replica choose by: one for every kind of request that has been asked for."""

    def __init__(self, table: NodeTable, eligibility: Eligibility) -> None:
        self._table = table
        self._eligibility = eligibility
        self._kept: dict[tuple[object, ...], Ranking | Favourites] = {}

    def of(self, request: Request) -> Ranking | Favourites:
        """Return the ranking that `request` chooses by."""
        policy = request.policy
        key = (
            policy.selector,
            policy.architectures,
            policy.resources,
            policy.prefer,
            policy.strategy,
            request.reserves,
            policy.service_class == "standard",
        )
        found = self._kept.get(key)
        if found is None:
            make = Favourites if policy.prefer else Ranking
            found = remember(self._kept, key, make(self._table, self._eligibility.mask(policy), request))
        return found
