"""Where a control plane serves names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from fallow.cli.launchers import DNS_LISTEN, DNS_OFF
from fallow.wiring.addresses import split_address

if TYPE_CHECKING:
    from fallow.drivers.dns.server import NameServer

_log = structlog.get_logger("fallow.names")


async def serve_names(server: "NameServer", wanted: Sequence[str]) -> None:
    """Serve names at the addresses that are wanted. Raises NameServerError.

    When nothing is said they are served on this machine alone, and it is no fault that another program is there.
    """
    from fallow.drivers.dns.failures import NameServerError

    for place in wanted:
        if place != DNS_OFF:
            await server.listen(*split_address(place))
    if not wanted:
        try:
            await server.listen(*split_address(DNS_LISTEN))
        except NameServerError as error:
            _log.warning("names are not served; --dns-listen says where else", reason=str(error))
