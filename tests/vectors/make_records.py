"""Writes records.json: ``python -m tests.vectors.make_records``. What is kept, shown or published.

Files at rest, papers, codes on a screen, log entries and what proves them: good ones with what a reader finds
in them, bad ones with one named fault. Everything is drawn from names, so each run writes the same bytes.
Costs of Argon2id are the least allowed, but for one file with those in use.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from audit.checkpoint import Checkpoint, parse_checkpoint_untrusted, sign_checkpoint
from audit.entry import decode_entry_untrusted, encode_entry
from audit.note import Note, NoteSigner, parse_note_untrusted, parse_vkey_untrusted, verify_note
from audit.policy import parse_policy_untrusted
from audit.proof import Proof, parse_proof_untrusted, verify_proof
from audit.tree import (
    encode_bundle,
    inclusion_path,
    leaf_hash,
    perfect_from_tiles,
    split_bundle_untrusted,
    subtree_root,
)
from keys import backupfile, meetingcode, pin, recovery_sheet, rendezvous
from keys.errors import SalweenError
from keys.keystore import DEFAULT_KDF, KdfParameters, Keystore
from keys.primitives import labelled_hash
from keys.secret import SecretBytes
from node.backup import Manifest, read_manifest_untrusted
from protocol import wire
from tests.keys.builders import MYITKYINA, NOW_MS, TENGCHONG, a_broker_address, drawn, ed25519
from tests.keys.files import MemoryFiles

FILE: Final = Path(__file__).parent / "records.json"
CHEAP: Final = KdfParameters(memory_kib=8, iterations=1, lanes=1)
PASSPHRASE: Final = b"nine lakes below the pass"
PIN: Final = "၀၄၇၁ 93".encode()
SUBJECT: Final = "officer/7"
ROOT_SEED: Final = drawn("Myitkyina BLO root", 64)
SECRETS: Final = {
    "database": drawn("database", 32),
    SUBJECT: drawn("sealed officer", 118),
    "operational/1": drawn("operational", 64),
}
ORIGIN: Final = "salween/0123456789abcdef/log1"
LOG: Final = NoteSigner(name=ORIGIN, key=ed25519("log"))
WITNESS: Final = NoteSigner(name="salween/fedcba9876543210/witness1", key=ed25519("witness"))
PEER: Final = drawn("pseudonym", 8).hex()


@dataclass(frozen=True, kw_only=True)
class Record:
    """One case: ``needs`` is what a reader must know besides, ``gives`` what it finds. Bytes in hex."""

    form: str
    about: str
    data: bytes
    code: str = ""
    needs: dict[str, str] = field(default_factory=dict)
    gives: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return {
            "form": self.form,
            "about": self.about,
            "code": self.code,
            "needs": self.needs,
            "gives": self.gives,
            "hex": self.data.hex(),
        }


def _flipped(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _draws(name: str) -> Callable[[int], bytes]:
    """Randomness of one writer: its n-th draw has a name of its own."""
    count = iter(range(1000))
    return lambda size: drawn(f"{name} {next(count)}", size)


def _headed(form: str, good: bytes, data: dict[str, bytes], code: str, size: int) -> Iterator[Record]:
    """Bad headers of a file with the header of keystores and backups, ``size`` bytes with its hash."""
    needs = {"passphrase": PASSPHRASE.hex()}
    label = b"salween/v1/" + form.encode() + b"-header"

    def rehashed(head: bytes) -> bytes:
        return head + labelled_hash(label, head) + good[size:]

    head = good[: size - 32]
    wrong = {"passphrase": (PASSPHRASE + b"!").hex()}
    yield Record(form=form, about="good", data=good, needs=needs, gives={k: v.hex() for k, v in data.items()})
    yield Record(form=form, about="wrong passphrase", data=good, needs=wrong, code=f"{form}_wrong_passphrase")
    later = rehashed(head[:4] + b"\x02" + head[5:])
    yield Record(form=form, about="format 2", data=later, needs=needs, code=f"{form}_newer_version")
    faults = {
        "another magic word": _flipped(good, 0),
        "one bit of the salt": _flipped(good, 16),
        "cut in the header": good[: size - 1],
        "2 GiB of memory asked for": rehashed(head[:7] + (2**21).to_bytes(4, "big") + head[11:]),
        "17 passes asked for": rehashed(head[:11] + (17).to_bytes(4, "big") + head[15:]),
        "no lane": rehashed(head[:15] + b"\0" + head[16:]),
        "one bit of the sealed part": _flipped(good, -1),
        "cut in the sealed part": good[:-1],
    }
    for about, bad in faults.items():
        yield Record(form=form, about=about, data=bad, needs=needs, code=code)


def _keystores() -> Iterator[Record]:
    def written(kdf: KdfParameters) -> bytes:
        files = MemoryFiles()
        secrets = {name: SecretBytes(value) for name, value in SECRETS.items()}
        store = (files, "k", SecretBytes(PASSPHRASE), secrets)
        Keystore.create(*store, random=_draws("keystore"), kdf=kdf)
        return files.content["k"]

    yield from _headed("keystore", written(CHEAP), SECRETS, "keystore_damaged", 96)
    yield Record(
        form="keystore",
        about="at the cost in use",
        data=written(DEFAULT_KDF),
        needs={"passphrase": PASSPHRASE.hex()},
        gives={name: value.hex() for name, value in SECRETS.items()},
    )


def _backup_files() -> Iterator[Record]:
    random = _draws("backup")
    key = backupfile.begin_backup(SecretBytes(PASSPHRASE), random=random, kdf=CHEAP)
    content = [b"what the parts", b" joined ", b"give"]
    parts = [key.seal_part(n, data, is_last=n == 2, random=random) for n, data in enumerate(content)]
    good = key.header + b"".join(parts)
    yield from _headed("backup", good, {"content": b"".join(content)}, "backup_damaged", 96)
    turned = {
        "cut between two parts": key.header + parts[0] + parts[1],
        "cut between two parts, the flag of the last set": key.header
        + parts[0]
        + parts[1][:4]
        + b"\x01"
        + parts[1][5:],
        "two parts in another order": key.header + parts[1] + parts[0] + parts[2],
        "a part left out": key.header + parts[0] + parts[2],
        "a part behind the last": good + parts[2],
    }
    for about, data in turned.items():
        needs = {"passphrase": PASSPHRASE.hex()}
        yield Record(form="backup", about=about, data=data, needs=needs, code="backup_damaged")


def _manifests() -> Iterator[Record]:
    made = Manifest(
        office_id=MYITKYINA.id,
        name=MYITKYINA.name,
        country="MM",
        made_ms=NOW_MS,
        key_version=3_631_525,
        origin=ORIGIN,
        size=300,
        root=drawn("backup root", 32),
        with_operational=False,
        sizes=(700, 536, 240, 475_136),
    )
    form, good = "backup-manifest", made.encode()
    for about, held in (("good", made), ("with the signing key", replace(made, with_operational=True))):
        yield Record(form=form, about=about, data=held.encode(), gives=_told(held))
    fields = wire.decode_untrusted(good, bytes_max=len(good))
    assert isinstance(fields, dict)
    less = {name: value for name, value in fields.items() if name != "root"}
    faults = {
        "cut": good[:-1],
        "one byte more": good + b"\xc0",
        "no map": wire.encode([1, 2, 3]),
        "a field missing": wire.encode(less),
        "a field more": wire.encode({**fields, "later": 1}),
        "a short office id": wire.encode({**fields, "office": MYITKYINA.id[:-1]}),
        "three letters of a country": wire.encode({**fields, "country": "MMR"}),
        "a name of 481 bytes": wire.encode({**fields, "name": "n" * 481}),
        "made after the year 9999": wire.encode({**fields, "made": 253_402_300_800_000}),
        "operational is 2": wire.encode({**fields, "operational": 2}),
        "three sizes": wire.encode({**fields, "sizes": [700, 536, 240]}),
        "five sizes": wire.encode({**fields, "sizes": [700, 536, 240, 475_136, 0]}),
        "a size below nothing": wire.encode({**fields, "sizes": [700, 536, -1, 475_136]}),
        "a size that is true": wire.encode({**fields, "sizes": [700, True, 240, 475_136]}),
        "secrets beyond 4 MiB": wire.encode({**fields, "sizes": [4 * 2**20 + 1, 536, 240, 475_136]}),
    }
    for about, data in faults.items():
        yield Record(form=form, about=about, data=data, code="backup_damaged")


def _told(manifest: Manifest) -> dict[str, str]:
    """What a reader finds in a manifest, in hex."""
    found = {
        "office": manifest.office_id,
        "root": manifest.root,
        "name": manifest.name.encode(),
        "country": manifest.country.encode(),
        "origin": manifest.origin.encode(),
        "made": str(manifest.made_ms).encode(),
        "version": str(manifest.key_version).encode(),
        "size": str(manifest.size).encode(),
        "operational": str(int(manifest.with_operational)).encode(),
        "sizes": " ".join(map(str, manifest.sizes)).encode(),
    }
    return {name: value.hex() for name, value in found.items()}


def _pins() -> Iterator[Record]:
    seed = drawn("Myitkyina BLO officer 7", 32)
    for about, kdf in (("good", CHEAP), ("at the cost in use", pin.PIN_KDF)):
        sealed = pin.seal_under_pin(
            SecretBytes(seed), SecretBytes(PIN), subject=SUBJECT, random=_draws("pin"), kdf=kdf
        ).reveal()
        needs = {"pin": PIN.hex(), "subject": SUBJECT.encode().hex()}
        yield Record(form="pin", about=about, data=sealed, needs=needs, gives={"seed": seed.hex()})
        if kdf is CHEAP:
            wrong = {"wrong PIN": {"pin": b"0472".hex()}, "another entry": {"subject": b"officer/8".hex()}}
            for name, other in wrong.items():
                yield Record(form="pin", about=name, data=sealed, needs=needs | other, code="pin_wrong")
            for name, data, code in (
                ("one bit of the seal", _flipped(sealed, -1), "pin_wrong"),
                ("another magic word", _flipped(sealed, 0), "pin_seal_malformed"),
                ("no lane", sealed[:13] + b"\0" + sealed[14:], "pin_seal_malformed"),
                ("cut in the nonce", sealed[:40], "pin_seal_malformed"),
            ):
                yield Record(form="pin", about=name, data=data, needs=needs, code=code)


def _sheets() -> Iterator[Record]:
    sheet = recovery_sheet.encode_recovery_sheet(
        name=MYITKYINA.name, country="MM", office_id=MYITKYINA.id, root_seed=SecretBytes(ROOT_SEED)
    )
    gives = {
        "office_id": MYITKYINA.id.hex(),
        "seed": ROOT_SEED.hex(),
        "name": MYITKYINA.name.encode().hex(),
    }
    lines = [line for line in sheet.splitlines() if line.startswith("  ")]
    numbers = "\n".join(reversed(lines))
    yield Record(form="recovery-sheet", about="good", data=sheet.encode(), gives=gives)
    for about, text in (
        ("key lines alone, the last one first", numbers),
        ("small letters, 0 and 1 for O and I", "\n".join(line.translate(_SMALL) for line in lines)),
    ):
        yield Record(form="recovery-sheet", about=about, data=text.encode(), gives=gives | {"name": ""})
    first = lines[0]
    at = first.index("1") + 4
    faults = {
        "one letter": sheet.replace(first, first[:at] + ("A" if first[at] != "A" else "B") + first[at + 1 :]),
        "a line short": sheet.replace(lines[3] + "\n", ""),
        "a line twice, not alike": sheet + "\n" + lines[1].replace("  2", "  1"),
        "another office's id": sheet.replace(MYITKYINA.id.hex(), TENGCHONG.id.hex()),
    }
    for about, text in faults.items():
        yield Record(form="recovery-sheet", about=about, data=text.encode(), code="recovery_sheet_malformed")


_SMALL: Final = {ord(large): small for large, small in zip("OIABC", "01abc", strict=True)}


def _meeting_codes() -> Iterator[Record]:
    inviter = meetingcode.InviterCode(
        office_id=MYITKYINA.id,
        secret=SecretBytes(drawn("inviter secret", 16)),
        token=SecretBytes(drawn("token", 32)),
        broker_address=a_broker_address(),
        expires_ms=NOW_MS + 600_000,
    )
    shown = meetingcode.encode_code(inviter)
    joiner = meetingcode.JoinerCode(
        office_id=TENGCHONG.id,
        secret=SecretBytes(drawn("joiner secret", 16)),
        answers=meetingcode.code_hash(shown),
        key_hash=drawn("key hash", 32),
    )
    gives = {
        "office_id": MYITKYINA.id.hex(),
        "secret": inviter.secret.reveal().hex(),
        "token": inviter.token.reveal().hex(),
        "address": str(inviter.broker_address).encode().hex(),
        "expires_ms": str(inviter.expires_ms).encode().hex(),
        "nonce": meetingcode.code_hash(shown).hex(),
        "text": meetingcode.code_text(shown).encode().hex(),
    }
    answer = meetingcode.encode_code(joiner)
    answers = {
        "office_id": TENGCHONG.id.hex(),
        "secret": joiner.secret.reveal().hex(),
        "answers": joiner.answers.hex(),
        "key_hash": joiner.key_hash.hex(),
        "nonce": meetingcode.code_hash(answer).hex(),
        "text": meetingcode.code_text(answer).encode().hex(),
    }
    yield Record(form="meeting-code", about="inviter's", data=shown, gives=gives)
    yield Record(form="meeting-code", about="joiner's", data=answer, gives=answers)

    def checked(payload: bytes) -> bytes:
        return payload + labelled_hash(b"salween/v1/meeting-check", payload)[:5]

    for about, data, code in (
        ("one bit", _flipped(shown, 50), "meeting_code_mistyped"),
        ("cut", answer[:-1], "meeting_code_mistyped"),
        ("format 2", checked(shown[:4] + b"\x02" + shown[5:-5]), "meeting_code_version"),
        ("kind 3", checked(shown[:5] + b"\x03" + shown[6:-5]), "meeting_code_malformed"),
        ("one byte more inside", checked(shown[:-5] + b"\0"), "meeting_code_malformed"),
        ("181 bytes", checked(shown[:-5] + bytes(181 - len(shown))), "meeting_code_malformed"),
    ):
        yield Record(form="meeting-code", about=about, data=data, code=code)


def _places() -> Iterator[Record]:
    """Rendezvous: what both sides derive; and the item all ceremony messages travel in."""
    secret, card = drawn("invitation", 16), a_broker_address().card_sha256
    by_voice = rendezvous.derive_rendezvous(SecretBytes(secret), card)
    yield Record(
        form="rendezvous",
        about="of an invitation: its secret, and the broker card's hash",
        data=secret,
        needs={"card": card.hex()},
        gives=_place(by_voice),
    )
    message = b"SLP9\x01 no message of any ceremony"
    item = rendezvous.to_item(message)
    yield Record(form="item", about="good", data=item, gives={"message": message.hex()})
    large = rendezvous.to_item(bytes(8188))
    yield Record(
        form="item", about="one byte too many for 8 KiB", data=large, gives={"message": bytes(8188).hex()}
    )
    for about, data in (
        ("padding that is not zero", _flipped(item, -1)),
        ("a size larger than needed", item + bytes(8192)),
        ("no size of an envelope", item[:-1]),
        ("version 2", b"\x02" + item[1:]),
        ("a length beyond the end", item[:1] + b"\0\0\xff\xff" + item[5:]),
    ):
        yield Record(form="item", about=about, data=data, code="pairing_item_malformed")


def _place(made: rendezvous.Rendezvous) -> dict[str, str]:
    return {
        f"{direction} {part}": secret.reveal().hex()
        for direction, box in (("to-joiner", made.to_joiner), ("to-inviter", made.to_inviter))
        for part, secret in (("put", box.put_secret), ("get", box.get_secret), ("seed", box.signing_seed))
    }


def _entry(name: str, seq: int, **fields: int | str | list[str]) -> bytes:
    times = {"ts": NOW_MS * 1000 + seq, "mo": 5 + seq}
    drawn_ones = {"bt": drawn("boot", 8).hex(), "z": drawn(f"z {seq}", 16).hex()}
    return encode_entry({**fields, "v": 1, "t": name, "seq": seq, **times, **drawn_ones})


def entries() -> list[bytes]:
    """A short log: one entry of every shape a field can have, as an office would write them."""
    hashes = [drawn(name, 32).hex() for name in ("key", "alert", "one", "two", "hh", "envelope", "note")]
    key, alert, one, two, hh, envelope, note = hashes
    msg, actor = drawn("msg", 16).hex(), drawn("actor", 32).hex()
    return [
        _entry("log.start", 0, origin=ORIGIN, key=key),
        _entry("pair.begin", 1, peer=PEER, role="invite", how="voice"),
        _entry(
            "msg.submit", 2, msg=msg, peer=PEER, com=[one, two], exp=NOW_MS + 1, alert=alert, kind="alert"
        ),
        _entry(
            "msg.seal",
            3,
            msg=msg,
            hh=hh,
            inst=drawn("inst", 8).hex(),
            ps=1,
            att=1,
            env=envelope,
            via="broker",
        ),
        _entry(
            "msg.custody",
            4,
            msg=msg,
            env=envelope,
            origin="salween/broker/b/log1",
            idx=9,
            at=NOW_MS,
            note=note,
        ),
        _entry("acc.read", 5, alert=alert, actor=actor, purpose="duty", k=1),
        _entry("acc.read", 6, alert=alert, actor=actor, purpose="duty", k=2, prev=5),
    ]


def _entries() -> Iterator[Record]:
    for entry in entries():
        about = f"{decode_entry_untrusted(entry)['t']} at {decode_entry_untrusted(entry)['seq']}"
        yield Record(form="entry", about=about, data=entry, gives={"leaf": leaf_hash(entry).hex()})
    later = entries()[1].replace(b'"pair.begin"', b'"pair.later"')
    yield Record(
        form="entry", about="a type of a later version", data=later, gives={"leaf": leaf_hash(later).hex()}
    )
    good = entries()[1]
    for about, data in (
        ("a space", good.replace(b",", b", ", 1)),
        ("keys in another order", b'{"v":1,' + good.replace(b',"v":1', b"")[1:]),
        ("a field its type has not", good.replace(b'"mo"', b'"me":1,"mo"')),
        ("a field missing", good.replace(b',"role":"invite"', b"")),
        ("capitals in hex", good.replace(PEER.encode(), PEER.upper().encode())),
        ("2^53", good.replace(b'"mo":6', b'"mo":9007199254740992')),
        ("a number with a point", good.replace(b'"mo":6', b'"mo":6.0')),
        ("true", good.replace(b'"mo":6', b'"mo":true')),
        ("an escape", good.replace(b"invite", b"inv\\u0069te")),
        ("text that is not ASCII", good.replace(b"invite", "invité".encode())),
        ("a word that is not in the list", good.replace(b"invite", b"invites")),
        ("too long", good[:-1] + b',"zz":"' + b"a" * 4096 + b'"}'),
    ):
        assert data != good, about
        yield Record(form="entry", about=about, data=data, code="bad_entry")


def _trees() -> Iterator[Record]:
    """Roots over the first n entries, and the bundle that holds them all."""
    written = entries()
    bundle = encode_bundle(written)
    leaves = [leaf_hash(entry) for entry in written]
    roots = {str(n): subtree_root(b"".join(leaves[:n])).hex() for n in range(1, len(leaves) + 1)}
    yield Record(form="bundle-of-entries", about="roots by size", data=bundle, gives=roots)
    yield Record(form="bundle-of-entries", about="cut", data=bundle[:-1], code="bad_bundle")


def _published() -> Iterator[Record]:
    written = entries()
    leaves = [leaf_hash(entry) for entry in written]
    head = Checkpoint(origin=ORIGIN, size=len(leaves), root=subtree_root(b"".join(leaves)))
    signed = sign_checkpoint(head, LOG)
    cosigned = Note(
        text=head.text, signatures=(LOG.sign(head.text), WITNESS.cosign(head.text, NOW_MS // 1000))
    ).encode()
    needs = {"keys": f"{LOG.log_key.encode()}\n{WITNESS.witness_key.encode()}".encode().hex()}
    gives = {"origin": ORIGIN.encode().hex(), "size": str(head.size).encode().hex(), "root": head.root.hex()}
    time = {f"time {WITNESS.name}": str(NOW_MS // 1000).encode().hex()}
    by_log, by_both = (
        {"signers": ORIGIN.encode().hex()},
        {"signers": f"{ORIGIN}\n{WITNESS.name}".encode().hex()},
    )
    yield Record(form="checkpoint", about="good", data=signed, needs=needs, gives=gives | by_log)
    yield Record(
        form="checkpoint", about="cosigned", data=cosigned, needs=needs, gives=gives | by_both | time
    )
    stranger = NoteSigner(name="somebody", key=ed25519("somebody")).sign(head.text)
    beside = Note(text=head.text, signatures=(stranger, LOG.sign(head.text))).encode()
    about = "and a signature of a key nobody gave us"
    yield Record(form="checkpoint", about=about, data=beside, needs=needs, gives=gives | by_log)
    alone = Note(text=head.text, signatures=(stranger,)).encode()
    yield Record(
        form="checkpoint", about="only of such a key", data=alone, needs=needs, gives=gives | {"signers": ""}
    )
    text, sizes = signed.decode(), f"\n{head.size}\n"
    for about, bad, code in (
        ("another size", text.replace(sizes, f"\n{head.size + 1}\n"), "bad_signature"),
        ("a fourth line", text.replace("\n\n", "\nmore\n\n"), "bad_checkpoint"),
        ("a size with a zero in front", text.replace(sizes, f"\n0{head.size}\n"), "bad_checkpoint"),
        ("no empty line", text.replace("\n\n", "\n"), "bad_note"),
        ("no line end", text[:-1], "bad_note"),
        ("a hyphen for the dash", text.replace("—", "-"), "bad_note"),
    ):
        yield Record(form="checkpoint", about=about, data=bad.encode(), needs=needs, code=code)
    path = tuple(inclusion_path(2, head.size, perfect_from_tiles(head.size, lambda *_: b"".join(leaves))))
    proof = Proof(index=2, path=path, checkpoint=cosigned).encode()
    policy = f"log {LOG.log_key.encode()}\nwitness w {WITNESS.witness_key.encode()}\nquorum w\n".encode()
    known = {"policy": policy.hex(), "entry": written[2].hex()}
    yield Record(form="proof", about="good", data=proof, needs=known, gives=gives | {"index": b"2".hex()})
    bare = Proof(index=2, path=path, checkpoint=signed).encode()
    other = Proof(index=3, path=path, checkpoint=cosigned).encode()
    foreign = {"policy": policy.replace(b"quorum w", b"quorum none").hex()}
    for about, bad_proof, knows, code in (
        ("without the witness the policy asks for", bare, known, "not_witnessed"),
        ("another place", other, known, "not_included"),
        ("another entry", proof, known | {"entry": written[3].hex()}, "not_included"),
        (
            "a hash of the path short",
            Proof(index=2, path=path[1:], checkpoint=cosigned).encode(),
            known,
            "not_included",
        ),
        ("another first line", proof.replace(b"@v1", b"@v2", 1), known, "bad_proof"),
        ("no index", proof.replace(b"index 2\n", b""), known, "bad_proof"),
    ):
        yield Record(form="proof", about=about, data=bad_proof, needs=knows, code=code)
    about = "without the witness, where the policy asks for none"
    yield Record(
        form="proof", about=about, data=bare, needs=known | foreign, gives=gives | {"index": b"2".hex()}
    )


def _policies() -> Iterator[Record]:
    log, witness = LOG.log_key.encode(), WITNESS.witness_key.encode()
    other = NoteSigner(name="salween/other/witness1", key=ed25519("other witness")).witness_key.encode()
    base = f"# who is believed\nlog {log} https://example.org/\nwitness a {witness}\nwitness b {other}\n"
    for about, end, enough in (
        ("none", "quorum none\n", ("", "a", "b", "a b")),
        ("one of two", "group both any a b\nquorum both\n", ("a", "b", "a b")),
        ("two of two", "group both all a b\n\nquorum both\n", ("a b",)),
        ("a number", "group both\t2 a b\nquorum both\n", ("a b",)),
        ("a witness", "quorum b\n", ("b", "a b")),
    ):
        gives = {"logs": log.encode().hex(), "enough": "\n".join(enough).encode().hex()}
        yield Record(form="policy", about=about, data=(base + end).encode(), gives=gives)
    for about, text in (
        ("no quorum", base),
        ("two quorums", base + "quorum a\nquorum b\n"),
        ("cut", base + "quorum none"),
        ("a name nobody defined", base + "quorum c\n"),
        ("a witness twice in groups", base + "group g any a b\ngroup h any a\nquorum g\n"),
        ("a threshold beyond its members", base + "group g 3 a b\nquorum g\n"),
        ("a witness's key as a log's", base.replace("log ", f"log {witness}\nlog ", 1) + "quorum none\n"),
        ("a letter of a key", base.replace(witness[-3:], "AA=", 1) + "quorum none\n"),
        ("another word", base + "trust a\nquorum none\n"),
    ):
        yield Record(form="policy", about=about, data=text.encode(), code="bad_policy")


# --- the readers: what a second program has to do with each form ---


def _read_keystore(record: Record) -> dict[str, bytes]:
    files = MemoryFiles()
    files.write_atomic("k", record.data)
    store = Keystore.open(files, "k", _known(record, "passphrase"), random=_draws("unused"))
    return {name: store.get(name).reveal() for name in store.names()}


def _read_backup(record: Record) -> dict[str, bytes]:
    key = backupfile.open_header_untrusted(record.data, _known(record, "passphrase"))
    at, number, is_last, content = len(key.header), 0, False, b""
    while not is_last:
        start = at + backupfile.PART_HEAD_BYTES
        size, is_last = backupfile.read_part_head_untrusted(record.data[at:start])
        if len(record.data) < start + size:
            raise backupfile.damaged("it is cut off")
        content += key.open_part(number, record.data[start : start + size], is_last=is_last)
        at, number = start + size, number + 1
    if at != len(record.data):
        raise backupfile.damaged("something follows")
    return {"content": content}


def _read_manifest(record: Record) -> dict[str, bytes]:
    return {name: bytes.fromhex(value) for name, value in _told(read_manifest_untrusted(record.data)).items()}


def _read_pin(record: Record) -> dict[str, bytes]:
    subject = bytes.fromhex(record.needs["subject"]).decode()
    opened = pin.open_under_pin(SecretBytes(record.data), _known(record, "pin"), subject=subject)
    return {"seed": opened.reveal()}


def _read_sheet(record: Record) -> dict[str, bytes]:
    sheet = recovery_sheet.parse_recovery_sheet_untrusted(record.data.decode())
    return {"office_id": sheet.office_id, "seed": sheet.root_seed.reveal(), "name": sheet.name.encode()}


def _read_code(record: Record) -> dict[str, bytes]:
    code = meetingcode.parse_code_untrusted(record.data)
    text = meetingcode.code_text(record.data)
    again = meetingcode.read_code_text_untrusted(f" {text.upper()}\n")
    assert meetingcode.encode_code(again) == record.data
    found = {
        "office_id": code.office_id,
        "secret": code.secret.reveal(),
        "nonce": meetingcode.code_hash(meetingcode.encode_code(code)),
        "text": text.encode(),
    }
    if isinstance(code, meetingcode.JoinerCode):
        return found | {"answers": code.answers, "key_hash": code.key_hash}
    return found | {
        "token": code.token.reveal(),
        "address": str(code.broker_address).encode(),
        "expires_ms": str(code.expires_ms).encode(),
    }


def _read_rendezvous(record: Record) -> dict[str, bytes]:
    card = bytes.fromhex(record.needs["card"])
    place = _place(rendezvous.derive_rendezvous(SecretBytes(record.data), card))
    return {name: bytes.fromhex(value) for name, value in place.items()}


def _read_item(record: Record) -> dict[str, bytes]:
    return {"message": rendezvous.from_item_untrusted(record.data)}


def _read_entry(record: Record) -> dict[str, bytes]:
    decode_entry_untrusted(record.data)
    return {"leaf": leaf_hash(record.data)}


def _read_bundle(record: Record) -> dict[str, bytes]:
    leaves = [leaf_hash(entry) for entry in split_bundle_untrusted(record.data)]
    return {str(n): subtree_root(b"".join(leaves[:n])) for n in range(1, len(leaves) + 1)}


def _head(checkpoint: Checkpoint) -> dict[str, bytes]:
    size = str(checkpoint.size).encode()
    return {"origin": checkpoint.origin.encode(), "size": size, "root": checkpoint.root}


def _read_checkpoint(record: Record) -> dict[str, bytes]:
    keys = [parse_vkey_untrusted(line) for line in bytes.fromhex(record.needs["keys"]).decode().split("\n")]
    checkpoint, note = parse_checkpoint_untrusted(record.data)
    assert parse_note_untrusted(note.encode()) == note
    held = verify_note(note, keys)
    times = {f"time {v.key.name}": str(v.time_s).encode() for v in held if v.time_s is not None}
    return {**_head(checkpoint), "signers": "\n".join(v.key.name for v in held).encode(), **times}


def _read_proof(record: Record) -> dict[str, bytes]:
    proof = parse_proof_untrusted(record.data)
    policy = parse_policy_untrusted(bytes.fromhex(record.needs["policy"]))
    head = verify_proof(proof, bytes.fromhex(record.needs["entry"]), policy)
    return {**_head(head.checkpoint), "index": str(proof.index).encode()}


def _read_policy(record: Record) -> dict[str, bytes]:
    policy = parse_policy_untrusted(record.data)
    enough = [names for names in ("", "a", "b", "a b") if policy.reaches_quorum(names.split())]
    return {
        "logs": "\n".join(key.encode() for key in policy.logs).encode(),
        "enough": "\n".join(enough).encode(),
    }


def _known(record: Record, name: str) -> SecretBytes:
    return SecretBytes(bytes.fromhex(record.needs[name]))


READERS: Final[dict[str, Callable[[Record], dict[str, bytes]]]] = {
    "keystore": _read_keystore,
    "backup": _read_backup,
    "backup-manifest": _read_manifest,
    "pin": _read_pin,
    "recovery-sheet": _read_sheet,
    "meeting-code": _read_code,
    "rendezvous": _read_rendezvous,
    "item": _read_item,
    "entry": _read_entry,
    "bundle-of-entries": _read_bundle,
    "checkpoint": _read_checkpoint,
    "proof": _read_proof,
    "policy": _read_policy,
}


def answer_of(record: Record) -> tuple[str, dict[str, str]]:
    """(code, what was found in hex): no code for what is good, nothing found in what is not."""
    try:
        return "", {name: value.hex() for name, value in READERS[record.form](record).items()}
    except SalweenError as error:
        return error.code, {}


def records() -> list[Record]:
    """Every case, in the order of the file."""
    made = (
        _keystores,
        _backup_files,
        _manifests,
        _pins,
        _sheets,
        _meeting_codes,
        _places,
        _entries,
        _trees,
        _published,
        _policies,
    )
    return [record for make in made for record in make()]


def text_of(made: list[Record]) -> str:
    """The file."""
    return json.dumps([record.to_json() for record in made], indent=1) + "\n"


def read_file() -> list[Record]:
    """The committed cases."""
    return [
        Record(data=bytes.fromhex(case.pop("hex")), **case)
        for case in json.loads(FILE.read_text(encoding="utf-8"))
    ]


if __name__ == "__main__":
    FILE.write_text(text_of(records()), encoding="utf-8")
