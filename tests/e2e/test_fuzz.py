"""What the API's description allows and forbids, thrown at a real control plane: it keeps to its own description.

`make fuzz` runs the same for long.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from victim import Victim, attacked, join

from testbed import processes

SCHEMATHESIS = str(Path(sys.executable).parent / "schemathesis")
EXAMPLES = int(os.environ.get("FALLOW_FUZZ_EXAMPLES", "5"))
LONG = EXAMPLES >= 50
SECONDS = 1800 if LONG else 60
ENDLESS = "/v1/watch|/logs$"
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method", "use_after_free",
)  # fmt: skip
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
FILE = "services: {web: {image: shop, scale: 3, expose: [80], x-fallow: {routes: ['http://shop.example/']}}}"


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    """Run a control plane that has something to tell: members, an application, tokens of every state."""
    with attacked() as found:
        for role in ("node", "node", "gateway"):
            join(found, role)
        assert found.ask("POST", "/v1/deploy", {"compose": FILE}).status == 200
        spent = found.create("node").split(".")[1]
        assert found.ask("DELETE", f"/v1/tokens/{spent}").status == 204
        yield found


def fuzz(victim: Victim, token: str, folder: Path, *options: str) -> str:
    """Run schemathesis with a token, or with none, and return what it says: the same each time, but in a long run."""
    bounds = ["--max-time", str(SECONDS)] if LONG else ["--generation-deterministic"]
    command = [
        SCHEMATHESIS, "run", f"https://127.0.0.1:{victim.port}/docs/openapi.json", "--tls-verify", "false",
        "--max-examples", str(EXAMPLES), *bounds, "--exclude-path-regex", ENDLESS,
        "--checks", ",".join(CHECKS), "--continue-on-failure", "--warnings", "off", "--no-color", *options,
    ]  # fmt: skip
    # What is too large is refused for its size, whatever else is wrong with it.
    (folder / "schemathesis.toml").write_text('[checks.negative_data_rejection]\nexpected-statuses = ["4xx"]\n')
    if token:
        command += ["--header", f"Authorization: Bearer {token}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS * 3 + 60, check=False)
    told = "\n".join(line[:300] for line in (done.stdout + done.stderr).splitlines())
    assert done.returncode == 0, told[-20_000:]
    tested = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert tested is not None, done.stdout
    assert tested.group(1) == tested.group(2)
    assert int(tested.group(1)) >= 50, done.stdout
    return done.stdout


def test_endless_answers_begin_as_described(victim: Victim) -> None:
    """Watches and logs that are followed do not end: their heads are looked at, and then they are left."""
    paths = victim.ask("GET", "/docs/openapi.json", token="").body["paths"]
    assert {path for path in paths if re.search(ENDLESS, path)} == {
        "/v1/watch", "/v1/replicas/{replica_id}/logs", "/v1/deployments/{project}/{name}/logs",
    }  # fmt: skip
    replicas: list[dict[str, str]] = []
    processes.wait_until(
        lambda: replicas.extend(victim.ask("GET", "/v1/replicas").body["items"]) or replicas, 10, "replicas"
    )
    replica = replicas[0]["id"]
    asked = [
        ("/v1/watch", "/v1/watch"), ("/v1/watch", "/v1/watch?after=0"), ("/v1/watch", "/v1/watch?kinds=%00"),
        ("/v1/replicas/{replica_id}/logs", f"/v1/replicas/{replica}/logs?follow=true"),
        ("/v1/replicas/{replica_id}/logs", "/v1/replicas/x/logs"),
        ("/v1/deployments/{project}/{name}/logs", "/v1/deployments/default/web/logs?follow=true&tail=0"),
        ("/v1/deployments/{project}/{name}/logs", "/v1/deployments/default/web/logs?follow=perhaps"),
    ]  # fmt: skip
    for template, path in asked:
        for token in (victim.token, victim.tokens["viewer"], ""):
            status, kind = head_of(victim, path, token)
            described = paths[template]["get"]["responses"]
            assert status in described, (path, status)
            assert kind in described[status]["content"], (path, status, kind)


@pytest.mark.timeout(SECONDS * 4 + 60)
@pytest.mark.parametrize("role", ["", "viewer", "operator"])
def test_the_api_keeps_to_its_description(victim: Victim, tmp_path: Path, role: str) -> None:
    before = victim.revision()
    fuzz(victim, victim.tokens[role] if role else "", tmp_path, "--phases", "fuzzing")
    unharmed(victim)
    assert role == "operator" or victim.revision() == before


def unharmed(victim: Victim) -> None:
    assert victim.process.poll() is None
    assert victim.ask("GET", "/readyz", token="").status == 200
    assert "Traceback" not in victim.log


def head_of(victim: Victim, path: str, token: str) -> tuple[str, str]:
    """Return the status and the content type of an answer, and go away."""
    credential = f"Authorization: Bearer {token}\r\n" if token else ""
    with victim.dial(victim.port) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n{credential}\r\n".encode())
        found = b""
        while b"\r\n\r\n" not in found:
            part = line.recv(4096)
            assert part, found
            found += part
    first, _, rest = found.partition(b"\r\n\r\n")[0].decode().partition("\r\n")
    headers = dict(one.lower().split(": ", 1) for one in rest.split("\r\n"))
    return first.split()[1], headers["content-type"].split(";")[0]


@pytest.mark.timeout(SECONDS * 4 + 60)
def test_the_api_keeps_to_its_description_for_an_admin(victim: Victim, tmp_path: Path) -> None:
    """Last, and with a token of its own: the tokens of the others are found in lists, and revoked."""
    token = victim.create("admin")
    fuzz(victim, token, tmp_path, "--phases", "coverage,fuzzing")
    unharmed(victim)
    answered = re.findall(r"method=(\S+) .*status=(\d+)", COLOURS.sub("", victim.log))
    assert {("POST", "201"), ("GET", "200"), ("DELETE", "204")} <= set(answered)
    assert answered.count(("GET", "200")) > 40, "a token that was revoked at once tests nothing"
