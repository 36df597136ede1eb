"""Registries on the real command: logins that work, signatures that count, and passwords found nowhere."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_images import Shelf, tiny
from signing import new_key, payload_of, public_pem, put_bundles, put_signatures, put_signed, sign, signed_bundle

from testbed import parts, registry
from testbed.cluster import FALLOW, Cluster
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.processes import TestbedError
from testbed.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
COMPOSE = "services: {web: {image: '%s'}}"
WRONG = "a-password-that-is-wrong"


class Known(Cluster):
    """A control plane that knows a registry with a login."""

    registry: Registry
    shelf: Shelf

    def piped(self, *arguments: str, stdin: str) -> subprocess.CompletedProcess[str]:
        """Run the command line with something on its standard input."""
        return subprocess.run(
            [FALLOW, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, **self.environment},
        )  # fmt: skip

    def add(self, password: str) -> None:
        done = self.piped(
            "registry", "add", self.registry.address, "--insecure", "--username", registry.USERNAME,
            "--password-stdin", stdin=password + "\n",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert password not in done.stdout + done.stderr

    def deploys(self, image: str) -> str:
        """Deploy an image without waiting for nodes; return why not, empty when it is taken."""
        file = self.fabric.folder / "compose.yaml"
        file.write_text(COMPOSE % image)
        try:
            self.fallow("deploy", str(file), "--project", "signed", "--no-wait")
        except TestbedError as error:
            return str(error)
        return ""


@pytest.fixture(scope="module")
def known() -> Iterator[Known]:
    parts.require("namespaces", "registry")
    with Fabric() as fabric:
        found = Registry(fabric, port=free_port(5060), password=True)
        cluster = Known(fabric, port=free_port(17643), server_options=("--log-level", "debug"))
        cluster.registry = found
        cluster.shelf = Shelf(found.address, None, registry.USERNAME, registry.PASSWORD)
        try:
            cluster.start_server()
            yield cluster
        finally:
            cluster.close()


def test_a_login_is_tried(known: Known) -> None:
    host = known.registry.address
    known.add(WRONG)
    with pytest.raises(TestbedError, match="login of fallow"):
        known.fallow("registry", "test", host)
    known.add(registry.PASSWORD)
    assert "works" in known.fallow("registry", "test", host)
    (only,) = known.call("registry", "list", "--json")["items"]
    assert (only["host"], only["username"], only["insecure"]) == (host, "fallow", True)


def test_signatures_are_asked_for_with_the_login(known: Known) -> None:
    key, stranger = new_key(), new_key()
    (known.fabric.folder / "cosign.pub").write_text(public_pem(key))
    known.add(registry.PASSWORD)
    pattern = f"{known.registry.address}/shop/*"
    known.fallow("trust", "set", "signed", "--allow", pattern, "--key", str(known.fabric.folder / "cosign.pub"))
    good, bad = known.shelf.put("shop/good", "1", tiny("good")), known.shelf.put("shop/bad", "1", tiny("bad"))
    reference = f"{known.registry.address}/shop/bad:1"
    assert "it has none" in known.deploys(reference)
    put_signed(known.shelf, "shop/bad", bad.digest, stranger)
    assert "none of the keys" in known.deploys(reference)
    payload = payload_of(good.digest)
    put_signatures(known.shelf, "shop/bad", bad.digest, (payload, sign(key, payload)))
    assert "another image" in known.deploys(reference)
    put_signatures(known.shelf, "shop/bad", bad.digest, (payload_of(bad.digest), sign(key, payload)))
    assert "was changed" in known.deploys(reference)
    assert "may not use" in known.deploys("nginx:1")
    put_signed(known.shelf, "shop/good", good.digest, key)
    assert known.deploys(f"{known.registry.address}/shop/good:1") == ""
    new = known.shelf.put("shop/new", "1", tiny("signed as cosign 3 does"))
    put_bundles(known.shelf, "shop/new", new.digest, signed_bundle(stranger, new.digest))
    assert "none of the keys" in known.deploys(f"{known.registry.address}/shop/new:1")
    put_bundles(known.shelf, "shop/new", new.digest, signed_bundle(key, new.digest))
    assert known.deploys(f"{known.registry.address}/shop/new:1") == ""
    known.fallow("trust", "remove", "signed")


def test_everything_comes_back_from_a_backup(known: Known) -> None:
    """With the cluster key beside it; without, the login is told to be unreadable and the rest works."""
    known.add(registry.PASSWORD)
    folder, host = known.fabric.folder, known.registry.address
    known.fallow("store", "backup", str(folder / "copy.backup"), "--store", f"sqlite:{folder}/server/fallow.db")
    assert registry.PASSWORD.encode() not in (folder / "copy.backup").read_bytes()
    known.kill_server()
    for path in (folder / "server").glob("fallow.db*"):
        path.unlink()
    known.fallow("store", "restore", str(folder / "copy.backup"), "--store", f"sqlite:{folder}/server/fallow.db")
    known.start_server()
    assert "works" in known.fallow("registry", "test", host)
    known.kill_server()
    shutil.move(folder / "server/cluster.key", folder / "kept.key")
    known.start_server()
    with pytest.raises(TestbedError, match=r"cluster\.key"):
        known.fallow("registry", "test", host)
    refused = known.piped(
        "registry", "add", "other.example", "--username", "me", "--password-stdin", stdin="never-stored"
    )
    assert refused.returncode == 4
    assert not (folder / "server/cluster.key").exists(), "a new key would open nothing"
    known.kill_server()
    shutil.move(folder / "kept.key", folder / "server/cluster.key")
    known.start_server()
    assert "works" in known.fallow("registry", "test", host)


def test_a_password_is_found_nowhere(known: Known) -> None:
    known.add(WRONG)
    known.add(registry.PASSWORD)
    known.fallow("registry", "test", known.registry.address)
    secrets = (registry.PASSWORD, WRONG)
    told = {
        command: known.fallow(*command.split())
        for command in ("events --json", "registry list --json", f"registry show {known.registry.address} --json")
    }
    told["audit"] = json.dumps([str(entry) for entry in _audit(known)])
    told["log"] = (known.fabric.folder / "server.log").read_text(errors="replace")
    assert "add_registry" in told["audit"]
    assert "debug" in told["log"]
    for where, text in told.items():
        assert not [secret for secret in secrets if secret in text], where
    for path in (known.fabric.folder / "server").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [secret for secret in secrets if secret.encode() in content], path
    assert known.server is not None
    for part in ("cmdline", "environ"):
        line = Path(f"/proc/{known.server.pid}/{part}").read_bytes().decode(errors="replace")
        assert not [secret for secret in secrets if secret in line], part


def _audit(known: Known) -> list[object]:
    with known.client() as client:
        return list(client.audit().items)
