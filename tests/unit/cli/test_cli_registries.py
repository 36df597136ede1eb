"""`fallow registry` and `fallow trust`."""

import json
from pathlib import Path
from typing import Any

import msgspec
from cli_fake_api import FakeApi, listing
from conftest import Fallow

from fallow.model.mirrors import MirrorView
from fallow.model.registries import CertificateView, RegistryCheck, RegistryView
from fallow.model.trust import TrustKeyView, TrustView

PASSWORD = "hunter2-never-told"


def registry(host: str = "registry.example", **more: Any) -> RegistryView:
    given: dict[str, Any] = {
        "host": host, "username": "ci", "revision": 4, "created_at": 1000.0, "updated_at": 1000.0,
        "created_by": "api:admin",
    }  # fmt: skip
    return RegistryView(**{**given, **more})


def rules(**more: Any) -> TrustView:
    given: dict[str, Any] = {
        "project": "shop", "allow": ("shop/*",), "require_digest": True, "revision": 4, "created_at": 1000.0,
        "updated_at": 1000.0, "keys": (TrustKeyView(kind="ecdsa-p256", sha256="ab" * 32, pem="PEM"),),
    }  # fmt: skip
    return TrustView(**{**given, **more})


def test_add(fallow: Fallow, api: FakeApi) -> None:
    api.on("POST /v1/registries", registry())
    ran = fallow("registry", "add", "registry.example", "--username", "ci", "--password-stdin", stdin=PASSWORD + "\n")
    assert (ran.code, ran.out) == (0, "registry.example: login ci, HTTPS\n")
    assert PASSWORD not in ran.out + ran.err
    assert api.bodies("POST /v1/registries") == [
        {
            "host": "registry.example",
            "username": "ci",
            "password": PASSWORD,
        }
    ]
    ran = fallow("registry", "add", "10.0.0.5:5000", "--insecure", "--mirror", "10.0.0.6:5000", "--json")
    assert json.loads(ran.out)["host"] == "registry.example"
    assert api.bodies("POST /v1/registries")[1]["scheme"] == "http"


