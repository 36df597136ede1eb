"""A real control plane under attack: whatever comes is refused with a reason, changes nothing, and hurts nobody."""

import asyncio
import contextlib
import json
import os
import pty
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from victim import FALLOW, JOIN, Answer, Victim, join, refused, request_of, wish

from fallow.model.credentials import SERVER_NAME
from fallow.model.deployments import Activity, Health, Observation
from fallow.model.frames import Frame
from fallow.model.members import Facts
from fallow.model.wire import (
    MAX_FRAME_BYTES,
    Assign,
    Heartbeat,
    Hello,
    Observed,
    ObservedAck,
    Reject,
    ToMember,
    Usage,
    Welcome,
    decode_to_member,
    encode_frame,
)
from testbed import processes

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
FILE = "services: {web: {image: shop}}"


pytestmark = pytest.mark.usefixtures("unharmed_victim")


TOKENS = "/v1/tokens"
PLANS = "/v1/plans"  # asked by POST, but nothing is done: viewers may


@pytest.mark.parametrize(
    "body",
    [
        "[" * 900_000,
        '{"role":' * 100_000,
        '{"role":"node","x":' + "[" * 400_000 + "]" * 400_000 + "}",
        '{"role":"node","labels":{"a":' + "[" * 5000 + "]" * 5000 + "}}",
        '"' + "a" * 3_000_000 + '"',
        b'{"role":"viewer","name":"\xff\xfe"}',
        '{"role":"viewer"}'.encode("utf-16"),
        '{"role":"viewer","name":"\\ud800"}',
        '{"role":"viewer","name":"a\\u0000b"}',
        '{"role":"viewer","name":"\\u001b[2J"}',
        '{"role":"viewer","name":"a\\nb"}',
        '{"role":"admin\\n"}',
        '{"role":"node\\n"}',
        '{"role":"node","ttl_seconds":1e999}',
        '{"role":"node","ttl_seconds":NaN}',
        '{"role":"node","uses":1e30}',
        '{"role":"node","labels":{"a\\n":"b"}}',
        '{"role":"node","labels":{"a":"b\\n"}}',
        '{"role":"node","labels":{"a":"\\u001b"}}',
        '{"role":"node","unknown":1}',
        '{"role":"node"',
        "null",
        "[]",
        '""',
        "",
    ],
    ids=range(25),
)
def test_bodies_of_the_wrong_shape(victim: Victim, body: str | bytes) -> None:
    before = victim.revision()
    refused(victim.ask("POST", TOKENS, body), 400, 413)
    assert victim.revision() == before


@pytest.mark.parametrize("name", ["UP", "a b", "a\n", "-a", "../x", "a" * 41, "\x1b[2J", "é", "a.b", "\u202ea"])
def test_names_that_are_no_names(victim: Victim, name: str) -> None:
    before = victim.revision()
    refused(victim.ask("POST", "/v1/deploy", {"compose": FILE, "project": name}), 400, 422)
    refused(victim.ask("POST", "/v1/deploy", {"compose": f"services: {{{json.dumps(name)}: {{image: x}}}}"}), 422)
    token = victim.create("node")
    refused(victim.ask("POST", JOIN, wish(token, name=name), token=""), 400)
    variables = [{"name": f"{name}\n", "value": ""}]
    refused(victim.ask("POST", JOIN, wish(token, variables=variables), token=""), 400)
    assert victim.revision() == before + 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/members/%00", "/v1/members/%ff", "/v1/members/..%2f..%2fca", "/v1/members/" + "a" * 20_000,
        "/v1/members/%0d%0aX-Evil:y", "/v1/members?role=x", "/v1/events?limit=0", "/v1/events?limit=" + "9" * 40,
        "/v1/events?limit=%1b", "/v1/explain", "/v1/explain?subject=%1b%5b2J%00", "/v1/deployments/%00/%0a",
        "/v1/replicas/%1b/logs", "/v1/replicas/x/logs?tail=-1", "/v1/watch?after=-1", "/v1/watch?after=x",
        "/v1/watch?after=" + "9" * 30, "/v1/watch?after=99999999", "/v1/watch?kinds=api-tokens",
        "/v1/watch?kinds=members,join-tokens", "/v1/watch?kinds=%1b", "/docs/%0d%0aX:y",
        "/docs/assets/..%2f..%2fapp.py",
        "/docs/%3Cscript%3E", "/%1b[2J", "/%c2%9b2J", "/%zz", "//", "/v1/../../etc/passwd",
    ],
)  # fmt: skip
def test_paths_and_queries(victim: Victim, path: str) -> None:
    answer = victim.ask("GET", path)
    refused(answer, 400, 404, 410)
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize("value", ["abc", "\xff", "-1", "9" * 30, "1 2", "0x1"])
def test_last_event_ids(victim: Victim, value: str) -> None:
    refused(victim.ask("GET", "/v1/watch", Last_Event_ID=value), 400)


