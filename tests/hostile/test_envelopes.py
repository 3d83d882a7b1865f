"""Bad envelopes B15 to B29 of docs/testing.md: refused by a stable code, within bounds, recorded once.

Each is shown twice: to the opener alone, one test for each item, and to the inbox of a real node that was
really paired with the office whose keys are misused here.
"""

import functools
import json
import os
import random
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from keys import labels
from keys.card import issue_certificate, parse_certificate_untrusted
from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import (
    check_ed25519_public,
    composite_verify,
    ed25519_verify,
    labelled_hash,
    wrap,
)
from keys.trust import TrustedPeer
from node.broker_link import Arrival
from node.peers import load_peers
from protocol import limits, wire
from protocol.conversation import Judgement, after_receiving, judge, new_pair_state
from protocol.envelope import envelope_hash
from protocol.items import HeartBeat, encode_items
from protocol.message import Header, LeafOpening, MessageType, certificate_core
from protocol.sealing import (
    Duplicate,
    Equivocation,
    Mark,
    OpenedMessage,
    PendingCard,
    Recipient,
    Refused,
    UnknownKey,
    open_envelope_untrusted,
    seal,
)
from runtime.sqlite import Snapshot
from tests.hostile.forger import Forger
from tests.node.offices import Offices, count, node_of, play, read, settled
from tests.protocol.offices import (
    MAE_SAI,
    MYITKYINA,
    NOW_MS,
    TENGCHONG,
    YEAR_MS,
    Desk,
    plaintext_of,
)

EVERY_BIT = os.environ.get("SALWEEN_EVERY_BIT") == "1"
SECONDS_MAX = 2.0  # a loaded machine; alone each takes about a millisecond
MEMORY_BYTES_MAX = 4 * 1024 * 1024  # of the largest envelope, in its several stages
SERVICE = encode_items([HeartBeat(highest_seq=1, at_ms=NOW_MS)])

