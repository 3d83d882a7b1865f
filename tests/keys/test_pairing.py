"""The ceremony by voice: two real ends, an honest or a hostile broker between them, and two telephones."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys import labels, pairing, rendezvous
from keys.bundle import parse_signed_bundle_untrusted, sign_bundle
from keys.card import parse_certificate_untrusted
from keys.errors import MalformedInput, PolicyRefused, SalweenError, VerificationFailed
from keys.layout import Reader
from keys.pairing import (
    Ceremony,
    ComparesCodes,
    Confirms,
    JoinerWaitsForOffer,
    OwnSide,
    Paired,
    group_code,
    own_side,
    read_code_untrusted,
    start_inviter,
)
from keys.pairok import ResetKey, encode_pair_ok, parse_pair_ok_untrusted, verify_pair_ok
from keys.primitives import COMPOSITE_SIGNATURE_BYTES, XWING_PUBLIC_BYTES, XWingPrivateKey, aead_open, wrap
from keys.rendezvous import ITEM_BYTES_ALLOWED, Burned, derive_rendezvous
from keys.secret import SecretBytes
from keys.trust import PairState, activate, pin_bundle
from tests.keys.builders import (
    MALLORY,
    MYITKYINA,
    NOW_MS,
    TENGCHONG,
    Office,
    a_broker_address,
    drawn,
)
from tests.keys.mutations import near

EXPIRES_MS = NOW_MS + 600_000


@functools.cache  # signatures are randomised; one ceremony has one bundle per side
def side(office: Office, seed: str) -> OwnSide:
    return own_side(office.operational, office.bundle(), drawn(f"{office.name} nonce {seed}", 32))


def inviter(office: Office = MYITKYINA, seed: str = "1") -> tuple[Ceremony, bytes]:
    step, offer = start_inviter(side(office, seed), SecretBytes(drawn(f"{office.name} ephemeral {seed}", 32)))
    return Ceremony(step, EXPIRES_MS), offer


def joiner(office: Office = TENGCHONG, seed: str = "1") -> Ceremony:
    step = JoinerWaitsForOffer(
        own=side(office, seed), channel_key=SecretBytes(drawn(f"{office.name} channel {seed}", 32))
    )
    return Ceremony(step, EXPIRES_MS)


def receive(ceremony: Ceremony, item: bytes, now_ms: int = NOW_MS) -> bytes:
    """Deliver an item; the answer, or nothing."""
    return ceremony.receive(item, seal_nonce=drawn(f"nonce {len(item)}", 24), now_ms=now_ms) or b""


def own_code(ceremony: Ceremony) -> str:
    assert isinstance(ceremony.step, ComparesCodes)
    return ceremony.step.own_code


def confirm(ceremony: Ceremony, office: Office) -> tuple[bytes, bytes]:
    assert isinstance(ceremony.step, Confirms)
    return ceremony.step.confirm(
        office.operational,
        key_version=1,
        officers=(2, 1),
        now_ms=NOW_MS,
        reset_key=office.reset_key,
        seal_nonce=drawn("ok", 24),
    )


def until_codes() -> tuple[Ceremony, Ceremony]:
    """An honest exchange up to the two codes."""
    a, offer = inviter()
    b = joiner()
    reveal = receive(a, receive(b, offer))
    assert receive(b, reveal) == b""
    return a, b


def until_confirmed() -> tuple[Ceremony, Ceremony]:
    """Both officers typed what they heard."""
    a, b = until_codes()
    code_a, code_b = own_code(a), own_code(b)
    a.type_code(group_code(code_b), now_ms=NOW_MS)
    b.type_code(group_code(code_a), now_ms=NOW_MS)
    return a, b


def burned(ceremony: Ceremony) -> str:
    """Why it burned; the ceremony must be of no use any more."""
    assert isinstance(ceremony.step, Burned)
    for use in (
        lambda: receive(ceremony, b""),
        lambda: ceremony.type_code("1234 5678 9012", now_ms=NOW_MS),
    ):
        with pytest.raises(PolicyRefused, match="pairing_burned"):
            use()
    return ceremony.step.code


# --- the honest course ---


def test_two_offices_pair_and_each_holds_the_others_word() -> None:
    """Codes typed crosswise, confirmations exchanged: both peers become active, with evidence."""
    a, b = until_confirmed()
    ok_a, item_a = confirm(a, MYITKYINA)
    ok_b, item_b = confirm(b, TENGCHONG)
    receive(a, item_b)
    receive(b, item_a)
    assert isinstance(a.step, Paired)
    assert isinstance(b.step, Paired)
    assert (a.step.evidence, b.step.evidence) == (ok_b, ok_a)
    assert a.step.transcript == b.step.transcript
    assert a.step.pair_ok.officers == (1, 2)
    for paired, office in ((a.step, TENGCHONG), (b.step, MYITKYINA)):
        peer = activate(pin_bundle(paired.peer, NOW_MS), NOW_MS)
        assert (peer.office_id, peer.state) == (office.id, PairState.ACTIVE)


def test_the_two_codes_differ_and_have_twelve_digits() -> None:
    """Each side reads its own: equal codes could be echoed."""
    a, b = until_codes()
    assert own_code(a) != own_code(b)
    for ceremony in (a, b):
        code = own_code(ceremony)
        assert len(code) == 12
        assert code.isdigit()
        assert len(group_code(code)) == 14


def test_items_fit_the_brokers_sizes_and_name_no_office() -> None:
    """The broker sees four items of envelope size; only the commitment's key and hash are in clear."""
    a, offer = inviter()
    b = joiner()
    reply = receive(b, offer)
    reveal = receive(a, reply)
    receive(b, reveal)
    a.type_code(own_code(b), now_ms=NOW_MS)
    _, confirmation = confirm(a, MYITKYINA)
    for item in (offer, reply, reveal, confirmation):
        assert len(item) in ITEM_BYTES_ALLOWED
        for office in (MYITKYINA, TENGCHONG):
            for known in (office.id, office.name.encode(), office.operational.public_bytes[:32]):
                assert known not in item
    assert len(offer) == ITEM_BYTES_ALLOWED[0]


