"""Takes in what member clusters report of their shares.

A cluster speaks of its own shares alone, and what it says is bounded and checked: gateways of other clusters will dial
the addresses it names, and people read its words.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from fallow.control.complaints import Complaints
from fallow.control.ids import new_id
from fallow.control.intake import Batch, Intake
from fallow.control.spoken import superseded
from fallow.decide.events import event
from fallow.decide.federation.checks import fit_report
from fallow.decide.plan import Step
from fallow.model.cluster_frames import SharesReported
from fallow.model.clusters import HERE_ID
from fallow.model.members import Member
from fallow.model.peers import Peer
from fallow.model.shares import Share, ShareReport, share_id
from fallow.store.applier import Applier
from fallow.store.cache import Cache


class ShareReports(Intake[ShareReport]):
    """Reports of shares. `clock` gives UTC seconds, `opening_of` what `Spoken.opening_of` does.

    A process that was held up reads what came on sessions that have long been followed by others. That is not taken in;
    should the later session be the dead one, the cluster says it again until it is.
    """

    what = "reports of shares"

    def __init__(
        self,
        cache: Cache,
        applier: Applier,
        clock: Callable[[], float],
        opening_of: Callable[[str], int] = lambda _: 0,
    ) -> None:
        super().__init__(applier)
        self._opening_of = opening_of
        self._cache = cache
        self._clock = clock
        self._named: dict[str, set[str]] = {}  # cluster id -> deployments that a full set has named until now
        self._complaints = Complaints()

    def opened(self, cluster_id: str) -> None:
        """Note that a cluster begins to report anew."""
        self._named.pop(cluster_id, None)

    def shared(self, cluster_id: str, frame: SharesReported) -> "asyncio.Future[None]":
        """Take in reports; see `drivers.clusters.contract.Listener`."""
        items = [*frame.reports, *self._missing(cluster_id, frame)]
        stored = self.submit(cluster_id, items, self._opening_of(cluster_id))
        if frame.full and not frame.more:
            stored.add_done_callback(lambda done: done.cancelled() or self._named.pop(cluster_id, None))
        return stored

    def _missing(self, cluster_id: str, frame: SharesReported) -> list[ShareReport]:
        """Return that nothing is left of what a full set of reports has not named, once all of it is here."""
        if not frame.full:
            return []
        named = self._named.setdefault(cluster_id, set())
        named.update(report.deployment_id for report in frame.reports)
        if frame.more:
            return []
        shares = self._cache.snapshot().shares_by_cluster.get(cluster_id, ())
        ids = [share.deployment_id for share in shares if share.reported is not None]
        return [ShareReport(deployment_id=id_) for id_ in ids if id_ not in named]

    def steps(self, batches: Sequence[Batch[ShareReport]]) -> list[Step]:
        """Return the shares that are different by what their own clusters say."""
        now, control = self._clock(), self._control_addresses()
        changed: dict[str, tuple[Share, tuple[Member, ...]]] = {}  # and on whose record it rests
        dropped: dict[str, dict[str, str]] = {}
        for batch in batches:
            member = self._cache.get("members", batch.member_id)
            observed = member.observed_address if isinstance(member, Member) else ""
            if superseded(batch.opening, member):
                batch.stored.cancel()
                continue
            speaker = (member,) if isinstance(member, Member) and batch.opening else ()
            for said in batch.items:
                id_ = share_id(said.deployment_id, batch.member_id)
                share = changed[id_][0] if id_ in changed else self._cache.get("shares", id_)
                if not isinstance(share, Share) or share.cluster_id != batch.member_id:
                    continue  # forgotten already, or another cluster's: not this one's to speak of
                report = said
                if batch.member_id != HERE_ID:
                    report, why = fit_report(said, observed, control)
                    dropped.setdefault(batch.member_id, {}).update(why)
                if report != share.reported:
                    share = msgspec.structs.replace(share, reported=report, reported_at=now, updated_at=now)
                    changed[id_] = share, speaker
        steps = [Step(puts=(share,), guards=speaker) for share, speaker in changed.values()]
        told = [(id_, why) for id_, why in dropped.items() if why and self._complaints.may(id_, now)]
        return steps + [self._complaint(id_, why, now) for id_, why in told]

    def _complaint(self, cluster_id: str, why: Mapping[str, str], now: float) -> Step:
        member = self._cache.get("members", cluster_id)
        name = member.name if isinstance(member, Member) else cluster_id
        told = "; ".join(f"{address}: {text}" for address, text in sorted(why.items())[:5])
        more = f" and {len(why) - 5} more" if len(why) > 5 else ""
        text = f"endpoints that cluster {name} named are not used: {told}{more}"
        return Step(
            puts=(
                event(
                    new_id(), now, f"cluster:{name}", "member", cluster_id, name, "EndpointsDropped", text, "warning"
                ),
            )
        )

    def _control_addresses(self) -> Collection[str]:
        addresses = [peer.address for peer in self._cache.records("peers").values() if isinstance(peer, Peer)]
        hosts = {urlsplit(found.url).hostname or "" for found in addresses}
        return (hosts | {found.session_host for found in addresses}) - {""}