# Orders of the two groups, and the field of both curves.
L = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One bad envelope: what it is, its bytes, the code. ``marks``: authentic, so its number is taken."""

    about: str
    envelope: bytes
    code: str
    marks: bool = False


# --- what is bad, for each item ---


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def b15_flipped(forger: Forger) -> Iterator[Bad]:
    envelope = forger.control(SERVICE)
    for about, bit, code in (
        ("the version", 0, "envelope_version"),
        ("the key id", 8 * 1 + 3, "unknown_key"),
        ("the ML-KEM ciphertext", 8 * 9, "unwrap_failed"),
        ("the X25519 share", 8 * (9 + 1088), "unwrap_failed"),
        ("the wrapped key", 8 * (9 + 1120), "unwrap_failed"),
        ("the blob's salt", 8 * 1257, "unwrap_failed"),
        ("the last byte", 8 * len(envelope) - 1, "unwrap_failed"),
    ):
        yield Bad(about=f"one bit of {about}", envelope=_flipped(envelope, bit), code=code)


def b16_suites(forger: Forger) -> Iterator[Bad]:
    for suite in (0, 2, 255):
        yield Bad(
            about=f"suite {suite}", envelope=forger.control(SERVICE, suite=suite), code="header_malformed"
        )
    envelope = forger.control(SERVICE)
    for version in (0, 2):
        yield Bad(
            about=f"version {version}", envelope=bytes([version]) + envelope[1:], code="envelope_version"
        )


def b17_other_signatures(forger: Forger) -> Iterator[Bad]:
    first, opening = forger.signed(SERVICE)
    second, _ = forger.signed(SERVICE)
    for about, signature in (
        ("another message", second.signature),
        ("two messages, half each", second.signature[:3309] + first.signature[3309:]),
        ("another purpose", forger.signer.sign(labels.OFFICER_LIST, first.header)),
        ("nobody", bytes(3373)),
    ):
        envelope = forger.seal(replace(first, signature=signature), opening)
        yield Bad(about=f"the signature of {about}", envelope=envelope, code="signature_invalid")


def b18_other_recipients(forger: Forger) -> Iterator[Bad]:
    message, opening = forger.signed(SERVICE, recipient=MAE_SAI.id)
    yield Bad(
        about="signed to another, passed on to us",
        envelope=forger.seal(message, opening),
        code="not_for_me",
    )
    yield Bad(
        about="wrapped as if for another",
        envelope=forger.seal(message, opening, recipient=MAE_SAI.id),
        code="unwrap_failed",
    )
    mine, opening = forger.signed(SERVICE)
    yield Bad(
        about="our leaf with another number",
        envelope=forger.seal(mine, replace(opening, pair_seq=opening.pair_seq + 1)),
        code="not_for_me",
    )


def b19_other_senders(forger: Forger) -> Iterator[Bad]:
    yield Bad(
        about="signed by a key nobody registered",
        envelope=forger.control(SERVICE, signer=MAE_SAI.operational),
        code="signature_invalid",
    )
    yield Bad(
        about="in the name of another office",
        envelope=forger.control(SERVICE, sender=MAE_SAI.id),
        code="sender_mismatch",
    )


# Points of small order, with the forms that are not canonical; the shared secret is zero whoever multiplies.
LOW_ORDER_X25519 = tuple(
    number.to_bytes(32, "little")
    for number in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        P - 1,
        P,
        P + 1,
    )
)


def b20_x25519(forger: Forger) -> Iterator[Bad]:
    for share in LOW_ORDER_X25519:
        message, opening = forger.signed(SERVICE)
        envelope = forger.seal(message, opening, degenerate_share=(share, bytes(32)))
        yield Bad(about=f"share {share.hex()[:8]}", envelope=envelope, code="unwrap_failed")


# The identity, a point of order two, and forms of theirs that are not canonical.
SMALL_ORDER_ED25519 = tuple(
    number.to_bytes(32, "little") for number in (1, P - 1, 0, P, P + 1, 1 | 1 << 255, (P - 1) | 1 << 255)
)


def b21_ed25519(forger: Forger) -> Iterator[Bad]:
    message, opening = forger.signed(SERVICE)
    curve_r, curve_s = message.signature[3309:3341], int.from_bytes(message.signature[3341:], "little")
    halves = [("S with L added", curve_r + (curve_s + L).to_bytes(32, "little"))]
    halves += [(f"R = {point.hex()[:8]}", point + message.signature[3341:]) for point in SMALL_ORDER_ED25519]
    halves += [("R and S of nobody", SMALL_ORDER_ED25519[0] + bytes(32))]
    for about, half in halves:
        forged = replace(message, signature=message.signature[:3309] + half)
        yield Bad(about=about, envelope=forger.seal(forged, opening), code="signature_invalid")


def b23_numbers(forger: Forger) -> Iterator[Bad]:
    for about, number in (
        ("0", 0),
        ("-1 in 64 bits", 2**64 - 1),
        ("2^53", 2**53),
        ("2^63 - 1", 2**63 - 1),
        ("2^63", 2**63),
        ("a gap of 10^9", forger.next_seq + 10**9),
        ("one beyond the window", forger.next_seq + limits.WINDOW_MESSAGES),
    ):
        envelope = forger.control(SERVICE, opening=forger.opening(pair_seq=number, rk_first=min(1, number)))
        yield Bad(about=f"number {about}", envelope=envelope, code="beyond_window")
    strange = forger.opening(pair_seq=2**63)
    envelope = forger.control(SERVICE, opening=strange, instance=b"another.")
    yield Bad(about="number 2^63 of another instance", envelope=envelope, code="beyond_window")
    for about, first in (("0", 0), ("after its own number", forger.next_seq + 1)):
        envelope = forger.control(SERVICE, opening=forger.opening(rk_first=first))
        yield Bad(about=f"first number under the key {about}", envelope=envelope, code="beyond_window")


def _cores(forger: Forger, cores: dict[str, tuple[bytes, str]]) -> Iterator[Bad]:
    """Each as core of a control message and beside one, in its piggyback."""
    for about, (core, code) in cores.items():
        for where, given in (("core", {"core": core}), ("piggyback", {"core": SERVICE, "piggyback": core})):
            if len(core) <= (limits.BODY_BYTES_MAX if where == "core" else 50_000):
                message, opening = forger.signed(**given)  # type: ignore[arg-type]
                envelope = forger.seal(message, opening)
                yield Bad(about=f"{about} as {where}", envelope=envelope, code=code, marks=True)
                forger.next_seq += 1


HB = b"\xa1k\xa2hb"  # "k": "hb"


def b24_duplicate_keys(forger: Forger) -> Iterator[Bad]:
    yield from _cores(
        forger,
        {
            "a key twice": (b"\x91\x84\xa1h\x01\xa1h\x02" + HB + b"\xa1t\x05", "wire_not_canonical"),
            "keys not in order": (b"\x91\x83" + HB + b"\xa1h\x01\xa1t\x05", "wire_not_canonical"),
            "a key that is no text": (b"\x91\x83\x01\x01" + HB + b"\xa1t\x05", "wire_key"),
        },
    )


def b25_fields(forger: Forger) -> Iterator[Bad]:
    yield from _cores(
        forger,
        {
            "an unknown field": (wire.encode([{"k": "hb", "h": 1, "t": 5, "x": 1}]), "field_unknown"),
            "a missing field": (wire.encode([{"k": "hb", "h": 1}]), "field_missing"),
            "no tag": (wire.encode([{"h": 1, "t": 5}]), "field_missing"),
            "an item that must not be overlooked": (wire.encode([{"k": "!hb"}]), "critical_item_unknown"),
        },
    )


def b26_types(forger: Forger) -> Iterator[Bad]:
    yield from _cores(
        forger,
        {
            "True for 1": (wire.encode([{"k": "hb", "h": True, "t": 5}]), "field_type"),
            '"1" for 1': (wire.encode([{"k": "hb", "h": "1", "t": 5}]), "field_type"),
            "1.0 for 1": (b"\x91\x83\xa1h\xcb" + struct.pack(">d", 1.0) + HB + b"\xa1t\x05", "wire_type"),
            "bytes for text": (wire.encode([{"k": b"hb", "h": 1, "t": 5}]), "field_type"),
            "nil for 1": (wire.encode([{"k": "hb", "h": None, "t": 5}]), "field_type"),
            "-1 for a number": (wire.encode([{"k": "hb", "h": -1, "t": 5}]), "field_range"),
            "a map for a list": (wire.encode({"k": "hb", "h": 1, "t": 5}), "items_wrong"),
        },
    )


def b27_long_forms(forger: Forger) -> Iterator[Bad]:
    rest = HB + b"\xa1t\x05"
    yield from _cores(
        forger,
        {
            "1 in two bytes": (b"\x91\x83\xa1h\xcc\x01" + rest, "wire_not_canonical"),
            "1 in nine bytes": (b"\x91\x83\xa1h\xcf" + bytes(7) + b"\x01" + rest, "wire_not_canonical"),
            "a signed 1": (b"\x91\x83\xa1h\xd0\x01" + rest, "wire_not_canonical"),
            "a long length of text": (b"\x91\x83\xd9\x01h\x01" + rest, "wire_not_canonical"),
            "a long length of a list": (b"\xdc\x00\x01\x83\xa1h\x01" + rest, "wire_not_canonical"),
            "a long length of a map": (b"\x91\xde\x00\x03\xa1h\x01" + rest, "wire_not_canonical"),
        },
    )


def b28_depth(forger: Forger) -> Iterator[Bad]:
    yield from _cores(
        forger,
        {
            "nine deep": (b"\x91" * 9 + b"\xc0", "wire_depth"),
            "45,000 lists deep": (b"\x91" * 45_000 + b"\xc0", "wire_depth"),
            "15,000 maps deep": (b"\x81\xa1k" * 15_000 + b"\xc0", "wire_depth"),
        },
    )


def b29_bombs(forger: Forger) -> Iterator[Bad]:
    nan = struct.pack(">d", float("nan"))
    infinite = struct.pack(">f", float("inf"))
    yield from _cores(
        forger,
        {
            "45,000 empty maps": (b"\xdc" + struct.pack(">H", 45_000) + b"\x80" * 45_000, "wire_items"),
            "a map of 2^28 entries": (b"\xdf" + struct.pack(">I", 2**28), "wire_items"),
            "a list of 2^32 - 1 entries": (b"\xdd" + struct.pack(">I", 2**32 - 1), "wire_items"),
            "text of 2^32 - 1 bytes": (b"\xdb" + struct.pack(">I", 2**32 - 1), "wire_truncated"),
            "an extension type": (b"\x91\xd4\x05\x00", "wire_type"),
            "a timestamp": (b"\x91\xd6\xff" + bytes(4), "wire_type"),
            "a timestamp of twelve bytes": (b"\x91\xc7\x0c\xff" + bytes(12), "wire_type"),
            "the type that is never used": (b"\x91\xc1", "wire_type"),
            "not a number": (b"\x91\xcb" + nan, "wire_type"),
            "infinity": (b"\x91\xca" + infinite, "wire_type"),
        },
    )


ITEMS: dict[str, Callable[[Forger], Iterator[Bad]]] = {
    "B15": b15_flipped,
    "B16": b16_suites,
    "B17": b17_other_signatures,
    "B18": b18_other_recipients,
    "B19": b19_other_senders,
    "B20": b20_x25519,
    "B21": b21_ed25519,
    "B23": b23_numbers,
    "B24": b24_duplicate_keys,
    "B25": b25_fields,
    "B26": b26_types,
    "B27": b27_long_forms,
    "B28": b28_depth,
    "B29": b29_bombs,
}


# --- shown to the opener alone ---


@dataclass
class Windowed(Desk):
    """A desk whose window is the real one, with everything below ``next_seq`` taken in."""

    next_seq: int = 1

    def judge(self, office_id: bytes, header: Header, opening: LeafOpening, hh: bytes) -> Judgement:
        state = new_pair_state(TENGCHONG.instance, MYITKYINA.instance)
        for number in range(1, self.next_seq):
            state = after_receiving(state, instance=header.instance, pair_seq=number, service=False)
        return judge(state, instance=header.instance, pair_seq=opening.pair_seq, rk_first=opening.rk_first)


def answer(envelope: bytes, desk: Desk | None = None) -> str:
    """The code by which the opener refuses, within its bounds of time and memory; empty when it does not."""
    desk = desk or Windowed()
    tracemalloc.start()
    began = time.perf_counter()
    try:
        opened = open_envelope_untrusted(envelope, desk)
    except (MalformedInput, VerificationFailed) as junk:
        code = junk.code
    else:
        match opened:
            case Refused(code=code):
                pass
            case UnknownKey():
                code = "unknown_key"
            case _:
                code = ""
    finally:
        seconds = time.perf_counter() - began
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seconds < SECONDS_MAX
    assert peak_bytes < MEMORY_BYTES_MAX
    return code


def refuses(item: str) -> None:
    """Each bad envelope of this item by its own code, and a good one beside it."""
    forger = Forger()
    assert answer(forger.control(SERVICE)) == ""
    found = list(ITEMS[item](forger))
    assert len(found) >= 2
    for bad in found:
        assert answer(bad.envelope) == bad.code, bad.about


def test_b15_one_flipped_bit_outside_or_inside_is_refused() -> None:
    """B15: any bit, sealed or seen by the recipient alone; SALWEEN_EVERY_BIT=1 takes them all."""
    refuses("B15")
    forger = Forger()
    message, opening = forger.signed(SERVICE)
    envelope, plain = forger.seal(message, opening), plaintext_of(message)
    pick = random.Random(15)

    def some(data: bytes) -> Iterable[int]:
        bits = range(8 * len(data))
        return bits if EVERY_BIT else sorted(pick.sample(bits, 200))

    for bit in some(envelope):
        # Another key id names no key; anything else is junk.
        expected: tuple[type, ...] = (UnknownKey,) if 1 <= bit // 8 < 9 else ()
        assert _opened(_flipped(envelope, bit)) in (*expected, None), bit
    for bit in (*some(plain), 8 * 58):
        # A key version nobody certified yet waits for its certificate: nothing is opened, nothing marked.
        expected = (PendingCard,) if 58 <= bit // 8 < 62 else ()
        assert _opened(forger.seal(_flipped(plain, bit), opening)) in (*expected, None), bit


@functools.cache
def _the_desk() -> Desk:
    """One desk for all bits: making one signs a certificate."""
    return Windowed()


def _opened(envelope: bytes) -> type | None:
    """What became of it; None for junk."""
    try:
        return type(open_envelope_untrusted(envelope, _the_desk()))
    except (MalformedInput, VerificationFailed):
        return None


def test_b16_another_suite_is_refused_and_a_lower_one_than_asked_for() -> None:
    """B16: no negotiation; what a peer asked for once is not gone below."""
    refuses("B16")
    risen = replace(MYITKYINA.as_peer(), minimum_suite=2)
    assert answer(Forger().control(SERVICE), Windowed(known=risen)) == "suite_below_minimum"


def test_b17_the_signature_of_another_message_is_refused() -> None:
    """B17: whole, by halves, of another purpose, or none."""
    refuses("B17")


def test_b18_a_swapped_recipient_is_refused() -> None:
    """B18: what was for another office does not open for us, whoever passes it on."""
    refuses("B18")


def test_b19_an_unregistered_or_revoked_key_is_refused_an_unknown_one_waits_an_expired_one_is_marked() -> (
    None
):
    """B19: registered, of a known version and not revoked; a certificate past its end stops no alert."""
    refuses("B19")
    forger = Forger()
    assert isinstance(
        open_envelope_untrusted(forger.control(SERVICE, key_version=2), Windowed()), PendingCard
    )
    revoked: TrustedPeer = replace(MYITKYINA.as_peer(), revoked_below=2)
    assert answer(forger.control(SERVICE), Windowed(known=revoked)) == "key_version_revoked"
    late = open_envelope_untrusted(forger.control(SERVICE), Windowed(now_ms=NOW_MS + YEAR_MS))
    assert isinstance(late, OpenedMessage)
    assert Mark.CERTIFICATE_EXPIRED in late.marks


def test_b20_a_degenerate_x25519_share_or_key_is_refused() -> None:
    """B20: a share of small order gives zeros and does not open; nothing is sealed to such a key."""
    own = X25519PrivateKey.generate()
    for share in LOW_ORDER_X25519:
        with pytest.raises(ValueError, match="shared key"):
            own.exchange(X25519PublicKey.from_public_bytes(share))
        announced = TENGCHONG.receive_key.public_bytes[:1184] + share
        with pytest.raises(VerificationFailed, match="public_key_invalid"):
            wrap(announced, b"content key", b"info")
    refuses("B20")


def test_b20_a_share_in_a_second_form_opens_to_the_same_message_and_no_other() -> None:
    """B20: RFC 7748 takes p + 9 for 9; the form is hashed into the key, so it is the sender's choice."""
    forger = Forger()
    message, opening = forger.signed(SERVICE)
    secret = TENGCHONG.receive_key.public_bytes[1184:]  # times the base point: public, so anyone's
    opened = []
    forms = (9).to_bytes(32, "little"), (P + 9).to_bytes(32, "little")
    for share, other in (forms, forms[::-1]):
        envelope = forger.seal(message, opening, degenerate_share=(share, secret))
        opened.append(open_envelope_untrusted(envelope, Windowed()))
        # The other form in the same envelope makes another key, and does not open.
        at = 9 + 1088
        assert answer(envelope[:at] + other + envelope[at + 32 :]) == "unwrap_failed"
    assert isinstance(opened[0], OpenedMessage)
    assert isinstance(opened[1], OpenedMessage)
    assert opened[0].hh == opened[1].hh