@pytest.mark.parametrize("value", ['"', "x", '"999999999"', 'W/"x"', '"' * 5000, "\xff", '""'])
def test_if_match_garbage_changes_nothing(victim: Victim, value: str) -> None:
    name = "matched"
    victim.ask("POST", "/v1/deploy", {"compose": f"services: {{{name}: {{image: x, scale: 0}}}}"})
    before = victim.revision()
    where = f"/v1/deployments/default/{name}"
    refused(victim.ask("PATCH", where, {"replicas": 3}, If_Match=value), 412)
    refused(victim.ask("DELETE", where, If_Match=value), 412)
    assert victim.revision() == before


def test_methods_and_overrides(victim: Victim) -> None:
    before = victim.revision()
    for method in ("PUT", "TRACE", "POST", "FOO", "get"):
        refused(victim.ask(method, "/v1/members"), 405)
    assert victim.ask("GET", "/v1/tokens", X_HTTP_Method_Override="DELETE").status == 200
    assert victim.ask("HEAD", "/v1/members").status == 405
    assert victim.revision() == before


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "multipart/form-data", "multipart/form-data; boundary=x", "application/x-msgpack", ";;;", "", "\xff",
     "application/json; charset=nonsense", "application/x-www-form-urlencoded"],
)  # fmt: skip
def test_content_types(victim: Victim, content_type: str) -> None:
    answer = victim.ask("POST", TOKENS, "not json", Content_Type=content_type)
    refused(answer, 400, 415)


def test_docs_let_nothing_in(victim: Victim) -> None:
    refused(victim.ask("GET", "/docs", token="", Host='"><script>alert(1)</script>'), 400)
    answer = victim.ask("GET", "/docs?x=<script>alert(1)</script>", token="", X_Forwarded_Host="<b>alert(1)")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe-eval" not in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert "alert(1)" not in answer.text


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 400_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 50_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"POST /v1/join HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/join HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/join HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/watch HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=range(9),
)
def test_what_is_hardly_http(victim: Victim, sent: bytes) -> None:
    answer = victim.raw(sent)
    assert answer[:10] in (b"HTTP/1.1 4", b"")
    assert not answer or b"application/problem+json" in answer


def test_callers_that_stop_in_the_middle(victim: Victim) -> None:
    head = b"POST /v1/join HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    for _ in range(20):
        with victim.dial(victim.port) as line:
            line.sendall(head)


def test_many_connections_that_never_finish(victim: Victim) -> None:
    with contextlib.ExitStack() as lines:
        for number in range(300):
            line = lines.enter_context(socket.create_connection(("127.0.0.1", victim.port), timeout=10))
            if number % 3 == 0:
                line.sendall(b"\x16\x03\x01")
        for _ in range(30):
            lines.enter_context(victim.dial(victim.port)).sendall(b"GET / HTTP/1.1\r\nX-")
        with victim.little_work():
            assert victim.ask("GET", "/v1/members").status == 200


def test_guesses_are_slowed_down_and_right_tokens_pass(victim: Victim) -> None:
    id_ = victim.token.split(".")[1]
    guesses = [
        f"fallow-api.{id_}.wrong", f"fallow-api.{id_}.{'é' * 8}", "fallow-api..", "x", "a." * 1000,
        "fallow-api.\x01.\x01x", victim.create("node"), f"fallow-api.{id_}.",
    ]  # fmt: skip
    codes = set()
    for number in range(40):
        answer = victim.ask(
            "GET", "/v1/members", Authorization=f"Bearer {guesses[number % len(guesses)]}".encode().decode("latin-1")
        )
        refused(answer, 400, 401, 429)
        codes.add(answer.status)
    assert {401, 429} <= codes
    assert victim.ask("GET", "/v1/members").status == 200


