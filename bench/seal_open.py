"""Releasing, signing and sealing a real alert, opening and verifying it, against its bare cryptography."""

from functools import partial

from bench.bare import BareMessage
from bench.measure import cost_us
from bench.report import cost_ratio, figure, progress
from bench.sample import largest_sample, message_of
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
