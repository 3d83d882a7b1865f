"""Custody notes that an office hands over beside its log, verified under broker cards that addresses pin.

Spec: docs/auditing.md#notes. The file is JSON: ``v`` 1, ``brokers`` their cards in hex, ``notes`` with the
fields of docs/spec/broker.md#custody, bytes in hex. One rule: a card counts only under an address that the
auditor brought, and a note only under the custody key of such a card, for the log that the same card names.

Does not: say whether the broker's log holds what a note promises (reconcile).
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from keys.brokercard import BrokerCard, encode_broker_card, parse_broker_card_untrusted
from keys.custodyproof import custody_leaf, verify_custody_proof
from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import ED25519_SIGNATURE_BYTES, HASH_BYTES, sha256

NOTES_BYTES_MAX: Final = 64 * 1024 * 1024
_HEX: Final = re.compile("(?:[0-9a-f]{2})*")
_INT_LIMITS: Final = {"z": 2**32, "i": 2**53, "t": 2**53, "bi": 2**16, "bn": 2**16}

Place = tuple[str, int, str]
"""Origin of a broker's log, index in it, envelope hash in hex."""


@dataclass(frozen=True, slots=True)
class CustodyNotes:
    """Notes that hold, by the place they promise; and what is wrong with others, as sentences."""

    proven: frozenset[Place] = frozenset()
    refused: Mapping[Place, str] | None = None

    def word(self, place: Place) -> str | None:
        """Empty if a note for this place holds, a sentence if one was given and does not, None for none."""
        if place in self.proven:
            return ""
        return (self.refused or {}).get(place)


def read_notes_untrusted(
    files: Iterable[bytes], pins: Collection[bytes], log_keys: Mapping[str, bytes]
) -> CustodyNotes:
    """Every note of some files, judged.

    ``pins``: SHA-256 of broker cards, as addresses name them. ``log_keys``: origin -> public key under which
    that broker's log was verified; a card that names another is of another log. MalformedInput ``bad_notes``.
    """
    proven: set[Place] = set()
    refused: dict[Place, str] = {}
    for data in files:
        try:
            told = json.loads(data)
            cards = _cards(told["brokers"], pins)
            notes = list(told["notes"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MalformedInput("bad_notes", "not a file of custody notes") from error
        for note in notes:
            place, fault = _judge(note, cards, log_keys)
            if fault:
                refused.setdefault(place, fault)
            else:
                proven.add(place)
    return CustodyNotes(frozenset(proven), refused)


def _cards(encoded: Any, pins: Collection[bytes]) -> dict[str, BrokerCard]:
    """By the origin of its log, each card that an address pins."""
    cards = {}
    for each in encoded:
        card = parse_broker_card_untrusted(_bytes(each))
        if sha256(encode_broker_card(card)) in pins:
            cards[card.log_origin] = card
    return cards


def _bytes(value: Any, size: int | None = None) -> bytes:
    if not isinstance(value, str) or _HEX.fullmatch(value) is None:
        raise MalformedInput("bad_notes", "bytes are written in lower-case hex")
    found = bytes.fromhex(value)
    if size is not None and len(found) != size:
        raise MalformedInput("bad_notes", f"{len(found)} bytes where {size} belong")
    return found


def _judge(note: Any, cards: Mapping[str, BrokerCard], log_keys: Mapping[str, bytes]) -> tuple[Place, str]:
    """The place of a note, and what is wrong with it; empty for nothing."""
    if not isinstance(note, dict) or not isinstance(origin := note.get("o"), str):
        raise MalformedInput("bad_notes", "a note names the origin of a log")
    number: dict[str, int] = {}
    for key, limit in _INT_LIMITS.items():
        value = note.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
            raise MalformedInput("bad_notes", f"{key} of a note is no number in its range")
        number[key] = value
    envelope_hash = _bytes(note.get("h"), HASH_BYTES)
    place = (origin, number["i"], envelope_hash.hex())
    path = _bytes(note.get("bp"))
    leaf = custody_leaf(
        origin=origin,
        put_hash=_bytes(note.get("p"), HASH_BYTES),
        envelope_hash=envelope_hash,
        size_bytes=number["z"],
        log_index=number["i"],
        time_ms=number["t"],
    )
    card = cards.get(origin)
    if card is None:
        return place, "no broker address that was given pins the key of this note"
    if log_keys.get(origin, card.log_public) != card.log_public:
        return place, "the broker's card names another log key than the policy"
    try:
        verify_custody_proof(
            leaf,
            at=number["bi"],
            width=number["bn"],
            path=[path[at : at + HASH_BYTES] for at in range(0, len(path), HASH_BYTES)],
            signature=_bytes(note.get("s"), ED25519_SIGNATURE_BYTES),
            custody_public=card.custody_public,
        )
    except VerificationFailed:
        return place, "the broker's custody key did not sign this note"
    return place, ""
