"""From one office to the other: format, sizes, single bits, clocks, and what must not be kept."""

import contextlib
import gc
import struct
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, VerificationFailed
from keys.primitives import labelled_hash
from keys.trust import PairState
from protocol import codelists, limits
from protocol.alert import Alert
from protocol.conversation import Judgement
from protocol.disclosures import join_alert
from protocol.items import (
    Acknowledgement,
    AudienceOpening,
    HeartBeat,
    KeyAnnouncement,
    OfficerListItem,
    ReceivedRange,
    decode_items_untrusted,
    encode_items,
)
from protocol.message import (
    LeafOpening,
    MessageType,
    SignedMessage,
    certificate_core,
    decode_opening_untrusted,
    parse_header_untrusted,
)
from protocol.release import ReleasedAlert
from protocol.sealing import (
    BODY_BYTES_IN_SMALLEST,
    Mark,
    Opened,
    OpenedAlert,
    OpenedBodyless,
    OpenedMessage,
    PendingCard,
    PendingOfficerList,
    Recipient,
    Refused,
    Verified,
    open_envelope_untrusted,
    seal,
    sealed_bytes,
)
from tests.protocol.offices import (
    MAE_SAI,
    MYITKYINA,
    NOW_MS,
    TENGCHONG,
    Desk,
    an_opening,
    certificate_of,
    counting_random,
    forge,
    header_of,
    plaintext_of,
    released,
    sealed,
    signed_alert,
    signed_message,
    signed_parts,
    vehicle_alert,
    victim_alert,
)

ANNOUNCEMENT = KeyAnnouncement(
    key_version=1, rk_gen=2, key_id=b"\x02" * 8, public=MYITKYINA.receive_key.public_bytes
)
PLAIN = released(vehicle_alert())
SIGNED = signed_alert(PLAIN)
SEALED = sealed(SIGNED)
JUNK = (MalformedInput, VerificationFailed)


def opened(envelope: bytes, desk: Desk | None = None) -> Opened:
    return open_envelope_untrusted(envelope, desk or Desk())


def opened_alert(envelope: bytes, desk: Desk | None = None) -> OpenedAlert:
    result = opened(envelope, desk)
    assert isinstance(result, OpenedAlert)
    return result


# --- from one office to the other ---


@pytest.mark.parametrize("alert", [vehicle_alert(), victim_alert()], ids=["vehicle", "victim"])
def test_what_one_office_released_the_other_reads(alert: Alert) -> None:
    """Released, signed, sealed, opened: the same alert under the same id, in its place in the order."""
    one = released(alert, releaser=3)
    opening = an_opening(pair_seq=7, rk_first=3, pair_prev=b"\x05" * 32)
    message = signed_alert(one, opening=opening, items=[ANNOUNCEMENT])
    got = opened_alert(sealed(message, opening=opening))
    assert got.alert == alert
    assert got.alert_id == one.alert_id == message.alert_id == got.header.core_hash
    assert (got.hh, got.opening, got.sender) == (message.hh, opening, MYITKYINA.id)
    assert got.key_id == TENGCHONG.receive_key_id
    assert got.message == message
    assert join_alert(got.core, got.disclosures) == alert
    assert got.piggyback_items[1:] == (ANNOUNCEMENT,)
    assert got.marks == frozenset()


def test_two_recipients_know_one_alert_id_and_two_deliveries() -> None:
    """References and receipts name the alert alike everywhere; replay and order are each pair's own."""
    one = released(vehicle_alert(), audience=[TENGCHONG.id, MAE_SAI.id])
    here, there = signed_alert(one), signed_alert(one, recipient=MAE_SAI)
    assert here.alert_id == there.alert_id == one.alert_id
    assert here.hh != there.hh
    assert opened_alert(sealed(here)).alert == vehicle_alert()
    assert opened_alert(sealed(there, recipient=MAE_SAI), Desk(me=MAE_SAI)).alert == vehicle_alert()