def test_b21_points_and_scalars_that_are_not_canonical_are_refused() -> None:
    """B21: small order, a second form, S not below L: in signatures, certificates, officer lists."""
    refuses("B21")
    for point in SMALL_ORDER_ED25519:
        with pytest.raises(VerificationFailed, match="public_key_invalid"):
            check_ed25519_public(point)
        # Of an officer: a list is signed by its office, and may hold what no key is.
        with pytest.raises(VerificationFailed, match="public_key_invalid"):
            ed25519_verify(point, labels.OFFICER_AUTHOR, b"alert", point + bytes(32))
        public = MYITKYINA.operational.public_bytes[:1952] + point
        with pytest.raises(VerificationFailed, match="public_key_invalid"):
            composite_verify(public, labels.MESSAGE, b"", bytes(3373))
        encoded = issue_certificate(
            MYITKYINA.root,
            key_version=2,
            public=public,
            not_before_ms=NOW_MS - 1,
            not_after_ms=NOW_MS + 1,
            country="MM",
            name="n",
        )
        core = certificate_core(parse_certificate_untrusted(encoded), [])
        envelope = Forger().control(core, kind=MessageType.CARD, key_version=2)
        assert answer(envelope) == "public_key_invalid"


def test_b22_no_two_seals_share_a_key_or_a_nonce() -> None:
    """B22: each seal has a fresh content key, and its own salt even where randomness repeats itself."""
    message, opening = Forger().signed(SERVICE)

    def contents(envelope: bytes) -> tuple[bytes, bytes, bytes]:
        info = b"".join(
            (
                labels.WRAP + b"\x01" + MYITKYINA.id + TENGCHONG.id + envelope[1:9],
                labelled_hash(labels.BLOB_HASH, envelope[1257:]),
            )
        )
        inside = TENGCHONG.receive_key.unwrap(envelope[9:1257], info)
        return inside[:32], envelope[1257 : 1257 + 24], envelope[9 : 9 + 1120]

    def sealed_with(source: Callable[[int], bytes]) -> bytes:
        return seal(
            message,
            [
                Recipient(
                    office_id=TENGCHONG.id,
                    instance=MYITKYINA.instance,
                    opening=opening,
                    receive_key_id=TENGCHONG.receive_key_id,
                    receive_key_public=TENGCHONG.receive_key.public_bytes,
                )
            ],
            sender=MYITKYINA.id,
            random=source,
        )[0]

    fresh = [contents(sealed_with(os.urandom)) for _ in range(100)]
    stuck = [contents(sealed_with(lambda size: b"\x07" * size)) for _ in range(100)]
    assert len({key for key, _, _ in fresh}) == 100
    assert (
        len({key for key, _, _ in stuck}) == 1
    )  # a broken source: the salt and the encapsulation still differ
    for seals in (fresh, stuck):
        assert len({salt for _, salt, _ in seals}) == len({enc for _, _, enc in seals}) == 100


