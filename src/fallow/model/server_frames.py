"""Frames between a server that lends and its control plane."""

from typing import Annotated

import msgspec

from fallow.model.frames import Frame
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import ServerReport
from fallow.model.vms import VmId, VmOrder

# server -> control plane


class ServerReported(Frame, frozen=True, kw_only=True, tag="server"):
    """What a server uses, lends and expects now; about once a second, and at once when something has to go."""

    report: ServerReport


class VmTokenAsked(Frame, frozen=True, kw_only=True, tag="vm-token"):
    """A virtual machine is about to be made, and needs a token to join with. Answered by VmTokenGranted."""

    vm_id: VmId


class ServerLeaving(Frame, frozen=True, kw_only=True, tag="server-leaving"):
    """The server shuts down soon: what it has lent should move away, as if it were drained."""

    reason: Annotated[str, msgspec.Meta(max_length=256)] = ""


# control plane -> server


class SetLending(Frame, frozen=True, kw_only=True, tag="set-lending"):
    """How a server should lend, and all its virtual machines; replaces everything it was told.

    `closed` says why nothing may be lent just now although the policy would; empty: it may.
    """

    policy: LendingPolicy
    closed: str = ""
    vms: tuple[VmOrder, ...] = ()


class VmTokenGranted(Frame, frozen=True, kw_only=True, tag="vm-token-granted"):
    """The answer to VmTokenAsked: a token for this virtual machine alone, and where to use it.

    An older token of it is of no use any more. Without a token, `problem` says why.
    """

    vm_id: str
    token: str = ""
    url: str = ""  # empty: where the server's own session is
    problem: str = ""

    def __repr__(self) -> str:
        """Keep the token out of logs and tracebacks."""
        return f"VmTokenGranted({self.vm_id}{', with a token' if self.token else f': {self.problem}'})"
