"""A small proxy before a real registry that misbehaves as it is told to."""

import contextlib
import http.client
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Change = Callable[[bytes], bytes]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What becomes of answers to requests whose path contains `path`, so many `times` (0: always).

    With `status` the registry is not asked; otherwise its answer is changed: `headers` are set, and those whose value
    is None left out; `body` changes the body, `stall_after` and `cut_after` are bytes of it after which nothing comes
    any more or the connection ends; `pause_seconds` is waited before each of ten pieces.
    """

    path: str = ""
    times: int = 0
    status: int = 0
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: Change = bytes
    stall_after: int = -1
    cut_after: int = -1
    pause_seconds: float = 0.0


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]


class FaultyRegistry:
    """Listens at `address` on loopback and hands what it gets on to the registry at `upstream`, faults aside.

    With the files of a certificate and its key it speaks HTTPS.
    """

    def __init__(
        self, upstream: str = "", host: str = "127.0.0.1", certificate: tuple[Path, Path] | None = None
    ) -> None:
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self._upstream = upstream
        self._ends = threading.Event()
        self._uses: dict[int, int] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._serve(self)

            do_HEAD = do_GET  # noqa: N815 - as the base class calls it

            def log_message(self, *_: object) -> None:
                return

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                return  # callers go away in the middle; that is what is tried here

        self._server = Server((host, 0), Handler)
        if certificate is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(*certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, and every answer that stalls."""
        self._ends.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def paths(self) -> list[str]:
        """Return the paths that were asked for, in order."""
        return [each.path for each in self.seen]

    def _serve(self, request: http.server.BaseHTTPRequestHandler) -> None:
        self.seen.append(Seen(request.command, request.path, dict(request.headers)))
        fault = next((each for each in self.faults if each.path in request.path and self._due(each)), Fault())
        if fault.status:
            status, headers, body = fault.status, {}, b"{}"
        else:
            status, headers, body = self._ask(request)
        body = fault.body(body)
        headers["Content-Length"] = str(len(body)) if request.command == "GET" else headers.get("Content-Length", "0")
        for name, value in fault.headers.items():
            headers.pop(name, None)
            if value is not None:
                headers[name] = value
        with contextlib.suppress(OSError):
            self._answer(request, fault, status, headers, body)

    def _due(self, fault: Fault) -> bool:
        used = self._uses[id(fault)] = self._uses.get(id(fault), 0) + 1
        return not fault.times or used <= fault.times

    def _ask(self, request: http.server.BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=10)
        try:
            connection.request(request.command, request.path, headers=dict(request.headers))
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() != "transfer-encoding"}
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def _answer(
        self,
        request: http.server.BaseHTTPRequestHandler,
        fault: Fault,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
    ) -> None:
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        ends = [each for each in (fault.stall_after, fault.cut_after) if each >= 0]
        body = body[: min(ends)] if ends else body
        step = max(1, -(-len(body) // 10)) if fault.pause_seconds else max(1, len(body))
        for at in range(0, len(body), step):
            if fault.pause_seconds:
                time.sleep(fault.pause_seconds)
            request.wfile.write(body[at : at + step])
        request.wfile.flush()
        if fault.stall_after >= 0:
            self._ends.wait(30)
        if ends:
            request.close_connection = True
            with contextlib.suppress(OSError):
                request.connection.shutdown(socket.SHUT_RDWR)