def test_the_reveals_ciphertext_is_not_in_the_transcript() -> None:
    """Its nonce is drawn last and could be ground until the codes agree; the codes must not move with it."""
    a, offer = inviter()
    reply = receive(joiner(), offer)
    assert isinstance(a.step, pairing.InviterWaitsForReply)
    first, reveal_1 = a.step.receive_reply(reply, b"a" * 24)
    second, reveal_2 = a.step.receive_reply(reply, b"b" * 24)
    assert reveal_1 != reveal_2
    assert first.own_code == second.own_code
    third, _ = a.step.receive_reply(receive(joiner(), offer), b"a" * 24)
    assert third.own_code != first.own_code


# --- people make mistakes ---


def test_a_wrong_code_burns_the_ceremony_on_that_side() -> None:
    """One attempt: a second try on the same code is refused whatever is typed."""
    a, b = until_codes()
    right = own_code(b)
    wrong = right[:-1] + str((int(right[-1]) + 1) % 10)
    with pytest.raises(PolicyRefused, match="pairing_code_wrong"):
        a.type_code(wrong, now_ms=NOW_MS)
    with pytest.raises(PolicyRefused, match="pairing_burned"):
        a.type_code(right, now_ms=NOW_MS)
    assert burned(a) == "pairing_code_wrong"


def test_an_echoed_code_proves_nothing() -> None:
    """Whoever reads back what he heard gets no confirmation, and a message that says why."""
    a, _ = until_codes()
    with pytest.raises(PolicyRefused, match="pairing_code_echoed"):
        a.type_code(own_code(a), now_ms=NOW_MS)
    assert burned(a) == "pairing_code_echoed"


@pytest.mark.parametrize(
    "typed", ["", "1234", "1234 5678 901", "1234 5678 90123", "1234 5678 901x", "١" * 12]
)
def test_a_slip_in_form_may_be_typed_again(typed: str) -> None:
    """A digit missing says nothing about the code, so it does not burn."""
    a, b = until_codes()
    with pytest.raises(MalformedInput, match="pairing_code_form"):
        a.type_code(typed, now_ms=NOW_MS)
    a.type_code(f" {group_code(own_code(b)).replace(' ', '-')} ", now_ms=NOW_MS)
    assert isinstance(a.step, Confirms)


@given(st.text(max_size=80))
def test_typed_codes_are_twelve_digits_or_malformed(text: str) -> None:
    """Whatever a keyboard sends."""
    with contextlib.suppress(MalformedInput):
        code = read_code_untrusted(text)
        assert read_code_untrusted(group_code(code)) == code


def test_an_aborted_ceremony_is_over() -> None:
    """Giving up burns the code."""
    a, _ = until_codes()
    a.abort()
    assert burned(a) == "pairing_aborted"


