"""A real control plane and requests that are ambiguous, packed, endless, or sent with credentials that do not count."""

import contextlib
import gzip
import json
import socket
import unicodedata
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from victim import JOIN, Victim, join, refused, request_of, wish

TOKENS = "/v1/tokens"
HEAD = b"POST /v1/join HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SMUGGLED = b"GET /v1/version HTTP/1.1\r\nHost: a\r\n\r\n"


pytestmark = pytest.mark.usefixtures("unharmed_victim")


def test_of_two_equal_keys_the_last_counts_for_every_check(victim: Victim) -> None:
    """Nobody else reads a body before us, so there is nobody to disagree with: an early value hides nothing."""
    before = victim.revision()
    refused(victim.ask("POST", TOKENS, '{"role":"viewer","role":"root"}'), 400)
    refused(victim.ask("POST", TOKENS, '{"role":"node","labels":{"a":"b","a":"\\n"}}'), 400)
    refused(victim.ask("POST", TOKENS, '{"role":"admin","role":"viewer"}', token=victim.tokens["operator"]), 403)
    assert victim.revision() == before
    assert victim.ask("POST", TOKENS, '{"role":"admin","role":"viewer"}').body["role"] == "viewer"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_packed_bodies_are_never_unpacked(victim: Victim, encoding: str) -> None:
    bomb = gzip.compress(b'{"role":"' + b"a" * 100_000_000 + b'"}')
    with victim.little_work():
        refused(victim.ask("POST", TOKENS, bomb, Content_Encoding=encoding), 400)
        refused(victim.ask("POST", JOIN, gzip.compress(b"{}"), token="", Content_Encoding=encoding), 400)


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 400\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + SMUGGLED,
        HEAD + b"Content-Length: 2, 40\r\n\r\n{}" + SMUGGLED,
        HEAD + b"Content-Length: +2\r\n\r\n{}" + SMUGGLED,
        HEAD + b"Content-Length: -2\r\n\r\n{}" + SMUGGLED,
        HEAD + b"Content-Length: 0x2\r\n\r\n{}" + SMUGGLED,
        HEAD + b"Content-Length : 2\r\n\r\n{}" + SMUGGLED,
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\n{\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 100_000 + b"\r\n{\r\n0\r\n\r\n" + SMUGGLED,
        b"GET /v1/version HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\nTransfer-Encoding:\r\n chunked\r\n\r\nzz\r\n" + SMUGGLED,
        b"GET /v1/version HTTP/1.1\rHost: a\r\n\r\n" + SMUGGLED,
    ],
    ids=range(18),
)
def test_two_lengths_smuggle_no_second_request(victim: Victim, sent: bytes) -> None:
    answer = victim.raw(sent)
    assert answer.count(b"HTTP/1.1 ") <= 1, answer
    assert answer[:10] in (b"HTTP/1.1 4", b""), answer