def test_join_floods_lock_nobody_out(victim: Victim) -> None:
    junk = wish("x")
    codes = [victim.ask("POST", JOIN, junk, token="").status for _ in range(5)]
    assert codes == [400] * 5
    done = threading.Event()

    def flood() -> None:
        while not done.is_set():
            victim.ask("POST", JOIN, junk, token="")

    floods = [threading.Thread(target=flood) for _ in range(4)]
    for one in floods:
        one.start()
    try:
        processes.wait_until(lambda: victim.ask("POST", JOIN, junk, token="").status == 429, 20, "limit of joins")
        assert join(victim)[0]["role"] == "node"
    finally:
        done.set()
        for one in floods:
            one.join()
    processes.wait_until(lambda: victim.ask("POST", JOIN, junk, token="").status == 400, 20, "end of the limit")


def test_viewers_and_operators_may_do_no_more(victim: Victim) -> None:
    before = victim.revision()
    schema = victim.ask("GET", "/docs/openapi.json", token="").body
    tried = 0
    for path, methods in schema["paths"].items():
        for method in methods:
            where = path
            for part in ("reference", "project", "name", "replica_id", "token_id"):
                where = where.replace(f"{{{part}}}", "x")
            logs = where.endswith("/logs")
            if (method == "get" and not logs and where != TOKENS) or where in (JOIN, "/v1/renew", PLANS):
                continue
            tried += 1
            body = None if method in ("get", "delete") else "{"
            if not where.startswith(TOKENS):
                assert refused(victim.ask(method.upper(), where, body, token=victim.tokens["viewer"]), 403)
            else:
                refused(victim.ask(method.upper(), where, body, token=victim.tokens["operator"]), 403)
            refused(victim.ask(method.upper(), where, body, token=""), 401)
    assert tried >= 9
    assert victim.revision() == before


@pytest.mark.parametrize(
    "service",
    [
        "x-fallow: {routes: ['http://a b/x']}", 'x-fallow: {routes: ["http://a/x;show info"]}',
        'x-fallow: {routes: [{host: "a\\nbackend x", port: 80}]}',
        'x-fallow: {routes: [{host: a, path: "/x\\ny", port: 80}]}',
        "x-fallow: {routes: [{host: a, path: '/%[env(HOME)]', port: 80}]}", "x-fallow: {routes: ['http://a/../b']}",
        "x-fallow: {selector: 'a=b;c\\u001b'}", "labels: {io.fallow.replica: x}", "labels: ['io.fallow.node=x']",
        'labels: {"a\\tb": x}', 'labels: {a: "\\0"}', 'environment: {"A=B": x}', 'environment: {A: "\\u001b[2J"}',
        'environment: {"A\\nB": x}', "env_file: ../../../etc/passwd", "env_file: /etc/shadow", "image: '-v /:/host'",
        'image: "a\\nb"', "command: !!python/object/apply:os.system [id]", "hostname: 'a b'", "user: 'root; id'",
        "volumes: ['/:/host']", "privileged: true", "scale: 100001", "cpus: .nan", "mem_limit: 1e99",
        "environment: ['A=${B:?x}']", "environment: ['A=${']", "command: '${A:-' # x",
    ],
)  # fmt: skip
def test_compose_files_that_want_too_much(victim: Victim, service: str) -> None:
    before = victim.revision()
    text = f"services:\n  web:\n    expose: [80]\n    {service}\n" + ("" if "image" in service else "    image: shop\n")
    body = refused(victim.ask("POST", "/v1/deploy", {"compose": text}), 422)
    assert body["errors"]
    assert "root:" not in json.dumps(body)
    assert victim.revision() == before


