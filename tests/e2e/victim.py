"""A real control plane to attack, and what every attack needs: requests, raw bytes, and members with keys."""

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fallow.model.credentials import SERVER_NAME
from fallow.model.registrations import BUNDLE_CONTEXT
from testbed import processes
from testbed.ports import free_port

FALLOW = str(Path(sys.executable).parent / "fallow")
JOIN = "/v1/join"
_TICKS = os.sysconf("SC_CLK_TCK")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # structlog's own
_BLIND = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_BLIND.check_hostname = False
_BLIND.verify_mode = ssl.CERT_NONE


@dataclass
class Answer:
    """What came back; `body` is what JSON says, or text."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


@dataclass
class Victim:
    """A control plane on this machine, and an admin's token for it."""

    folder: Path
    port: int
    session_port: int
    process: subprocess.Popen[bytes]
    token: str = ""
    ca_pem: str = ""
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"XDG_CONFIG_HOME": str(self.folder / "config"), "NO_COLOR": "1"}

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str) -> Answer:
        """Send one request; `token` is the admin's unless told otherwise, and "" is none."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=_BLIND, timeout=20)
        credential = self.token if token is None else token
        told = {"Authorization": f"Bearer {credential}"} if credential else {}
        if body is not None:
            body = body if isinstance(body, bytes | str) else json.dumps(body)
            told["Content-Type"] = "application/json"
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, told)
            answer = connection.getresponse()
            return Answer(
                answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read().decode()
            )
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are, and return what comes until the end or for half a second."""
        with self.dial(self.port) as line:
            line.settimeout(0.5)
            found = b""
            with contextlib.suppress(OSError):
                line.sendall(data)
                while part := line.recv(65536):
                    found += part
            return found

    def dial(self, port: int) -> ssl.SSLSocket:
        return _BLIND.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10))

    def processor_seconds(self) -> float:
        """Return how long its process has had a processor."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @contextlib.contextmanager
    def little_work(self, seconds: float = 2.0) -> Iterator[None]:
        """What is asked meanwhile takes it less than so long; a wait without work ends by the asker's own patience.

        How long others keep it from the processors says nothing of it.
        """
        before = self.processor_seconds()
        yield
        assert self.processor_seconds() - before < seconds

    def revision(self) -> int:
        """Return the store's revision, less those at which only refused attempts were recorded."""
        record = self.ask("GET", "/v1/audit?limit=10000").body
        refused = [entry for entry in record["items"] if entry["outcome"] != "done"]
        return int(record["revision"]) - len(refused)

    def create(self, role: str, **more: Any) -> str:
        answer = self.ask("POST", "/v1/tokens", {"role": role, **more})
        assert answer.status == 201, answer.text
        return str(answer.body["secret"])


@contextlib.contextmanager
def attacked() -> Iterator[Victim]:
    """Run a control plane of one's own, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="fallow-hostile-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        port, session_port = free_port(), free_port()
        command = [
            FALLOW, "server", "--data", str(folder / "data"), "--listen", f"127.0.0.1:{port}",
            "--session-listen", f"127.0.0.1:{session_port}", "--log-level", "debug", "--log-format", "console",
            "--suspect-after", "20s", "--dead-after", "40s",
        ]  # fmt: skip
        with (folder / "server.log").open("wb") as log:
            environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config"), "NO_COLOR": "1"}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, umask=0o000)
        found = Victim(folder, port, session_port, process)
        try:
            processes.wait_until(lambda: answers(found), 20, "control plane")
            context = json.loads((folder / "config/fallow/contexts.json").read_text())["contexts"][0]
            found.token, found.ca_pem = context["token"], context["ca_pem"]
            found.tokens = {role: found.create(role) for role in ("viewer", "operator")}
            yield found
        finally:
            process.terminate()
            process.wait(10)


def answers(victim: Victim) -> bool:
    assert victim.process.poll() is None, victim.log
    try:
        return victim.ask("GET", "/readyz", token="").status == 200
    except OSError:
        return False


@contextlib.contextmanager
def unharmed(victim: Victim) -> Iterator[None]:
    """After every attack the control plane lives, answers others at once, and has told no fault of its own."""
    before = len(victim.log)
    yield
    assert victim.process.poll() is None
    with victim.little_work():
        members = victim.ask("GET", "/v1/members")
    for member in members.body["items"]:  # there are host ports for ten nodes of one address
        assert victim.ask("DELETE", f"/v1/members/{member['id']}?force=true").status == 204
    new = _COLOURS.sub("", victim.log[before:])
    assert "Traceback" not in new, new[-3000:]
    assert "[error" not in new, new[-3000:]
    assert all(character.isprintable() or character in "\n\t" for character in new), ascii(new)[-3000:]
    assert victim.token.split(".")[2] not in new


def refused(answer: Answer, *statuses: int) -> dict[str, Any]:
    """Check that an answer is a refusal in the one form, and return the document."""
    assert answer.status in (statuses or range(400, 500)), (answer.status, answer.text[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.body
    assert body["status"] == answer.status
    assert body["type"].startswith("urn:fallow:")
    assert body["title"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def request_of(key: Any, *names: str) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SERVER_NAME)] if names else [])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), True)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def wish(token: str, key: Any = None, **more: Any) -> dict[str, str]:
    """Return what a machine sends to join with a token: a bundle, well formed or not, signed by its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    request = {"token": token, "role": "node", "sent_at": time.time(), **more}
    text = json.dumps({"csr_pem": request_of(key), **request})
    signature = key.sign(BUNDLE_CONTEXT + text.encode(errors="surrogatepass"), ec.ECDSA(hashes.SHA256()))
    return {"bundle": text, "signature": base64.b64encode(signature).decode()}


def join(victim: Victim, role: str = "node", **more: Any) -> tuple[dict[str, Any], Path]:
    """Join a machine and return its identity and its files of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    answer = victim.ask("POST", JOIN, wish(victim.create(role), key, role=role, **more), token="")
    assert answer.status == 201, answer.text
    return answer.body, chain_of(victim, answer.body, key)


def chain_of(victim: Victim, identity: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> Path:
    """Write what a machine opens its sessions with: its certificate and its key."""
    chain = victim.folder / f"{identity['member_id']}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(identity["certificate_pem"].encode() + secret)
    return chain