def test_sealing_again_gives_other_bytes_and_the_same_message() -> None:
    """A resend has a fresh content key and wrap; header, signature and leaf are what was signed."""
    again = sealed(SIGNED, name="again")
    assert again != SEALED
    assert opened_alert(again).message == opened_alert(SEALED).message


def test_receipts_and_items_cross_too() -> None:
    """Every other type comes back as what its body holds."""
    acknowledgement = Acknowledgement(
        key_version=1,
        instance=MYITKYINA.instance,
        ranges=(ReceivedRange(instance=TENGCHONG.instance, contiguous_to=3, bitmap=0),),
    )
    for kind in (MessageType.CONTROL, MessageType.COVER, MessageType.NACK):
        got = opened(sealed(signed_message(kind, encode_items([acknowledgement]), items=[ANNOUNCEMENT])))
        assert isinstance(got, OpenedMessage)
        assert (got.header.type, got.items, got.piggyback_items) == (
            kind,
            (acknowledgement,),
            (ANNOUNCEMENT,),
        )
        assert got.certificate is None


def test_a_card_brings_the_certificate_it_is_signed_under() -> None:
    """A new key version introduces itself, under the root that was pinned."""
    second = replace(MYITKYINA, key_version=2)
    card = signed_message(MessageType.CARD, certificate_core(certificate_of(second), []), sender=second)
    got = opened(sealed(card))
    assert isinstance(got, OpenedMessage)
    assert got.certificate is not None
    assert (got.certificate.key_version, got.header.key_version) == (2, 2)


def test_an_expired_message_travels_without_its_body_and_still_verifies() -> None:
    """Numbers leave no holes for ever: header and signature alone mark the place, from the smallest item."""
    large = signed_alert(released(vehicle_alert(text={"language": "en", "text": "x" * 7_900})))
    bare = sealed(large, bodyless=True)
    assert (len(sealed(large)), len(bare)) == (16_384, 8_192)
    got = opened(bare)
    assert isinstance(got, OpenedBodyless)
    assert (got.hh, got.opening.is_bodyless, got.message.has_body) == (large.hh, True, False)
    assert sealed_bytes(large.without_body()) == 8_192
    assert isinstance(opened(sealed(large.without_body())), OpenedBodyless)


def test_the_outbox_keeps_a_message_as_bytes() -> None:
    """A message survives a restart, with and without its body."""
    for message in (SIGNED, SIGNED.without_body()):
        assert SignedMessage.from_bytes(message.to_bytes()) == message
    assert len(SIGNED.without_body().to_bytes()) == 2 + 186 + 3373
    assert decode_opening_untrusted(an_opening().encode()) == an_opening()


def test_an_officer_list_that_is_still_missing_may_ride_on_the_alert_that_needs_it() -> None:
    """The alert waits, neither refused nor shown, and what it brought is handed over first."""
    listed = OfficerListItem(officer_list=MYITKYINA.officer_list(list_version=2))
    desk = Desk()
    desk.known = replace(desk.known, officer_lists=())
    got = opened(sealed(signed_alert(PLAIN, items=[listed])), desk)
    assert isinstance(got, PendingOfficerList)
    assert got.piggyback_items[1] == listed


# --- the format, read by hand ---


def test_the_header_stands_at_the_offsets_of_the_spec() -> None:
    """Byte for byte, without the code that wrote it."""
    raw = SIGNED.header
    leaf = an_opening().leaf(TENGCHONG.id)
    assert len(raw) == 154 + 32
    assert raw[0:4] == b"SLW1"
    assert raw[4:8] == b"\x01\x01\x00\x00"
    assert raw[24:56] == MYITKYINA.id
    assert raw[56:60] == b"\x00\x00\x00\x01"
    assert raw[60:68] == MYITKYINA.instance
    assert struct.unpack(">QQ", raw[68:84]) == (NOW_MS, PLAIN.expires_ms)
    assert raw[84:116] == PLAIN.alert_id == labelled_hash(b"salween/v1/core", PLAIN.core)
    assert struct.unpack(">I", raw[116:120]) == (len(PLAIN.core),)
    assert raw[120:152] == labelled_hash(b"salween/v1/piggyback", SIGNED.piggyback)
    assert raw[152:154] == b"\x00\x01"
    assert raw[154:] == leaf
    assert SIGNED.hh == labelled_hash(b"salween/v1/header", raw)