def test_time_runs_out_before_the_codes_and_not_after() -> None:
    """An invitation is good for its time; what two people have compared does not spoil."""
    a, offer = inviter()
    reply = receive(joiner(), offer)
    with pytest.raises(PolicyRefused, match="pairing_expired"):
        receive(a, reply, EXPIRES_MS)
    assert burned(a) == "pairing_expired"
    a, b = until_codes()
    with pytest.raises(PolicyRefused, match="pairing_expired"):
        a.type_code(own_code(b), now_ms=EXPIRES_MS)
    a, b = until_confirmed()
    _, item = confirm(b, TENGCHONG)
    receive(a, item, EXPIRES_MS + 1)
    assert isinstance(a.step, Paired)


def test_out_of_turn_is_refused_and_burns() -> None:
    """Nothing may arrive while people compare, and no code may be typed before there is one."""
    a, b = until_codes()
    with pytest.raises(PolicyRefused, match="pairing_out_of_turn"):
        receive(b, b"anything")
    assert burned(b) == "pairing_out_of_turn"
    a, _ = inviter()
    with pytest.raises(PolicyRefused, match="pairing_out_of_turn"):
        a.type_code("1234 5678 9012", now_ms=NOW_MS)
    assert burned(a) == "pairing_out_of_turn"


# --- somebody in between ---


def in_between() -> tuple[Ceremony, Ceremony]:
    """Mallory answers the inviter as joiner and the joiner as inviter, by the rules of the protocol."""
    a, offer = inviter()
    b = joiner()
    to_a, (to_b, false_offer) = joiner(MALLORY), inviter(MALLORY)
    reply = receive(b, false_offer)
    receive(to_a, receive(a, receive(to_a, offer)))
    receive(b, receive(to_b, reply))
    return a, b


def test_a_man_in_the_middle_is_caught_by_both_codes() -> None:
    """He completes both exchanges, and then neither officer hears what the screen expects."""
    a, b = in_between()
    code_a, code_b = own_code(a), own_code(b)
    with pytest.raises(PolicyRefused, match="pairing_code_wrong"):
        a.type_code(code_b, now_ms=NOW_MS)
    with pytest.raises(PolicyRefused, match="pairing_code_wrong"):
        b.type_code(code_a, now_ms=NOW_MS)


def test_the_inviter_cannot_change_its_bundle_after_the_reply() -> None:
    """Seeing the joiner's nonce first, it could otherwise search for a bundle that gives chosen codes."""
    a, offer = inviter(seed="1")
    b = joiner()
    reply = receive(b, offer)
    assert isinstance(a.step, pairing.InviterWaitsForReply)
    # Same ephemeral key and offer, but another bundle is revealed than the one committed to.
    a.step = replace(a.step, own=side(MYITKYINA, "2"))
    with pytest.raises(VerificationFailed, match="pairing_commitment_broken"):
        receive(b, receive(a, reply))
    assert burned(b) == "pairing_commitment_broken"


def test_a_man_in_the_middle_who_grinds_has_no_say_in_the_codes() -> None:
    """What he may choose late does not move them; what moves them he must fix before he sees the others.

    Towards the joiner he is bound by his commitment: many seals of the reveal give one and the same code,
    many other bundles give none. Towards the inviter his reply is in before the reveal, and is the only one.
    """
    b = joiner()
    to_b, false_offer = inviter(MALLORY)
    reply = receive(b, false_offer)
    assert isinstance(to_b.step, pairing.InviterWaitsForReply)
    assert isinstance(b.step, pairing.JoinerWaitsForReveal)
    codes = set()
    for number in range(100):
        _, reveal = to_b.step.receive_reply(reply, drawn(f"ground {number}", 24))
        codes.add(b.step.receive_reveal(reveal).own_code)
    assert len(codes) == 1
    for number in range(5):
        another = replace(to_b.step, own=side(MALLORY, f"ground {number}"))
        _, reveal = another.receive_reply(reply, bytes(24))
        with pytest.raises(VerificationFailed, match="pairing_commitment_broken"):
            b.step.receive_reveal(reveal)

    a, offer = inviter()
    receive(a, receive(joiner(MALLORY, "first"), offer))
    code = own_code(a)
    with pytest.raises(PolicyRefused, match="pairing_out_of_turn"):
        receive(a, receive(joiner(MALLORY, "second"), offer))
    assert burned(a) == "pairing_out_of_turn"
    assert code not in codes


