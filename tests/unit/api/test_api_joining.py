"""Joining and renewing over HTTP; the rules themselves are tested with admission."""

import ssl
from collections.abc import Callable
from typing import Any

from api_rig import NOW, SOURCE, Rig, machine_request, problem
from bundles import bundle_body
from cryptography.hazmat.primitives.asymmetric import ec

from fallow.api.limits import Limits, RateLimit
from fallow.model.credentials import parse_join_credential
from fallow.model.members import Facts


async def join_token(rig: Rig, **more: Any) -> str:
    made = await rig.call("POST", "/v1/tokens", json={"role": "node", **more})
    assert made.status_code == 201
    secret: str = made.json()["secret"]
    return secret


async def test_ca_is_the_one_of_the_token(rig: Rig) -> None:
    pem = (await rig.call("GET", "/v1/ca", role=None)).text
    assert ssl.PEM_cert_to_DER_cert(pem)
    assert parse_join_credential(await join_token(rig)).ca_sha256 == rig.authority.ca_sha256


async def test_machine_joins_and_renews_without_any_api_token(rig: Rig) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    token = await join_token(rig, labels={"zone": "a"})
    body = bundle_body(token, key, facts=Facts(hostname="Box.local"), sent_at=NOW)
    answer = await rig.call("POST", "/v1/join", role=None, json=body)
    assert answer.status_code == 201
    identity = answer.json()
    assert (identity["name"], identity["session_host"], identity["session_port"]) == ("box", "control.example", 8444)
    assert identity["lease"]["address"] == SOURCE
    member = (await rig.call("GET", "/v1/members/box")).json()
    assert (member["labels"], member["state"], member["address"]) == ({"zone": "a"}, "joining", SOURCE)
    again = await rig.call("POST", "/v1/join", role=None, json=body)
    assert again.json()["member_id"] == identity["member_id"]
    rig.clock.now += 10 * 86400
    renewal = {"member_id": identity["member_id"], "csr_pem": machine_request(key)}
    renewed = await rig.call("POST", "/v1/renew", role=None, json=renewal)
    assert renewed.status_code == 200
    assert renewed.json()["certificate_pem"] != identity["certificate_pem"]
    renewal["csr_pem"] = machine_request()
    problem(await rig.call("POST", "/v1/renew", role=None, json=renewal), 403, "key-mismatch")
    assert (await rig.call("DELETE", "/v1/members/box")).status_code == 204
    problem(await rig.call("POST", "/v1/renew", role=None, json=renewal), 403, "member-removed")


async def test_join_calls_are_limited(make_rig: Callable[..., Any]) -> None:
    async with make_rig(limits=Limits(joins=RateLimit(2, 0.5))) as rig:
        body = bundle_body("x", sent_at=NOW)
        for _ in range(2):
            problem(await rig.call("POST", "/v1/join", role=None, json=body), 400, "token-malformed")
        for path in ("/v1/join", "/v1/renew"):
            wanted = body if path == "/v1/join" else {"member_id": "x", "csr_pem": "y"}
            answer = await rig.call("POST", path, role=None, json=wanted)
            problem(answer, 429, "too-many-requests")
            assert answer.headers["retry-after"] == "2"


async def test_guessing_join_tokens_is_limited_and_good_ones_still_pass(make_rig: Callable[..., Any]) -> None:
    async with make_rig(limits=Limits(failures=RateLimit(2, 0.01))) as rig:
        good = await join_token(rig)
        guess = good.replace(good.split(".")[2], "x" * 32)
        body = bundle_body(guess, sent_at=NOW)
        for _ in range(2):
            problem(await rig.call("POST", "/v1/join", role=None, json=body), 403, "token-unknown")
        problem(await rig.call("POST", "/v1/join", role=None, json=body), 429, "too-many-requests")
        body = bundle_body(good, sent_at=NOW)
        assert (await rig.call("POST", "/v1/join", role=None, json=body)).status_code == 201


async def test_join_without_a_usable_source_address(rig: Rig) -> None:
    body = bundle_body(await join_token(rig), sent_at=NOW)
    for source in ("testclient", "", "169.254.169.254", "0.0.0.0", "224.0.0.1"):
        async with rig.client(None, source=source) as client:
            problem(await client.post("/v1/join", json=body), 400, "bad-address")
    async with rig.client(None, source="::ffff:10.1.2.3") as client:
        assert (await client.post("/v1/join", json=body)).json()["lease"]["address"] == "10.1.2.3"