def test_the_leaf_is_the_hash_of_the_spec() -> None:
    """H(label, blind, recipient, numbers, key acknowledged, predecessor)."""
    opening = LeafOpening(
        blind=b"b" * 16, leaf_index=0, pair_seq=5, rk_first=2, rk_known=b"k" * 8, pair_prev=b"p" * 32
    )
    numbers = b"\x00" * 7 + b"\x05" + b"\x00" * 7 + b"\x02"
    assert opening.leaf(TENGCHONG.id) == labelled_hash(
        b"salween/v1/leaf", b"b" * 16, TENGCHONG.id, numbers, b"k" * 8, b"p" * 32
    )
    assert opening.encode() == b"b" * 16 + b"\x00" * 4 + numbers + b"k" * 8 + b"p" * 32
    assert len(opening.encode()) == 76


def test_an_envelope_made_by_hand_from_the_spec_opens() -> None:
    """A second implementation of the format, from the offsets alone, is understood."""
    assert opened_alert(forge(plaintext_of(SIGNED))).message == SIGNED
    bare = an_opening(flags=1).encode() + bytes(4)
    made = forge(plaintext_of(SIGNED, with_body=False), wrapped_opening=bare)
    assert isinstance(opened(made), OpenedBodyless)


def test_nothing_in_clear_names_an_office() -> None:
    """Neither id, name, instance nor message id stands in an envelope."""
    for name in (MYITKYINA.id, TENGCHONG.id, MYITKYINA.instance, b"BLO", b"SLW1", b"5C-1234"):
        assert name not in SEALED


# --- sizes ---


def text_alert(points: int) -> ReleasedAlert:
    return released(vehicle_alert(entities=(), text={"language": "en", "text": "x" * points}))


def test_the_smallest_item_holds_what_the_spec_promises() -> None:
    """8 KiB: 3.3 KB of core and disclosures, of which 2.0 KB are left beside a key announcement."""
    alone = signed_alert(PLAIN)
    announced = signed_alert(PLAIN, items=[ANNOUNCEMENT])
    items_bytes = len(announced.piggyback) - len(alone.piggyback)
    assert BODY_BYTES_IN_SMALLEST == 3_289
    assert items_bytes < limits.XWING_PUBLIC_BYTES + 40
    assert BODY_BYTES_IN_SMALLEST - len(announced.piggyback) >= 2_000
    assert BODY_BYTES_IN_SMALLEST - len(alone.piggyback) >= 3_250


@pytest.mark.parametrize(("items", "points"), [([ANNOUNCEMENT], 1_450), ([], 2_600)])
def test_how_much_text_fits_into_the_smallest_item(items: list[Any], points: int) -> None:
    """1,450 letters with a key announcement and 2,600 without, beside codes, salts and a signature."""
    assert sealed_bytes(signed_alert(text_alert(points), items=items)) == 8_192
    assert sealed_bytes(signed_alert(text_alert(points + 99), items=items)) == 16_384


@given(st.integers(0, 60_000))
@settings(max_examples=40)
def test_an_item_is_exactly_the_smallest_size_that_holds_it(core_bytes: int) -> None:
    """Every body up to the limit is sealed into one of four sizes, and one byte decides which."""
    message = replace(SIGNED, core=b"c" * (core_bytes + 1))
    needed_bytes = len(message.to_bytes()) + 1
    rooms = {8_192: 6_863, 16_384: 15_055, 32_768: 31_423, 65_536: 64_159}
    expected = next(size for size, room_bytes in rooms.items() if needed_bytes <= room_bytes)
    assert sealed_bytes(message) == expected
    assert len(sealed(message)) == expected


