"""What the three published logs say about the same messages.

Spec: docs/spec/log.md, docs/auditing.md. Read as an auditor would: the directory alone, after ``salween-audit
verify`` found it whole. One rule: counts here come from entry bundles, never from a daemon's answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.checkpoint import parse_checkpoint_untrusted
from audit.entry import decode_entry_untrusted
from audit.reader import CHECKPOINT, PublishedLog
from audit.tree import ENTRIES, TILE_WIDTH, split_bundle_untrusted

Entry = Mapping[str, Any]


def entries_of(log: Path) -> list[Entry]:
    """Every entry up to the published checkpoint, in order."""
    published = PublishedLog(str(log))
    checkpoint, _ = parse_checkpoint_untrusted(published.read(CHECKPOINT))
    found: list[Entry] = []
    for n in range(-(-checkpoint.size // TILE_WIDTH)):
        width = min(TILE_WIDTH, checkpoint.size - n * TILE_WIDTH)
        bundle = split_bundle_untrusted(published.read_tile(ENTRIES, n, width))
        found += [decode_entry_untrusted(entry) for entry in bundle]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Travelled:
    """One alert in the sender's log: when it was kept and receipted, by the sender's clock."""

    alert: str
    kept_us: int
    delivered_us: int | None
    opened_us: int | None
    envelopes: tuple[str, ...]


def travelled(sender: Sequence[Entry]) -> list[Travelled]:
    """Every alert the sender's log says it submitted."""
    submits = {entry["msg"]: entry for entry in sender if entry["t"] == "msg.submit"}
    envelopes: dict[str, list[str]] = {}
    receipts: dict[tuple[str, str], int] = {}
    for entry in sender:
        if entry["t"] == "msg.seal":
            envelopes.setdefault(entry["msg"], []).append(entry["env"])
        elif entry["t"] == "msg.receipt":
            receipts.setdefault((entry["msg"], entry["step"]), entry["ts"])
    return [
        Travelled(
            alert=submit["alert"],
            kept_us=submit["ts"],
            delivered_us=receipts.get((message, "delivered")),
            opened_us=receipts.get((message, "opened")),
            envelopes=tuple(envelopes.get(message, ())),
        )
        for message, submit in submits.items()
    ]


def in_flight_at(messages: Sequence[Travelled], at_us: int) -> int:
    """How many were kept by ``at_us`` and had no verified receipt yet."""
    return sum(m.kept_us <= at_us and (m.delivered_us is None or m.delivered_us > at_us) for m in messages)


def received(receiver: Sequence[Entry]) -> list[str]:
    """Alert ids the receiver's log took in, as often as it did."""
    return [
        entry["alert"]
        for entry in receiver
        if entry["t"] == "msg.recv" and entry["verdict"] == "ok" and "alert" in entry
    ]


def accepted(broker: Sequence[Entry]) -> frozenset[str]:
    """Hashes of the envelopes the broker's log says it accepted."""
    return frozenset(entry["env"] for entry in broker if entry["t"] == "bk.in")
