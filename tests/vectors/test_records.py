"""The recorded files, papers, codes, entries and proofs of tests/vectors/records.json: one answer each."""

import pytest

from tests.vectors import make_records
from tests.vectors.make_records import Record, answer_of

CASES = make_records.read_file()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.form}: {case.about}")
def test_each_recorded_file_gets_its_one_answer(case: Record) -> None:
    """The code it names, or exactly what it says is in it, through the functions that programs use."""
    assert answer_of(case) == (case.code, case.gives)


def test_the_file_is_what_the_script_makes_byte_for_byte() -> None:
    """Nothing in these formats is drawn by a library: the same draws write the same file."""
    assert make_records.text_of(make_records.records()) == make_records.FILE.read_text(encoding="utf-8")


def test_each_form_has_a_good_and_a_bad_case() -> None:
    """A reader that accepts or refuses everything fails; a derivation has nothing to refuse."""
    for form in make_records.READERS:
        codes = [case.code for case in CASES if case.form == form]
        assert "" in codes, form
        assert any(codes) or form == "rendezvous", form