def test_a_second_attempt_on_one_invitation_is_refused() -> None:
    """Whoever failed once, or comes second, finds the ceremony burned: the right reply does not help."""
    a, offer = inviter()
    with pytest.raises(MalformedInput, match="pairing_item_malformed"):
        receive(a, b"guess")
    with pytest.raises(PolicyRefused, match="pairing_burned"):
        receive(a, receive(joiner(), offer))
    assert burned(a) == "pairing_item_malformed"


def test_a_replayed_ceremony_goes_nowhere() -> None:
    """A broker that recorded one ceremony and plays it to a new one, item by item."""
    a, offer = inviter(seed="old")
    b = joiner(seed="old")
    reply = receive(b, offer)
    reveal = receive(a, reply)
    receive(b, reveal)
    code_a, code_b = own_code(a), own_code(b)
    a.type_code(code_b, now_ms=NOW_MS)
    b.type_code(code_a, now_ms=NOW_MS)
    _, confirmation = confirm(b, TENGCHONG)

    fresh_a, _ = inviter(seed="new")
    with pytest.raises(VerificationFailed, match="unwrap_failed"):
        receive(fresh_a, reply)
    fresh_b = joiner(seed="new")
    receive(fresh_b, offer)
    with pytest.raises(VerificationFailed, match="aead_invalid"):
        receive(fresh_b, reveal)
    again_a, again_b = until_confirmed()
    with pytest.raises(VerificationFailed, match="aead_invalid"):
        receive(again_a, confirmation)
    assert isinstance(again_b.step, Confirms)


def test_a_reply_to_another_offer_is_refused() -> None:
    """The joiner's bundle is bound to the offer it answers."""
    _, offer_1 = inviter(seed="1")
    a2, _ = inviter(seed="2")
    with pytest.raises(VerificationFailed, match="unwrap_failed"):
        receive(a2, receive(joiner(), offer_1))


def test_an_office_does_not_pair_with_itself() -> None:
    """A broker that reflects, or an invitation taken by the office that made it."""
    a, offer = inviter()
    with pytest.raises(VerificationFailed, match="pairing_with_self"):
        receive(a, receive(joiner(MYITKYINA, "2"), offer))
    with pytest.raises(MalformedInput, match="pairing_item_malformed"):
        receive(inviter()[0], offer)
    # Another office under our nonce: it was ours to draw, and is in the transcript for both sides.
    ours = side(MYITKYINA, "1").signed.own_nonce
    borrowed = own_side(TENGCHONG.operational, TENGCHONG.bundle(), ours)
    b = Ceremony(JoinerWaitsForOffer(own=borrowed, channel_key=SecretBytes(bytes(32))), EXPIRES_MS)
    a, offer = inviter()
    with pytest.raises(VerificationFailed, match="pairing_with_self"):
        receive(a, receive(b, offer))


def test_a_bundle_made_for_another_ceremony_is_refused() -> None:
    """One signed for a named peer, or for a known nonce, was made for a meeting in person."""
    for changes in ({"peer_id": MYITKYINA.id}, {"peer_nonce": drawn("x", 32)}):
        encoded = sign_bundle(TENGCHONG.operational, TENGCHONG.bundle(), own_nonce=drawn("n", 32), **changes)
        own = OwnSide(signed=parse_signed_bundle_untrusted(encoded), encoded=encoded)
        b = Ceremony(JoinerWaitsForOffer(own=own, channel_key=SecretBytes(bytes(32))), EXPIRES_MS)
        a, offer = inviter()
        with pytest.raises(VerificationFailed, match="pairing_bundle_foreign"):
            receive(a, receive(b, offer))


def test_a_bundle_that_does_not_hold_together_is_refused() -> None:
    """Before any code is shown: the other side must own the key it shows."""
    stolen = replace(MALLORY, operational=MALLORY.root)
    bundle = replace(
        MALLORY.bundle(),
        root_public=TENGCHONG.root.public_bytes,
        certificate=parse_certificate_untrusted(TENGCHONG.certificate_bytes()),
    )
    own = own_side(stolen.operational, bundle, drawn("n", 32))
    b = Ceremony(JoinerWaitsForOffer(own=own, channel_key=SecretBytes(bytes(32))), EXPIRES_MS)
    a, offer = inviter()
    with pytest.raises(VerificationFailed, match="signature_invalid"):
        receive(a, receive(b, offer))


