"""What the tests of whole clusters ask of one."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import yaml

from demo.load import Load
from testbed.cluster import Cluster
from testbed.engines import EngineNode


class Whole(Cluster):
    """A cluster with three nodes in two zones, a gateway, a registry and the shop's image in two versions."""

    image = ""
    image2 = ""
    http_port = 0

    def get(self, host: str, path: str = "/", timeout: float = 5.0) -> tuple[int, str]:
        """Ask the gateway; return status and body, 0 and the error when there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()

    def deploy(self, text: str, *options: str, project: str = "test") -> str:
        """Deploy a Compose text and wait until it serves."""
        file = self.fabric.folder / "compose.yaml"
        file.write_text(text)
        return self.fallow("deploy", str(file), "--project", project, "--timeout", "60s", *options)

    def running(self, deployment: str) -> list[dict[str, object]]:
        """Return a deployment's replicas that have not ended."""
        ended = ("stopped", "failed", "lost")
        return [
            found
            for found in self.replicas()
            if f"{found['project']}/{found['deployment']}" == deployment and found["state"] not in ended
        ]

    def healthy(self, deployment: str, count: int, seconds: float = 60) -> None:
        """Wait until exactly so many replicas are healthy, and nothing else of the deployment is left."""

        def settled() -> bool:
            found = self.running(deployment)
            return len(found) == count and all(item["health"] == "healthy" for item in found)

        self.wait(settled, seconds, f"{count} healthy replicas of {deployment}")

    def containers(self, node: str) -> dict[str, str]:
        """Return the engine's own word on running containers: name of the replica -> container id."""
        return replicas_on(self.nodes[node])


def web(
    image: str, *, deploy: Mapping[str, object], fallow: Mapping[str, object], version: str = "1", **service: object
) -> str:
    """Return a Compose file of the web service, which tells its version; `fallow` is what Compose has no word for."""
    whole = {
        "image": image,
        "environment": {"NAME": "web", "VERSION": version},
        "expose": ["8080"],
        "deploy": deploy,
        "x-fallow": {"routes": ["http://web.test"], **fallow},
        **service,
    }
    return yaml.safe_dump({"services": {"web": whole}})


def replicas_on(node: EngineNode) -> dict[str, str]:
    """Return the engine's own word on running containers: name of the replica -> container id."""
    listing = node.run("curl", "-s", "--unix-socket", node.socket_inside, "http://d/containers/json")
    return {item["Labels"]["io.fallow.replica"]: item["Id"] for item in json.loads(listing)}


@contextmanager
def no_request_fails(cluster: Whole, *names: str, clients: int = 6) -> Iterator[Load]:
    """Send requests for NAME.test through the gateway meanwhile; none may fail."""
    load = Load("127.0.0.1", cluster.http_port, [f"{name}.test" for name in names], clients=clients)
    load.start()
    try:
        yield load
    finally:
        load.stop()
    assert load.failures == []
    assert load.sent.total() > 50
