"""Writes documents.json: ``python -m tests.vectors.make_documents``. One case, one answer, its bytes.

Everything that travels or is handed over and is no envelope: a good one of each form, item, operation,
answer and receipt, and bad ones with one named fault. Keys follow from names, so they are the same in each
run; signatures, wraps and salts are randomised.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from keys import brokercard, bundle, card, invitation, labels, notice, pairok
from keys.errors import SalweenError
from keys.primitives import COMPOSITE_SIGNATURE_BYTES, Ed25519PrivateKey, XWingPrivateKey
from keys.secret import SecretBytes
from protocol import attachment, evidence, items, limits, parts, receipts, requests, tokens
from protocol.custody import Custody, sign_custody, verify_custody
from protocol.envelope import envelope_hash
from protocol.message import MessageType
from protocol.receipts import Receipt, ReceiptState
from tests.keys.builders import NOW_MS, a_broker_address, a_broker_card, an_office, drawn, ed25519
from tests.protocol import offices

FILE: Final = Path(__file__).parent / "documents.json"
MYITKYINA: Final = an_office("Myitkyina BLO", "MM")
TENGCHONG: Final = an_office("Tengchong BLO", "CN")
REQUEST_SEED: Final = drawn("broker request", 32)
ORIGIN: Final = "salween/broker/test/log1"
CUSTODY_KEY: Final = ed25519("broker custody")
MAILBOX_KEY: Final = ed25519("mailbox")
TRANSCRIPT: Final = drawn("transcript", 32)


@dataclass(frozen=True, kw_only=True)
class Document:
    """One case: its form, what is good or wrong, the code (empty: good), what a reader needs besides."""

    form: str
    about: str
    data: bytes
    code: str = ""
    needs: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return {
            "form": self.form,
            "about": self.about,
            "code": self.code,
            "needs": self.needs,
            "hex": self.data.hex(),
        }


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _documents() -> Iterator[Document]:
    """Fixed layouts of keys/, signed by root or operational key."""
    root, public = MYITKYINA.root.public_bytes.hex(), MYITKYINA.operational.public_bytes.hex()
    certificate = MYITKYINA.certificate_bytes()
    listed = MYITKYINA.officer_list_bytes()
    revocation = card.issue_revocation(
        MYITKYINA.root, revoked_below=2, since_ms=NOW_MS, reason="notebook stolen"
    )
    made = bundle.sign_bundle(MYITKYINA.operational, MYITKYINA.bundle(), own_nonce=drawn("nonce", 32))
    broker = brokercard.encode_broker_card(a_broker_card())
    signed: tuple[tuple[str, bytes, str, dict[str, str]], ...] = (
        ("certificate", certificate, "certificate_malformed", {"root": root}),
        ("officer-list", listed, "officer_list_malformed", {"certificate": certificate.hex()}),
        ("revocation", revocation, "revocation_malformed", {"root": root}),
        ("bundle", made, "bundle_malformed", {}),
        ("pair-ok", _pair_ok(), "pair_ok_malformed", {"certificate": certificate.hex()}),
    )
    for form, data, malformed, needs in signed:
        yield Document(form=form, about="good", data=data, needs=needs)
        yield Document(form=form, about="one byte more", data=data + b"\0", code=malformed, needs=needs)
        yield Document(form=form, about="one byte less", data=data[:-1], code=malformed, needs=needs)
        yield Document(
            form=form,
            about="one bit of the signature",
            data=_flipped(data, len(data) - 1),
            code="signature_invalid",
            needs=needs,
        )
        if form != "bundle":
            magic = _flipped(data, 3)
            yield Document(form=form, about="another magic word", data=magic, code=malformed, needs=needs)
            later = data[:4] + b"\x03" + data[5:]
            yield Document(form=form, about="format 3", data=later, code=malformed, needs=needs)
    older = _pair_ok(None)
    yield Document(form="pair-ok", about="format 1", data=older, needs={"certificate": certificate.hex()})
    other = {"root": TENGCHONG.root.public_bytes.hex()}
    for form, data in (("certificate", certificate), ("revocation", revocation)):
        about = "of another office's root"
        yield Document(form=form, about=about, data=data, code="office_id_mismatch", needs=other)
    assert len(public) == 2 * 1984
    shown = _notice()
    text = notice.notice_text(shown).encode()
    yield Document(form="notice", about="good", data=shown)
    yield Document(form="notice", about="one byte more", data=shown + b"\0", code="revocation_malformed")
    about = "one bit of the signature"
    yield Document(form="notice", about=about, data=_flipped(shown, len(shown) - 1), code="signature_invalid")
    about = "another root key"
    yield Document(form="notice", about=about, data=_flipped(shown, 40), code="office_id_mismatch")
    yield Document(form="notice-text", about="good", data=text)
    yield Document(form="notice-text", about="cut", data=text[:-1], code="notice_malformed")
    yield Document(form="broker-card", about="good", data=broker)
    yield Document(
        form="broker-card", about="one byte more", data=broker + b"\0", code="broker_card_malformed"
    )


def _pair_ok(reset_key: pairok.ResetKey | None = MYITKYINA.reset_key) -> bytes:
    made = pairok.PairOk(
        transcript=TRANSCRIPT,
        own_id=MYITKYINA.id,
        peer_id=TENGCHONG.id,
        key_version=1,
        officers=(1, 2),
        time_ms=NOW_MS,
        reset_key=reset_key,
        signature=bytes(COMPOSITE_SIGNATURE_BYTES),
    )
    body = pairok.encode_pair_ok(made)[:-COMPOSITE_SIGNATURE_BYTES]
    return body + MYITKYINA.operational.sign(labels.PAIRING_OK, body)


def _lines() -> Iterator[Document]:
    """What people copy or type."""
    token = tokens.encode_token(SecretBytes(drawn("token", 32))).encode()
    yield Document(form="token", about="good", data=token)
    yield Document(form="token", about="in capitals, with spaces", data=b"  " + token.upper() + b" ")
    typed = token[:-1] + (b"a" if token[-1:] != b"a" else b"b")
    yield Document(form="token", about="the last letter is another", data=typed, code="token_mistyped")
    yield Document(form="token", about="no token", data=b"hello", code="token_malformed")
    shown = invitation.Invitation(
        broker_address=a_broker_address(),
        secret=SecretBytes(drawn("invitation", invitation.SECRET_BYTES)),
        token=SecretBytes(drawn("token", invitation.TOKEN_BYTES)),
        expires_ms=NOW_MS + invitation.INVITATION_LIFE_MS,
    ).encode()
    line = shown.encode()
    yield Document(form="invitation", about="good", data=line)
    at = len(line) // 2
    other = line[:at] + (b"a" if line[at : at + 1] != b"a" else b"b") + line[at + 1 :]
    yield Document(form="invitation", about="a letter is another", data=other, code="invitation_mistyped")
    yield Document(form="invitation", about="no invitation", data=b"hello", code="invitation_malformed")
    address = str(a_broker_address()).encode()
    yield Document(form="address", about="good", data=address)
    yield Document(
        form="address", about="another scheme", data=b"https" + address[7:], code="broker_address_malformed"
    )


def _values() -> Iterator[Document]:
    """Items and receipts: one of each."""
    announced = items.KeyAnnouncement(
        key_version=1, rk_gen=2, key_id=drawn("rk", 8), public=MYITKYINA.bundle().receive_public
    )
    ranges = (items.ReceivedRange(instance=drawn("instance", 8), contiguous_to=7, bitmap=0b10110),)
    each: tuple[tuple[str, items.Item], ...] = (
        ("rk", announced),
        ("ack", items.Acknowledgement(key_version=1, instance=drawn("mine", 8), ranges=ranges)),
        ("hb", items.HeartBeat(highest_seq=12, at_ms=NOW_MS)),
        ("ofl", items.OfficerListItem(officer_list=MYITKYINA.officer_list_bytes())),
        (
            "mbx",
            items.MailboxSuccessor(
                generation=2,
                put_secret=drawn("put", 32),
                mailbox_public=MAILBOX_KEY.public_bytes,
                broker_address=str(a_broker_address()),
            ),
        ),
        ("aud", items.AudienceOpening(opening=drawn("salt", 16) + b"\0\0")),
        ("auds", items.AudienceLeaves(leaves=(drawn("leaf one", 32), drawn("leaf two", 32)))),
        ("card", items.CardItem(certificate=MYITKYINA.certificate_bytes())),
        ("pok", items.PairOkItem(pair_ok=_pair_ok())),
        ("rev", items.RevocationItem(revocation=_revocation())),
        (
            "otk",
            items.OneTimeOffer(
                key_version=1,
                generation=3,
                kept_ids=(drawn("kept", 8),),
                fresh=((drawn("one-time", 8), MYITKYINA.bundle().receive_public),),
            ),
        ),
        ("otu", items.OneTimeUnused(generation=3, unused_ids=(drawn("one-time", 8),))),
        (
            "seen",
            items.SeenItem(ranges=ranges, ended=drawn("ended", 8), next_seq=9, at_ms=NOW_MS),
        ),
        (
            "log",
            items.LogItem(
                origin="salween/office/test/log2",
                log_public=MAILBOX_KEY.public_bytes,
                witness_name="salween/office/test/witness2",
                witness_public=CUSTODY_KEY.public_bytes,
            ),
        ),
        ("rsk", items.ResetKeyItem(key_id=drawn("reset", 8), public=MYITKYINA.bundle().receive_public)),
        (
            "rsa",
            items.ResetAnswer(
                instance=drawn("instance", 8),
                ranges=ranges,
                after=(items.HeldAlert(alert_id=drawn("alert", 32), created_ms=NOW_MS),),
                after_count=1,
                resent=2,
                closed=ranges,
            ),
        ),
        ("rsx", items.ResetRefused(instance=drawn("instance", 8), key_version=2, known_version=7)),
        ("inst", items.EarlierInstance(ranges=ranges)),
        ("att", items.PhotoReport(alert_id=drawn("alert", 32), number=1, code="photo_damaged")),
        ("wit/req", items.WitnessRequest(body=b"old 0\n\na signed note")),
        (
            "wit/rsp",
            items.WitnessAnswer(
                status=409,
                size=7,
                held_size=9,
                cosignatures=(("salween/office/test/witness2", drawn("cosignature", 76)),),
                note=b"a signed note",
            ),
        ),
        ("wit/key", items.WitnessKey(name="salween/office/test/witness2", public=drawn("ml-dsa", 1312))),
        ("wit/mem", items.WitnessMemory(cosigned=b"a signed note", ended=b"")),
        ("nokey", items.UnknownKeyNotice(envelope_hashes=(drawn("envelope", 32),))),
    )
    for tag, item in each:
        yield Document(form="items", about=tag, data=items.encode_items([item]))
    later = items.UnknownItem(k="later", encoded=bytes.fromhex("82a16ba56c61746572a17801"))
    yield Document(form="items", about="a tag of a later version", data=items.encode_items([later]))
    yield Document(form="items", about="none", data=items.encode_items([]))
    yield Document(
        form="items",
        about="a tag that must not be overlooked",
        data=items.encode_items([replace(later, encoded=bytes.fromhex("81a16ba3216d65"))]),
        code="critical_item_unknown",
    )
    good = items.encode_items([each[2][1]])
    yield Document(form="items", about="cut", data=good[:-1], code="wire_truncated")
    yield Document(form="items", about="one byte more", data=good + b"\xc0", code="wire_trailing")
    for state in ReceiptState:
        if state is not ReceiptState.HELD:
            code = {ReceiptState.REFUSED: "audience_opening_missing", ReceiptState.OUTCOME: "found"}.get(
                state, ""
            )
            receipt = Receipt(
                alert_id=drawn("alert", 32),
                hh=drawn("hh", 32),
                state=state,
                at_ms=NOW_MS,
                log_index=4,
                code=code,
                actor="" if state in (ReceiptState.DELIVERED, ReceiptState.REFUSED) else "0123456789abcdef",
            )
            yield Document(form="receipts", about=state.value, data=receipts.encode_receipts([receipt]))
    yield Document(form="receipts", about="none", data=b"\x90", code="receipts_wrong")


def _revocation() -> bytes:
    return card.issue_revocation(MYITKYINA.root, revoked_below=2, since_ms=NOW_MS, reason="lost")


def _notice() -> bytes:
    return notice.encode_notice(
        notice.Notice(
            root_public=MYITKYINA.root.public_bytes,
            revocation=card.parse_revocation_untrusted(_revocation()),
        )
    )


def _exchanges() -> Iterator[Document]:
    """One request with every operation, and the answers to it."""
    private = XWingPrivateKey.from_seed(SecretBytes(REQUEST_SEED))
    envelope = b"\x01" + bytes(8191)
    named = envelope_hash(envelope)
    put, get = drawn("put", 32), drawn("get", 32)
    hashes = (requests.put_capability_hash(put), requests.get_capability_hash(get))
    key: Ed25519PrivateKey = MAILBOX_KEY
    grant = requests.sign_grant(CUSTODY_KEY, put_hash=hashes[0], get_hash=hashes[1], public=key.public_bytes)
    successor = requests.sign_successor(key, put_hash=hashes[0], get_hash=hashes[1], public=key.public_bytes)
    made = requests.Create(
        token=drawn("token", 32),
        put_hash=hashes[0],
        get_hash=hashes[1],
        mailbox_public=key.public_bytes,
        kind="pair",
    )
    asked: tuple[requests.Op, ...] = (
        made,
        replace(made, token=b"", predecessor_get_secret=get, signature=successor),
        requests.Put(put_secret=put, envelope=envelope, priority=True),
        requests.Held(put_secret=put, envelope_hash=named),
        requests.List(get_secret=get, cursor=3, wait_ms=55_000, inline_bytes_max=65_536),
        requests.Get(get_secret=get, envelope_hash=named),
        requests.Delete(get_secret=get, envelope_hash=named, signature=requests.sign_delete(key, named)),
        requests.Stats(get_secret=get),
        requests.Notices(cursor=2),
        requests.Head(old_size=7),
        requests.Cosign(
            token=drawn("token", 32), log_public=drawn("log", 32), body=b"old 7\n\nno checkpoint\n"
        ),
        requests.Publish(notice=_notice(), get_secret=get),
        requests.Publish(notice=_notice()),
        requests.AskGrant(get_secret=get, put_hash=hashes[0], mailbox_public=key.public_bytes),
        requests.Remake(put_hash=hashes[0], get_hash=hashes[1], mailbox_public=key.public_bytes, grant=grant),
        requests.PartPut(
            put_secret=put,
            write_secret=drawn("write", 32),
            read_hash=parts.read_capability_hash(drawn("read", 32)),
            size_bytes=parts.SIZES[1],
            offset=7,
            data=drawn("part", 64),
        ),
        requests.PartGet(get_secret=get, read_secret=drawn("read", 32), offset=7, bytes_max=1_024),
        requests.AttachmentDelete(mailbox_secret=get, attachment_secret=drawn("read", 32), by_sender=False),
        requests.Forward(
            token=drawn("token", 32), target="west", wait_ms=30_000, request=drawn("sealed", 32)
        ),
    )
    note = Custody(
        origin=ORIGIN,
        put_capability_hash=hashes[0],
        envelope_hash=named,
        size_bytes=len(envelope),
        log_index=9,
        time_ms=NOW_MS,
    )
    (custody,) = sign_custody([note], CUSTODY_KEY)
    results: tuple[requests.Result, ...] = (
        requests.Created(),
        requests.OpRefused(code=requests.Refusal.CONFLICT),
        custody,
        requests.HeldAnswer(held=True),
        requests.Listed(
            items=(
                requests.ListedItem(cursor=4, envelope_hash=named, size_bytes=len(envelope), envelope=None),
                requests.ListedItem(
                    cursor=5, envelope_hash=named, size_bytes=len(envelope), envelope=envelope
                ),
            ),
            more=False,
        ),
        requests.Got(envelope=envelope),
        requests.Deleted(),
        requests.StatsAnswer(items=1, items_max=512, size_bytes=8_192, size_bytes_max=67_108_864),
        requests.NoticesAnswer(notices=(_notice(),), cursor=3, more=True),
        requests.HeadAnswer(body=b"old 7\n\na signed note"),
        requests.WitnessSays(status=409, body=b"9\n", note=b"a signed note", keys=("a vkey",)),
        requests.Published(),
        requests.OpRefused(code=requests.Refusal.BUSY),
        requests.Granted(grant=grant),
        requests.Created(),
        requests.PartHeld(held_bytes=71),
        requests.PartGot(size_bytes=parts.SIZES[1], data=drawn("part", 64)),
        requests.AttachmentDeleted(),
        requests.Forwarded(answer=drawn("answer", 32)),
    )
    data, _ = requests.seal_request(private.public_bytes, ops=asked, date_ms=NOW_MS, random=_random)
    seed = {"seed": REQUEST_SEED.hex()}
    yield Document(form="request", about="every operation", data=data, needs=seed)
    yield Document(
        form="request", about="version 2", data=b"\x02" + data[1:], code="request_version", needs=seed
    )
    yield Document(form="request", about="one byte less", data=data[:-1], code="request_size", needs=seed)
    flipped = _flipped(data, len(data) - 1)
    yield Document(form="request", about="one bit", data=flipped, code="unwrap_failed", needs=seed)
    opened = requests.open_request_untrusted(private, data)
    answer = requests.seal_answer(opened, results, NOW_MS, _random)
    needs = seed | {"request": data.hex(), "custody": CUSTODY_KEY.public_bytes.hex()}
    yield Document(form="answer", about="to every operation", data=answer, needs=needs)
    bare = requests.seal_answer(opened, (), NOW_MS, _random)
    yield Document(form="answer", about="nothing but the time", data=bare, needs=needs)
    flipped = _flipped(answer, 40)
    yield Document(form="answer", about="one bit", data=flipped, code="aead_invalid", needs=needs)
    short = requests.seal_answer(opened, results[:1], NOW_MS, _random)
    yield Document(form="answer", about="a result short", data=short, code="answer_count", needs=needs)
    key_of = {"custody": CUSTODY_KEY.public_bytes.hex()}
    yield Document(form="custody", about="good", data=custody.encode(), needs=key_of)
    moved = replace(custody, log_index=8).encode()
    yield Document(form="custody", about="another index", data=moved, code="signature_invalid", needs=key_of)


def _attachments() -> Iterator[Document]:
    """A manifest, and a ciphertext of the smallest size with what opens it."""
    manifest, ciphertext = attachment.seal_attachment(drawn("picture", 96), "jpeg", _random)
    text = manifest.encode()
    yield Document(form="manifest", about="good", data=text.encode())
    yield Document(form="manifest", about="padded", data=text.encode() + b"=", code="manifest")
    yield Document(form="manifest", about="cut", data=text[:-4].encode(), code="wire_truncated")
    later = replace(manifest, type="webp").encode()  # type: ignore[arg-type]
    yield Document(form="manifest", about="another kind of picture", data=later.encode(), code="manifest")
    large = replace(manifest, length_bytes=limits.PHOTO_BYTES_MAX + 1).encode().encode()
    yield Document(form="manifest", about="too long", data=large, code="field_range")
    needs = {"manifest": text}
    yield Document(form="attachment", about="good", data=ciphertext, needs=needs)
    about = "one byte less"
    yield Document(form="attachment", about=about, data=ciphertext[:-1], code="attachment_size", needs=needs)


def _evidence() -> Iterator[Document]:
    """What one office hands to a third when another signed what cannot both be true."""
    root = {"root": offices.MYITKYINA.root.public_bytes.hex()}
    ahead = items.encode_items(
        [
            items.Acknowledgement(
                key_version=1,
                instance=drawn("mine", 8),
                ranges=(items.ReceivedRange(instance=drawn("instance", 8), contiguous_to=9, bitmap=0),),
            )
        ]
    )

    def version(number: int, core: bytes, previous: bytes = bytes(32)) -> evidence.SignedVersion:
        opening = offices.an_opening(number, pair_prev=previous)
        signed = offices.signed_message(MessageType.CONTROL, core, opening=opening)
        return evidence.SignedVersion(
            header=signed.header,
            signature=signed.signature,
            opening=opening.encode(),
            instance=offices.MYITKYINA.instance,
        )

    def beat(number: int) -> bytes:
        return items.encode_items([items.HeartBeat(highest_seq=number, at_ms=NOW_MS)])

    def proof(*versions: evidence.SignedVersion, said: bytes = b"") -> evidence.Proof:
        certificates = (offices.certificate_of(offices.MYITKYINA),)
        return evidence.Proof(
            recipient=offices.TENGCHONG.id, certificates=certificates, versions=versions, said=said
        )

    number = proof(version(7, beat(1)), version(7, beat(2)))
    before = drawn("before", 32)
    after = proof(version(7, beat(1), before), version(8, beat(1), before))
    said = proof(version(3, ahead), said=ahead)
    for shown, made in zip(evidence.Clash, (number, after, said), strict=True):
        data = evidence.encode_proof(made)
        yield Document(form="evidence", about=shown.value, data=data, needs=root | {"shows": shown.value})
    data = evidence.encode_proof(number)
    others = {"root": offices.TENGCHONG.root.public_bytes.hex()}
    elsewhere = evidence.encode_proof(replace(number, recipient=offices.MYITKYINA.id))
    both = evidence.encode_proof(proof(version(7, beat(1)), version(8, beat(2))))
    unsaid = evidence.encode_proof(replace(said, said=beat(1)))
    for about, bad, needs, code in (
        ("of another office", data, others, "proof_signature"),
        ("meant for another office", elsewhere, root, "proof_signature"),
        ("two numbers", both, root, "proof_empty"),
        ("said what nobody signed", unsaid, root, "proof_empty"),
        ("one byte more", data + b"\xc0", root, "wire_trailing"),
    ):
        yield Document(form="evidence", about=about, data=bad, needs=needs, code=code)


def _random(size: int) -> bytes:
    return drawn(f"random {size}", size)


# --- the readers: what a second program has to do with each form ---


def _read_signed(document: Document) -> bytes:
    data, needs = document.data, document.needs
    match document.form:
        case "certificate":
            certificate = card.parse_certificate_untrusted(data)
            card.verify_certificate(certificate, bytes.fromhex(needs["root"]))
            return card.encode_certificate(certificate)
        case "revocation":
            revocation = card.parse_revocation_untrusted(data)
            card.verify_revocation(revocation, bytes.fromhex(needs["root"]))
            return card.encode_revocation(revocation)
        case "officer-list":
            listed = card.parse_officer_list_untrusted(data)
            signed_under = card.parse_certificate_untrusted(bytes.fromhex(needs["certificate"]))
            card.verify_officer_list(listed, signed_under)
            return card.encode_officer_list(listed)
        case "bundle":
            read = bundle.parse_signed_bundle_untrusted(data)
            bundle.verify_signed_bundle(read)
            return bundle.encode_signed_bundle(read)
        case "pair-ok":
            pair_ok = pairok.parse_pair_ok_untrusted(data)
            signed_under = card.parse_certificate_untrusted(bytes.fromhex(needs["certificate"]))
            pairok.verify_pair_ok(pair_ok, signed_under)
            return pairok.encode_pair_ok(pair_ok)
        case "notice":
            told = notice.parse_notice_untrusted(data)
            notice.verify_notice(told)
            return notice.encode_notice(told)
    assert document.form == "broker-card"
    return brokercard.encode_broker_card(brokercard.parse_broker_card_untrusted(data))


def _read_line(document: Document) -> bytes:
    text = document.data.decode()
    match document.form:
        case "token":
            return tokens.encode_token(tokens.parse_token_untrusted(text)).encode()
        case "invitation":
            return invitation.parse_invitation_untrusted(text).encode().encode()
        case "notice-text":
            return notice.notice_text(notice.parse_notice_text_untrusted(text)).encode()
    assert document.form == "address"
    return str(brokercard.parse_broker_address_untrusted(text)).encode()


def _read_exchange(document: Document) -> bytes | None:
    custody_public = bytes.fromhex(document.needs.get("custody", ""))
    if document.form == "custody":
        note = Custody.decode_untrusted(document.data)
        verify_custody(note, custody_public)
        return note.encode()
    private = XWingPrivateKey.from_seed(SecretBytes(bytes.fromhex(document.needs["seed"])))
    if document.form == "request":
        requests.open_request_untrusted(private, document.data)
        return None
    opened = requests.open_request_untrusted(private, bytes.fromhex(document.needs["request"]))
    pending = requests.PendingRequest(response_key=opened.response_key, enc=opened.enc, ops=opened.ops)
    answer = requests.open_answer_untrusted(pending, document.data)
    for result in answer.results:
        if isinstance(result, Custody):
            verify_custody(result, custody_public)
    return None


def _read_evidence(document: Document) -> bytes:
    proof = evidence.decode_proof_untrusted(document.data)
    shown = evidence.check_proof(proof, bytes.fromhex(document.needs["root"]))
    assert shown.value == document.needs["shows"]
    return evidence.encode_proof(proof)


def _read_attachment(document: Document) -> bytes | None:
    if document.form == "manifest":
        return attachment.decode_manifest_untrusted(document.data.decode()).encode().encode()
    manifest = attachment.decode_manifest_untrusted(document.needs["manifest"])
    assert attachment.open_attachment_untrusted(manifest, document.data) == drawn("picture", 96)
    return None


def _read_items(document: Document) -> bytes:
    return items.encode_items(items.decode_items_untrusted(document.data))


def _read_receipts(document: Document) -> bytes:
    return receipts.encode_receipts(receipts.decode_receipts_untrusted(document.data))


READERS: Final[dict[str, Callable[[Document], bytes | None]]] = {
    **dict.fromkeys(
        ("certificate", "officer-list", "revocation", "notice", "bundle", "pair-ok", "broker-card"),
        _read_signed,
    ),
    **dict.fromkeys(("token", "invitation", "address", "notice-text"), _read_line),
    **dict.fromkeys(("request", "answer", "custody"), _read_exchange),
    "evidence": _read_evidence,
    **dict.fromkeys(("manifest", "attachment"), _read_attachment),
    "items": _read_items,
    "receipts": _read_receipts,
}


def answer_of(document: Document) -> tuple[str, bytes | None]:
    """(code, the bytes it encodes back to): no code for what is good, no bytes for what is sealed afresh."""
    try:
        return "", READERS[document.form](document)
    except SalweenError as error:
        return error.code, None


def documents() -> list[Document]:
    """Every case, in the order of the file."""
    return [*_documents(), *_lines(), *_values(), *_exchanges(), *_attachments(), *_evidence()]


def read_file() -> list[Document]:
    """The committed cases."""
    listed = json.loads(FILE.read_text(encoding="utf-8"))
    return [
        Document(
            form=case["form"],
            about=case["about"],
            code=case["code"],
            needs=case["needs"],
            data=bytes.fromhex(case["hex"]),
        )
        for case in listed
    ]


if __name__ == "__main__":
    cases = [document.to_json() for document in documents()]
    FILE.write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")
