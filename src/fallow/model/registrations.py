"""Registrations: machines that ask to become members, from their bundle to what was decided about it.

A machine sends a bundle, signed with the key it made. Any process of the control plane checks it and stores a
registration; the process that leads decides. What is left of an admitted one is the member and its key.
"""

import enum
from typing import Annotated

import msgspec

from fallow.model.labels import Labels, Variable
from fallow.model.members import Facts, Role, ShortText
from fallow.model.meta import Record
from fallow.model.problems import Problem

# What a signature of a bundle covers before the bundle itself: no other signature of the same key can pass for it.
BUNDLE_CONTEXT = b"fallow join bundle 1\n"
MAX_BUNDLE = 40 * 1024


class RegistrationState(enum.StrEnum):
    """How far a registration has come. One that is admitted is deleted: the member tells the rest."""

    WAITING = "waiting"  # for the process that leads
    PENDING = "pending"  # for a person's approval
    REFUSED = "refused"  # the machine may ask again with something else
    REJECTED = "rejected"  # by a person; the same token is of no more use to this machine


class Registration(Record, frozen=True, kw_only=True):
    """One machine's wish to become a member. Its id is the hex SHA-256 of the machine's key; made when it asked."""

    token_id: str
    role: Role
    state: RegistrationState = RegistrationState.WAITING
    # said by the machine, bounded, never trusted
    name: str = ""
    function: str = ""
    facts: Facts = Facts()
    variables: tuple[Variable, ...] = ()
    address: str = ""  # the lease address it wishes for
    temporary_address: str = ""  # where it believes to be reached now: recorded and shown, never dialled
    temporary_port: int = 0
    sent_at: float = 0.0  # by its own clock, UTC seconds
    # observed
    source_address: str
    # decided
    approved_by: str = ""
    labels: Labels = {}  # given with the approval, beside the token's
    problem: Problem | None = None


class MemberKey(Record, frozen=True, kw_only=True):
    """A key a machine joined with; its id is the key's hex SHA-256. Stays when the key is no longer accepted.

    It is accepted while its member is there and has it; why it is not any more, a `members.Revocation` tells.
    """

    member_id: str
    token_id: str
    source_address: str = ""  # where it joined from


class SignedBundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine sends: a `JoinRequest` as JSON text, and the signature of exactly that text.

    The signature is by the key of the request's `csr_pem`: ECDSA with SHA-256, DER, in base64, over BUNDLE_CONTEXT
    and the text in UTF-8.
    """

    bundle: Annotated[str, msgspec.Meta(max_length=MAX_BUNDLE)]
    signature: Annotated[str, msgspec.Meta(max_length=128)]


class JoinWaiting(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a machine that waits for a person: ask again, with the same key and token, after some seconds."""

    registration_id: str
    message: str
    retry_after_seconds: float


class RegistrationView(msgspec.Struct, frozen=True, kw_only=True):
    """A registration as the API shows it, with what a person needs to decide."""

    id: str
    state: RegistrationState
    name: str  # as proposed, or as it would be made from the host name
    role: Role
    source_address: str
    temporary_address: str = ""
    temporary_port: int = 0
    address: str = ""
    function: str = ""
    facts: Facts = Facts()
    variables: tuple[Variable, ...] = ()
    labels: dict[str, str] = {}  # it would get
    token_id: str
    token_created_by: str = ""
    requested_at: float
    expires_at: float  # when it is forgotten, if nobody decides
    problem: Problem | None = None


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let a pending machine in, under another name or with more labels if wished."""

    name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    labels: Labels = {}


class Rejection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Turn a pending machine away; it is told the reason."""

    reason: ShortText = ""