def test_an_offer_with_an_unusable_key_is_refused() -> None:
    """A share of zeros would make the joiner's bundle readable by everyone."""
    _, offer = inviter()
    at = 5 + 5 + XWING_PUBLIC_BYTES - 32
    with pytest.raises(VerificationFailed, match="public_key_invalid"):
        receive(joiner(), offer[:at] + bytes(32) + offer[at + 32 :])


# --- confirmations ---


def test_a_confirmation_reflected_or_of_another_key_is_refused() -> None:
    """One's own pair-ok comes back, or someone else signs."""
    a, b = until_confirmed()
    _, own_item = confirm(a, MYITKYINA)
    with pytest.raises(VerificationFailed, match="aead_invalid"):
        receive(a, own_item)
    _, forged = confirm(b, MALLORY)
    with pytest.raises(VerificationFailed, match="signature_invalid"):
        receive(a, forged)
    assert isinstance(a.step, Confirms)
    _, right = confirm(b, TENGCHONG)
    receive(a, right)
    assert isinstance(a.step, Paired)


def test_a_pair_ok_is_bound_to_its_ceremony_and_parties() -> None:
    """Any field changed, or another key version's certificate: not verified."""
    _, b = until_confirmed()
    encoded, _ = confirm(b, TENGCHONG)
    pair_ok = parse_pair_ok_untrusted(encoded)
    certificate = parse_certificate_untrusted(TENGCHONG.certificate_bytes())
    verify_pair_ok(pair_ok, certificate)
    assert (pair_ok.own_id, pair_ok.peer_id, pair_ok.time_ms) == (TENGCHONG.id, MYITKYINA.id, NOW_MS)
    for changed in (
        replace(pair_ok, transcript=bytes(32)),
        replace(pair_ok, peer_id=MALLORY.id),
        replace(pair_ok, officers=(1,)),
        replace(pair_ok, time_ms=NOW_MS + 1),
        replace(pair_ok, own_id=MALLORY.id),
        replace(pair_ok, key_version=2),
        replace(pair_ok, reset_key=MALLORY.reset_key),
        replace(pair_ok, reset_key=None),
    ):
        with pytest.raises(VerificationFailed, match=r"signature_invalid|pair_ok_foreign"):
            verify_pair_ok(changed, certificate)


def test_a_pair_ok_with_a_reset_key_nobody_can_seal_to_is_refused() -> None:
    """It would be noticed on the day it is needed."""
    made = parse_pair_ok_untrusted(confirm(until_confirmed()[1], TENGCHONG)[0])
    useless = ResetKey(key_id=bytes(8), public=b"\xff" * XWING_PUBLIC_BYTES)
    body = encode_pair_ok(replace(made, reset_key=useless))[:-COMPOSITE_SIGNATURE_BYTES]
    signature = TENGCHONG.operational.sign(labels.PAIRING_OK, body)
    signed = replace(made, reset_key=useless, signature=signature)
    with pytest.raises(VerificationFailed, match="public_key_invalid"):
        verify_pair_ok(signed, parse_certificate_untrusted(TENGCHONG.certificate_bytes()))


def test_a_pair_ok_of_the_first_format_brings_no_key() -> None:
    """It stands in evidence of earlier ceremonies and may still travel as an item."""
    made = parse_pair_ok_untrusted(confirm(until_confirmed()[1], TENGCHONG)[0])
    assert made.reset_key == TENGCHONG.reset_key
    older = encode_pair_ok(replace(made, reset_key=None))
    assert (older[4], parse_pair_ok_untrusted(older).reset_key) == (1, None)


def test_a_pair_ok_sealed_for_this_ceremony_but_about_another_is_refused() -> None:
    """The channel proves where it came from, not what it says."""
    a, b = until_confirmed()
    assert isinstance(b.step, Confirms)
    elsewhere = parse_signed_bundle_untrusted(side(MALLORY, "1").encoded)
    for other in (replace(b.step, transcript=bytes(32)), replace(b.step, peer=elsewhere)):
        forged, _ = other.confirm(
            TENGCHONG.operational,
            key_version=1,
            officers=(1,),
            now_ms=NOW_MS,
            reset_key=TENGCHONG.reset_key,
            seal_nonce=bytes(24),
        )
        key = pairing._confirmation_key(b.step.channel_key, b.step.transcript, "joiner")
        item = rendezvous.seal_item(b"SLP4", key, bytes(24), forged, b.step.transcript)
        with pytest.raises(VerificationFailed, match="pair_ok_foreign"):
            receive(a, item)


# --- hostile bytes ---

_A, _OFFER = inviter()
_REPLY = receive(joiner(), _OFFER)
_REVEAL = receive(_A, _REPLY)


