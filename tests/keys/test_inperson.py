"""The ceremony in person: two real ends, two screens, and whoever stands in between."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys import inperson, meetingcode
from keys.bundle import NO_NONCE, NO_OFFICE, parse_signed_bundle_untrusted, sign_bundle
from keys.errors import MalformedInput, PolicyRefused, SalweenError, VerificationFailed
from keys.inperson import (
    InviterShows,
    JoinerWaitsForBundle,
    Meeting,
    OwnOffice,
    Recognises,
    derive_meeting,
    start_joiner,
)
from keys.invitation import Invitation
from keys.meetingcode import (
    CODE_BYTES_MAX,
    HOST_CHARACTERS_MAX,
    InviterCode,
    check_meeting,
    code_hash,
    code_text,
    encode_code,
    expect_inviter,
    parse_code_untrusted,
    read_code_text_untrusted,
)
from keys.pairing import Confirms, Paired
from keys.primitives import wrap
from keys.rendezvous import ITEM_BYTES_ALLOWED, Burned, from_item_untrusted, seal_item, to_item
from keys.secret import SecretBytes
from keys.trust import PairState, activate, pin_bundle
from tests.keys.builders import MALLORY, MYITKYINA, NOW_MS, TENGCHONG, Office, a_broker_address, drawn
from tests.keys.mutations import near

EXPIRES_MS = NOW_MS + 600_000


@functools.cache
def brings(office: Office) -> OwnOffice:
    return OwnOffice(operational=office.operational, bundle=office.bundle())


def an_inviter_code(office: Office = MYITKYINA, seed: str = "1", **changes: Any) -> InviterCode:
    fields: dict[str, Any] = {
        "office_id": office.id,
        "secret": SecretBytes(drawn(f"{office.name} meeting {seed}", 16)),
        "token": SecretBytes(drawn("token", 32)),
        "broker_address": a_broker_address(),
        "expires_ms": EXPIRES_MS,
    }
    return InviterCode(**{**fields, **changes})


def inviter(office: Office = MYITKYINA, seed: str = "1") -> tuple[Meeting, str]:
    """An inviter and the text on its screen."""
    code = an_inviter_code(office, seed)
    step = InviterShows(
        own=brings(office), code=code, channel_key=SecretBytes(drawn(f"{office.name} channel {seed}", 32))
    )
    return Meeting(step, EXPIRES_MS), code_text(encode_code(code))


def joiner(read: str, office: Office = TENGCHONG, seed: str = "1") -> tuple[Meeting, str, bytes]:
    """A joiner that has read ``read``, the text on its screen, and the item with its key."""
    code = expect_inviter(read_code_text_untrusted(read), office.id)
    step, item = start_joiner(
        brings(office),
        code,
        secret=SecretBytes(drawn(f"{office.name} meeting {seed}", 16)),
        ephemeral_seed=SecretBytes(drawn(f"{office.name} ephemeral {seed}", 32)),
    )
    return Meeting(step, code.expires_ms), code_text(encode_code(step.code)), item


def receive(meeting: Meeting, item: bytes, now_ms: int = NOW_MS) -> bytes:
    """Deliver an item; the answer, or nothing."""
    return meeting.receive(item, seal_nonce=drawn(f"nonce {len(item)}", 24), now_ms=now_ms) or b""


def until_recognised() -> tuple[Meeting, Meeting]:
    """Both codes read, both bundles verified."""
    a, shown_a = inviter()
    b, shown_b, key = joiner(shown_a)
    a.take_code(shown_b, now_ms=NOW_MS)
    receive(a, receive(b, receive(a, key)))
    return a, b


def until_accepted() -> tuple[Meeting, Meeting]:
    a, b = until_recognised()
    a.accept(now_ms=NOW_MS)
    b.accept(now_ms=NOW_MS)
    return a, b


def confirm(meeting: Meeting, office: Office) -> tuple[bytes, bytes]:
    assert isinstance(meeting.step, Confirms)
    return meeting.step.confirm(
        office.operational,
        key_version=1,
        officers=(1,),
        now_ms=NOW_MS,
        reset_key=office.reset_key,
        seal_nonce=drawn("ok", 24),
    )


def burned(meeting: Meeting) -> str:
    """Why it burned; it must be of no use any more, whatever is tried."""
    assert isinstance(meeting.step, Burned)
    for use in (
        lambda: receive(meeting, b""),
        lambda: meeting.take_code(inviter()[1], now_ms=NOW_MS),
        lambda: meeting.accept(now_ms=NOW_MS),
    ):
        with pytest.raises(PolicyRefused, match="pairing_burned"):
            use()
    return meeting.step.code


# --- the honest course ---


def test_two_offices_that_read_each_others_screens_pair() -> None:
    """No code is typed; both become active, each with the other's signed word on the same transcript."""
    a, b = until_accepted()
    ok_a, item_a = confirm(a, MYITKYINA)
    ok_b, item_b = confirm(b, TENGCHONG)
    receive(a, item_b)
    receive(b, item_a)
    assert isinstance(a.step, Paired)
    assert isinstance(b.step, Paired)
    assert (a.step.evidence, b.step.evidence) == (ok_b, ok_a)
    assert a.step.transcript == b.step.transcript
    for paired, office in ((a.step, TENGCHONG), (b.step, MYITKYINA)):
        peer = activate(pin_bundle(paired.peer, NOW_MS), NOW_MS)
        assert (peer.office_id, peer.state) == (office.id, PairState.ACTIVE)