def test_b23_numbers_outside_the_window_are_junk_and_a_repeated_one_is_known() -> None:
    """B23: 0, the largest, leaps; the same again is a duplicate, another in its place is evidence."""
    refuses("B23")
    envelope = Forger().control(SERVICE)
    assert isinstance(open_envelope_untrusted(envelope, Windowed(next_seq=2)), Duplicate)
    other = Desk(judgement=Judgement.EQUIVOCATION)
    assert isinstance(open_envelope_untrusted(envelope, other), Equivocation)


def test_b24_duplicate_or_unordered_map_keys_are_refused() -> None:
    """B24: no reader may keep the first and another the last."""
    refuses("B24")


def test_b25_unknown_missing_and_extra_fields_are_refused() -> None:
    """B25: but an unknown item, which a later version may send, is kept."""
    refuses("B25")
    assert answer(Forger().control(wire.encode([{"k": "later", "x": 1}]))) == ""


def test_b26_wrong_types_are_refused() -> None:
    """B26: True is not 1, nor is 1.0 or "1"."""
    refuses("B26")


def test_b27_longer_forms_than_needed_are_refused() -> None:
    """B27: a value has one encoding, so what is read encodes back to the same bytes."""
    refuses("B27")


def test_b28_deep_nesting_is_refused_before_anything_is_built() -> None:
    """B28: as deep as an envelope can hold, and 100,000 deep."""
    refuses("B28")
    _bounded(b"\x91" * 100_000 + b"\xc0", "wire_depth")
    _bounded(b"\x81\xa1k" * 100_000 + b"\xc0", "wire_depth")


