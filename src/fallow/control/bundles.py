"""Bundles: what a machine sends to become a member, checked before anything of it is stored.

The cheap checks come first: whoever guesses tokens costs a hash, not a signature. Every refusal has a name of its own.
"""

import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from fallow.control.refusals import Refused, refuse
from fallow.control.settings import Settings
from fallow.control.tokens import matches_secret
from fallow.decide.joining import lease_address, plain_address, unfit_claim, unfit_text
from fallow.decide.tokens import unfit_token, unknown_token, utc
from fallow.drivers.authority import Authority, AuthorityError, BadSignature, key_of_bundle, key_sha256
from fallow.drivers.authority.authority import BACKDATE_SECONDS
from fallow.model.credentials import JoinCredential, parse_join_credential
from fallow.model.labels import variables_problem
from fallow.model.members import JoinRequest
from fallow.model.meta import is_name
from fallow.model.peers import Peer
from fallow.model.registrations import Registration, SignedBundle
from fallow.model.tokens import JoinToken
from fallow.model.units import format_duration
from fallow.store.cache import Cache

_decoder = msgspec.json.Decoder(JoinRequest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proved:
    """A bundle that its key has signed, and the token it has the secret of."""

    asks: Registration
    key: ec.EllipticCurvePublicKey
    token: JoinToken


class Bundles:
    """Reads and checks bundles. `clock` gives UTC seconds."""

    def __init__(self, cache: Cache, authority: Authority, settings: Settings, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._authority = authority
        self._settings = settings
        self._clock = clock

    async def checked(self, signed: SignedBundle, source: str) -> Proved:
        """Return what a machine that called from `source` has proved. Raises Refused, and StoreError."""
        request = _decoded(signed.bundle)
        token = await self._token(self._credential(request))
        try:
            key = key_of_bundle(request.csr_pem, signed.bundle, signed.signature)
            id_ = key_sha256(key)
        except BadSignature as error:
            raise refuse(
                403, "bundle-forged", "Not signed by its key", str(error), "send it again: fallow join"
            ) from None
        except AuthorityError as error:
            raise refuse(400, "bad-csr", "Bad certificate signing request", str(error)) from error
        address = _observed(source)
        self._check_clock(request.sent_at)
        self._check_words(request)
        problem = unfit_token(token, request.role, address)
        if problem is not None:
            raise Refused(problem)
        return Proved(asks=self._registration(request, id_, token.id, address), key=key, token=token)

    def _registration(self, request: JoinRequest, id_: str, token_id: str, source_address: str) -> Registration:
        now = self._clock()
        return Registration(
            id=id_,
            created_at=now,
            updated_at=now,
            token_id=token_id,
            role=request.role,
            name=request.name,
            function=request.function,
            facts=request.facts,
            variables=request.variables,
            address=_address(request.address, "address-invalid", "Not a usable address"),
            temporary_address=self._temporary(request.temporary_address, source_address),
            temporary_port=request.temporary_port,
            sent_at=request.sent_at,
            source_address=source_address,
        )

    def _credential(self, request: JoinRequest) -> JoinCredential:
        try:
            credential = parse_join_credential(request.token)
        except ValueError as error:
            raise refuse(400, "token-malformed", "Not a join token", str(error)) from error
        if not hmac.compare_digest(credential.ca_sha256, self._authority.ca_sha256):
            raise refuse(
                403,
                "wrong-ca",
                "A token of another cluster",
                f"the token is for the CA {credential.ca_sha256[:16]}..., this is {self._authority.ca_sha256[:16]}...",
                "check the address, or create a token here: fallow token create",
            )
        return credential

    async def _token(self, credential: JoinCredential) -> JoinToken:
        found = await self._cache.latest("join-tokens", credential.token_id)
        token = found if isinstance(found, JoinToken) else None
        if not matches_secret(token, credential.secret) or token is None:
            raise Refused(unknown_token())
        return token

    def _check_clock(self, sent_at: float) -> None:
        """Refuse a machine whose clock would not find its certificate valid. Raises Refused."""
        now, life = self._clock(), self._settings.certificate_seconds
        off = sent_at - now
        if -BACKDATE_SECONDS <= off < life / 2:
            return
        how = f"{format_duration(abs(off))} {'ahead' if off > 0 else 'behind'}"
        raise refuse(
            403,
            "clock-off",
            "Clock off",
            f"this machine's clock is off by {format_duration(abs(off))}: it says {utc(sent_at)}, which is {how}; "
            f"here it is {utc(now)}, and a certificate given now would not be valid there",
            "set the clock, for example with: timedatectl set-ntp true; then join again",
        )

    def _check_words(self, request: JoinRequest) -> None:
        if request.name and not is_name(request.name):
            raise refuse(
                400,
                "name-invalid",
                "Not a usable name",
                f"{request.name!r} is not a DNS label: a-z, 0-9 and dashes, at most 40 of them, a letter first",
            )
        problem = variables_problem(request.variables)
        if problem:
            raise refuse(400, "bad-variable", "Not a usable variable", problem, "correct it, then join again")
        unfit = unfit_text(request)
        if unfit:
            raise refuse(400, "bundle-unfit", "Text nobody can read", f"{unfit} has characters that cannot be printed")

    def _temporary(self, claimed: str, observed: str) -> str:
        why = unfit_claim(claimed, observed, self._control_addresses()) if claimed else ""
        if why:
            raise refuse(
                400,
                "address-claimed",
                "Not a machine's own address",
                f"this machine says that it is reached at {claimed!r}: {why}",
                "leave the address out, or give the one that others reach it at",
            )
        return plain_address(claimed)

    def _control_addresses(self) -> Collection[str]:
        urls = [peer.address.url for peer in self._cache.records("peers").values() if isinstance(peer, Peer)]
        hosts = [urlsplit(url).hostname or "" for url in (self._settings.public_url, *urls)]
        hosts += [peer.address.session_host for peer in self._cache.records("peers").values() if isinstance(peer, Peer)]
        return {self._settings.session_host, *hosts} - {""}


def _decoded(text: str) -> JoinRequest:
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise refuse(
            400,
            "bundle-malformed",
            "Not a bundle",
            f"what the machine says of itself does not have the expected shape, or was cut off: {why}"[:500],
            "use the same release of fallow on both sides, or the one before",
        ) from None


def _observed(source: str) -> str:
    try:
        return lease_address(source)
    except ValueError as error:
        raise refuse(400, "bad-address", "No usable source address", str(error)) from error


def _address(text: str, code: str, title: str) -> str:
    try:
        return plain_address(text)
    except ValueError as error:
        raise refuse(400, code, title, str(error)) from None