def test_a_bundle_is_signed_for_the_scanned_office_and_both_codes() -> None:
    """What by voice cannot be: nothing about the peer is left open."""
    a, b = until_recognised()
    assert isinstance(a.step, Recognises)
    assert isinstance(b.step, Recognises)
    for step, own in ((a.step, MYITKYINA), (b.step, TENGCHONG)):
        assert step.peer.peer_id == own.id != NO_OFFICE
        assert step.peer.peer_nonce != NO_NONCE
    assert (a.step.peer.own_nonce, a.step.peer.peer_nonce) == (b.step.peer.peer_nonce, b.step.peer.own_nonce)
    assert a.step.peer.peer_nonce == code_hash(encode_code(an_inviter_code()))


def test_items_fit_the_brokers_sizes_and_name_no_office() -> None:
    """The broker sees four items of envelope size and one key that is used once."""
    a, shown_a = inviter()
    b, shown_b, key = joiner(shown_a)
    a.take_code(shown_b, now_ms=NOW_MS)
    bundle = receive(a, key)
    reply = receive(b, bundle)
    receive(a, reply)
    a.accept(now_ms=NOW_MS)
    _, confirmation = confirm(a, MYITKYINA)
    for item in (key, bundle, reply, confirmation):
        assert len(item) in ITEM_BYTES_ALLOWED
        for office in (MYITKYINA, TENGCHONG):
            for known in (office.id, office.name.encode(), office.operational.public_bytes[:32]):
                assert known not in item


def test_who_photographs_both_screens_reads_no_bundle() -> None:
    """A bundle holds a capability; it is encrypted to a key of which the screen shows the hash alone."""
    a, shown_a = inviter()
    _, shown_b, key = joiner(shown_a)
    a.take_code(shown_b, now_ms=NOW_MS)
    bundle = receive(a, key)
    spy, _, _ = joiner(shown_a, seed="spy")
    assert isinstance(spy.step, JoinerWaitsForBundle)
    read = read_code_text_untrusted(shown_b)
    spy.step = replace(spy.step, code=read)  # type: ignore[arg-type]
    with pytest.raises(VerificationFailed, match="unwrap_failed"):
        receive(spy, bundle)


def test_both_sides_derive_the_same_rendezvous_and_one_code_is_not_enough() -> None:
    """Six secrets; another code on either side gives six others."""
    _, shown_a = inviter()
    a = read_code_text_untrusted(shown_a)
    b = read_code_text_untrusted(joiner(shown_a)[1])
    c = read_code_text_untrusted(joiner(shown_a, seed="2")[1])
    seen: set[bytes] = set()
    for code in (b, c):
        meeting = derive_meeting(a, code)  # type: ignore[arg-type]
        again = derive_meeting(a, code)  # type: ignore[arg-type]
        for box, same in (
            (meeting.to_joiner, again.to_joiner),
            (meeting.to_inviter, again.to_inviter),
        ):
            assert box.put_secret.reveal() == same.put_secret.reveal()
            seen |= {part.reveal() for part in (box.put_secret, box.get_secret, box.signing_seed)}
    assert len(seen) == 12


