"""Counts for /metrics: no names, no ids, no content."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from node.daemon import Node


class NodeMetrics(Collector):
    """Reads the node's own counters whenever it is asked."""

    def __init__(self, registry: CollectorRegistry, node: "Node") -> None:
        self._node = node
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """What will be collected."""
        return self.collect()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """The present values."""
        stats = self._node.database.stats
        yield GaugeMetricFamily("salween_log_entries", "Entries in the audit log", self._node.log.size)
        yield GaugeMetricFamily(
            "salween_log_published_entries",
            "Entries under a signed checkpoint",
            self._node.log.published.size,
        )
        online = sum(view.state == "online" for view in self._node.link_views())
        yield GaugeMetricFamily("salween_links_online", "Brokers that answer", online)
        yield GaugeMetricFamily("salween_links", "Brokers this node talks to", len(self._node.link_views()))
        yield CounterMetricFamily("salween_commits", "Database commits", stats.commits)
        yield CounterMetricFamily("salween_transactions", "Transactions in those commits", stats.transactions)
