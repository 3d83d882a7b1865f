"""Writes ceremonies.json: ``python -m tests.vectors.make_ceremonies``. Both pairings, message by message.

One ceremony by voice and one in person with every value drawn on the way, so that a second program can be
either side: it makes each message that has no wrap and no signature to the same byte, opens the others, and
comes to the same transcript. Bundles, pair-ok and the wrapped P2 and M2 are randomised by the library: they
are taken as recorded. ``faults`` are messages of the same ceremony with one fault and its one code.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from keys import inperson, invitation, labels, layout, meetingcode, pairing, pairok
from keys.bundle import parse_signed_bundle_untrusted
from keys.errors import SalweenError
from keys.inperson import InviterShows, InviterWaitsForBundle, InviterWaitsForKey, OwnOffice, Recognises
from keys.pairing import (
    ComparesCodes,
    Confirms,
    InviterWaitsForReply,
    JoinerWaitsForOffer,
    JoinerWaitsForReveal,
    OwnSide,
)
from keys.primitives import XWingPrivateKey, labelled_hash, wrap
from keys.rendezvous import from_item_untrusted, open_item_untrusted, seal_item, to_item
from keys.secret import SecretBytes
from tests.keys.builders import MYITKYINA, NOW_MS, TENGCHONG, Office, a_broker_address, drawn

FILE: Final = Path(__file__).parent / "ceremonies.json"
Recorded = dict[str, Any]


def _secret(name: str, size: int = 32) -> SecretBytes:
    return SecretBytes(drawn(name, size))


def _flipped(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _fault(to: str, message: str, about: str, data: bytes, code: str) -> dict[str, str]:
    return {"to": to, "message": message, "about": about, "hex": data.hex(), "code": code}


def _confirmed(confirms: Confirms, office: Office, nonce: bytes) -> tuple[bytes, bytes]:
    """(pair-ok, P4 without padding) of one side."""
    pair_ok, item = confirms.confirm(
        office.operational,
        key_version=1,
        officers=(1, 2),
        now_ms=NOW_MS,
        reset_key=office.reset_key,
        seal_nonce=nonce,
    )
    return pair_ok, from_item_untrusted(item)


def _confirmations(inviter: Confirms, joiner: Confirms, what: str) -> Recorded:
    nonces = {role: drawn(f"{what} P4 nonce {role}", 24) for role in ("inviter", "joiner")}
    ours = _confirmed(inviter, MYITKYINA, nonces["inviter"])
    theirs = _confirmed(joiner, TENGCHONG, nonces["joiner"])
    return {
        "pair_ok": {"inviter": ours[0].hex(), "joiner": theirs[0].hex()},
        "P4": {"inviter": ours[1].hex(), "joiner": theirs[1].hex()},
        "P4_nonce": {role: nonce.hex() for role, nonce in nonces.items()},
    }


def _confirmation_faults(inviter: Confirms, made: Recorded) -> list[dict[str, str]]:
    """What the inviter must refuse where the joiner's P4 is due."""
    good = bytes.fromhex(made["P4"]["joiner"])
    other = labelled_hash(labels.PAIRING_TRANSCRIPT, b"another ceremony")
    key = pairing._confirmation_key(inviter.channel_key, inviter.transcript, "joiner")
    reset_key = TENGCHONG.reset_key
    body = pairok.pair_ok_body(other, TENGCHONG.id, MYITKYINA.id, 1, (1,), NOW_MS, reset_key)
    nonce = drawn("foreign P4 nonce", 24)
    signed = body + TENGCHONG.operational.sign(labels.PAIRING_OK, body)
    moved = from_item_untrusted(seal_item(b"SLP4", key, nonce, signed, inviter.transcript))
    right = pairok.pair_ok_body(inviter.transcript, TENGCHONG.id, MYITKYINA.id, 1, (1,), NOW_MS, reset_key)
    forged = right + MYITKYINA.operational.sign(labels.PAIRING_OK, right)
    wrong = from_item_untrusted(seal_item(b"SLP4", key, nonce, forged, inviter.transcript))
    later = pairok.pair_ok_body(inviter.transcript, TENGCHONG.id, MYITKYINA.id, 2, (1,), NOW_MS, reset_key)
    newer = later + TENGCHONG.operational.sign(labels.PAIRING_OK, later)
    unknown = from_item_untrusted(seal_item(b"SLP4", key, nonce, newer, inviter.transcript))
    return [
        _fault("inviter", "P4", "a pair-ok under another key version", unknown, "pair_ok_foreign"),
        _fault("inviter", "P4", "one bit", _flipped(good, -1), "aead_invalid"),
        _fault("inviter", "P4", "our own, sent back", bytes.fromhex(made["P4"]["inviter"]), "aead_invalid"),
        _fault("inviter", "P4", "a pair-ok of another ceremony", moved, "pair_ok_foreign"),
        _fault("inviter", "P4", "a pair-ok somebody else signed", wrong, "signature_invalid"),
        _fault("inviter", "P4", "one byte more", good + b"\0", "pairing_item_malformed"),
        _fault("inviter", "P4", "format 2", good[:4] + b"\x02" + good[5:], "pairing_item_malformed"),
    ]


