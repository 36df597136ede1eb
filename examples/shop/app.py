"""A small web shop that sells nothing: it says which replica answered.

    GET  / (or any other)  {"app": "shop", "version": "1", "replica": "web-0"}
    GET  /healthz          200 while well, 503 once sick
    GET  /slow?seconds=2   the same as /, later
    POST /sick             from now on /healthz answers 503
    POST /crash            ends at once with exit code 3

Told to end (SIGTERM), it finishes every request it has begun, and answers those that were already on their way.
Environment: NAME, VERSION and PORT (8080).
"""

import asyncio
import json
import os
import signal
import socket
from urllib.parse import parse_qs, urlsplit

LINGER_SECONDS = 0.5  # how long requests already on their way are still taken after SIGTERM
MAX_SLOW_SECONDS = 60.0
REASONS = {200: "OK", 400: "Bad Request", 503: "Service Unavailable"}


class Shop:
    """The application and its connections."""

    def __init__(self, name: str, version: str) -> None:
        self.answer = {"app": name, "version": version, "replica": socket.gethostname()}
        self.sick = False
        self.leaving = False
        self.idle: set[asyncio.StreamWriter] = set()  # connections without a request
        self.tasks: set[asyncio.Task] = set()  # one for each connection

    async def respond(self, method: str, target: str) -> tuple[int, str]:
        """Return status and body of one request."""
        url = urlsplit(target)
        if url.path == "/healthz":
            return (503, "sick\n") if self.sick else (200, "ok\n")
        if (method, url.path) == ("POST", "/sick"):
            self.sick = True
            return 200, "sick from now on\n"
        if (method, url.path) == ("POST", "/crash"):
            os._exit(3)
        if url.path == "/slow":
            try:
                seconds = float(parse_qs(url.query).get("seconds", ["1"])[0])
            except ValueError:
                return 400, "seconds is not a number\n"
            await asyncio.sleep(min(max(0.0, seconds), MAX_SLOW_SECONDS))
        return 200, json.dumps(self.answer) + "\n"

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client, request after request."""
        task = asyncio.current_task()
        self.tasks.add(task)
        try:
            keep = True
            while keep:
                self.idle.add(writer)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.idle.discard(writer)
                keep = await self.request(head, reader, writer)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # the client went away, or speaks something else
        finally:
            self.idle.discard(writer)
            self.tasks.discard(task)
            writer.close()

    async def request(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        first, *lines = head.split("\r\n")
        method, target, protocol = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        await reader.readexactly(int(headers.get("content-length", "0")))
        status, body = await self.respond(method, target)
        wish = headers.get("connection", "keep-alive" if protocol == "HTTP/1.1" else "close").lower()
        keep = "close" not in wish and not self.leaving
        kind = "application/json" if body.startswith("{") else "text/plain"
        writer.write(
            f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n{'' if method == 'HEAD' else body}".encode()
        )
        await writer.drain()
        return keep


async def main() -> None:
    """Serve until told to end."""
    shop = Shop(os.environ.get("NAME", "shop"), os.environ.get("VERSION", "1"))
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    port = int(os.environ.get("PORT", "8080"))
    server = await asyncio.start_server(shop.connection, None, port, backlog=1024)
    print(f"{shop.answer['app']} {shop.answer['version']} listens on port {port}", flush=True)
    await told.wait()
    print("leaving", flush=True)
    shop.leaving = True
    await asyncio.sleep(LINGER_SECONDS)
    server.close()
    for writer in list(shop.idle):
        writer.close()
    if shop.tasks:
        await asyncio.wait(shop.tasks)


if __name__ == "__main__":
    asyncio.run(main())