def test_one_byte_too_many_says_how_many() -> None:
    """An alert too large for 64 KiB is refused before anything is encrypted, with the number to cut."""
    room_bytes = 64_159 - 1 - len(SIGNED.without_body().to_bytes()) - 12
    fits = SignedMessage(
        header=SIGNED.header, signature=SIGNED.signature, core=b"", disclosures=b"", piggyback=b""
    )
    full = replace(fits, core=b"c" * room_bytes)
    assert len(sealed(full)) == 65_536
    with pytest.raises(PolicyRefused, match="17 bytes too large") as caught:
        sealed(replace(full, core=full.core + b"c" * 17))
    assert caught.value.code == "too_large"


def test_the_longest_alert_with_an_announcement_fits() -> None:
    """Full text in a script of three bytes a letter, and as many full descriptions as a body can hold."""
    entities = [{"entity": "vehicle", "description": "က" * 1_000}] * 10
    alert = vehicle_alert(entities=entities, text={"language": "my", "text": "က" * 8_000})
    one = released(alert)
    assert len(one.core) + len(one.disclosures) < limits.BODY_BYTES_MAX
    assert opened_alert(sealed(signed_alert(one, items=[ANNOUNCEMENT]))).alert == alert


# --- one bit ---


def junk_or_same(envelope: bytes, desk: Desk | None = None) -> None:
    """The promise for any change: an exception of the two families, or the very same message."""
    try:
        result = open_envelope_untrusted(envelope, desk or Desk())
    except JUNK:
        return
    if isinstance(result, Verified):
        assert result.message == SIGNED
        assert result.opening == an_opening()
    else:
        assert type(result).__name__ == "UnknownKey"