# --- codes ---

SHOWN = encode_code(an_inviter_code())
LINE = code_text(SHOWN)
ANSWER_LINE = joiner(LINE)[1]


def test_a_code_fits_one_small_qr_code() -> None:
    """At most 180 bytes, with the longest host there is room for; one more is refused in words."""
    longest = replace(a_broker_address(), host="a" * 40 + ".example"[: HOST_CHARACTERS_MAX - 40])
    assert len(longest.host) == HOST_CHARACTERS_MAX
    encoded = encode_code(an_inviter_code(broker_address=longest))
    assert len(encoded) == CODE_BYTES_MAX == 180
    assert parse_code_untrusted(encoded) is not None
    assert len(code_text(encoded)) <= 302
    with pytest.raises(PolicyRefused, match="meeting_host_long"):
        encode_code(an_inviter_code(broker_address=replace(longest, host="a" + longest.host)))


@pytest.mark.parametrize("line", [LINE, ANSWER_LINE], ids=["inviter", "joiner"])
def test_a_pasted_code_is_the_scanned_one(line: str) -> None:
    """With line breaks, spaces or capitals; and its bytes come back the same."""
    code = read_code_text_untrusted(line)
    for text in (f" {line[:50]}\n  {line[50:]}\r\n", line.upper()):
        assert code_text(encode_code(read_code_text_untrusted(text))) == line
    assert encode_code(parse_code_untrusted(encode_code(code))) == encode_code(code)
    assert len(encode_code(code)) <= CODE_BYTES_MAX


@pytest.mark.parametrize("line", [LINE, ANSWER_LINE], ids=["inviter", "joiner"])
def test_every_single_typing_error_is_noticed(line: str) -> None:
    """A character replaced, missing, doubled or swapped with its neighbour."""
    for at in range(len("salween-meet1-"), len(line)):
        replaced = line[:at] + ("a" if line[at] != "a" else "b") + line[at + 1 :]
        missing = line[:at] + line[at + 1 :]
        doubled = line[:at] + line[at] + line[at:]
        swapped = line[:at] + line[at + 1 : at + 2] + line[at] + line[at + 2 :]
        for text in {replaced, missing, doubled, swapped} - {line}:
            with pytest.raises(MalformedInput, match="meeting_code_mistyped"):
                read_code_text_untrusted(text)


def test_what_is_no_code_of_ours_is_told_from_a_mistyped_one() -> None:
    """And a later version, an expired code and an invitation by voice from both."""
    for text in ("", "hello", "https://example.org/", "x" * 5000, LINE[1:]):
        with pytest.raises(MalformedInput, match="meeting_code_malformed"):
            read_code_text_untrusted(text)
    with pytest.raises(MalformedInput, match="meeting_code_version"):
        read_code_text_untrusted(LINE.replace("meet1", "meet2"))
    later = SHOWN[:4] + b"\x02" + SHOWN[5:-5]
    with pytest.raises(MalformedInput, match="meeting_code_version"):
        parse_code_untrusted(later + meetingcode._check(later))
    by_voice = Invitation(
        broker_address=a_broker_address(),
        secret=SecretBytes(bytes(16)),
        token=SecretBytes(bytes(32)),
        expires_ms=EXPIRES_MS,
    )
    with pytest.raises(MalformedInput, match="by voice"):
        read_code_text_untrusted(by_voice.encode())
    check_meeting(an_inviter_code(), EXPIRES_MS - 1)
    with pytest.raises(PolicyRefused, match="meeting_code_expired"):
        check_meeting(an_inviter_code(), EXPIRES_MS)