@pytest.mark.parametrize(
    "path", ["/v1/members/" + "a" * 1_000_000, "/v1/events?subject=" + "%41" * 300_000, "/" + "../" * 200_000]
)
def test_urls_without_an_end(victim: Victim, path: str) -> None:
    answer = victim.raw(f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {victim.token}\r\n\r\n".encode())
    assert answer[:10] in (b"HTTP/1.1 4", b"")


@pytest.mark.parametrize(
    "strange", ["a\0b", "a\x1b[2Jb", "a\u202eb", "a\u2066b", "a\u200bb", "a\ufeffb", "e\u0301", "a\x7fb"]
)
def test_free_text_of_people_is_plain(victim: Victim, strange: str) -> None:
    """A token's name is in every event its holder causes: it neither moves a cursor nor looks like another's."""
    before = victim.revision()
    refused(victim.ask("POST", TOKENS, {"role": "viewer", "name": strange}), 400)
    refused(victim.ask("PATCH", f"/v1/members/{'x'}", {"labels": {strange: "a"}}), 400, 404)
    refused(victim.ask("POST", TOKENS, {"role": "node", "labels": {"a": strange}}), 400)
    assert victim.revision() == before
    plain = unicodedata.normalize("NFC", "Renée")
    assert victim.ask("POST", TOKENS, {"role": "viewer", "name": plain}).body["name"] == plain


@pytest.mark.parametrize(
    "id_", ["..", "../tokens", "..%2ftokens", "%2e%2e%2ftokens", "....//", "x%00", "%5c..%5cx", "*", "%25"]
)
def test_ids_lead_nowhere_else(victim: Victim, id_: str) -> None:
    before = victim.revision()
    for method, where in (
        ("DELETE", f"/v1/members/{id_}"), ("DELETE", f"{TOKENS}/{id_}"), ("DELETE", f"/v1/deployments/{id_}/{id_}"),
        ("PATCH", f"/v1/members/{id_}"), ("PATCH", f"/v1/deployments/default/{id_}"),
        ("GET", f"/v1/replicas/{id_}/logs"), ("DELETE", f"/v1/vms/{id_}"), ("PATCH", f"/v1/vms/{id_}"),
        ("DELETE", f"/v1/server-pools/{id_}"), ("PATCH", f"/v1/server-pools/{id_}"),
    ):  # fmt: skip
        refused(victim.ask(method, where, {} if method == "PATCH" else None), 400, 404, 405)
    assert victim.revision() == before


def merging(levels: int) -> str:
    """Return a file whose every level merges the level before it ten times."""
    lines = ["x0: &x0 {a: b}"]
    lines += [f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 10)}], k{n}: v}}" for n in range(1, levels)]
    return "\n".join([*lines, f"services: {{web: {{image: x, environment: {{<<: *x{levels - 1}}}}}}}"])


@pytest.mark.parametrize(
    "text",
    [
        merging(30), "&a [*a]", "a: &a {<<: *a}", "? " * 50_000, "- " * 100_000, "{a: " * 50_000, "!!set {" * 10_000,
        "services: {web: {image: x, environment: {A: " + "9" * 1_000_000 + "}}}",
        "services: {web: {image: x, mem_limit: " + "9" * 100_000 + "}}",
        "services: {web: {image: x, scale: 1e400}}", "services: {web: {image: x, scale: .nan}}",
        "services: {web: {image: x, scale: .inf}}", "services: {web: {image: x, scale: 0x" + "f" * 5000 + "}}",
        "services: {web: {image: x}, web: {image: y}}", "--- a\n--- b", "%YAML 9.9\n---\na: b", "\ufeff\ufeffa: b",
        "services: {web: {image: x, command: !!binary " + "A" * 900_000 + "}}",
    ],
    ids=range(18),
)  # fmt: skip
def test_yaml_that_grows_or_never_ends(victim: Victim, text: str) -> None:
    before = victim.revision()
    with victim.little_work(10):
        answer = victim.ask("POST", "/v1/deploy", {"compose": text, "dry_run": True})
    assert answer.status in (200, 400, 422), answer.text[:300]  # a file that is only large may be one that works
    assert len(answer.text) < 4_000_000
    assert victim.revision() == before


