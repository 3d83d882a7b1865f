"""Receipts: one entry's place under a checkpoint, checked without the log."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.policy import Policy
from audit.proof import Proof, parse_proof_untrusted, prove, verify_proof
from audit.tree import leaf_hash, root_from_edge
from keys.errors import MalformedInput, VerificationFailed
from tests.audit.logs import ORIGIN, a_policy, a_signer
from tests.audit.test_tree import DATA, LEAVES, tiles_of

SIZE = 70
READ = tiles_of(LEAVES, SIZE)
HEAD = Checkpoint(origin=ORIGIN, size=SIZE, root=root_from_edge(SIZE, READ))
WITNESSES = [a_signer(f"test/{n}/witness1", bytes([60 + n])) for n in range(3)]
NOTE = sign_checkpoint(HEAD, a_signer()) + b"".join(
    witness.cosign(HEAD.text, 1_800_000_000).encode().encode() for witness in WITNESSES
)


@pytest.mark.parametrize("index", range(SIZE))
def test_a_proof_made_from_tiles_verifies_for_its_entry_only(index: int) -> None:
    """Written, read back, verified; the next entry does not fit it."""
    proof = parse_proof_untrusted(prove(index, NOTE, READ).encode())
    assert verify_proof(proof, DATA[index], a_policy()).checkpoint == HEAD
    with pytest.raises(VerificationFailed, match="not_included"):
        verify_proof(proof, DATA[(index + 1) % SIZE], a_policy())
    with pytest.raises(VerificationFailed, match="not_included"):
        verify_proof(replace(proof, index=(index + 1) % SIZE), DATA[index], a_policy())


def test_a_receipt_fits_a_small_file() -> None:
    """With three cosigners and a million entries it stays under 2 kB, so it fits one QR code."""
    path = tuple(bytes([n]) * 32 for n in range(20))
    assert len(Proof(index=999_999, path=path, checkpoint=NOTE).encode()) <= 2000


def test_a_proof_must_be_witnessed_as_the_policy_asks() -> None:
    """Two of the three witnesses suffice for quorum 2; one witness nobody knows does not."""
    proof = prove(5, NOTE, READ)
    keys = {f"w{n}": witness.witness_key for n, witness in enumerate(WITNESSES)}
    policy = Policy(logs=a_policy().logs, witnesses=keys, groups={}, quorum="w1")
    head = verify_proof(proof, DATA[5], policy)
    assert [cosigner.name for cosigner in head.cosigners] == ["w0", "w1", "w2"]
    alone = replace(proof, checkpoint=sign_checkpoint(HEAD, a_signer()))
    with pytest.raises(VerificationFailed, match="not_witnessed"):
        verify_proof(alone, DATA[5], policy)


@given(
    st.integers(0, 2**53 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63),
    st.none() | st.binary(max_size=100),
)
def test_a_proof_comes_back_as_it_was(index: int, path: list[bytes], extra: bytes | None) -> None:
    """Any index, path and extra data, the checkpoint verbatim."""
    proof = Proof(index=index, path=tuple(path), checkpoint=NOTE, extra=extra)
    assert parse_proof_untrusted(proof.encode()) == proof


@given(
    st.binary(max_size=300)
    | st.text(alphabet="c2sp.org/tlog-proof@v1\nextra index 0123=", max_size=80).map(str.encode)
)
def test_any_bytes_are_a_proof_or_malformed(data: bytes) -> None:
    """What parses encodes back to the same bytes."""
    for candidate in (
        data,
        b"c2sp.org/tlog-proof@v1\n" + data,
        b"c2sp.org/tlog-proof@v1\nindex 1\n" + data + b"\n\n" + NOTE,
    ):
        with contextlib.suppress(MalformedInput):
            assert parse_proof_untrusted(candidate).encode() == candidate


GOOD = prove(5, NOTE, READ).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:-1],
        GOOD.replace(b"@v1", b"@v2"),
        GOOD.replace(b"index 5", b"index 05"),
        GOOD.replace(b"index 5", b"index -5"),
        GOOD.replace(b"index 5", b"Index 5"),
        GOOD.replace(b"index 5\n", b""),
        GOOD.replace(b"index 5", b"index 9007199254740992"),
        GOOD.replace(b"index 5\n", b"index 5\nAAAA\n"),
        GOOD.replace(b"index 5\n", b"index 5\n" + b"A" * 43 + b"=\n" * 2),
        GOOD.replace(b"index 5\n", b"index 5\n" + (b"A" * 43 + b"=\n") * 64),
        GOOD.replace(b"index 5\n", b"index 5\n" + b"A" * 42 + b"B=\n"),
        GOOD.replace(b"index 5", b"extra !!\nindex 5"),
        GOOD.replace(b"index 5", b"extra " + b"AAAA" * 1400 + b"\nindex 5"),
        GOOD.replace(b"\n\n", b"\n", 1),
        GOOD.replace(b"index", "\u0456ndex".encode()),
        GOOD + bytes(90_000),
    ],
)
def test_a_proof_with_one_fault_is_refused(data: bytes) -> None:
    """Header, index, path, extra, separator, checkpoint, size: each in its only spelling."""
    with pytest.raises(MalformedInput):
        parse_proof_untrusted(data)


def test_a_proof_under_a_checkpoint_of_another_tree_is_refused() -> None:
    """The path leads to one root; a genuine checkpoint of another size is another root."""
    other = Checkpoint(origin=ORIGIN, size=4, root=root_from_edge(4, tiles_of(LEAVES, 4)))
    forged = replace(prove(3, NOTE, READ), checkpoint=sign_checkpoint(other, a_signer()))
    with pytest.raises(VerificationFailed, match="not_included"):
        verify_proof(forged, DATA[3], a_policy())
    assert leaf_hash(DATA[3]) == LEAVES[3]