@pytest.mark.parametrize("changes", [{"port": 0}, {"host": "-bad-"}, {"host": "127.1"}, {"host": "UPPER"}])
def test_a_code_with_a_right_checksum_is_still_checked(changes: dict[str, Any]) -> None:
    """Someone may compute the checksum over nonsense."""
    encoded = encode_code(an_inviter_code(broker_address=replace(a_broker_address(), **changes)))
    with pytest.raises(MalformedInput, match="meeting_code_malformed"):
        parse_code_untrusted(encoded)
    strange = SHOWN[:5] + b"\x03" + SHOWN[6:-5]
    with pytest.raises(MalformedInput, match="unknown kind"):
        parse_code_untrusted(strange + meetingcode._check(strange))


@settings(max_examples=300)
@given(near(SHOWN) | near(encode_code(read_code_text_untrusted(ANSWER_LINE))))
def test_scanned_bytes_are_a_code_in_its_one_encoding_or_malformed(data: bytes) -> None:
    """Whatever a camera reads; also with a checksum that somebody computed anew."""
    for encoded in (data, data[:-5] + meetingcode._check(data[:-5])):
        with contextlib.suppress(MalformedInput):
            assert encode_code(parse_code_untrusted(encoded)) == encoded


@settings(max_examples=300)
@given(near(LINE.encode()).map(lambda data: data.decode("latin-1")))
def test_pasted_text_is_a_code_or_malformed(text: str) -> None:
    """Whatever is pasted."""
    with contextlib.suppress(MalformedInput):
        assert code_text(encode_code(read_code_text_untrusted(text))) == "".join(text.split()).lower()


# --- somebody in between ---


def test_a_man_in_the_middle_is_refused_by_both() -> None:
    """He shows each office a code of his own that names the other one; neither takes his bundle."""
    a, shown_a = inviter()
    real = read_code_text_untrusted(shown_a)
    assert isinstance(real, InviterCode)
    # To the joiner: a code that names Myitkyina, with a rendezvous that he knows.
    false = replace(real, secret=SecretBytes(drawn("mallory", 16)))
    b, _, key_b = joiner(code_text(encode_code(false)))
    # To the inviter: an answer that names Tengchong, with a key that he knows.
    to_a, shown_to_a, key_to_a = joiner(shown_a, MALLORY)
    assert isinstance(to_a.step, JoinerWaitsForBundle)
    posing = replace(to_a.step.code, office_id=TENGCHONG.id)
    a.take_code(code_text(encode_code(posing)), now_ms=NOW_MS)
    assert shown_to_a != code_text(encode_code(posing))
    # He reads Myitkyina's bundle, made for Tengchong and his code, and can answer with nothing but his own.
    item = from_item_untrusted(receive(a, key_to_a))
    shown, answered = encode_code(real), encode_code(posing)
    opened = to_a.step.ephemeral.unwrap(item[9:], inperson._bundle_info(shown, answered))
    assert parse_signed_bundle_untrusted(opened[4:-32]).peer_id == TENGCHONG.id
    _, his = brings(MALLORY).sign(own_code=answered, peer_id=MYITKYINA.id, peer_code=shown)
    key = inperson._reply_key(SecretBytes(opened[-32:]), shown, answered)
    reply = seal_item(b"SLM3", key, bytes(24), his, inperson._both(shown, answered))
    with pytest.raises(VerificationFailed, match="pairing_bundle_foreign"):
        receive(a, reply)
    assert burned(a) == "pairing_bundle_foreign"
    # Nor does passing that bundle on to Tengchong help: it was signed for other codes.
    assert isinstance(b.step, JoinerWaitsForBundle)
    encoded = sign_bundle(
        MALLORY.operational,
        MYITKYINA.bundle(),
        own_nonce=code_hash(encode_code(false)),
        peer_id=TENGCHONG.id,
        peer_nonce=code_hash(encode_code(b.step.code)),
    )
    forged = bundle_item(b, key_b, encoded)
    with pytest.raises(VerificationFailed, match="signature_invalid"):
        receive(b, forged)
    assert burned(b) == "signature_invalid"


