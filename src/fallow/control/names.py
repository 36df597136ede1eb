"""The loop that keeps names new: in this process's own name server, and in the gateways whose sessions it holds."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fallow.control.hub import Hub, Link
from fallow.control.routes import ROUTED
from fallow.control.runner import FOLLOWER_REST, Controller
from fallow.decide.names import Names, difference, render, whole
from fallow.decide.plan import Plan
from fallow.decide.reverse import Reverse
from fallow.decide.snapshot import Snapshot
from fallow.decide.zone import Zone
from fallow.drivers.dns.counters import SECONDS
from fallow.drivers.dns.server import NameServer, report_of
from fallow.model.names import NamesReport
from fallow.model.wire import SetNames


class NamesLoop:
    """Makes the zone of the newest snapshot, serves it, and sends what differs to each gateway that serves names.

    `server` listens nowhere until it is told to.
    """

    def __init__(self, hub: Hub, domain: str, registry: CollectorRegistry) -> None:
        self._hub = hub
        self.domain = domain
        self.server = NameServer()
        self._names: Names | None = None
        self._sent: dict[Link, Zone] = {}  # what each open session was last told
        self._changed_at = time.monotonic()
        registry.register(NamesCollector(self))

    @property
    def empty(self) -> Zone:
        """Return what there is before names were first made."""
        return Zone(domain=self.domain, reverse=Reverse(domain=self.domain))

    @property
    def age_seconds(self) -> float:
        """Return how long ago names last changed."""
        return time.monotonic() - self._changed_at

    @property
    def zone(self) -> Zone | None:
        """Return the newest names; None: none were made yet."""
        return self._names.zone if self._names is not None else None

    def controller(self) -> Controller:
        """Return the loop."""
        return Controller(
            name="names",
            kinds=ROUTED | {"pools"},
            every_seconds=5.0,
            decide=self._decide,
            rest_factor=FOLLOWER_REST,
        )

    def report(self) -> NamesReport:
        """Return what this process's own name server does."""
        return report_of(self.server, time.monotonic())

    def _decide(self, snapshot: Snapshot, _now: float) -> Plan:
        before = self.zone
        self._names = render(snapshot, self.domain, self._names)
        zone = self._names.zone
        if zone is not before:
            self.server.set(zone)
            self._changed_at = time.monotonic()
        self._publish(zone)
        return Plan()

    def _publish(self, zone: Zone) -> None:
        """Send the zone, or what differs from the one sent before, to gateways that serve names."""
        open_now: dict[Link, Zone] = {}
        for link in self._hub.name_servers():
            told = self._sent.get(link)
            if told is not zone:
                link.send(SetNames(change=difference(told, zone) if told is not None else whole(zone)))
            open_now[link] = zone
        self._sent = open_now


class NamesCollector(Collector):
    """Tells, at scrape time, what the name server has counted."""

    def __init__(self, names: NamesLoop) -> None:
        self._names = names

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: names of metrics are as they are collected."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        counters, zone = self._names.server.counters, self._names.zone
        answers = CounterMetricFamily("fallow_dns_answers", "Questions answered by the name server", labels=["rcode"])
        for rcode, count in counters.by_rcode().items():
            answers.add_metric([rcode], count)
        yield answers
        other = CounterMetricFamily("fallow_dns_refused", "What the name server did not answer whole", labels=["why"])
        for why, count in (
            ("no-question", counters.ignored),
            ("rate", counters.limited),
            ("connections", counters.connections_cut),
        ):
            other.add_metric([why], count)
        yield other
        below, buckets = 0, []
        for bound, count in zip((*map(str, SECONDS), "+Inf"), counters.seconds, strict=True):
            below += count
            buckets.append((bound, below))
        seconds = HistogramMetricFamily("fallow_dns_answer_seconds", "Time to make one answer")
        seconds.add_metric([], buckets, counters.seconds_sum)
        yield seconds
        revision = zone.revision if zone is not None else 0
        yield GaugeMetricFamily("fallow_dns_zone_revision", "Store revision when names last changed", value=revision)
        yield GaugeMetricFamily(
            "fallow_dns_zone_age_seconds", "Time since names last changed", value=self._names.age_seconds
        )
