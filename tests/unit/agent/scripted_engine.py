"""A container engine in memory that does as it is told, and fails where the test says so."""

import asyncio
import time
from collections import Counter
from dataclasses import replace

from fallow.drivers.engine.contract import Container, EngineError, EngineEvent, EngineInfo, Image, StoredImage


class ScriptedEngine:
    """Keeps containers by replica id. `failures` maps a method's name to errors raised one after the other."""

    def __init__(self):
        self.containers = {}
        self.requests = {}  # by replica id, what each container was made of
        self.pulled = set()
        self.failures = {}
        self.calls = Counter()
        self.creating = 0
        self.most_creating = 0
        self.listeners = []
        self.log_lines = []
        self.log_follow = asyncio.Event()
        self.exit_codes = {}
        self.down = False
        self.create_gate = None
        self.made = 0

    async def _enter(self, name):
        self.calls[name] += 1
        await asyncio.sleep(0)
        if self.down:
            raise EngineError("unreachable", "connection refused")
        script = self.failures.get(name)
        if script:
            raise script.pop(0)

    async def info(self):
        await self._enter("info")
        return EngineInfo(
            name="podman", version="4.3.1", api_version="1.41", architecture="amd64", os="linux", kernel="6.1",
            hostname="n", cpus=2.0, memory_bytes=2**30, disk_bytes=2**33, disk_free_bytes=2**32,
        )  # fmt: skip

    async def image(self, reference):
        await self._enter("image")
        return self._image(reference) if reference in self.pulled else None

    def _image(self, reference):
        return Image(id=f"sha256:{reference}", references=(reference,), architecture="amd64", size_bytes=1)

    async def pull(self, reference, credentials=None, on_progress=None, insecure=False):
        await self._enter("pull")
        self.pulled.add(reference)
        return self._image(reference)

    async def images(self):
        return [StoredImage(id=f"sha256:{name}", references=(name,)) for name in sorted(self.pulled)]

    async def disk(self):
        return 0, 0

    async def image_events(self):
        await asyncio.Event().wait()
        yield ""

    async def create(self, request):
        self.creating += 1
        self.most_creating = max(self.most_creating, self.creating)
        try:
            if self.create_gate is not None:
                await self.create_gate.wait()
            await self._enter("create")
        finally:
            self.creating -= 1
        found = self.containers.get(request.replica_id)
        if found is not None and found.spec_hash != request.spec_hash:
            raise EngineError("conflict", "another one is there")
        if found is None:
            self.made += 1
            self.requests[request.replica_id] = request
            found = self.containers[request.replica_id] = Container(
                id=f"c{self.made}",
                replica_id=request.replica_id,
                deployment=request.deployment,
                spec_hash=request.spec_hash,
                status="created",
                address="",
                host_ports=request.host_ports,
            )
        return found

    def _by_id(self, container_id):
        return next((found for found in self.containers.values() if found.id == container_id), None)

    async def start(self, container_id):
        await self._enter("start")
        found = self._by_id(container_id)
        if found is None:
            raise EngineError("not-found", "no such container")
        return self._set(replace(found, status="running", started_at=time.time(), exit_code=None), "started")

    def _set(self, container, kind):
        self.containers[container.replica_id] = container
        self._tell(kind, container)
        return container

    def _tell(self, kind, container):
        for queue in self.listeners:
            queue.put_nowait(EngineEvent(kind=kind, container_id=container.id, replica_id=container.replica_id))

    def crash(self, replica_id, code=1):
        """Let a container end by itself."""
        self._set(replace(self.containers[replica_id], status="exited", exit_code=code), "exited")

    async def stop(self, container_id, grace_seconds):
        await self._enter("stop")
        found = self._by_id(container_id)
        if found is not None and found.status == "running":
            self._set(replace(found, status="exited", exit_code=143), "exited")

    async def remove(self, container_id):
        await self._enter("remove")
        found = self._by_id(container_id)
        if found is not None:
            assert found.status != "running"
            del self.containers[found.replica_id]
            self._tell("removed", found)

    async def inspect(self, container_id):
        await self._enter("inspect")
        return self._by_id(container_id)

    async def list(self):
        await self._enter("list")
        return list(self.containers.values())

    async def events(self):
        queue = asyncio.Queue()
        self.listeners.append(queue)
        try:
            while True:
                event = await queue.get()
                if event is None:
                    raise EngineError("unreachable", "the stream broke")
                yield event
        finally:
            self.listeners.remove(queue)

    def break_stream(self):
        for queue in self.listeners:
            queue.put_nowait(None)

    async def logs(self, container_id, follow=False, tail=100):
        await self._enter("logs")
        for line in self.log_lines[-tail:]:
            yield line
        if follow:
            await self.log_follow.wait()
            yield "the end"

    async def execute(self, container_id, command, timeout_seconds):
        await self._enter("execute")
        return self.exit_codes.get(command, 0)

    async def close(self):
        pass
