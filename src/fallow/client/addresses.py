"""Where a control plane is reached: one address, or one for each of several processes that share a store."""

from urllib.parse import urlsplit

import httpx

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
MOST_URLS = 16


def check_url(url: str) -> str:
    """Return `url` without a slash at its end.

    Raises ValueError unless it is https, or http to this very machine: a token must not cross a network in the clear.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from None
    if parts.scheme not in ("https", "http") or not host:
        raise ValueError(f"{url!r} is not a URL of a control plane (example: https://control.example:7443)")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise ValueError(f"{url!r} would send the token unprotected; use https")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(f"{parts.scheme}://{host}: a control plane's URL has no user, query or fragment")
    return url.rstrip("/")


def check_urls(text: str) -> tuple[str, ...]:
    """Return the URLs that `text` names, with commas between them, each one once.

    Raises ValueError when one is no URL for a token, when they differ in more than host and port, or are too many.
    """
    urls = tuple(dict.fromkeys(check_url(each.strip()) for each in text.split(",")))
    if len(urls) > MOST_URLS:
        raise ValueError(f"{len(urls)} URLs are more than {MOST_URLS}")
    if len({(urlsplit(url).scheme, urlsplit(url).path) for url in urls}) > 1:
        raise ValueError(f"{text!r}: the URLs of one control plane differ in host and port alone")
    return urls


class FirstReached(httpx.BaseTransport):
    """Sends a request to the address that was asked last; to the next one where no connection comes about.

    Only then: what may have been sent is not sent twice, since not every request may be done twice.
    """

    def __init__(self, urls: tuple[str, ...], inner: httpx.BaseTransport) -> None:
        self._urls = tuple(map(httpx.URL, urls))
        self._inner = inner
        self._asked = 0

    @property
    def url(self) -> str:
        """Return the address that was asked last; the first one until then."""
        return str(self._urls[self._asked])

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request. Raises httpx.HTTPError, that of the first address when none is reached."""
        first: httpx.HTTPError | None = None
        for number in (*range(self._asked, len(self._urls)), *range(self._asked)):
            self._asked = number
            _direct(request, self._urls[number])
            try:
                return self._inner.handle_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                first = first or error
        assert first is not None
        raise first

    def close(self) -> None:
        """Close every connection."""
        self._inner.close()


def _direct(request: httpx.Request, url: httpx.URL) -> None:
    request.url = request.url.copy_with(host=url.host, port=url.port)
    request.headers["Host"] = url.netloc.decode("ascii")