def test_certificates_and_a_proxy_are_told_of(fallow: Fallow, api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("CERTIFICATES")
    trusted = (CertificateView(subject="CN=Own CA", sha256="ab" * 32, expires_at=2_000_000_000.0),)
    api.on("POST /v1/registries", registry(trusted=trusted, proxy="http://10.0.0.9:3128"))
    ran = fallow("registry", "add", "registry.example", "--ca-file", str(file), "--proxy", "http://10.0.0.9:3128")
    assert ran.out == "registry.example: login ci, HTTPS, own CA through http://10.0.0.9:3128\n"
    (sent,) = api.bodies("POST /v1/registries")
    assert (sent["ca_pem"], sent["proxy"]) == ("CERTIFICATES", "http://10.0.0.9:3128")
    api.on("GET /v1/registries/registry.example", registry(trusted=trusted))
    shown = fallow("registry", "show", "registry.example").out
    assert "CN=Own CA, until 2033-05-18" in shown
    assert "ab" * 32 in shown
    file.write_text("-----BEGIN PRIVATE KEY-----")
    assert fallow("registry", "add", "registry.example", "--ca-file", str(file)).code == 2
    assert fallow("registry", "add", "registry.example", "--ca-file", str(tmp_path / "none")).code == 2
    assert len(api.bodies("POST /v1/registries")) == 1, "nothing more was sent"


def test_add_takes_no_password_from_the_command_line(fallow: Fallow, api: FakeApi) -> None:
    for wrong in (("--password", PASSWORD), ("--username", "ci", f"--password={PASSWORD}"), ("-p", PASSWORD)):
        assert fallow("registry", "add", "registry.example", *wrong).code == 2
    assert "--password-stdin" in fallow("registry", "add", "registry.example", "--username", "ci").err
    assert fallow("registry", "add", "registry.example", "--password-stdin", stdin="x").code == 2
    assert fallow("registry", "add", "registry.example", "--username", "ci", "--password-stdin", stdin="\n").code == 2
    assert api.bodies("POST /v1/registries") == []


def test_list_show_remove(fallow: Fallow, api: FakeApi) -> None:
    api.on("GET /v1/registries", listing(registry(), registry("10.0.0.5:5000", username="", insecure=True)))
    api.on("GET /v1/registries/10.0.0.5%3A5000", registry("10.0.0.5:5000", username="", insecure=True))
    api.on("DELETE /v1/registries/registry.example", "")
    lines = fallow("registry", "list").out.splitlines()
    assert lines[0].split()[:2] == ["HOST", "LOGIN"]
    assert lines[1].split()[:3] == ["registry.example", "ci", "HTTPS"]
    assert lines[2].split()[:3] == ["10.0.0.5:5000", "none", "HTTP"]
    assert len(json.loads(fallow("registry", "list", "--json").out)["items"]) == 2
    assert "none" in fallow("registry", "show", "10.0.0.5:5000").out
    assert fallow("registry", "remove", "registry.example").out == "registry.example: forgotten\n"
    assert fallow("registry", "show", "nowhere.example").code == 3


def test_test(fallow: Fallow, api: FakeApi) -> None:
    api.on("POST /v1/registries/registry.example/test", RegistryCheck(host="registry.example", works=True, seconds=0.2))
    assert fallow("registry", "test", "registry.example").out == "registry.example: works (200 ms)\n"
    for kind, hint in (("denied", "--password-stdin"), ("unreachable", "--insecure"), ("stalled", "Nodes may reach")):
        check = RegistryCheck(host="registry.example", works=False, kind=kind, text="no such host")
        api.on("POST /v1/registries/registry.example/test", check)
        ran = fallow("registry", "test", "registry.example")
        assert ran.code == 1
        assert "no such host" in ran.err
        assert hint in ran.err
    ran = fallow("registry", "test", "registry.example", "--json")
    assert (ran.code, json.loads(ran.out)["works"]) == (1, False)


def test_trust(fallow: Fallow, api: FakeApi, home: Path) -> None:
    api.on("PUT /v1/trust/shop", rules())
    api.on("GET /v1/trust/shop", rules())
    api.on("GET /v1/trust", listing(rules(), rules(project="default", allow=(), require_digest=False, keys=())))
    api.on("DELETE /v1/trust/shop", "")
    (home / "cosign.pub").write_text("-----BEGIN PUBLIC KEY-----\n")
    ran = fallow("trust", "set", "shop", "--allow", "shop/*", "--require-digest", "--key", "cosign.pub")
    assert ran.code == 0
    assert api.bodies("PUT /v1/trust/shop") == [
        {"project": "shop", "allow": ["shop/*"], "require_digest": True, "keys": ["-----BEGIN PUBLIC KEY-----\n"]}
    ]
    for text in ("shop/*", "ecdsa-p256 " + "ab" * 32, "yes"):
        assert text in ran.out
        assert text in fallow("trust", "show", "shop").out
    lines = fallow("trust", "list").out.splitlines()
    assert lines[1].split()[:4] == ["shop", "shop/*", "yes", "1"]
    assert lines[2].split()[:4] == ["default", "any", "no", "0"]
    assert len(json.loads(fallow("trust", "list", "--json").out)["items"]) == 2
    assert "any image" in fallow("trust", "remove", "shop").out


def test_a_private_key_stays_here(fallow: Fallow, api: FakeApi, home: Path) -> None:
    (home / "cosign.key").write_text("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n")
    ran = fallow("trust", "set", "shop", "--key", "cosign.key")
    assert (ran.code, "private key" in ran.err) == (2, True)
    (home / "cosign.bin").write_bytes(b"\xff\x00")
    assert fallow("trust", "set", "shop", "--key", "cosign.bin").code == 2
    assert fallow("trust", "set", "shop", "--key", "absent.pub").code == 2
    assert api.asked == []


def test_mirror(fallow: Fallow, api: FakeApi) -> None:
    made = MirrorView(name="hub", registry="docker.io", state="waiting", image="registry:3")
    api.on("POST /v1/registry-mirrors", made)
    api.on("GET /v1/registry-mirrors", listing(msgspec.structs.replace(made, node="web-1", address="10.0.0.7:20001")))
    api.on("DELETE /v1/registry-mirrors/hub", "")
    ran = fallow("registry", "mirror", "create", "hub", "--for", "docker.io", "--on", "role=mirror")
    assert (ran.code, ran.out) == (0, "hub: a mirror of docker.io, which does not serve yet\n")
    (body,) = api.bodies("POST /v1/registry-mirrors")
    assert (body["name"], body["registry"], body["target"]["selector"]) == ("hub", "docker.io", "role=mirror")
    lines = fallow("registry", "mirror", "list").out.splitlines()
    assert lines[1].split() == ["hub", "docker.io", "waiting", "web-1", "10.0.0.7:20001", "registry:3"]
    assert fallow("registry", "mirror", "delete", "hub").out == "hub: being deleted\n"
    for wrong in ((), ("--on", "10%:role=mirror")):
        assert fallow("registry", "mirror", "create", "hub", "--for", "docker.io", *wrong).code == 2
    assert len(api.bodies("POST /v1/registry-mirrors")) == 1