def bundle_item(to: Meeting, key: bytes, encoded: bytes) -> bytes:
    """An item that carries a bundle to this joiner as the inviter would."""
    assert isinstance(to.step, JoinerWaitsForBundle)
    public = from_item_untrusted(key)[5:]
    info = inperson._bundle_info(encode_code(to.step.inviter), encode_code(to.step.code))
    wrapped = wrap(public, len(encoded).to_bytes(4, "big") + encoded + bytes(32), info)
    return to_item(b"SLM2\x01" + len(wrapped).to_bytes(4, "big") + wrapped)


@pytest.mark.parametrize("changes", ["office", "peer", "own_nonce", "peer_nonce", "voice"])
def test_a_broker_that_swaps_the_bundle_is_refused(changes: str) -> None:
    """Another office's, or the right office's made for somebody else, another code or another ceremony."""
    _, shown_a = inviter()
    b, _, key = joiner(shown_a)
    assert isinstance(b.step, JoinerWaitsForBundle)
    office = MALLORY if changes == "office" else MYITKYINA
    fields = {
        "own_nonce": code_hash(SHOWN),
        "peer_id": TENGCHONG.id,
        "peer_nonce": code_hash(encode_code(b.step.code)),
    }
    if changes == "peer":
        fields["peer_id"] = MALLORY.id
    elif changes == "voice":
        fields |= {"peer_id": NO_OFFICE, "peer_nonce": NO_NONCE}
    elif changes != "office":
        fields[changes] = drawn("other", 32)
    encoded = sign_bundle(office.operational, office.bundle(), **fields)
    with pytest.raises(VerificationFailed, match="pairing_bundle_foreign"):
        receive(b, bundle_item(b, key, encoded))
    assert burned(b) == "pairing_bundle_foreign"


def test_a_broker_that_swaps_the_key_is_refused() -> None:
    """The screen showed its hash; else the broker would read the bundle and the capability inside."""
    a, shown_a = inviter()
    _, shown_b, _ = joiner(shown_a)
    _, _, other_key = joiner(shown_a, seed="2")
    a.take_code(shown_b, now_ms=NOW_MS)
    with pytest.raises(VerificationFailed, match="meeting_key_foreign"):
        receive(a, other_key)
    assert burned(a) == "meeting_key_foreign"


def test_a_replayed_ceremony_goes_nowhere() -> None:
    """Codes and items of an earlier ceremony, played to a new one: code by code, item by item."""
    a, shown_a = inviter(seed="old")
    b, shown_b, key = joiner(shown_a, seed="old")
    a.take_code(shown_b, now_ms=NOW_MS)
    bundle = receive(a, key)
    reply = receive(b, bundle)
    receive(a, reply)
    a.accept(now_ms=NOW_MS)
    b.accept(now_ms=NOW_MS)
    _, confirmation = confirm(b, TENGCHONG)

    fresh_a, fresh_shown = inviter(seed="new")
    with pytest.raises(PolicyRefused, match="meeting_code_foreign"):
        fresh_a.take_code(shown_b, now_ms=NOW_MS)
    fresh_b, fresh_answer, _ = joiner(fresh_shown, seed="new")
    fresh_a.take_code(fresh_answer, now_ms=NOW_MS)
    with pytest.raises(VerificationFailed, match="meeting_key_foreign"):
        receive(fresh_a, key)
    with pytest.raises(VerificationFailed, match="unwrap_failed"):
        receive(fresh_b, bundle)
    # The old code once more: its office holds no ceremony for it, and nobody else can answer.
    again_b, _, _ = joiner(shown_a, seed="new")
    with pytest.raises(VerificationFailed, match="unwrap_failed"):
        receive(again_b, bundle)
    until_a, _ = until_accepted()
    with pytest.raises(VerificationFailed, match="aead_invalid"):
        receive(until_a, confirmation)
    waiting, shown = inviter()
    answer, shown_answer, its_key = joiner(shown)
    waiting.take_code(shown_answer, now_ms=NOW_MS)
    receive(waiting, its_key)
    with pytest.raises(VerificationFailed, match="aead_invalid"):
        receive(waiting, reply)
    assert isinstance(answer.step, JoinerWaitsForBundle)


