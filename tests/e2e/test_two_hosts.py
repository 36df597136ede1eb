"""A copy of a host beside the real one: a member, which reaches now this one and now that one, never obeys both."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from federation_rig import Site, Undivided, cluster_of, until
from test_cluster_sessions import copy_files

from fallow.agent import session
from testbed.ports import free_port


class Way:
    """A port of this machine that leads to another one, which may change."""

    def __init__(self) -> None:
        self.port = free_port()
        self.target = 0
        self._open: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator["Way"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            self.lead_to(0)
            server.close()
            await server.wait_closed()

    def lead_to(self, port: int) -> None:
        """Lead to this port from now on; connections to another one end."""
        self.target = port
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            self._open.add(back)
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
            self._open.discard(back)
        self._open.discard(writer)
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def started(*sites: Site) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for site in sites:
            await site.start()
            stack.push_async_callback(site.close)
        yield


async def test_of_two_hosts_with_one_identity_the_one_that_led_last_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "RETRY_CAP_SECONDS", 0.3)
    async with Way()() as way:
        host, copy = (
            Site(tmp_path / name, settings={"session_port": way.port}, kind=Undivided) for name in ("host", "copy")
        )
        member = Site(tmp_path / "member", numbers=1000)

        def told(share: int) -> bool:
            return member.named("web").share == share

        async with started(host, member):
            way.lead_to(host.session_port)
            await member.add_nodes(1)
            await member.join(host)
            web = await host.deploy("web", 5)
            cluster = cluster_of(host)
            await host.tell(web, cluster.id, 2)
            await until(lambda: member.snapshot.deployments and told(2))
            await host.stop()
            copy_files(host, copy)
            await host.start()
            await host.tell(web, cluster.id, 3)
            await until(lambda: told(3), 20)

            async with started(copy):
                way.lead_to(copy.session_port)
                await until(lambda: told(2), 20)  # a host that is restored from a backup is followed
                await host.tell(web, cluster.id, 4)
                way.lead_to(host.session_port)
                problem = await until(
                    lambda: "two control planes" in (found := member.plane.hosts.view().problem) and found, 20
                )
                assert host.url in problem
                await until(lambda: "HostTwice" in host.events(), 20)
                assert "HostTwice" in member.events()
                assert told(2), "what the other one says counts no more"
                heard = cluster_of(host)
                assert heard.spoken_at_revision < heard.opened_at_revision, "so the other one moves nothing of it"

                way.lead_to(copy.session_port)
                await copy.tell(web, cluster.id, 1)
                await until(lambda: told(1), 20)
            await host.restart()  # there is no other one now: it leads anew
            way.lead_to(host.session_port)
            await until(lambda: told(4), 20)
            assert member.events().count("HostTwice") == 1
