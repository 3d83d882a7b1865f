"""docs/spec/example.md: one recorded envelope taken apart, byte by byte: ``python -m tests.support.example``.

Taken apart by tests/vectors/independent.py and by offsets written here, not by the code of protocol/: the
page shows what the specification says, and a test holds it equal to the recorded envelope.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Final

from tests.vectors import independent, make_envelopes

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "spec" / "example.md"
_VECTOR: Final = "cover"


def _labelled_hash(label: str, *parts: bytes) -> bytes:
    name = f"salween/v1/{label}".encode()
    digest = hashlib.sha256(bytes([len(name)]) + name)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def _cells(data: bytes, fields: tuple[tuple[str, int], ...]) -> tuple[list[str], dict[str, bytes]]:
    rows, found, at = ["| off | len | field | bytes |", "|---|---|---|---|"], {}, 0
    for name, size in fields:
        found[name] = data[at : at + size]
        shown = found[name].hex() if size <= 48 else f"{found[name][:24].hex()} ..."
        rows.append(f"| {at:,} | {size:,} | {name} | `{shown}` |")
        at += size
    assert at == len(data)
    return [*rows, ""], found


def draw() -> str:
    """The whole page."""
    folder = make_envelopes.FOLDER
    known = json.loads((folder / "recipient.json").read_text(encoding="utf-8"))
    case = json.loads((folder / f"{_VECTOR}.json").read_text(encoding="utf-8"))
    envelope = base64.b64decode(case["envelope"])
    sender, recipient = bytes.fromhex(known["peer_office_id"]), bytes.fromhex(known["office_id"])
    seed = bytes.fromhex(known["receive_key_seed"])
    outside, parts = _cells(
        envelope,
        (
            ("version", 1),
            ("receive key id", 8),
            ("wrap: enc", 1_120),
            ("wrap: ciphertext and tag", 128),
            ("blob: salt", 24),
            ("blob: commitment", 32),
            ("blob: one chunk and its tag", len(envelope) - 1_313),
        ),
    )
    blob = envelope[1_257:]
    info = b"salween/v1/wrap\x01" + sender + recipient + parts["receive key id"]
    info += _labelled_hash("hash-of-blob", blob)
    inside = independent.unwrap(seed, envelope[9:1_257], info)
    wrapped, w = _cells(
        inside,
        (
            ("content key", 32),
            ("blind", 16),
            ("leaf index", 2),
            ("flags", 2),
            ("pair_seq", 8),
            ("rk_first", 8),
            ("rk_known", 8),
            ("pair_prev", 32),
            ("zero", 4),
        ),
    )
    padded = independent.blob_decrypt(w["content key"], b"salween/v1/blob", blob)
    message = padded.rstrip(b"\0")[:-1]
    body_bytes = len(message) - 2 - 186 - 3_373
    framed, m = _cells(
        padded,
        (
            ("length of the header", 2),
            ("header", 186),
            ("signature", 3_373),
            ("body", body_bytes),
            ("0x80 and zeros", len(padded) - len(message)),
        ),
    )
    header_rows, h = _cells(
        m["header"],
        (
            ("magic", 4),
            ("type", 1),
            ("suite", 1),
            ("flags", 2),
            ("message id", 16),
            ("sender's office_id", 32),
            ("key version", 4),
            ("instance", 8),
            ("created_ms", 8),
            ("expires_ms", 8),
            ("H(core, core)", 32),
            ("length of the core", 4),
            ("H(piggyback, piggyback)", 32),
            ("number of leaves", 2),
            ("leaf 0", 32),
        ),
    )
    core_bytes = int.from_bytes(h["length of the core"], "big")
    body_rows, b = _cells(
        m["body"],
        (
            ("length of the core", 4),
            ("core", core_bytes),
            ("length of the disclosures", 4),
            ("length of the piggyback", 4),
            ("piggyback", 1),
        ),
    )
    order = w["pair_seq"] + w["rk_first"]
    leaf = _labelled_hash("leaf", w["blind"], recipient, order, w["rk_known"], w["pair_prev"])
    assert leaf == h["leaf 0"]
    assert _labelled_hash("core", b["core"]) == h["H(core, core)"]
    assert _labelled_hash("piggyback", b["piggyback"]) == h["H(piggyback, piggyback)"]
    public = bytes.fromhex(known["peer_certificate"])[41 : 41 + 1_984]
    independent.composite_verify(public, b"salween/v1/message", m["header"], m["signature"])
    return "\n".join(
        [
            "# One envelope, byte by byte",
            "",
            f"The recorded envelope `tests/vectors/envelopes/{_VECTOR}.json`, a cover message with one",
            "heartbeat, opened with what `recipient.json` beside it says. Made by",
            "`python -m tests.support.example` without the code it describes; a test holds the page equal to",
            "the file. Long fields show their first 24 bytes.",
            "",
            "## Outside",
            "",
            *outside,
            "## Wrap",
            "",
            f"Receive key seed `{seed.hex()}`, info, {len(info)} bytes:",
            "",
            f"`{info.hex()}`",
            "",
            "It opens to W:",
            "",
            *wrapped,
            "## Blob",
            "",
            "Under the content key and the context `salween/v1/blob`:",
            "",
            *framed,
            "## Header",
            "",
            *header_rows,
            f"hh = `{_labelled_hash('header', m['header']).hex()}`",
            "",
            "Leaf 0 is the hash of blind, recipient, pair_seq and rk_first, rk_known and pair_prev; the",
            "signature holds under the key in the sender's certificate, with the label `message`.",
            "",
            "## Body",
            "",
            *body_rows,
            "The core is a list of one map: `h` the highest number assigned, `k` the tag `hb`, `t` the time.",
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(draw(), encoding="utf-8")