def test_a_second_attempt_on_one_code_is_refused() -> None:
    """The first answer is the only one, whether the ceremony then succeeds or fails."""
    a, shown_a = inviter()
    _, shown_b, _ = joiner(shown_a)
    _, shown_c, _ = joiner(shown_a, MALLORY)
    a.take_code(shown_b, now_ms=NOW_MS)
    with pytest.raises(PolicyRefused, match="pairing_out_of_turn"):
        a.take_code(shown_c, now_ms=NOW_MS)
    assert burned(a) == "pairing_out_of_turn"
    failed, shown = inviter()
    failed.take_code(joiner(shown)[1], now_ms=NOW_MS)
    with pytest.raises(MalformedInput):
        receive(failed, b"junk")
    assert burned(failed) == "pairing_item_malformed"
    paired, _ = until_recognised()
    with pytest.raises(PolicyRefused, match="pairing_out_of_turn"):
        paired.take_code(shown_b, now_ms=NOW_MS)


def test_an_echoed_code_proves_nothing() -> None:
    """Our own code on the other screen, our own answer, or our own items coming back."""
    a, shown_a = inviter()
    with pytest.raises(PolicyRefused, match="meeting_code_own"):
        a.take_code(shown_a, now_ms=NOW_MS)
    with pytest.raises(PolicyRefused, match="meeting_code_own"):
        joiner(shown_a, MYITKYINA)
    b, shown_b, key = joiner(shown_a)
    a.take_code(shown_b, now_ms=NOW_MS)
    bundle = receive(a, key)
    with pytest.raises(MalformedInput, match="pairing_item_malformed"):
        receive(a, bundle)
    with pytest.raises(MalformedInput, match="pairing_item_malformed"):
        receive(b, key)
    until_a, _ = until_accepted()
    _, own = confirm(until_a, MYITKYINA)
    with pytest.raises(VerificationFailed, match="aead_invalid"):
        receive(until_a, own)


def test_what_does_not_answer_our_code_may_be_read_again() -> None:
    """A camera sees what it sees; nothing can be guessed, so nothing burns before the right code came."""
    a, shown_a = inviter()
    _, shown_b, _ = joiner(shown_a)
    _, other_shown = inviter(TENGCHONG, "2")
    for wrong, code in (
        ("hello", "meeting_code_malformed"),
        (shown_b[:-1], "meeting_code_mistyped"),
        (shown_a, "meeting_code_own"),
        (other_shown, "meeting_code_turn"),
        (joiner(other_shown, MALLORY)[1], "meeting_code_foreign"),
    ):
        with pytest.raises(SalweenError, match=code):
            a.take_code(wrong, now_ms=NOW_MS)
    a.take_code(shown_b, now_ms=NOW_MS)
    with pytest.raises(PolicyRefused, match="meeting_code_turn"):
        expect_inviter(read_code_text_untrusted(shown_b), MALLORY.id)


def test_grinding_gains_nothing() -> None:
    """Who sees the inviter's code may draw a thousand answers: every one of them names him, or fails.

    There is no short value that could be made to agree. An answer that names the awaited office needs that
    office's signature over exactly that answer.
    """
    a, shown_a = inviter()
    read = read_code_text_untrusted(shown_a)
    assert isinstance(read, InviterCode)
    hashes = set()
    for number in range(1000):
        answer = meetingcode.JoinerCode(
            office_id=TENGCHONG.id,
            secret=SecretBytes(drawn(f"ground {number}", 16)),
            answers=code_hash(encode_code(read)),
            key_hash=drawn(f"key {number}", 32),
        )
        hashes.add(code_hash(encode_code(answer)))
    assert len(hashes) == 1000
    # A genuine bundle of Tengchong's fits one answer, its own, and none of those.
    b, _, _ = joiner(shown_a)
    assert isinstance(b.step, JoinerWaitsForBundle)
    assert code_hash(encode_code(b.step.code)) not in hashes
    _, genuine = brings(TENGCHONG).sign(
        own_code=encode_code(b.step.code), peer_id=MYITKYINA.id, peer_code=encode_code(read)
    )
    mallory, _, key = joiner(shown_a, MALLORY)
    assert isinstance(mallory.step, JoinerWaitsForBundle)
    posing = replace(mallory.step.code, office_id=TENGCHONG.id)
    a.take_code(code_text(encode_code(posing)), now_ms=NOW_MS)
    receive(a, key)
    assert isinstance(a.step, inperson.InviterWaitsForBundle)
    shown, answered = a.step.shown, a.step.read
    item = seal_item(
        b"SLM3",
        inperson._reply_key(a.step.channel_key, shown, answered),
        bytes(24),
        genuine,
        inperson._both(shown, answered),
    )
    with pytest.raises(VerificationFailed, match="pairing_bundle_foreign"):
        receive(a, item)