# --- by voice ---


def by_voice() -> Recorded:
    """One ceremony with an invitation, from both sides."""
    inviter = pairing.own_side(MYITKYINA.operational, MYITKYINA.bundle(), drawn("voice nonce inviter", 32))
    joiner = pairing.own_side(TENGCHONG.operational, TENGCHONG.bundle(), drawn("voice nonce joiner", 32))
    seed, channel, nonce = _secret("voice ephemeral"), _secret("voice k"), drawn("voice P3 nonce", 24)
    waits, p1 = pairing.start_inviter(inviter, seed)
    joining, p2 = JoinerWaitsForOffer(own=joiner, channel_key=channel).receive_offer(p1)
    compares, p3 = waits.receive_reply(p2, nonce)
    compared = joining.receive_reveal(p3)
    assert compared.transcript == compares.transcript
    codes = {"inviter": compares.own_code, "joiner": compared.own_code}
    confirms = compares.compare(codes["joiner"]), compared.compare(codes["inviter"])
    made = _confirmations(*confirms, "voice")
    offer, reply, reveal = map(from_item_untrusted, (p1, p2, p3))
    info = labels.PAIRING_REPLY_INFO + labelled_hash(labels.PAIRING_MESSAGE, offer)
    inside = layout.variable(inviter.encoded) + channel.reveal()
    mirrored = b"SLP2\x01" + layout.variable(wrap(waits.ephemeral.public_bytes, inside, info))
    meeting = OwnOffice(operational=TENGCHONG.operational, bundle=TENGCHONG.bundle())
    _, elsewhere = meeting.sign(own_code=b"one", peer_id=MYITKYINA.id, peer_code=b"two")
    inside = layout.variable(elsewhere) + channel.reveal()
    foreign = b"SLP2\x01" + layout.variable(wrap(waits.ephemeral.public_bytes, inside, info))
    another = pairing.own_side(MYITKYINA.operational, MYITKYINA.bundle(), drawn("second thought", 32))
    key = pairing._reveal_key(channel, offer)
    broken = seal_item(b"SLP3", key, nonce, another.encoded, labelled_hash(labels.PAIRING_MESSAGE, reply))
    return {
        "ephemeral_seed": seed.reveal().hex(),
        "k": channel.reveal().hex(),
        "P3_nonce": nonce.hex(),
        "bundle": {"inviter": inviter.encoded.hex(), "joiner": joiner.encoded.hex()},
        "P1": offer.hex(),
        "P2": reply.hex(),
        "P3": reveal.hex(),
        "transcript": compares.transcript.hex(),
        "codes": codes,
        **made,
        "faults": [
            _fault("joiner", "P1", "one byte less", offer[:-1], "pairing_item_malformed"),
            _fault("joiner", "P1", "another magic word", b"SLP2" + offer[4:], "pairing_item_malformed"),
            _fault("inviter", "P2", "one bit", _flipped(reply, -1), "unwrap_failed"),
            _fault("inviter", "P2", "one byte more", reply + b"\0", "pairing_item_malformed"),
            _fault("inviter", "P2", "our own bundle", mirrored, "pairing_with_self"),
            _fault("inviter", "P2", "a bundle made in person", foreign, "pairing_bundle_foreign"),
            _fault("joiner", "P3", "one bit", _flipped(reveal, -1), "aead_invalid"),
            _fault(
                "joiner",
                "P3",
                "a bundle that was not promised",
                from_item_untrusted(broken),
                "pairing_commitment_broken",
            ),
            *_confirmation_faults(confirms[0], made),
        ],
    }


def _own(encoded: str) -> OwnSide:
    data = bytes.fromhex(encoded)
    return OwnSide(signed=parse_signed_bundle_untrusted(data), encoded=data)


def _item(message: str) -> bytes:
    return to_item(bytes.fromhex(message))


def inviter_by_voice(recorded: Recorded) -> tuple[InviterWaitsForReply, bytes]:
    """The inviter's first step again, and P1 as it makes it."""
    waits, p1 = pairing.start_inviter(
        _own(recorded["bundle"]["inviter"]), SecretBytes(bytes.fromhex(recorded["ephemeral_seed"]))
    )
    return waits, from_item_untrusted(p1)