def test_b29_bombs_extensions_and_odd_numbers_are_refused() -> None:
    """B29: a million maps, lengths nobody has, types that are no value here."""
    refuses("B29")
    _bounded(b"\xdd" + struct.pack(">I", 10**6) + b"\x80" * 10**6, "wire_items")
    _bounded(b"\xdf" + struct.pack(">I", 2**28) + bytes(10**6), "wire_items")


def _bounded(data: bytes, code: str) -> None:
    """Refused by the decoder itself, whatever bound its caller gives, without building a value."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(MalformedInput) as refused:
            wire.decode_untrusted(data, bytes_max=2 * len(data))
        assert refused.value.code == code
        assert time.perf_counter() - began < SECONDS_MAX
        assert tracemalloc.get_traced_memory()[1] < 256 * 1024
    finally:
        tracemalloc.stop()


# --- shown to a node ---


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one bad envelope did to a node."""

    bad: Bad
    before: dict[str, list[tuple[object, ...]]]
    after: dict[str, list[tuple[object, ...]]]
    entries: list[dict[str, object]]  # written for it
    quarantined: list[tuple[object, ...]]
    again_entries: int  # written when the same bytes came a second time


_LOGGED = {"leaf", "subtree", "cp", "log_state", "sqlite_sequence"}
# What every arrival may write: evidence, the intent to delete at the broker, the log.
# ``watch`` counts what nobody vouches for, so that it fills no log.
_MAY_CHANGE = {"quarantine", "broker_delete", "watch", *_LOGGED}
# What an authentic one changes besides: its number, the receipt it is owed, the next of our own messages, and
# that its mailbox is in use.
_MARKED = {"received", "receipt_due", "peer", "delivery", "mailbox"}
# Rule 7: one nack an hour, which is a message of ours and takes along what is due.
_NACKED = {"nack_due", "peer", "delivery", "reset_key", "custody"}


