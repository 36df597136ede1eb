"""The harvest: what servers lent, and what was made of it."""

from collections.abc import Sequence
from typing import Annotated, Any

from litestar import get
from litestar.params import QueryParameter
from litestar.types import Guard

from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.decide.harvest.report import harvest_report
from fallow.model.servers import HarvestReport, LentHour
from fallow.model.tokens import ApiRole

DEFAULT_SECONDS = 7 * 86400.0

Moment = Annotated[float | None, QueryParameter(ge=0, le=2**40)]
Price = Annotated[float, QueryParameter(ge=0, le=1e6)]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return the route of the harvest."""
    return (get("/v1/harvest", guards=[guards[ApiRole.VIEWER]], responses=problems())(report_harvest),)


async def report_harvest(
    services: Needs, since: Moment = None, until: Moment = None, price: Price = 0.0
) -> HarvestReport:
    """Sum what was lent and used between two moments in UTC seconds: by default the last seven days until now.

    `price` is that of a core-hour elsewhere, in any currency. Records are kept for 90 days, by whole hours.
    """
    end = services.clock() if until is None else until
    begin = max(0.0, end - DEFAULT_SECONDS) if since is None else since
    hours = (found for found in services.cache.records("lent-hours").values() if isinstance(found, LentHour))
    return harvest_report(hours, begin, end, price)
