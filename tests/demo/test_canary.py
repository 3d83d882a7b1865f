"""The search for planted bytes: it finds them in every form, wherever a page or block cuts them."""

import base64
import bz2
import gzip
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.broker_eyes import planted_forms
from demo.canary import WINDOW_CHARS, Canary, files_below

CANARY = Canary.new()
NOISE = os.urandom(5000)


def forms_in(data: bytes) -> set[str]:
    return {finding.form for finding in CANARY.search(data, "here")}


@pytest.mark.parametrize(
    ("form", "inside"), planted_forms(CANARY), ids=[form for form, _ in planted_forms(CANARY)]
)
def test_every_planted_form_is_found_among_noise(form: str, inside: bytes) -> None:
    """Also where only one of its windows is whole."""
    assert form in forms_in(NOISE + inside + NOISE)


@pytest.mark.parametrize("before", range(3))
def test_base64_is_found_at_each_alignment(before: int) -> None:
    """What stands before the canary shifts all of its base64; one window alone has to be found."""
    window = CANARY.word[:WINDOW_CHARS].encode()
    assert forms_in(base64.b64encode(os.urandom(before) + window + os.urandom(7))) == {"base64"}
    assert forms_in(base64.urlsafe_b64encode(os.urandom(before) + window + os.urandom(7))) == {"base64"}


@given(cut=st.integers(min_value=0, max_value=len(CANARY.word)))
def test_a_canary_cut_in_two_is_found(cut: int) -> None:
    """A page ends where it ends: one window of the word always stays whole."""
    word = CANARY.word.encode()
    assert "plain" in forms_in(word[:cut] + NOISE + word[cut:])


def test_compressed_twice_and_cut_off_is_found() -> None:
    """A stream that breaks off still gives what came before."""
    text = os.urandom(400) + CANARY.word.encode() + os.urandom(4000)
    assert "gzip of zlib of plain" in forms_in(NOISE + gzip.compress(zlib.compress(text)) + NOISE)
    compressed = zlib.compress(text)
    assert "zlib of plain" in forms_in(compressed[: len(compressed) // 2] + NOISE)


def test_nothing_is_found_where_nothing_stands() -> None:
    """Noise, another canary, and a form nobody claims to know."""
    assert not forms_in(os.urandom(200_000))
    assert not forms_in(Canary.new().word.encode())
    assert not forms_in(bz2.compress(CANARY.word.encode()))


def test_every_file_below_a_directory_is_read(tmp_path: Path) -> None:
    """Journals, hidden files and nested ones; places are named as a person would look for them."""
    for name in ("node.db-wal", ".hidden", "log/tile/000"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(NOISE + CANARY.word.encode())
    found = CANARY.search_all(files_below(tmp_path))
    assert {finding.place for finding in found.findings} == {
        f"{tmp_path.name}/{name}" for name in ("node.db-wal", ".hidden", "log/tile/000")
    }
    assert found.pieces == 3
    assert found.size_bytes == 3 * (len(NOISE) + len(CANARY.word))
