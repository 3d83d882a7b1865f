"""Signed notes, keys and checkpoints: one spelling each, and a bad signature refuses the whole."""

import base64
import contextlib
import struct
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import (
    Checkpoint,
    parse_checkpoint_text_untrusted,
    parse_checkpoint_untrusted,
    sign_checkpoint,
)
from audit.note import (
    SIGNATURES_MAX,
    Note,
    PostQuantumSigner,
    Signature,
    VerifierKey,
    cosigned_message,
    parse_note_untrusted,
    parse_vkey_untrusted,
    verify_note,
)
from audit.tree import EMPTY_ROOT
from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import MlDsa44PrivateKey
from keys.secret import SecretBytes
from tests.audit.logs import a_signer

LOG = a_signer()
WITNESS = a_signer("test/b7/witness1", b"\x03")
TEXT = "test/5f0c2a9e/log1\n4\n" + base64.b64encode(bytes(32)).decode() + "\n"

# A vector that others made: the example of the signed-note specification's Go implementation.
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_NOTE = (
    b"If you think cryptography is the answer to your problem,\n"
    b"then you don't know what your problem is.\n"
    b"\n"
    b"\xe2\x80\x94 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN"
    b"1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_note_made_elsewhere_verifies() -> None:
    """The published example of Go's note package, key and signature, holds here."""
    key = parse_vkey_untrusted(PETER_KEY)
    note = parse_note_untrusted(PETER_NOTE)
    assert [verified.key for verified in verify_note(note, [key])] == [key]
    assert note.encode() == PETER_NOTE
    altered = Note(text=note.text.replace("answer", "Answer"), signatures=note.signatures)
    with pytest.raises(VerificationFailed, match="bad_signature"):
        verify_note(altered, [key])


@given(st.binary(min_size=32, max_size=32), st.sampled_from([1, 4]))
def test_a_verifier_key_comes_back_as_it_was(public: bytes, type_byte: int) -> None:
    """name+id+key, with the id checked."""
    key = VerifierKey(name="a.example/log", type_byte=type_byte, public=public)
    assert parse_vkey_untrusted(key.encode()) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+00000000",
        PETER_KEY.replace("c74f20a3", "c74f20a4"),
        PETER_KEY.replace("c74f20a3", "C74F20A3"),
        PETER_KEY.replace("PeterNeumann", "Peter Neumann"),
        PETER_KEY + "AA",
        PETER_KEY[:-4],
        PETER_KEY.replace("TW", "T="),
        PETER_KEY.replace("+ARpc", "+BRpc"),
        "n\u00e9+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "x+c74f20a3+\u0440",
    ],
)
def test_a_mistyped_verifier_key_is_refused(text: str) -> None:
    """Wrong id, name, length, type or base64."""
    with pytest.raises(MalformedInput):
        parse_vkey_untrusted(text)


@given(st.binary(max_size=400) | st.text(alphabet="\n\u2014 abcA=+/", max_size=60).map(str.encode))
def test_any_bytes_are_a_note_or_malformed(data: bytes) -> None:
    """What parses encodes back to the same bytes."""
    for candidate in (data, b"text\n\n" + data, TEXT.encode() + b"\n" + data):
        with contextlib.suppress(MalformedInput):
            assert parse_note_untrusted(candidate).encode() == candidate
        with contextlib.suppress(MalformedInput):
            checkpoint, _ = parse_checkpoint_untrusted(candidate)
            assert candidate.startswith(checkpoint.text.encode())


@given(st.binary(max_size=80))
def test_any_text_is_a_checkpoint_or_malformed(data: bytes) -> None:
    """What parses spells itself."""
    for candidate in (data, b"o\n" + data, b"o\n5\n" + base64.b64encode(data) + b"\n"):
        with contextlib.suppress(MalformedInput):
            assert parse_checkpoint_text_untrusted(candidate).text.encode() == candidate


def test_unknown_signatures_are_ignored_and_a_bad_known_one_is_not() -> None:
    """Other people's lines say nothing; a known key's line must hold, wherever it stands."""
    good, other = LOG.sign(TEXT), a_signer("stranger/log1", b"\x09").sign("another text\n")
    assert len(verify_note(Note(text=TEXT, signatures=(other, good)), [LOG.log_key])) == 1
    assert verify_note(Note(text=TEXT, signatures=(other,)), [LOG.log_key]) == []
    bad = Signature(name=good.name, key_id=good.key_id, blob=good.blob[::-1])
    for lines in ((bad,), (good, bad), (bad, good)):
        with pytest.raises(VerificationFailed, match="bad_signature"):
            verify_note(Note(text=TEXT, signatures=lines), [LOG.log_key])


def test_the_same_name_with_another_key_is_unknown() -> None:
    """Name and key id together say which key; half of it is nobody."""
    impostor = a_signer(seed=b"\x02").sign(TEXT)
    assert verify_note(Note(text=TEXT, signatures=(impostor,)), [LOG.log_key]) == []


