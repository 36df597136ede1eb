"""`fallow context`: the file commands read to know where to go."""

import json
import stat
from pathlib import Path

import pytest
from conftest import Fallow

from fallow.client.contexts import Context, load_contexts, save_context

URL = "https://control.example:7443"
TOKEN = "fallow-api.id1.hunter2"


@pytest.fixture
def ca(home: Path) -> str:
    """Return the certificate of an authority, as a file has it."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    pem = built.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()
    (home / "ca.pem").write_text(pem)
    return pem


def test_add_use_show_list_remove(alone: Fallow, ca: str, home: Path) -> None:
    added = alone("context", "add", "prod", URL + "/", "--ca-file", "ca.pem", "--token", "-", stdin=TOKEN + "\n")
    assert added.code == 0, added
    assert load_contexts().contexts == (Context(name="prod", url=URL, token=TOKEN, ca_pem=ca),)
    file = home / "config/fallow/contexts.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert alone("context", "add", "dev", "http://localhost:1", "--token", TOKEN, "--no-use", "-p", "x").code == 0
    assert [line.split()[:3] for line in alone("context", "list").out.splitlines()] == [
        ["NAME", "URL", "PROJECT"],
        ["dev", "http://localhost:1", "x"],
        ["*", "prod", URL],
    ]
    assert alone("context", "use", "dev").code == 0
    assert json.loads(alone("context", "show", "--json").out)["name"] == "dev"
    assert alone("context", "show", "prod", "--ca").out == ca
    assert alone("context", "remove", "dev").code == 0
    assert load_contexts().current == ""
    assert [each["name"] for each in json.loads(alone("context", "list", "--json").out)] == ["prod"]
    left = alone("node", "list")
    assert left.code == 2
    assert "No control plane is chosen" in left.err


def test_secrets_are_never_shown(alone: Fallow) -> None:
    alone("context", "add", "prod", URL, "--token", TOKEN)
    for arguments in (("list",), ("list", "--json"), ("show",), ("show", "--json")):
        ran = alone("context", *arguments)
        assert "id1" in ran.out
        assert "hunter2" not in ran.out + ran.err


def test_the_token_comes_from_the_environment(alone: Fallow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALLOW_TOKEN", TOKEN)
    assert alone("context", "add", "prod", URL).code == 0
    assert load_contexts().contexts[0].token == TOKEN


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((URL,), "There is no API token"),
        ((URL, "--token", "fallow-join.a.hunter2.c"), "not an API token"),
        (("http://control.example", "--token", TOKEN), "unprotected"),
        (("control.example", "--token", TOKEN), "not a URL"),
        (("https://u:hunter2@x", "--token", TOKEN), "no user"),
        ((URL, "--token", TOKEN, "--ca-file", "gone.pem"), "cannot be read"),
        ((URL, "--token", TOKEN, "--ca-file", "bad.pem"), "not a certificate"),
        ((URL, "--token", TOKEN, "--ca-file", "bad.pem", "--ca-sha256", "x"), "twice"),
    ],
)
def test_add_refuses_nonsense(alone: Fallow, home: Path, arguments: tuple[str, ...], told: str) -> None:
    (home / "bad.pem").write_text("hello")
    ran = alone("context", "add", "prod", *arguments)
    assert ran.code == 2
    assert told in ran.err
    assert "hunter2" not in ran.err
    assert load_contexts().contexts == ()


def test_unknown_names(alone: Fallow) -> None:
    save_context(Context(name="prod", url=URL))
    for arguments in (("use", "x"), ("show", "x"), ("remove", "x")):
        assert alone("context", *arguments).code == 3
    ran = alone("--context", "x", "node", "list")
    assert ran.code == 2
    assert "known: prod" in ran.err


def test_a_damaged_file(alone: Fallow, home: Path) -> None:
    save_context(Context(name="prod", url=URL))
    (home / "config/fallow/contexts.json").write_text('{"contexts": [')
    ran = alone("node", "list")
    assert ran.code == 2
    assert "contexts.json is damaged" in ran.err
    assert alone("context", "add", "x", URL, "--token", TOKEN).code == 2  # and it is not overwritten


def test_the_ca_is_fetched_by_the_hash_of_its_key(alone: Fallow, ca: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def fetch_ca(url: str, ca_sha256: str) -> str:
        asked.append((url, ca_sha256))
        return ca

    monkeypatch.setattr("fallow.client.joining.fetch_ca", fetch_ca)
    assert alone("context", "add", "prod", URL, "--token", TOKEN, "--ca-sha256", "ab12").code == 0
    assert asked == [(URL, "ab12")]
    assert load_contexts().contexts[0].ca_pem == ca