def damaged(token: str) -> dict[str, str]:
    """Return what is nearly this token."""
    kind, id_, secret, *rest = token.split(".")

    def made(*parts: str) -> str:
        return ".".join([*parts, *rest])

    return {
        "cut off": made(kind, id_, secret[:-1]), "longer": made(kind, id_, secret + "A"),
        "half": token[: len(token) // 2], "loud": token.upper(), "loud id": made(kind, id_.upper(), secret),
        "other case": made(kind, id_, secret.swapcase()),
        "no secret": made(kind, id_, ""), "no id": made(kind, "", secret), "other kind": made("fallow-x", id_, secret),
        "backwards": made(kind, secret, id_), "padded": made(kind, id_, secret + "="), "first only": kind,
        "last changed": made(kind, id_, secret[:-1] + ("A" if secret[-1] != "A" else "B")),
    }  # fmt: skip


def test_tokens_that_are_nearly_right(victim: Victim) -> None:
    join_token = victim.create("node")
    before = victim.revision()
    for how, wrong in damaged(victim.token).items():
        assert refused(victim.ask("GET", "/v1/members", token=wrong), 401, 429), how
    for how, wrong in damaged(join_token).items():
        body = refused(victim.ask("POST", JOIN, wish(wrong), token=""), 400, 403, 429)
        assert join_token.split(".")[2] not in json.dumps(body), how
    assert victim.revision() == before
    assert victim.ask("POST", JOIN, wish(join_token), token="").status == 201


def operations(victim: Victim) -> list[tuple[str, str, dict[str, Any]]]:
    paths = victim.ask("GET", "/docs/openapi.json", token="").body["paths"]
    found = []
    for path, methods in paths.items():
        where = path
        for part in ("reference", "project", "name", "replica_id", "token_id"):
            where = where.replace(f"{{{part}}}", "x")
        found += [(method.upper(), where, told) for method, told in methods.items()]
    return found


@pytest.mark.parametrize("ended", ["revoked", "expired"])
def test_a_token_that_has_ended_opens_nothing(victim: Victim, ended: str) -> None:
    if ended == "revoked":
        token = victim.create("admin")
        assert victim.ask("DELETE", f"{TOKENS}/{token.split('.')[1]}").status == 204
    else:
        token = victim.create("admin", ttl_seconds=0.01)
    before, tried = victim.revision(), 0
    for method, where, told in operations(victim):
        if told.get("security") == [{}]:
            continue
        tried += 1
        refused(victim.ask(method, where, {} if method in ("POST", "PATCH") else None, token=token), 401, 429)
    assert tried >= 19
    assert victim.revision() == before


def test_a_crowd_behind_one_address_joins_while_somebody_there_guesses(victim: Victim) -> None:
    """What succeeds is not counted: one token for many, and each comes in although the address is over its limit."""
    token = victim.create("gateway", uses=40)
    wrong = victim.create("node").replace(".", ".x", 1)
    junk = wish(wrong)
    while victim.ask("POST", JOIN, junk, token="").status != 429:
        pass
    answer = victim.ask("POST", JOIN, junk, token="")
    assert int(answer.headers["retry-after"]) >= 1
    refused(answer, 429)
    for _ in range(40):
        assert victim.ask("POST", JOIN, wish(token, role="gateway"), token="").status == 201


def test_renewing_for_somebody_else(victim: Victim) -> None:
    (one, _), (other, _) = join(victim), join(victim)
    before = victim.revision()
    mine = request_of(ec.generate_private_key(ec.SECP256R1()))
    for id_ in (one["member_id"], other["member_id"], "n-unknown", "", "../x", "\0", "x" * 64):
        refused(victim.ask("POST", "/v1/renew", {"member_id": id_, "csr_pem": mine}, token=""), 403, 429)
    assert victim.revision() == before


def test_heads_and_bodies_that_drip_hold_nobody_up(victim: Victim) -> None:
    """Fifty callers that send a byte now and then; the server drops them by itself, see the tests of connections."""
    begun = b"GET /v1/version HTTP/1.1\r\nHost: a\r\nX-Slow: "
    body = HEAD + b"Content-Length: 50000\r\n\r\n{"
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(victim.dial(victim.port)) for _ in range(50)]
        for number, line in enumerate(lines):
            line.sendall(begun if number % 2 else body)
        for _ in range(20):
            for line in lines:
                with contextlib.suppress(OSError):
                    line.sendall(b"a")
            with victim.little_work():
                assert victim.ask("GET", "/v1/version", token="").status == 200
        assert isinstance(lines[0], socket.socket)