def _tables(tx: Snapshot) -> dict[str, list[tuple[object, ...]]]:
    names = [row[0] for row in tx.execute("SELECT name FROM sqlite_schema WHERE type = 'table'", ())]
    return {
        name: [tuple(row) for row in tx.execute(f"SELECT * FROM {name}", ())]
        for name in sorted(names)
        if name not in _MAY_CHANGE
    }


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Seen]]:
    """Every bad envelope of every item, taken in by the inbox of one node that goes on running."""
    found: dict[str, list[Seen]] = {}

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await settled(offices)
        us = node_of(here)._identity
        (peer,) = await read(here, load_peers)
        (them,) = await read(there, load_peers)
        forger = Forger(
            sender=us.office_id,
            signer=us.operational,
            key_version=us.key_version,
            instance=peer.pair.outbound.instance,
            recipient=peer.office_id,
            key_id=peer.peer_key.announcement.key_id,
            public=peer.peer_key.announcement.public,
            rk_known=them.peer_key.announcement.key_id,
            now_ms=here.now_ms(),
            next_seq=them.pair.inbound.contiguous_to + 1,
        )
        inbox, mailboxes = node_of(there)._inbox, node_of(there).mailboxes
        (mailbox,) = await there.host.run(lambda env: mailboxes.readable(them.own_broker_address))

        async def take(envelope: bytes) -> None:
            arrival = Arrival(mailbox=mailbox, envelope_hash=envelope_hash(envelope), envelope=envelope)
            await there.host.run(lambda env: inbox.arrived([arrival]))

        async def entries() -> list[dict[str, object]]:
            def look(tx: Snapshot) -> list[bytes]:
                return [row[0] for row in tx.execute("SELECT entry FROM leaf ORDER BY idx", ())]

            return [json.loads(entry) for entry in await read(there, look)]

        bad_ones = [(item, bad) for item, make in ITEMS.items() for bad in make(forger)]
        # Those that earn a nack, which is a message of ours and under way for a while, come last: nothing
        # else is blamed for it.
        bad_ones.sort(key=lambda one: one[1].code == "unknown_key")
        for item, bad in bad_ones:
            before, first = await read(there, _tables), len(await entries())
            await take(bad.envelope)
            after, written = await read(there, _tables), await entries()
            named = envelope_hash(bad.envelope)
            kept = await read(
                there,
                lambda tx, named=named: [  # type: ignore[misc]
                    tuple(row)
                    for row in tx.execute(
                        "SELECT verdict, code FROM quarantine WHERE envelope_hash = ?", (named,)
                    )
                ],
            )
            await take(bad.envelope)
            about_it = [e for e in written[first:] if e["t"] == "msg.recv"]
            found.setdefault(item, []).append(
                Seen(
                    bad=bad,
                    before=before,
                    after=after,
                    entries=about_it,
                    quarantined=kept,
                    again_entries=len([e for e in (await entries())[len(written) :] if e["t"] == "msg.recv"]),
                )
            )
        assert not node_of(there).failed.done()
        # None of them blocks what follows, and the number after the last of them is still free.
        await take(forger.control(SERVICE))
        assert await count(there, "received", f"pair_seq = {forger.next_seq}") == 1

    play(tmp_path_factory.mktemp("hostile"), script)
    return found


@pytest.mark.parametrize("item", ITEMS)
def test_a_node_records_each_bad_envelope_once_and_moves_nothing_else(
    seen: dict[str, list[Seen]], item: str
) -> None:
    """B15 to B29 at a real node: one entry, the bytes kept, no alert, no state but an authentic number."""
    assert seen[item]
    for one in seen[item]:
        about = f"{item}: {one.bad.about}"
        assert [entry.get("code") for entry in one.entries] == [one.bad.code], about
        assert one.quarantined == [("refused" if one.bad.marks else "junk", one.bad.code)], about
        changed = {name for name, rows in one.after.items() if rows != one.before[name]}
        may_change = _MARKED if one.bad.marks else _NACKED if one.bad.code == "unknown_key" else set()
        assert changed <= may_change, about
        assert one.again_entries == 0, about
        assert not one.after["alert"], about
