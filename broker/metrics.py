"""Counts for /metrics: how much and how often, never who.

Spec: docs/operations.md#metrics. One rule: a label value is a word of our own source code; nothing a client
sent (a capability, a hash, an address) is ever one.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from broker.store.base import Totals

# What a request came to, as the client sees it.
OUTCOMES: Final = (
    "answered",
    "time_only",
    "malformed",
    "replayed",
    "too_large",
    "too_slow",
    "overloaded",
    "not_found",
    "failed",
)


class BrokerMetrics:
    """The broker's counters, registered in the daemon's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.requests = Counter(
            "salween_broker_requests", "Requests by what they came to", ["outcome"], registry=registry
        )
        self.operations = Counter(
            "salween_broker_operations",
            "Operations by kind and result",
            ["kind", "result"],
            registry=registry,
        )
        self.polls_waiting = Gauge(
            "salween_broker_polls_waiting", "Long polls waiting now", registry=registry
        )
        self.dropped = Counter(
            "salween_broker_dropped", "Items, tombstones and mailboxes whose time was over", registry=registry
        )
        for outcome in OUTCOMES:
            self.requests.labels(outcome)

    def show(self, totals: Callable[[], Totals]) -> None:
        """Show what the store holds at each scrape."""
        for name, meaning in (
            ("mailboxes", "Mailboxes"),
            ("items", "Items held"),
            ("size_bytes", "Bytes of held items"),
            ("tombstones", "Tombstones of items not held any more"),
            ("token_uses_left", "Mailboxes that loaded tokens may still make"),
            ("retired", "Mailboxes whose time was over"),
            ("remade", "Mailboxes made again after a loss"),
            ("attachments", "Attachments begun and not deleted"),
            ("attachment_bytes", "Bytes of attachments held"),
        ):
            gauge = Gauge(f"salween_broker_{name}", meaning, registry=self._registry)
            gauge.set_function(partial(_total, totals, name))


def _total(totals: Callable[[], Totals], name: str) -> float:
    return float(getattr(totals(), name))