def test_bombs_do_not_hold_up_others(victim: Victim) -> None:
    references = " ".join(f"$a{number:x}" for number in range(130_000))
    many = "".join(f"  a{number}: {{image: x, scale: 100000}}\n" for number in range(100))
    files = [
        BOMB, "[" * 1_000_000, "#\n" * 500_000, "a: " + "x " * 500_000, "%A\n" * 340_000,
        f"services:\n  a:\n    image: x\n    command: {references}\n", f"services:\n{many}",
    ]  # fmt: skip
    before = victim.revision()
    codes: list[Answer] = []
    threads = [
        threading.Thread(
            target=lambda text=text: codes.append(
                victim.ask("POST", "/v1/deploy", {"compose": text, "dry_run": True, "variables": {}})
            )
        )
        for text in files
    ]
    for thread in threads:
        thread.start()
    waits = []
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        assert victim.ask("GET", "/v1/version").status == 200
        waits.append(time.monotonic() - began)
    for thread in threads:
        thread.join()
    assert len(codes) == len(files)
    for answer in codes:
        refused(answer, 422)
    assert max(waits) < 1.5, sorted(waits)[-5:]
    assert victim.revision() == before


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())],
    ids=["rsa", "p384"],
)
def test_keys_of_other_kinds(victim: Victim, key: Any) -> None:
    token = victim.create("node")
    before = victim.revision()
    other = wish(token, csr_pem=request_of(key))
    assert "P-256" in refused(victim.ask("POST", JOIN, other, token=""), 400)["detail"]
    assert victim.revision() == before


def test_requests_that_ask_for_more(victim: Victim) -> None:
    token = victim.create("node")
    good = request_of(ec.generate_private_key(ec.SECP256R1()))
    for csr in ("x", good[:-60], good.replace("A", "B", 3), good + "x" * 8192, good.replace("REQUEST", "CRL"), "\x00"):
        refused(victim.ask("POST", JOIN, wish(token, csr_pem=csr), token=""), 400)
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = wish(token, key, csr_pem=request_of(key, SERVER_NAME, "evil.example"))
    identity = victim.ask("POST", JOIN, greedy, token="").body
    made = x509.load_pem_x509_certificate(identity["certificate_pem"].encode())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [f"fallow://member/node/{identity['member_id']}"]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert SERVER_NAME not in made.subject.rfc4514_string()


def test_join_tokens_that_do_not_count(victim: Victim) -> None:
    used, revoked, short = victim.create("node"), victim.create("node"), victim.create("node", ttl_seconds=0.01)
    assert victim.ask("DELETE", f"/v1/tokens/{revoked.split('.')[1]}").status == 204
    assert victim.ask("POST", JOIN, wish(used), token="").status == 201
    foreign = f"{used[:-64]}{'0' * 64}"
    garbled = used.replace(used.split(".")[2], "x" * 32)
    before = victim.revision()
    for token, codes in (
        (used, (403,)), (revoked, (403,)), (short, (403,)), (foreign, (403,)), (garbled, (403, 429)),
        (victim.token, (400,)), ("fallow-join.a.b", (400,)), (used.replace("join.", "join.é"), (400,)),
    ):  # fmt: skip
        body = refused(victim.ask("POST", JOIN, wish(token), token=""), *codes)
        assert token.split(".")[2][:8].ljust(8) not in body.get("detail", "")
    node = victim.create("node")
    refused(victim.ask("POST", JOIN, wish(node, role="gateway"), token=""), 403)
    refused(victim.ask("POST", JOIN, wish(node, role="cluster"), token=""), 403)
    assert victim.revision() == before + 1


