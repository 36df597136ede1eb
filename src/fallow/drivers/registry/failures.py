"""What the HTTP client raises, sorted."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from fallow.drivers.registry.answers import without
from fallow.drivers.registry.contract import RegistryError


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what the client raises while asking for `what` into RegistryError."""
    try:
        yield
    except aiohttp.SocketTimeoutError:
        raise RegistryError("stalled", f"{what}: the registry sent nothing for too long") from None
    except (aiohttp.ConnectionTimeoutError, aiohttp.ServerTimeoutError):
        raise RegistryError("unreachable", f"{what}: the registry does not answer") from None
    except TimeoutError:
        raise RegistryError("timeout", f"{what}: the registry did not answer in time") from None
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise RegistryError("unreachable", f"{what}: no safe connection to it: {without(str(error), ())}") from None
    except aiohttp.ClientPayloadError:
        raise RegistryError("unreachable", f"{what}: the registry's answer broke off") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        text = without(str(error) or type(error).__name__, ())
        raise RegistryError("unreachable", f"{what}: the registry cannot be reached: {text}") from None