def compares_by_voice(recorded: Recorded) -> tuple[ComparesCodes, bytes]:
    """What the inviter knows behind P2, and P3 as it makes it."""
    waits, _ = inviter_by_voice(recorded)
    compares, p3 = waits.receive_reply(_item(recorded["P2"]), bytes.fromhex(recorded["P3_nonce"]))
    return compares, from_item_untrusted(p3)


def joiner_by_voice(recorded: Recorded) -> JoinerWaitsForReveal:
    """The joiner behind its recorded P2, which it can not make twice."""
    offer = bytes.fromhex(recorded["P1"])
    return JoinerWaitsForReveal(
        own=_own(recorded["bundle"]["joiner"]),
        channel_key=SecretBytes(bytes.fromhex(recorded["k"])),
        offer=offer,
        commitment=offer[-32:],
        reply=bytes.fromhex(recorded["P2"]),
    )


def _take_by_voice(recorded: Recorded, to: str, message: str, item: bytes) -> object:
    nonce = bytes.fromhex(recorded["P3_nonce"])
    match to, message:
        case "joiner", "P1":
            fresh = JoinerWaitsForOffer(own=_own(recorded["bundle"]["joiner"]), channel_key=_secret("k"))
            return fresh.receive_offer(item)
        case "inviter", "P2":
            return inviter_by_voice(recorded)[0].receive_reply(item, nonce)
        case "joiner", "P3":
            return joiner_by_voice(recorded).receive_reveal(item)
    compares = compares_by_voice(recorded)[0]
    return compares.compare(recorded["codes"]["joiner"]).receive_confirmation(item)


# --- in person ---


def _inviter_code() -> meetingcode.InviterCode:
    return meetingcode.InviterCode(
        office_id=MYITKYINA.id,
        secret=_secret("person secret inviter", 16),
        token=_secret("token"),
        broker_address=a_broker_address(),
        expires_ms=NOW_MS + invitation.INVITATION_LIFE_MS,
    )


def in_person() -> Recorded:
    """One ceremony with two screens, from both sides."""
    code, channel, seed = _inviter_code(), _secret("person k"), _secret("person ephemeral")
    nonce = drawn("person M3 nonce", 24)
    mine = OwnOffice(operational=MYITKYINA.operational, bundle=MYITKYINA.bundle())
    theirs = OwnOffice(operational=TENGCHONG.operational, bundle=TENGCHONG.bundle())
    joiner_secret = _secret("person secret joiner", 16)
    joining, m1 = inperson.start_joiner(theirs, code, secret=joiner_secret, ephemeral_seed=seed)
    waits = InviterShows(own=mine, code=code, channel_key=channel).take_code(joining.code)
    expects, m2 = waits.receive_key(m1)
    recognised, m3 = joining.receive_bundle(m2, nonce)
    recognises = expects.receive_bundle(m3)
    assert recognised.transcript == recognises.transcript
    made = _confirmations(recognises.confirmed(), recognised.confirmed(), "person")
    key, bundle, reply = map(from_item_untrusted, (m1, m2, m3))
    shown, read = meetingcode.encode_code(code), meetingcode.encode_code(joining.code)
    both = labelled_hash(labels.MEETING_BOTH, shown, read)
    joiners = open_item_untrusted(b"SLM3", inperson._reply_key(channel, shown, read), m3, both)
    place = inperson.derive_meeting(code, joining.code)
    stranger = XWingPrivateKey.from_seed(_secret("stranger")).public_bytes
    elsewhere = mine.sign(own_code=shown, peer_id=drawn("another office", 32), peer_code=read)[1]
    inside = layout.variable(elsewhere) + channel.reveal()
    wrapped = wrap(key[5:], inside, labels.MEETING_BUNDLE + both)
    foreign = b"SLM2\x01" + layout.variable(wrapped)
    return {
        "codes": {"inviter": shown.hex(), "joiner": read.hex()},
        "ephemeral_seed": seed.reveal().hex(),
        "k": channel.reveal().hex(),
        "M3_nonce": nonce.hex(),
        "to_joiner_put": place.to_joiner.put_secret.reveal().hex(),
        "to_inviter_put": place.to_inviter.put_secret.reveal().hex(),
        "bundle": {"inviter": waits.encoded.hex(), "joiner": joiners.hex()},
        "M1": key.hex(),
        "M2": bundle.hex(),
        "M3": reply.hex(),
        "transcript": recognises.transcript.hex(),
        **made,
        "faults": [
            _fault("inviter", "M1", "another key", b"SLM1\x01" + stranger, "meeting_key_foreign"),
            _fault("inviter", "M1", "one byte less", key[:-1], "pairing_item_malformed"),
            _fault("joiner", "M2", "one bit", _flipped(bundle, -1), "unwrap_failed"),
            _fault("joiner", "M2", "a bundle for another office", foreign, "pairing_bundle_foreign"),
            _fault("inviter", "M3", "one bit", _flipped(reply, -1), "aead_invalid"),
            _fault("inviter", "M3", "a P3", b"SLP3" + reply[4:], "pairing_item_malformed"),
            *_confirmation_faults(recognises.confirmed(), made),
        ],
    }