def test_certificates_and_tokens_in_the_wrong_place(victim: Victim) -> None:
    identity, chain = join(victim)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=victim.ca_pem)
    context.load_cert_chain(chain)
    with socket.create_connection(("127.0.0.1", victim.port), timeout=10) as plain:
        line = context.wrap_socket(plain, server_hostname=SERVER_NAME)
        line.sendall(b"GET /v1/members HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert line.recv(4096).startswith(b"HTTP/1.1 401 ")
        line.close()
    with contextlib.suppress(OSError), victim.dial(victim.session_port) as line:
        line.sendall(f"GET /v1/members HTTP/1.1\r\nAuthorization: Bearer {victim.token}\r\n\r\n".encode())
        assert line.recv(4096) == b""
    stolen = request_of(ec.generate_private_key(ec.SECP256R1()))
    renewal = {"member_id": identity["member_id"], "csr_pem": stolen}
    refused(victim.ask("POST", "/v1/renew", renewal, token=""), 403, 429)


@contextlib.asynccontextmanager
async def line_of(victim: Victim, chain: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=victim.ca_pem)
    context.load_cert_chain(chain)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", victim.session_port, ssl=context, server_hostname=SERVER_NAME
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


HELLO = Hello(protocol=1, agent_version="x", boot_id="b", facts=Facts(cpus=4, memory_bytes=2**32, architecture="amd64"))


async def next_frame(reader: asyncio.StreamReader, kind: type[Frame]) -> ToMember:
    async with asyncio.timeout(10):
        while True:
            size = int.from_bytes(await reader.readexactly(4), "big")
            frame = decode_to_member(await reader.readexactly(size))
            if isinstance(frame, kind):
                return frame
            assert not isinstance(frame, Reject), frame


def packed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def beat_of(value: float) -> bytes:
    return packed(
        encode_frame(Heartbeat(usage=Usage(cpus=1.5)))[4:].replace(b"\xcb\x3f\xf8" + bytes(6), value_of(value))
    )


def value_of(value: float) -> bytes:
    return msgspec.msgpack.encode(value)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, packed(b""), packed(b"\xc1"), packed(b"\x80"),
        packed(b"\x81\xa1t\xa3xyz"),
        (MAX_FRAME_BYTES + 1).to_bytes(4, "big") + b"x", encode_frame(HELLO), beat_of(float("nan")),
        beat_of(float("inf")), beat_of(-1.0), packed(b"\x82\xa1t\xa4beat\xa1z" + b"\x91" * 100_000 + b"\xc0"),
    ],
    ids=range(12),
)  # fmt: skip
async def test_session_frames_that_break_the_protocol(victim: Victim, sent: bytes) -> None:
    identity, chain = await asyncio.to_thread(join, victim)
    async with line_of(victim, chain) as (reader, writer):
        writer.write(encode_frame(HELLO))
        await next_frame(reader, Welcome)
        writer.write(sent)
        async with asyncio.timeout(10):
            while await reader.read(65536):
                pass
    async with line_of(victim, chain) as (reader, writer):
        writer.write(encode_frame(HELLO))
        await next_frame(reader, Welcome)
    view = (await asyncio.to_thread(victim.ask, "GET", f"/v1/members/{identity['member_id']}")).body
    assert view["used_cpus"] == 0


async def test_a_node_cannot_speak_for_another(victim: Victim) -> None:
    (one, one_chain), (_, two_chain) = [await asyncio.to_thread(join, victim) for _ in range(2)]
    label = {"labels": {"rogue": "no"}}
    await asyncio.to_thread(victim.ask, "PATCH", f"/v1/members/{one['member_id']}", label)
    text = "services: {honest: {image: shop, x-fallow: {selector: rogue=no}}}"
    async with line_of(victim, one_chain) as (honest, writer), line_of(victim, two_chain) as (rogue, rogue_writer):
        for line in (writer, rogue_writer):
            line.write(encode_frame(HELLO))
        await next_frame(rogue, Welcome)
        assert (await asyncio.to_thread(victim.ask, "POST", "/v1/deploy", {"compose": text})).status == 200
        while True:
            given = await next_frame(honest, Assign)
            assert isinstance(given, Assign)
            if given.assignments:
                break
        id_ = given.assignments[0].replica_id
        lie = Observation(
            replica_id=id_, serial=2**40, activity=Activity.RUNNING, health=Health.HEALTHY, started=True, at=1.0
        )
        strange = Observation(replica_id="../x\x1b", serial=1, activity=Activity.FAILED, message="\x1b[2J")
        rogue_writer.write(encode_frame(Observed(batch=1, observations=(lie, strange))))
        await next_frame(rogue, ObservedAck)
        items = (await asyncio.to_thread(victim.ask, "GET", "/v1/replicas?deployment=honest")).body["items"]
        assert [item["state"] for item in items if item["id"] == id_] == ["placed"]
        assert [item["health"] for item in items if item["id"] == id_] == [""]
    await asyncio.to_thread(victim.ask, "DELETE", "/v1/deployments/default/honest")