@given(st.integers(0, 8 * 8_192 - 1))
@settings(max_examples=400)
def test_a_flipped_bit_of_an_envelope_is_junk(bit: int) -> None:
    """Anywhere in the item; never another exception, never another message."""
    changed = bytearray(SEALED)
    changed[bit // 8] ^= 1 << bit % 8
    junk_or_same(bytes(changed))
    if bit // 8 >= 9:
        with pytest.raises(JUNK):
            opened(bytes(changed))


def test_every_bit_outside_the_blob_and_around_its_seams_matters() -> None:
    """Version, key id, the wrap's ends and the blob's header: each single bit."""
    spots = [*range(10), *range(1_120, 1_135), *range(1_240, 1_320), *range(8_170, 8_192)]
    for at in spots:
        for bit in range(8):
            changed = bytearray(SEALED)
            changed[at] ^= 1 << bit
            junk_or_same(bytes(changed))


def test_every_bit_of_the_header_is_signed() -> None:
    """Someone who can seal to us changes one bit of the header under a kept signature: always junk."""
    plaintext = plaintext_of(SIGNED)
    key_version_bytes = range(2 + 56, 2 + 60)
    codes = {
        "header_malformed",
        "message_malformed",
        "sender_mismatch",
        "signature_invalid",
        # Type 8 instead of 1 would bring a certificate.
        "certificate_malformed",
        # Key version 0.
        "key_version_revoked",
    }
    desk = Desk(known=replace(MYITKYINA.as_peer(), revoked_below=1))
    for bit in range(8 * (2 + len(SIGNED.header))):
        changed = bytearray(plaintext)
        changed[bit // 8] ^= 1 << bit % 8
        envelope = forge(bytes(changed))
        if bit // 8 in key_version_bytes and bit != 8 * key_version_bytes[-1]:
            # A version nobody knows yet waits for its certificate; nothing of it is looked at.
            assert isinstance(opened(envelope, desk), PendingCard)
            continue
        with pytest.raises(JUNK) as caught:
            opened(envelope, desk)
        assert caught.value.code in codes


def test_every_bit_of_what_is_wrapped_matters() -> None:
    """Blind, index, flags, numbers, key known, predecessor and the zeros: each bit is junk."""
    wrapped = an_opening().encode() + bytes(4)
    for bit in range(8 * len(wrapped)):
        changed = bytearray(wrapped)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(JUNK) as caught:
            opened(forge(plaintext_of(SIGNED), wrapped_opening=bytes(changed)))
        assert caught.value.code in {"not_for_me", "leaf_opening", "message_malformed"}


@given(st.data())
@settings(max_examples=200)
def test_any_bit_of_a_body_under_a_kept_signature_is_junk_or_refused(data: st.DataObject) -> None:
    """Core and piggyback fail their hashes, disclosures their digests, lengths the form; nothing is shown."""
    plaintext = bytearray(plaintext_of(SIGNED))
    body_at = 2 + len(SIGNED.header) + 3373
    bit = data.draw(st.integers(8 * body_at, 8 * len(plaintext) - 1))
    plaintext[bit // 8] ^= 1 << bit % 8
    try:
        result = opened(forge(bytes(plaintext)))
    except JUNK:
        return
    assert isinstance(result, Refused)


# --- any bytes ---


@given(st.sampled_from(limits.ENVELOPE_BUCKETS_BYTES), st.binary(max_size=64), st.booleans())
@settings(max_examples=50)
def test_any_bytes_of_the_right_size_end_in_junk_or_an_unknown_key(
    size_bytes: int, some: bytes, ours: bool
) -> None:
    """What a broker or a stranger makes up never raises anything else."""
    start = b"\x01" + TENGCHONG.receive_key_id if ours else b"\x01"
    junk_or_same((start + some).ljust(size_bytes, b"\x5a"))


@given(st.binary(max_size=2_000))
@settings(max_examples=100)
def test_any_plaintext_sealed_to_us_is_junk(plaintext: bytes) -> None:
    """Whoever learnt our receive key can make us decrypt, and no more."""
    with pytest.raises(JUNK):
        opened(forge(plaintext))


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
@settings(max_examples=100)
def test_any_signed_body_is_refused_or_opened_and_never_raises(
    core: bytes, disclosures: bytes, piggyback: bytes
) -> None:
    """A peer may sign anything at all: after the leaf nothing raises."""
    core = core or b"\x00"
    for kind in (MessageType.ALERT, MessageType.CONTROL, MessageType.RECEIPT):
        header = header_of(core, piggyback, kind=kind).encode()
        result = opened(forge(plaintext_of(signed_parts(header, core, disclosures, piggyback))))
        assert isinstance(result, Refused | OpenedMessage)


@given(st.binary(max_size=154 + 64) | st.binary(max_size=100).map(lambda tail: SIGNED.header[:154] + tail))
def test_any_header_is_malformed_or_encodes_back(data: bytes) -> None:
    """The header has one encoding."""
    with contextlib.suppress(MalformedInput):
        assert parse_header_untrusted(data).encode() == data


@given(st.binary(max_size=4_000))
def test_any_message_is_malformed_or_encodes_back(data: bytes) -> None:
    """What the outbox reads back is what it wrote, or MalformedInput."""
    with contextlib.suppress(MalformedInput):
        assert SignedMessage.from_bytes(data).to_bytes() == data


# --- junk leaves no mark, refused shows nothing ---


def test_the_window_is_asked_only_about_what_was_signed_to_us() -> None:
    """No number is judged, let alone marked, before the leaf opens."""
    desk = Desk()
    passed_on = signed_alert(released(vehicle_alert(), audience=[MAE_SAI.id]), recipient=MAE_SAI)
    for envelope in (
        sealed(passed_on),
        forge(plaintext_of(replace(SIGNED, signature=bytes(3373)))),
        forge(plaintext_of(replace(SIGNED, core=PLAIN.core + b"\x00"))),
    ):
        with pytest.raises(JUNK):
            opened(envelope, desk)
    assert desk.asked == []
    opened(SEALED, desk)
    assert desk.asked == [SIGNED.hh]


def test_passing_on_an_envelope_fails_as_not_for_me() -> None:
    """Surreptitious forwarding: really signed, sealed anew to a third office, and still not its message."""
    one = released(vehicle_alert(), audience=[MAE_SAI.id, TENGCHONG.id])
    to_mae_sai = signed_alert(one, recipient=MAE_SAI)
    with pytest.raises(VerificationFailed) as caught:
        opened(sealed(to_mae_sai))
    assert caught.value.code == "not_for_me"


def test_a_refused_message_holds_its_code_and_no_readable_part() -> None:
    """The screen can say why and from whom; there is no alert in it to show by mistake."""
    victim = released(victim_alert(), releaser=3, audience=[MAE_SAI.id])
    beside = encode_items([AudienceOpening(opening=victim.opening_for(MAE_SAI.id))])
    header = header_of(victim.core, beside).encode()
    made = forge(plaintext_of(signed_parts(header, victim.core, victim.disclosures, beside)))
    result = opened(made)
    assert isinstance(result, Refused)
    assert result.code == "not_in_audience"
    assert {field.name for field in fields(result)} == {
        "sender",
        "key_id",
        "header",
        "hh",
        "opening",
        "message",
        "code",
        "detail",
    }
    assert "Person One" not in repr(result) + result.detail


def test_no_result_shows_content_when_it_is_printed() -> None:
    """A result in a log line or a traceback tells ids and sizes, no name and no plate."""
    result = opened_alert(sealed(signed_alert(released(victim_alert(), releaser=3))))
    assert "Person One" not in repr(result)
    assert "5C-1234" not in repr(opened_alert(SEALED))


def test_every_refusal_an_officer_may_read_has_a_label() -> None:
    """Codes of release and of the alert's own rules are in the code list of refusals."""
    known = set(codelists.load("refusals").codes)
    assert {
        "author_missing",
        "second_officer_missing",
        "same_officer",
        "supervisor_needed",
        "officer_not_valid",
        "officer_unknown",
        "officer_signatures",
        "signature_invalid",
        "emergency_author",
        "emergency_not_allowed",
        "audience_opening_missing",
        "audience_opening",
        "not_in_audience",
        "expiry_differs",
        "alert_invalid",
        "disclosure_missing",
        "disclosure_unsigned",
        "core_critical",
        "critical_item_unknown",
        "suite_below_minimum",
        # An officer's to choose (node.answers).
        "not_our_area",
        "not_enough_information",
        "already_known",
        "no_capacity",
        "not_allowed_here",
    } == known


def test_a_duplicate_is_told_before_its_body_is_read() -> None:
    """A repeated item costs no decoding, whatever its body."""
    broken = signed_message(MessageType.CONTROL, b"\xc1")
    assert isinstance(opened(sealed(broken)), Refused)
    duplicate = opened(sealed(broken), Desk(judgement=Judgement.DUPLICATE))
    assert type(duplicate).__name__ == "Duplicate"


@pytest.mark.parametrize("state", [PairState.HALF, PairState.SUSPENDED])
def test_nothing_is_shown_of_a_pair_that_is_not_active(state: PairState) -> None:
    """Until the peer's confirmation verifies, and after a revocation, alerts wait unseen."""
    assert type(opened(SEALED, Desk(known=MYITKYINA.as_peer(state)))).__name__ == "PendingPair"


# --- clocks ---


@given(st.integers(0, limits.TIME_MS_MAX), st.integers(0, limits.TIME_MS_MAX))
@settings(max_examples=60)
def test_no_clock_stops_an_alert(created_ms: int, now_ms: int) -> None:
    """Whatever either clock says, the alert is opened; at worst it carries marks."""
    message = signed_alert(PLAIN, created_ms=created_ms)
    result = opened_alert(sealed(message), Desk(now_ms=now_ms))
    assert (Mark.STALE in result.marks) == (now_ms >= PLAIN.expires_ms)
    assert (Mark.ERASE_DUE in result.marks) == (now_ms >= PLAIN.erase_at_ms)
    if created_ms > now_ms + limits.CLOCK_AHEAD_MS_MAX:
        assert Mark.CLOCK_SUSPECT in result.marks


# --- what is kept ---


def test_the_content_key_lives_in_no_object_that_survives_sealing_or_opening() -> None:
    """With a kept content key, a recorded item could be opened after both offices erased its content."""
    given_out: list[bytes] = []

    def random(length: int) -> bytes:
        given_out.append(counting_random("unique content key")(length))
        return given_out[-1]

    envelope = seal(
        SIGNED,
        [
            Recipient(
                office_id=TENGCHONG.id,
                instance=MYITKYINA.instance,
                opening=an_opening(),
                receive_key_id=TENGCHONG.receive_key_id,
                receive_key_public=TENGCHONG.receive_key.public_bytes,
            )
        ],
        sender=MYITKYINA.id,
        random=random,
    )[0]
    result = opened_alert(envelope)
    (content_key,) = given_out
    assert len(content_key) == 32
    gc.collect()
    holders = [
        value
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith(("protocol", "keys"))
        for name in getattr(type(thing), "__slots__", ())
        if isinstance(value := getattr(thing, name, None), bytes | bytearray) and content_key in value
    ]
    assert holders == []
    kept = result.message.to_bytes() + result.opening.encode() + envelope
    assert content_key not in kept


def test_each_item_is_sealed_under_one_key_of_its_own() -> None:
    """Two seals draw two content keys."""
    drawn: list[bytes] = []
    source = counting_random("drawn")

    def random(length: int) -> bytes:
        drawn.append(source(length))
        return drawn[-1]

    for _ in range(2):
        seal(
            SIGNED,
            [
                Recipient(
                    office_id=TENGCHONG.id,
                    instance=MYITKYINA.instance,
                    opening=an_opening(),
                    receive_key_id=TENGCHONG.receive_key_id,
                    receive_key_public=TENGCHONG.receive_key.public_bytes,
                )
            ],
            sender=MYITKYINA.id,
            random=random,
        )[0]
    assert [len(key) for key in drawn] == [32, 32]
    assert drawn[0] != drawn[1]


# --- what cannot be made ---


def test_an_alert_is_signed_only_from_what_was_released() -> None:
    """No other door leads to a message of type ALERT, and none to an office outside the audience."""
    with pytest.raises(BrokenInvariant, match="not_released"):
        signed_message(MessageType.ALERT, PLAIN.core)
    with pytest.raises(PolicyRefused, match="not_in_audience"):
        signed_alert(PLAIN, recipient=MAE_SAI)


def test_an_alert_carries_its_audience_opening_without_being_asked() -> None:
    """The recipient can check the release of every alert."""
    (first, *rest) = decode_items_untrusted(SIGNED.piggyback)
    assert first == AudienceOpening(opening=PLAIN.opening_for(TENGCHONG.id))
    assert rest == []


def test_an_unusable_receive_key_is_refused_before_anything_leaves() -> None:
    """A peer's broken announcement is the peer's fault, told apart from ours."""
    with pytest.raises(VerificationFailed, match="public_key_invalid"):
        seal(
            SIGNED,
            [
                Recipient(
                    office_id=TENGCHONG.id,
                    instance=MYITKYINA.instance,
                    opening=an_opening(),
                    receive_key_id=TENGCHONG.receive_key_id,
                    receive_key_public=bytes(10),
                )
            ],
            sender=MYITKYINA.id,
            random=counting_random("x"),
        )[0]


def test_two_messages_of_one_millisecond_have_two_ids() -> None:
    """hh is unique: two messages alike in all else differ by their leaf."""
    beat = encode_items([HeartBeat(highest_seq=1, at_ms=NOW_MS)])
    first = signed_message(MessageType.COVER, beat)
    second = signed_message(MessageType.COVER, beat, opening=an_opening(pair_seq=2))
    assert first.hh != second.hh
