"""The loops of upgrades: one decides who is next, one tells the members whose sessions this process holds."""

from collections.abc import Callable

import structlog

from fallow.control.commits import commit_again
from fallow.control.hub import Hub, Link
from fallow.control.ids import new_id
from fallow.control.refusals import Refused
from fallow.control.runner import FOLLOWER_REST, SESSIONS, Controller
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.decide.upgrades import advance, gave_up
from fallow.drivers.packages import Packages
from fallow.model.members import Member
from fallow.model.wire import UPGRADE_PROTOCOL, Upgrade, UpgradeReported
from fallow.store.applier import Applier
from fallow.store.cache import Cache

_log = structlog.get_logger("fallow.control")

TRIAL_SECONDS = 60.0


def upgrades_controller(make_id: Callable[[], str]) -> Controller:
    """Return the loop of the process that leads."""
    return Controller(
        name="upgrades",
        kinds=frozenset({"members", "upgrades"}),
        every_seconds=5.0,
        decide=lambda snapshot, now: advance(snapshot, now, make_id) if snapshot.upgrades else Plan(),
    )


class Upgrades:
    """Hands packages to the members that should have them, and takes in what came of it. `clock` gives UTC seconds."""

    def __init__(
        self, cache: Cache, applier: Applier, hub: Hub, packages: Packages, clock: Callable[[], float]
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._hub = hub
        self._packages = packages
        self._clock = clock
        self._sent: dict[Link, str] = {}  # the upgrade each open session was told of

    def controller(self) -> Controller:
        """Return the loop of every process."""
        return Controller(
            name="packages",
            kinds=frozenset({"members", SESSIONS}),
            every_seconds=5.0,
            decide=self._decide,
            rest_factor=FOLLOWER_REST,
        )

    async def failed(self, member_id: str, told: UpgradeReported) -> None:
        """Write down that a member went back to the version it had. Raises StoreError."""

        def decide() -> tuple[Step | None, None]:
            member = self._cache.get("members", member_id)
            if not isinstance(member, Member):
                return None, None
            step = gave_up(member, told.upgrade_id, told.error, self._clock(), new_id)
            return (step if step.puts else None), None

        try:
            await commit_again(self._applier, decide)
        except Refused as refused:
            _log.warning("outcome of an upgrade not stored", member=member_id, error=str(refused))

    def _decide(self, snapshot: Snapshot, now: float) -> Plan:
        steps, open_now = [], {}
        for member in snapshot.upgrading.values():
            wish, link = member.agent, self._hub.link(member.id)
            if link is None or wish is None or wish.failed or link.agent_version == wish.version:
                continue
            open_now[link] = wish.upgrade_id
            if self._sent.get(link) == wish.upgrade_id:
                continue
            trouble = self._tell(link, member)
            if trouble:
                steps.append(gave_up(member, wish.upgrade_id, trouble, now, new_id))
        self._sent = open_now
        return Plan(steps=steps)

    def _tell(self, link: Link, member: Member) -> str:
        """Send a member the package it should have; return why that cannot be."""
        wish = member.agent
        assert wish is not None
        if link.protocol < UPGRADE_PROTOCOL:
            return f"its agent ({link.agent_version}) is too old to be swapped from here; install fallow anew with pip"
        package = self._packages.get(wish.version, wish.sha256)
        if package is None:
            return (
                f"the process of the control plane that has its session has no package of {wish.version} with the hash "
                f"{wish.sha256[:12]}...; put the same file into the folder packages of each one's data folder"
            )
        link.send(
            Upgrade(
                upgrade_id=wish.upgrade_id, version=package.version, sha256=package.sha256, package=package.content,
                trial_seconds=TRIAL_SECONDS,
            )
        )  # fmt: skip
        return ""