def test_terminals_are_safe_from_what_machines_say(victim: Victim) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
    facts = dict.fromkeys(("hostname", "os", "kernel", "architecture", "engine", "agent_version"), evil)
    variables = [{"name": "a", "value": evil}]
    for told in ({"function": evil}, {"facts": facts}, {"variables": variables}):
        body = refused(victim.ask("POST", JOIN, wish(victim.create("node"), name="evil", **told), token=""), 400)
        assert body["type"] in ("urn:fallow:bundle-unfit", "urn:fallow:bad-variable")
    identity, _ = join(victim, name="evil", function="; reboot # $(reboot) | `reboot` %x")
    for arguments in (
        ["node", "list"], ["node", "list", "--json"], ["node", "show", "evil"], ["node", "show", "evil", "--json"],
        ["events", "--json"], ["events"], ["explain", "evil"], ["node", "show", evil], ["--output-nothing", evil],
    ):  # fmt: skip
        shown = on_terminal(victim, arguments)
        for sign in ("\x1b]0", "\x1b[2J", "\x9b", "\x07", "\u202e"):
            assert sign not in shown, (arguments, shown)
    told = json.loads(on_terminal(victim, ["node", "show", "evil", "--json"]))
    assert told["function"] == "; reboot # $(reboot) | `reboot` %x"
    assert victim.ask("DELETE", f"/v1/members/{identity['member_id']}").status == 204


def on_terminal(victim: Victim, arguments: list[str]) -> str:
    """Run the command line on a terminal and return all it writes there."""
    master, slave = pty.openpty()
    environment = {**os.environ, **victim.environment, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen([FALLOW, *arguments], stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    found = b""
    with contextlib.suppress(OSError):  # a terminal whose other side is closed
        while part := os.read(master, 65536):
            found += part
    os.close(master)
    process.wait(20)
    return found.decode(errors="surrogateescape")


@pytest.mark.parametrize("file", ["/dev/zero"])
def test_env_files_without_an_end(victim: Victim, tmp_path: Path, file: str) -> None:
    (tmp_path / "compose.yaml").write_text(f"services: {{web: {{image: shop, env_file: {file}}}}}")
    done = subprocess.run(
        [FALLOW, "deploy", str(tmp_path / "compose.yaml"), "--dry-run"],
        capture_output=True, text=True, timeout=20, check=False, env={**os.environ, **victim.environment},
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ['!!int ""', "!!bool x", "!!timestamp x"])
def test_yaml_that_trips_its_reader(victim: Victim, tmp_path: Path, value: str) -> None:
    (tmp_path / "compose.yaml").write_text(f"services: {{web: {{image: shop, command: {value}}}}}")
    done = subprocess.run(
        [FALLOW, "deploy", str(tmp_path / "compose.yaml"), "--dry-run"],
        capture_output=True, text=True, timeout=20, check=False, env={**os.environ, **victim.environment},
    )  # fmt: skip
    assert done.returncode == 0 or "Compose file cannot be used" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_secrets_stay_where_they_belong(victim: Victim) -> None:
    """Last, when everything has happened: nothing of any secret lies about, and nobody else may read what is kept."""
    secrets = [token.split(".")[2] for token in (victim.token, *victim.tokens.values())]
    events = victim.ask("GET", "/v1/events?limit=10000").text
    listing = victim.ask("GET", "/v1/tokens").text
    arguments = Path(f"/proc/{victim.process.pid}/cmdline").read_text()
    for secret in secrets:
        assert secret not in victim.log + events + listing + arguments
    for path in (victim.folder / "data").rglob("*"):
        mode = path.stat().st_mode & 0o777
        assert mode == (0o700 if path.is_dir() else 0o644 if path.name == "ca.crt" else 0o600), (path, oct(mode))
        content = path.read_bytes() if path.is_file() else b""
        assert not any(secret.encode() in content for secret in secrets), path
        assert b"PRIVATE KEY" not in content or path.name in ("ca.key", "server.pem")
    assert (victim.folder / "data").stat().st_mode & 0o777 == 0o700
    assert (victim.folder / "config/fallow").stat().st_mode & 0o777 == 0o700
    assert (victim.folder / "config/fallow/contexts.json").stat().st_mode & 0o777 == 0o600
