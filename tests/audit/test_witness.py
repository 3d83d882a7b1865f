"""A witness's state machine: it never holds two heads that are not one log, whatever it is asked."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, parse_checkpoint_untrusted, sign_checkpoint
from audit.note import Note, NoteSigner
from audit.tree import EMPTY_ROOT, Frontier, consistency_path, leaf_hash, subtree_root
from audit.witness import (
    NOTHING_HELD,
    PROOF_LINES_MAX,
    Held,
    Request,
    Status,
    judge_untrusted,
    parse_request_untrusted,
    read_head_untrusted,
    with_cosignatures,
)
from keys.errors import MalformedInput, VerificationFailed
from tests.audit.logs import a_signer

LOG = a_signer()
WITNESS = a_signer("test/b7/witness1", b"\x03")
HISTORIES = ("honest", "fork", "rewritten")
SIZE_MAX = 40


def leaves(history: str) -> list[bytes]:
    """``fork`` leaves the honest log after 10 entries, ``rewritten`` after 3."""
    turn = {"honest": SIZE_MAX, "fork": 10, "rewritten": 3}[history]
    return [leaf_hash(b"%d %d" % (n, n >= turn and turn)) for n in range(SIZE_MAX)]


LEAVES = {history: leaves(history) for history in HISTORIES}


def root(history: str, size: int) -> bytes:
    frontier = Frontier()
    for leaf in LEAVES[history][:size]:
        frontier.append(leaf)
    return frontier.root()


def proof(history: str, old_size: int, size: int) -> tuple[bytes, ...]:
    def perfect(height: int, i: int) -> bytes:
        return subtree_root(b"".join(LEAVES[history][i << height : (i + 1) << height]))

    return tuple(consistency_path(old_size, size, perfect)) if 0 < old_size <= size else ()


def note_of(history: str, size: int, signer: NoteSigner = LOG, origin: str = "") -> bytes:
    checkpoint = Checkpoint(origin=origin or signer.name, size=size, root=root(history, size))
    return sign_checkpoint(checkpoint, signer)


def body(history: str, old_size: int, size: int, signer: NoteSigner = LOG) -> bytes:
    return Request(
        old_size=old_size, proof=proof(history, old_size, size), note=note_of(history, size, signer)
    ).encode()


def held_at(history: str, size: int) -> Held:
    return Held(size=size, root=root(history, size), note=note_of(history, size) if size else b"")


def test_a_body_is_written_as_c2sp_says() -> None:
    """The example of c2sp.org/tlog-witness: old line, proof lines, empty line, checkpoint."""
    data = body("honest", 3, 7)
    head, _, note = data.partition(b"\n\n")
    assert head.split(b"\n") == [b"old 3", *(base64.b64encode(part) for part in proof("honest", 3, 7))]
    assert note == note_of("honest", 7)
    request, checkpoint, _ = parse_request_untrusted(data)
    assert (request.encode(), checkpoint.size) == (data, 7)


@pytest.mark.parametrize(
    ("asked", "held", "status", "refusal"),
    [
        (body("honest", 0, 5), NOTHING_HELD, 200, None),
        (body("honest", 5, 5), held_at("honest", 5), 200, None),
        (body("honest", 5, 9), held_at("honest", 5), 200, None),
        (body("honest", 5, 9).replace(b"old 5", b"old 05", 1), held_at("honest", 5), 400, None),
        (body("honest", 9, 5), held_at("honest", 9), 400, None),
        (body("honest", 5, 9, a_signer("test/77/log1", b"\x01")), held_at("honest", 5), 404, None),
        (body("honest", 5, 9, a_signer(seed=b"\x02")), held_at("honest", 5), 403, "bad_signature"),
        (body("honest", 4, 9), held_at("honest", 5), 409, None),
        (body("honest", 0, 9), held_at("honest", 5), 409, None),
        (body("honest", 3, 4), held_at("honest", 5), 409, None),
        (body("fork", 12, 12), held_at("honest", 12), 409, "other_root"),
        (body("fork", 3, 12), held_at("honest", 12), 409, "other_root"),
        (body("fork", 12, 20), held_at("honest", 12), 422, "not_a_prefix"),
        (body("honest", 5, 9).replace(b"\n\n", b"\n" + base64.b64encode(bytes(32)) + b"\n\n", 1),
         held_at("honest", 5), 422, "not_a_prefix"),
        (b"old 0\n" + base64.b64encode(bytes(32)) + b"\n\n" + note_of("honest", 5), NOTHING_HELD, 422,
         "not_a_prefix"),
    ],
)  # fmt: skip
def test_each_answer_of_the_specification(asked: bytes, held: Held, status: int, refusal: str | None) -> None:
    """Statuses in C2SP's order; only what the log's owner signed, or tried to, is held against it."""
    judged = judge_untrusted(asked, LOG.log_key, held)
    assert (judged.status, judged.refusal) == (status, refusal)


@given(
    asked=st.lists(
        st.tuples(
            st.sampled_from(HISTORIES), st.integers(0, SIZE_MAX), st.integers(0, SIZE_MAX), st.booleans()
        ),
        max_size=12,
    )
)
def test_what_is_cosigned_is_one_log_whatever_is_asked(asked: list[tuple[str, int, int, bool]]) -> None:
    """Of any requests over three histories under one key, every head accepted begins the next."""
    held = NOTHING_HELD
    accepted = [(0, EMPTY_ROOT)]
    for history, old_size, size, knows in asked:
        judged = judge_untrusted(body(history, held.size if knows else old_size, size), LOG.log_key, held)
        if judged.status is Status.COSIGNED:
            assert judged.held.size >= held.size
            held = judged.held
            accepted.append((held.size, held.root))
        else:
            assert judged.status in (400, 409, 422)
    one = {history for history in HISTORIES if all(root(history, size) == found for size, found in accepted)}
    assert one


@given(data=st.binary(max_size=400))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    """What is no request is 400, and nothing else is raised or kept."""
    for asked in (data, b"old 0\n\n" + data, body("honest", 0, 5) + data, body("honest", 0, 5)[: len(data)]):
        judged = judge_untrusted(asked, LOG.log_key, NOTHING_HELD)
        if judged.status is not Status.COSIGNED:
            assert judged.refusal in (None, "bad_signature", "not_a_prefix", "other_root")


def test_a_request_has_one_spelling_and_bounded_length() -> None:
    """Stray bits, long lines, too many hashes, a size beyond 2^53 and a missing separator are malformed."""
    good = body("honest", 3, 7)
    line = base64.b64encode(bytes(32)) + b"\n"
    for bad in (
        good.replace(b"old 3\n", b"old 3\n" + line * PROOF_LINES_MAX, 1),
        good.replace(b"old 3\n", b"old %d\n" % 2**53, 1),
        good.replace(b"old 3\n", b"old 3\n" + line.replace(b"A=", b"B="), 1),
        good.replace(b"old 3\n", b"old 3\nAAAA\n", 1),
        good.replace(b"\n\n", b"\n", 1),
        good.replace(b"old 3", b"old three", 1),
    ):
        with pytest.raises(MalformedInput):
            parse_request_untrusted(bad)


def test_what_is_kept_of_a_note_is_its_log_s_own_line() -> None:
    """Lines of others would make what a witness keeps and shows as long as the asking side likes."""
    text = Checkpoint(origin=LOG.name, size=5, root=root("honest", 5)).text
    crowded = with_cosignatures(note_of("honest", 5), [WITNESS.cosign(text, 7)])
    asked = Request(old_size=0, proof=(), note=crowded).encode()
    assert judge_untrusted(asked, LOG.log_key, NOTHING_HELD).held.note == note_of("honest", 5)
    assert read_head_untrusted(crowded, LOG.log_key).note == note_of("honest", 5)
    for other in (note_of("honest", 5, a_signer(seed=b"\x02")), note_of("honest", 5, WITNESS)):
        with pytest.raises(VerificationFailed, match="unknown_key"):
            read_head_untrusted(other, LOG.log_key)


def test_cosignatures_stand_below_the_log_s_line_and_once_each() -> None:
    """Written twice, or renewed, there is one line of each key; the newest 63 keys have room."""
    checkpoint = Checkpoint(origin=LOG.name, size=5, root=root("honest", 5))
    note = note_of("honest", 5)
    once = with_cosignatures(note, [WITNESS.cosign(checkpoint.text, 7)])
    twice = with_cosignatures(once, [WITNESS.cosign(checkpoint.text, 9), LOG.sign(checkpoint.text)])
    head, parsed = parse_checkpoint_untrusted(twice)
    assert head == checkpoint
    assert parsed.signatures == (LOG.sign(checkpoint.text), WITNESS.cosign(checkpoint.text, 9))
    many = [a_signer(f"test/{n}/witness1", b"\x03").cosign(checkpoint.text, 7) for n in range(70)]
    _, full = parse_checkpoint_untrusted(with_cosignatures(once, many))
    assert full.signatures == (LOG.sign(checkpoint.text), *many[-63:])
    assert isinstance(full, Note)
