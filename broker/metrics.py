"""Counts for /metrics: how much and how often, never who.

Spec: docs/operations.md#metrics. One rule: a label value is a word of our own source code; nothing a client
sent (a capability, a hash, an address) is ever one.
"""

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
        self.expired = Counter(
            "salween_broker_expired", "Items dropped because their time was over", registry=registry
        )
        self.mailboxes = Gauge("salween_broker_mailboxes", "Mailboxes", registry=registry)
        self.items = Gauge("salween_broker_items", "Items held", registry=registry)
        self.size_bytes = Gauge("salween_broker_size_bytes", "Bytes of held items", registry=registry)
        self.tombstones = Gauge(
            "salween_broker_tombstones", "Tombstones of items not held any more", registry=registry
        )
        self.token_uses = Gauge(
            "salween_broker_token_uses_left", "Mailboxes that loaded tokens may still make", registry=registry
        )
        for outcome in OUTCOMES:
            self.requests.labels(outcome)

    def set_totals(self, totals: Totals) -> None:
        """Show what the store holds now."""
        self.mailboxes.set(totals.mailboxes)
        self.items.set(totals.items)
        self.size_bytes.set(totals.size_bytes)
        self.tombstones.set(totals.tombstones)
        self.token_uses.set(totals.token_uses_left)
