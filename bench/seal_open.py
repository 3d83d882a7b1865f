"""Releasing, signing and sealing a real alert, opening and verifying it, against its bare cryptography.

And the same for what is no alert: receipts, one and a full message of them, and a key announcement alone.
"""

from functools import partial

from bench.bare import BareMessage
from bench.measure import cost_us
from bench.report import cost_ratio, figure, progress
from bench.sample import control_sample, largest_sample, message_of, receipts_sample
from node.outbox import RECEIPTS_PER_MESSAGE
from protocol import limits

BENCH = "seal_open"


def run(*, quick: bool) -> None:
    """Two alerts that fill the smallest envelope: with a new receive key beside it, and without."""
    for name, announces in (("with announcement", True), ("without announcement", False)):
        progress(f"{BENCH}: {name}")
        sample, bare = largest_sample(announces=announces), BareMessage(officer_signatures=1)
        message, envelope = message_of(sample), sample.send()
        assert len(envelope) == limits.ENVELOPE_BUCKETS_BYTES[0]
        sizes = {
            "alert_bytes": len(message.core) + len(message.disclosures),
            "body_bytes": len(message.core) + len(message.disclosures) + len(message.piggyback),
            "envelope_bytes": len(envelope),
        }
        costs = cost_us(
            {
                "send": sample.send,
                "bare send": bare.send,
                "open": partial(sample.open, envelope),
                "bare open": bare.receive,
            },
            rounds=4 if quick else 30,
            each=10,
        )
        figure(
            BENCH,
            f"release, sign and seal, {name}",
            costs["send"],
            "us of one core",
            **cost_ratio(
                costs["send"],
                costs["bare send"],
                against="bare signing by the officer and by the office, key wrap and encryption",
            ),
            **sizes,
        )
        figure(
            BENCH,
            f"open and verify, {name}",
            costs["open"],
            "us of one core",
            **cost_ratio(
                costs["open"],
                costs["bare open"],
                against="bare key unwrap, decryption and verification of the same signatures",
            ),
            **sizes,
        )
    _run_plain(quick=quick)


def _run_plain(*, quick: bool) -> None:
    """Messages without an officer's signature; the bare one always fills the smallest envelope."""
    for name, sample in (
        ("one receipt", receipts_sample(1)),
        (f"{RECEIPTS_PER_MESSAGE} receipts", receipts_sample(RECEIPTS_PER_MESSAGE)),
        ("control message with key announcement", control_sample()),
    ):
        progress(f"{BENCH}: {name}")
        bare, envelope = BareMessage(officer_signatures=0), sample.send()
        costs = cost_us(
            {
                "send": sample.send,
                "bare send": bare.send,
                "open": partial(sample.open, envelope),
                "bare open": bare.receive,
            },
            rounds=4 if quick else 30,
            each=10,
        )
        for case, ours, against in (
            (
                "sign and seal",
                "send",
                "bare signing by the office, key wrap and encryption, smallest envelope",
            ),
            (
                "open and verify",
                "open",
                "bare key unwrap, decryption and verification, smallest envelope",
            ),
        ):
            figure(
                BENCH,
                f"{case}, {name}",
                costs[ours],
                "us of one core",
                **cost_ratio(costs[ours], costs[f"bare {ours}"], against=against),
                body_bytes=len(sample.core),
                envelope_bytes=len(envelope),
            )