def _read_codes(recorded: Recorded) -> tuple[bytes, meetingcode.InviterCode, bytes, meetingcode.JoinerCode]:
    shown, read = (bytes.fromhex(recorded["codes"][role]) for role in ("inviter", "joiner"))
    inviter = meetingcode.expect_inviter(meetingcode.parse_code_untrusted(shown), TENGCHONG.id)
    joiner = meetingcode.expect_joiner(meetingcode.parse_code_untrusted(read), MYITKYINA.id, shown)
    return shown, inviter, read, joiner


def meeting_place(recorded: Recorded) -> dict[str, str]:
    """The put secrets that both codes give."""
    _, inviter, _, joiner = _read_codes(recorded)
    place = inperson.derive_meeting(inviter, joiner)
    return {
        "to_joiner_put": place.to_joiner.put_secret.reveal().hex(),
        "to_inviter_put": place.to_inviter.put_secret.reveal().hex(),
    }


def inviter_in_person(recorded: Recorded) -> InviterWaitsForKey:
    """The inviter when it has read the other screen."""
    shown, _, _, joiner = _read_codes(recorded)
    return InviterWaitsForKey(
        own=_own(recorded["bundle"]["inviter"]).signed,
        encoded=bytes.fromhex(recorded["bundle"]["inviter"]),
        shown=shown,
        joiner=joiner,
        channel_key=SecretBytes(bytes.fromhex(recorded["k"])),
    )


def inviter_behind_m2(recorded: Recorded) -> InviterWaitsForBundle:
    """The inviter behind an M2, which it can not make twice to the same bytes."""
    return inviter_in_person(recorded).receive_key(_item(recorded["M1"]))[0]


def recognises_in_person(recorded: Recorded) -> Recognises:
    """The inviter behind M3."""
    return inviter_behind_m2(recorded).receive_bundle(_item(recorded["M3"]))


def joiner_in_person(recorded: Recorded) -> tuple[inperson.JoinerWaitsForBundle, bytes]:
    """The joiner's first step again, and M1 as it makes it."""
    _, inviter, _, joiner = _read_codes(recorded)
    waits, m1 = inperson.start_joiner(
        OwnOffice(operational=TENGCHONG.operational, bundle=TENGCHONG.bundle()),
        inviter,
        secret=joiner.secret,
        ephemeral_seed=SecretBytes(bytes.fromhex(recorded["ephemeral_seed"])),
    )
    return waits, from_item_untrusted(m1)


def _take_in_person(recorded: Recorded, to: str, message: str, item: bytes) -> object:
    match to, message:
        case "inviter", "M1":
            return inviter_in_person(recorded).receive_key(item)
        case "joiner", "M2":
            return joiner_in_person(recorded)[0].receive_bundle(item, bytes.fromhex(recorded["M3_nonce"]))
        case "inviter", "M3":
            return inviter_behind_m2(recorded).receive_bundle(item)
    return recognises_in_person(recorded).confirmed().receive_confirmation(item)


TAKE: Final[dict[str, Callable[[Recorded, str, str, bytes], object]]] = {
    "voice": _take_by_voice,
    "person": _take_in_person,
}


def code_of(how: str, recorded: Recorded, fault: dict[str, str]) -> str:
    """What the side that gets this message says of it."""
    try:
        TAKE[how](recorded, fault["to"], fault["message"], _item(fault["hex"]))
    except SalweenError as error:
        return error.code
    return ""


def read_file() -> dict[str, Recorded]:
    """The committed ceremonies, ``voice`` and ``person``."""
    read: dict[str, Recorded] = json.loads(FILE.read_text(encoding="utf-8"))
    return read


def ceremonies() -> dict[str, Recorded]:
    """Both, made anew."""
    return {"voice": by_voice(), "person": in_person()}


if __name__ == "__main__":
    FILE.write_text(json.dumps(ceremonies(), indent=1) + "\n", encoding="utf-8")