def _fresh_reveal_waiter() -> Ceremony:
    b = joiner()
    receive(b, _OFFER)
    assert isinstance(b.step, pairing.JoinerWaitsForReveal)
    b.step = replace(b.step, reply=rendezvous.from_item_untrusted(_REPLY))
    return b


WAITING: dict[str, tuple[Callable[[], Ceremony], bytes]] = {
    "reply": (lambda: inviter()[0], _REPLY),
    "offer": (joiner, _OFFER),
    "reveal": (_fresh_reveal_waiter, _REVEAL),
}


@pytest.mark.parametrize("expected", WAITING)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_hostile_items_burn_and_do_nothing_else(expected: str, data: st.DataObject) -> None:
    """MalformedInput or VerificationFailed; the ceremony is burned; only the good item goes on."""
    waits, good = WAITING[expected]
    accepts = waits()
    receive(accepts, good)
    assert not isinstance(accepts.step, Burned)
    hostile = data.draw(near(good) | near(good[:24_000]).map(lambda part: part + good[len(part) :]))
    ceremony = waits()
    try:
        receive(ceremony, hostile)
    except (MalformedInput, VerificationFailed) as error:
        code: str | None = error.code
    else:
        code = None
    if code is None:
        # The offer is bound by what follows: a changed key or commitment fails at the next step.
        assert hostile == good or isinstance(ceremony.step, pairing.JoinerWaitsForReveal)
    else:
        assert burned(ceremony) == code


PAIR_OK = confirm(until_confirmed()[0], MYITKYINA)[0]


@settings(max_examples=300)
@given(near(PAIR_OK))
def test_a_pair_ok_is_read_in_its_one_encoding(data: bytes) -> None:
    """Or refused as malformed."""
    with contextlib.suppress(MalformedInput):
        assert encode_pair_ok(parse_pair_ok_untrusted(data)) == data


def test_steps_print_no_secret() -> None:
    """A traceback in the middle of a ceremony shows neither the channel key nor the ephemeral one."""
    a, b = until_codes()
    first, _ = inviter()
    for ceremony in (a, b, first, joiner()):
        text = repr(ceremony.step)
        for secret in (drawn("Tengchong BLO channel 1", 32), drawn("Myitkyina BLO ephemeral 1", 32)):
            assert repr(secret) not in text
            assert secret.hex() not in text


# --- derivations ---


def test_both_sides_derive_the_same_rendezvous_and_nobody_else_does() -> None:
    """Two mailboxes, six secrets, all different; another secret or another broker gives others."""
    card = a_broker_address().card_sha256
    secret = SecretBytes(drawn("secret", 16))

    def values(rendezvous: rendezvous.Rendezvous) -> list[bytes]:
        return [
            part.reveal()
            for box in (rendezvous.to_joiner, rendezvous.to_inviter)
            for part in (box.put_secret, box.get_secret, box.signing_seed)
        ]

    ours = values(derive_rendezvous(secret, card))
    assert ours == values(derive_rendezvous(SecretBytes(drawn("secret", 16)), card))
    theirs = [
        *values(derive_rendezvous(SecretBytes(drawn("other", 16)), card)),
        *values(derive_rendezvous(secret, bytes(32))),
    ]
    assert len({*ours, *theirs}) == 18
    assert {len(value) for value in ours} == {32}


def test_every_error_of_a_ceremony_is_of_the_families() -> None:
    """Callers catch SalweenError and nothing else."""
    a, _ = inviter()
    with pytest.raises(SalweenError):
        receive(a, b"\x01" + bytes(8191))


def test_the_reply_opens_for_the_offers_key_alone() -> None:
    """A recorded ceremony stays closed without the ephemeral key, which is gone when it ends."""
    reader = Reader(rendezvous.from_item_untrusted(_REPLY), "x")
    reader.magic(b"SLP2", 1)
    wrapped = reader.variable(1 << 16)
    stranger = XWingPrivateKey.from_seed(SecretBytes(drawn("stranger", 32)))
    info = pairing._reply_info(rendezvous.from_item_untrusted(_OFFER))
    with pytest.raises(VerificationFailed, match="unwrap_failed"):
        stranger.unwrap(wrapped, info)
    assert stranger.unwrap(wrap(stranger.public_bytes, b"x", info), info) == b"x"
    with pytest.raises(VerificationFailed):
        aead_open(SecretBytes(bytes(32)), bytes(24), wrapped, b"")
