"""Code lists: complete, distinct, in the right scripts, unreviewed labels counted."""

import tomllib
from importlib import resources
from typing import get_args

import pytest

from keys.errors import BrokenInvariant
from protocol import alert, codelists

# Labels nobody native has checked. This number only falls: whoever reviews one takes its mark away.
UNREVIEWED_LABELS_MAX = 750

# Scripts a label may hold beside ASCII, as ranges of code points.
SCRIPTS = {
    "en": [],
    "my": [(0x1000, 0x109F)],
    "zh-Hans": [(0x4E00, 0x9FFF), (0x3000, 0x303F), (0xFF00, 0xFF60)],
    "th": [(0x0E00, 0x0E7F)],
    "lo": [(0x0E80, 0x0EFF)],
    "km": [(0x1780, 0x17FF)],
    "vi": [(0x00C0, 0x01B0), (0x1EA0, 0x1EF9)],
}


def every_code() -> list[tuple[str, codelists.Code]]:
    return [(name, code) for name in codelists.NAMES for code in codelists.load(name).codes.values()]


def test_every_list_in_the_folder_is_loaded_and_no_other() -> None:
    """The names in the program and the files beside it are the same."""
    files = {entry.name for entry in resources.files(codelists).iterdir() if entry.name.endswith(".toml")}
    assert files == {f"{name}.toml" for name in codelists.NAMES}


def test_every_code_has_a_label_in_every_language_in_its_own_script() -> None:
    """A form filled in Burmese is read in Chinese: no label is missing, blank or in the wrong script."""
    for name, code in every_code():
        assert tuple(code.labels) == codelists.LANGUAGES
        for language, label in code.labels.items():
            assert alert.check_text(label, points_max=120, bytes_max=360) == label
            assert label == label.strip()
            foreign = [
                character
                for character in label
                if not character.isascii()
                and not any(first <= ord(character) <= last for first, last in SCRIPTS[language])
            ]
            assert not foreign, (name, code.id, language)


def test_labels_tell_the_codes_of_one_list_apart() -> None:
    """Two codes of a list never read the same in one language (two refusals with one remedy may)."""
    for name in set(codelists.NAMES) - {"refusals"}:
        for language in codelists.LANGUAGES:
            labels = [code.labels[language] for code in codelists.load(name).codes.values()]
            assert len(set(labels)) == len(labels), (name, language)


def test_labels_that_need_a_native_reader_are_marked_and_counted() -> None:
    """English is the reference; every other label is marked until reviewed, and the count only falls."""
    marked = [
        (name, code.id, language) for name, code in every_code() for language in sorted(code.needs_review)
    ]
    assert not [entry for entry in marked if entry[2] == "en"]
    assert len(marked) == UNREVIEWED_LABELS_MAX, "reviewed some? lower the number; added some? raise it"


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("roles", get_args(alert.Role)),
        ("sex", ("female", "male", "other", "unknown")),
        ("entities", ("vehicle", "person")),
        *(
            (name, get_args(alert.Alert.model_fields[name].annotation))
            for name in (
                "status",
                "urgency",
                "severity",
                "certainty",
                "source",
                "information",
                "handling",
                "tlp",
            )
        ),
    ],
)
def test_closed_lists_are_the_ones_the_alert_accepts(name: str, codes: tuple[str, ...]) -> None:
    """What the form offers, what the model takes and what is shown are one list."""
    assert tuple(codelists.load(name).codes) == codes


def test_every_crime_type_is_a_code_the_alert_can_hold() -> None:
    """The purpose lock's list fits the field."""
    for code in codelists.load("crime_types").codes:
        assert alert.Alert.model_fields["crime_type"].metadata
        assert code.replace("_", "").isalnum()
        assert len(code) <= 48


def test_an_unknown_code_is_shown_and_an_unknown_language_is_english() -> None:
    """A newer office's code is shown as it is; a language nobody translated falls back to English."""
    roles = codelists.load("roles")
    assert roles.label("interpreter", "my") == "interpreter"
    assert roles.label("victim", "fr") == "Victim"
    assert roles.label("victim", "zh-Hans") == "受害人"


def test_a_list_nobody_has_is_our_own_bug() -> None:
    """Names come from the program, never from outside."""
    with pytest.raises(BrokenInvariant, match="code_list_unknown"):
        codelists.load("../limits")


def test_files_hold_nothing_the_loader_does_not_read() -> None:
    """A misspelt key would be a label lost in silence."""
    for name in codelists.NAMES:
        text = resources.files(codelists).joinpath(f"{name}.toml").read_text(encoding="utf-8")
        table = tomllib.loads(text)
        assert set(table) == {"name", "version", "code"}
        for entry in table["code"]:
            assert set(entry) == {"id", *codelists.LANGUAGES}
            for language in codelists.LANGUAGES:
                assert set(entry[language]) <= {"label", "needs_review"}