# --- people ---


def test_nobody_is_paired_before_the_officer_recognises_the_name() -> None:
    """And giving up burns what was shown."""
    a, b = until_recognised()
    with pytest.raises(PolicyRefused, match="pairing_out_of_turn"):
        receive(a, b"anything")
    assert burned(a) == "pairing_out_of_turn"
    b.abort()
    assert burned(b) == "pairing_aborted"


def test_time_runs_out_before_the_confirmation_and_not_after() -> None:
    """A code is good for its time; what two people have seen does not spoil."""
    a, shown_a = inviter()
    _, shown_b, _ = joiner(shown_a)
    with pytest.raises(PolicyRefused, match="pairing_expired"):
        a.take_code(shown_b, now_ms=EXPIRES_MS)
    assert burned(a) == "pairing_expired"
    a, b = until_recognised()
    with pytest.raises(PolicyRefused, match="pairing_expired"):
        a.accept(now_ms=EXPIRES_MS)
    a, b = until_accepted()
    receive(a, confirm(b, TENGCHONG)[1], EXPIRES_MS + 1)
    assert isinstance(a.step, Paired)


# --- hostile bytes ---

_A, _ = inviter()
_B, _ANSWER, _KEY_ITEM = joiner(LINE)
_A.take_code(_ANSWER, now_ms=NOW_MS)
_BUNDLE_ITEM = receive(_A, _KEY_ITEM)


def _waits_for_key() -> Meeting:
    meeting, _ = inviter()
    meeting.take_code(_ANSWER, now_ms=NOW_MS)
    return meeting


WAITING: dict[str, tuple[Callable[[], Meeting], bytes]] = {
    "key": (_waits_for_key, _KEY_ITEM),
    "bundle": (lambda: joiner(LINE)[0], _BUNDLE_ITEM),
}


@pytest.mark.parametrize("expected", WAITING)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_hostile_items_burn_and_do_nothing_else(expected: str, data: st.DataObject) -> None:
    """MalformedInput or VerificationFailed; the ceremony is burned; only the good item goes on."""
    waits, good = WAITING[expected]
    hostile = data.draw(near(good) | near(good[:1300]).map(lambda part: part + good[len(part) :]))
    meeting = waits()
    try:
        receive(meeting, hostile)
    except (MalformedInput, VerificationFailed) as error:
        code = error.code
    else:
        code = ""
    assert burned(meeting) == code if code else hostile == good


def test_steps_and_codes_print_no_secret() -> None:
    """A traceback in the middle of a ceremony shows no channel key, no token and no rendezvous."""
    a, b = until_recognised()
    first, shown = inviter()
    second, _, _ = joiner(shown)
    for meeting in (a, b, first, second):
        text = repr(meeting.step)
        for name, size in (
            ("Myitkyina BLO channel 1", 32),
            ("Tengchong BLO ephemeral 1", 32),
            ("token", 32),
            ("Myitkyina BLO meeting 1", 16),
        ):
            assert repr(drawn(name, size)) not in text
            assert drawn(name, size).hex() not in text
    assert (
        parse_signed_bundle_untrusted(
            brings(MYITKYINA).sign(own_code=SHOWN, peer_id=TENGCHONG.id, peer_code=SHOWN)[1]
        ).peer_id
        == TENGCHONG.id
    )
