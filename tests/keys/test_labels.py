"""Labels keep purposes apart only if none can be taken for the beginning of another."""

import itertools

from keys import known_answers, labels
from keys.primitives import labelled_hash, sha256

ALL = {name: value for name, value in vars(labels).items() if name.isupper()}


def test_no_label_is_a_prefix_of_another() -> None:
    """Also not equal to another: one label, one purpose."""
    for (name_a, a), (name_b, b) in itertools.permutations(ALL.items(), 2):
        assert not a.startswith(b), f"{name_b} begins {name_a}"


def test_labels_have_one_form() -> None:
    """``salween/v1/<purpose>`` in lower case, short enough for a composite signature's context."""
    for name, value in ALL.items():
        purpose = value.removeprefix(b"salween/v1/").decode("ascii")
        assert purpose != value.decode()
        assert purpose.replace("-", "").isalpha(), name
        assert purpose.islower()
        assert len(value) <= 64
    assert known_answers.CONTEXT == labels.SELF_TEST


def test_a_labelled_hash_keeps_its_parts_apart() -> None:
    """Moving a byte from one part, or from the label, to the next gives another hash."""
    assert labelled_hash(b"l", b"ab", b"c") != labelled_hash(b"l", b"a", b"bc")
    assert labelled_hash(b"la", b"b") != labelled_hash(b"l", b"ab")
    assert labelled_hash(b"l") != labelled_hash(b"l", b"")
    assert labelled_hash(b"l", b"ab") == sha256(b"\x01l\x00\x00\x00\x02ab")
