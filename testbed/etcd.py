"""A real etcd cluster, on this machine's loopback or on a fabric: every member can be killed and started again.

with EtcdCluster() as cluster:
    store = await open_store(cluster.url())
    cluster.kill(cluster.leader())
"""

import datetime
import functools
import ipaddress
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from testbed import processes
from testbed.fabric import NodeNetwork
from testbed.ports import free_port
from testbed.processes import TestbedError

USER = "fallow"
# Short, so that another leader is there soon after one is killed.
HEARTBEAT_MILLISECONDS = 50
ELECTION_MILLISECONDS = 500
START_SECONDS = 30.0


class EtcdCluster:
    """`size` members on free ports. `close` ends them and deletes their data, as does leaving the `with` block.

    With `networks` there is one member in each of them instead.

    With `tls` they speak TLS only, and want a certificate of the cluster's own CA; with `auth` they want USER and
    `password`, whose role may write below `/fallow/` only.
    """

    def __init__(
        self, *, size: int = 3, tls: bool = False, auth: bool = False, networks: Sequence[NodeNetwork] = ()
    ) -> None:
        """Start it. Raises TestbedError, with nothing left behind."""
        self.folder = Path(tempfile.mkdtemp(prefix="fallow-etcd-"))
        self.names = [f"e{number}" for number in range(len(networks) or size)]
        self._networks = dict(zip(self.names, networks, strict=False))
        self.password = secrets.token_urlsafe(12)
        self._tls = tls
        self._auth = False
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            ports = [free_port() for _ in range(2 * len(self.names))]
            self._client_ports = dict(zip(self.names, ports[::2], strict=True))
            self._peer_ports = dict(zip(self.names, ports[1::2], strict=True))
            if tls:
                write_certificates(self.folder)
            for name in self.names:
                self._launch(name)
            processes.wait_until(self.healthy, START_SECONDS, "etcd cluster")
            if auth:
                self._enable_auth()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "EtcdCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoints(self) -> list[str]:
        """Return `host:port` of every member, running or not."""
        return [self.endpoint(name) for name in self.names]

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables a process needs for its user and password; nothing without `auth`."""
        return {"FALLOW_STORE_USER": USER, "FALLOW_STORE_PASSWORD": self.password} if self._auth else {}

    def url(self, prefix: str = "/fallow") -> str:
        """Return the store's URL, with keys below `prefix`."""
        query = {name: str(self.folder / f"{name}.pem") for name in ("ca", "cert", "key")} if self._tls else {}
        return f"etcd://{','.join(self.endpoints)}{prefix}" + (f"?{urlencode(query)}" if query else "")

    def endpoint(self, name: str) -> str:
        """Return `host:port` of a member."""
        return f"{self._host(name)}:{self._client_ports[name]}"

    def _host(self, name: str) -> str:
        return self._networks[name].address if name in self._networks else "127.0.0.1"

    def running(self) -> list[str]:
        """Return the members whose process runs."""
        return [name for name, process in self._processes.items() if process.poll() is None]

    def kill(self, name: str) -> None:
        """End a member with SIGKILL; what it has written stays on its disk."""
        process = self._processes[name]
        process.kill()
        process.wait(10)

    def pause(self, name: str) -> None:
        """Stop a member's process, so that it is connected and silent; return when all of its threads stand still."""
        self._processes[name].send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._processes[name].pid, os.WSTOPPED)

    def resume(self, name: str) -> None:
        """Let a paused member go on."""
        self._processes[name].send_signal(signal.SIGCONT)

    def start(self, *names: str) -> None:
        """Start members again and return once they serve; a single one of several cannot without the others."""
        for name in names:
            self._launch(name)
        for name in names:
            processes.wait_until(functools.partial(self._answers, name), START_SECONDS, f"etcd member {name}")

    def leader(self) -> str:
        """Return the member that leads, once there is one. Raises TestbedError when nobody comes to lead."""
        found: list[str] = []

        def elected() -> bool:
            found[:] = [name for name in self.running() if self._leads(name)]
            return len(found) == 1

        processes.wait_until(elected, START_SECONDS, "an etcd leader")
        return found[0]

    def healthy(self) -> bool:
        """Say whether every running member serves reads that most members agree on."""
        return all(self._answers(name) for name in self.running())

    def ctl(self, *argv: str, member: str | None = None, user: str = "") -> str:
        """Run etcdctl with this cluster's certificates and return its output. Raises TestbedError."""
        endpoint = self.endpoint(member or self.running()[0])
        return processes.run(*self._ctl(endpoint), *(("--user", user) if user else ()), *argv)

    def close(self) -> None:
        """End all members and delete everything of theirs."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _launch(self, name: str) -> None:
        scheme = "https" if self._tls else "http"
        client = f"{scheme}://{self.endpoint(name)}"
        peers = {other: f"http://{self._host(other)}:{port}" for other, port in self._peer_ports.items()}
        where = ["nsenter", f"--net={self._networks[name].path}"] if name in self._networks else []
        argv = [
            *where, "etcd", "--name", name, "--data-dir", str(self.folder / name),
            "--logger", "zap", "--log-level", "warn",
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name],
            "--initial-cluster", ",".join(f"{other}={url}" for other, url in peers.items()),
            "--initial-cluster-token", self.folder.name,
            "--heartbeat-interval", str(HEARTBEAT_MILLISECONDS), "--election-timeout", str(ELECTION_MILLISECONDS),
        ]  # fmt: skip
        if self._tls:
            argv += ["--cert-file", str(self.folder / "server.pem"), "--key-file", str(self.folder / "server-key.pem")]
            argv += ["--client-cert-auth", "--trusted-ca-file", str(self.folder / "ca.pem")]
        unset = {name: "" for name in os.environ if name.startswith(("ETCD_", "ETCDCTL_"))}
        self._processes[name] = processes.start(argv, self.folder / f"{name}.log", unset)

    def _ctl(self, endpoint: str) -> list[str]:
        argv = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", endpoint, "--command-timeout", "2s"]
        if self._tls:
            files = {"--cacert": "ca.pem", "--cert": "cert.pem", "--key": "key.pem"}
            argv += [part for option, file in files.items() for part in (option, str(self.folder / file))]
        return argv

    def _answers(self, name: str) -> bool:
        user = ("--user", f"{USER}:{self.password}") if self._auth else ()
        argv = [*self._ctl(self.endpoint(name)), *user, "get", "/fallow/none"]
        try:
            return subprocess.run(argv, capture_output=True, timeout=10, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _leads(self, name: str) -> bool:
        try:
            (found,) = json.loads(self.ctl("endpoint", "status", "-w", "json", member=name))
        except TestbedError:
            return False
        return bool(found["Status"]["header"]["member_id"] == found["Status"].get("leader"))

    def _enable_auth(self) -> None:
        root = secrets.token_urlsafe(12)
        for argv in (
            ("user", "add", f"root:{root}"),
            ("user", "grant-role", "root", "root"),
            ("user", "add", f"{USER}:{self.password}"),
            ("role", "add", USER),
            ("role", "grant-permission", USER, "readwrite", "/fallow/", "--prefix=true"),
            ("user", "grant-role", USER, USER),
            ("auth", "enable"),
        ):
            self.ctl(*argv)
        self._auth = True
        processes.wait_until(self.healthy, START_SECONDS, "etcd cluster with users")


@contextmanager
def credentials(cluster: EtcdCluster, environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Set the cluster's user and password in this process's environment for a while."""
    before = {name: environ.get(name) for name in cluster.environment}
    os.environ.update(cluster.environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def write_certificates(folder: Path) -> None:
    """Write ca.pem, server.pem and server-key.pem for the members, cert.pem and key.pem for clients."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "testbed etcd CA")])
    authority = _builder(name, name, authority_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    (folder / "ca.pem").write_bytes(authority.sign(authority_key, hashes.SHA256()).public_bytes(_PEM))
    for certificate_file, key_file, common in (
        ("server.pem", "server-key.pem", "testbed etcd member"),
        ("cert.pem", "key.pem", ""),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        # No common name for clients: with users, etcd would take it for the user's name.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = _builder(subject, name, key).add_extension(names, not common).add_extension(uses, False)
        (folder / certificate_file).write_bytes(builder.sign(authority_key, hashes.SHA256()).public_bytes(_PEM))
        (folder / key_file).touch(mode=0o600)
        (folder / key_file).write_bytes(
            key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )


_PEM = serialization.Encoding.PEM


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