def test_a_cosignature_binds_its_time() -> None:
    """The witness signs the time with the text; a log key's signature is never taken for a cosignature."""
    line = WITNESS.cosign(TEXT, 1_800_000_000)
    (verified,) = verify_note(Note(text=TEXT, signatures=(line,)), [WITNESS.witness_key])
    assert verified.time_s == 1_800_000_000
    later = (1_800_000_001).to_bytes(8, "big") + line.blob[8:]
    for blob in (later, line.blob[8:], line.blob + b"\x00", b"\xff" * 8 + line.blob[8:]):
        altered = Signature(name=line.name, key_id=line.key_id, blob=blob)
        with pytest.raises(VerificationFailed, match="bad_signature"):
            verify_note(Note(text=TEXT, signatures=(altered,)), [WITNESS.witness_key])
    assert cosigned_message(TEXT, 7) == b"cosignature/v1\ntime 7\n" + TEXT.encode()
    assert WITNESS.log_key.key_id != WITNESS.witness_key.key_id


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAA=",
        b"text\n\n- name AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 na me AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 name AAAA\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAB=\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAA=\r\n",
        b"te\x00xt\n\n\xe2\x80\x94 name AAAAAAA=\n",
        b"te\xffxt\n\n\xe2\x80\x94 name AAAAAAA=\n",
        b"text\n\n" + b"\xe2\x80\x94 name AAAAAAA=\n" * (SIGNATURES_MAX + 1),
        b"x" * 70_000,
    ],
)
def test_a_note_with_one_fault_is_refused(data: bytes) -> None:
    """Each has one fault: no signature, wrong dash, stray bits, control characters, too many lines."""
    with pytest.raises(MalformedInput, match="bad_note"):
        parse_note_untrusted(data)


ROOT = base64.b64encode(b"\x07" * 32).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"origin\n5\n{ROOT}",
        f"\n5\n{ROOT}\n",
        f"or igin\n5\n{ROOT}\n",
        f"origin\n05\n{ROOT}\n",
        f"origin\n-5\n{ROOT}\n",
        f"origin\n9007199254740992\n{ROOT}\n",
        f"origin\n5\n{ROOT[:-4]}\n",
        f"origin\n5\n{ROOT}\nextension\n",
        f"origin\n0\n{ROOT}\n",
        f"origin\n5\n{ROOT[:-2]}+=\n",
        f"origin\n5\n{ROOT} \n",
        "o" * 300,
    ],
)
def test_a_checkpoint_with_one_fault_is_refused(text: str) -> None:
    """Three lines, no more: nobody can audit an extension line."""
    with pytest.raises(MalformedInput, match="bad_checkpoint"):
        parse_checkpoint_text_untrusted(text.encode())


def test_a_checkpoint_is_signed_under_its_origin() -> None:
    """The key's name is the origin; another name is the caller's mistake."""
    checkpoint = Checkpoint(origin=LOG.name, size=4, root=bytes(32))
    parsed, note = parse_checkpoint_untrusted(sign_checkpoint(checkpoint, LOG))
    assert parsed == checkpoint
    assert len(verify_note(note, [LOG.log_key])) == 1
    with pytest.raises(ValueError, match="origin"):
        sign_checkpoint(checkpoint, WITNESS)
    empty = Checkpoint(origin=LOG.name, size=0, root=EMPTY_ROOT)
    assert parse_checkpoint_text_untrusted(empty.text.encode()) == empty


def test_a_post_quantum_cosignature_signs_name_time_origin_size_and_root() -> None:
    """C2SP tlog-cosignature 0x06: the structure is built here byte by byte, and verified as it is."""
    key = MlDsa44PrivateKey.from_seed(SecretBytes(b"\x07" * 32))
    signer = PostQuantumSigner(name="test/b7/witness1", key=key)
    root = sha256(b"root").digest()
    text = Checkpoint(origin=LOG.name, size=1_000_000, root=root).text
    line = signer.cosign(text, 1_800_000_000)
    assert parse_vkey_untrusted(signer.witness_key.encode()) == signer.witness_key
    assert line.key_id == sha256(b"test/b7/witness1\n\x06" + key.public_bytes).digest()[:4]
    message = (
        b"subtree/v1\n\x00"
        + bytes([16]) + b"test/b7/witness1"
        + struct.pack(">Q", 1_800_000_000)
        + bytes([len(LOG.name)]) + LOG.name.encode()
        + struct.pack(">QQ", 0, 1_000_000)
        + root
    )  # fmt: skip
    assert line.blob[:8] == struct.pack(">Q", 1_800_000_000)
    MLDSA44PublicKey.from_public_bytes(key.public_bytes).verify(line.blob[8:], message)
    (verified,) = verify_note(Note(text=text, signatures=(line,)), [signer.witness_key])
    assert verified.time_s == 1_800_000_000
    for at in (0, 7, 8, len(line.blob) - 1):
        altered = replace(line, blob=line.blob[:at] + bytes([line.blob[at] ^ 1]) + line.blob[at + 1 :])
        with pytest.raises(VerificationFailed, match="bad_signature"):
            verify_note(Note(text=text, signatures=(altered,)), [signer.witness_key])
    other = Checkpoint(origin=LOG.name, size=1_000_001, root=root).text
    for wrong in (other, text + "extension\n", "no checkpoint\n", "a\n-1\nAA==\n", "a\nb\nc\n"):
        with pytest.raises(VerificationFailed, match="bad_signature"):
            verify_note(Note(text=wrong, signatures=(line,)), [signer.witness_key])
