"""The alert: what must be filled in, what text may hold, what a list may show."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from protocol import limits
from protocol.alert import Alert, Person, Vehicle, clean_text, headline
from tests.protocol.offices import NOW_MS, vehicle_alert, vehicle_fields, victim_alert, victim_fields


def faults(fields: dict[str, Any]) -> list[tuple[str, str]]:
    """(field, type) of every fault the model finds."""
    with pytest.raises(ValidationError) as caught:
        Alert.model_validate(fields)
    return [(".".join(map(str, fault["loc"])), fault["type"]) for fault in caught.value.errors()]


def with_text(text: str) -> dict[str, Any]:
    return vehicle_fields(text={"language": "my", "text": text})


def with_plate(plate: str) -> dict[str, Any]:
    return vehicle_fields(entities=[{"entity": "vehicle", "plate": plate}])


# --- what must be there ---


@pytest.mark.parametrize("field", [name for name, field in Alert.model_fields.items() if field.is_required()])
def test_no_mandatory_field_has_a_default(field: str) -> None:
    """Grading, handling, urgency and all times are chosen by a person, never assumed."""
    fields = vehicle_fields()
    del fields[field]
    assert faults(fields) == [(field, "missing")]


def test_a_person_without_a_role_is_refused() -> None:
    """Nobody may be left to guess who is a victim and who a suspect."""
    fields = vehicle_fields(entities=[{"entity": "person", "name": "Person One"}])
    assert faults(fields) == [("entities.0.person.role", "missing")]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"urgency": "immediate"}, "alert_urgency_reason"),
        ({"handling": "H3"}, "alert_handling_text"),
        ({"entities": ()}, "alert_empty"),
        ({"references": ["ab" * 32, "ab" * 32]}, "alert_references"),
        ({"expires_ms": NOW_MS}, "alert_expires"),
        ({"reply_by_ms": NOW_MS}, "alert_reply_by"),
        ({"reply_by_ms": NOW_MS + 400 * limits.DAY_MS}, "alert_reply_by"),
        ({"erase_at_ms": NOW_MS + limits.DAY_MS}, "alert_erase"),
        ({"erase_at_ms": NOW_MS + limits.ERASE_AFTER_MS_MAX + 1}, "alert_erase_late"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changes: dict[str, Any], fault: str) -> None:
    """Immediate needs a reason, H3 its words, an alert a content; it is made, expires and is erased."""
    assert faults(vehicle_fields(**changes)) == [("", fault)]


def test_a_victims_data_is_erased_within_thirty_days() -> None:
    """With a victim in it, no alert asks to be kept longer than 30 days."""
    limit_ms = NOW_MS + limits.VICTIM_ERASE_AFTER_MS_MAX
    assert victim_alert(erase_at_ms=limit_ms).has_victim
    assert faults(victim_fields(erase_at_ms=limit_ms + 1)) == [("", "alert_erase_late")]
    assert not vehicle_alert(erase_at_ms=limit_ms + 1).has_victim


def test_a_vehicle_about_which_nothing_is_known_is_refused() -> None:
    """An empty entity tells nobody anything."""
    assert faults(vehicle_fields(entities=[{"entity": "vehicle"}])) == [
        ("entities.0.vehicle", "alert_vehicle_empty")
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("severity", "high"),
        ("status", "Actual"),
        ("source", "E"),
        ("information", 1),
        ("crime_type", "Drugs!"),
        ("crime_type", ""),
        ("created_ms", "1"),
        ("created_ms", True),
        ("created_ms", 1.0),
        ("created_ms", -1),
        ("expires_ms", limits.TIME_MS_MAX + 1),
        ("references", ["AB" * 32]),
        ("references", ["ab" * 31]),
        ("references", [f"{n:064x}" for n in range(limits.REFERENCES_MAX + 1)]),
        ("entities", [{"entity": "vehicle", "plate": "1"}] * (limits.ENTITIES_MAX + 1)),
        ("entities", [{"entity": "phone", "number": "1"}]),
        ("entities", [{"entity": "vehicle", "plate": "1", "wheels": "4"}]),
        ("entities", [{"entity": "vehicle", "plate": 1234}]),
        ("entities", [{"entity": "person", "role": "criminal"}]),
        ("text", {"language": "English", "text": "a"}),
        ("text", {"language": "en"}),
        ("colour", "white"),
    ],
)
def test_values_outside_their_list_type_or_range_are_refused(field: str, value: Any) -> None:
    """Codes are closed lists, types are not converted, counts and years are bounded, no field is extra."""
    assert all(name.startswith(field) for name, _ in faults(vehicle_fields(**{field: value})))


def test_an_alert_cannot_be_changed() -> None:
    """What was checked stays what it is."""
    alert = vehicle_alert()
    with pytest.raises(ValidationError, match="frozen"):
        alert.tlp = "clear"  # type: ignore[misc]
    assert isinstance(alert.entities, tuple)


def test_errors_name_the_field_and_never_what_was_typed() -> None:
    """A refused plate or name must not reach a log through its error."""
    secret = "Person\u202eOne"
    with pytest.raises(ValidationError) as caught:
        Alert.model_validate(
            vehicle_fields(entities=[{"entity": "person", "role": "victim", "name": secret}])
        )
    assert "entities.0.person.name" in str(caught.value)
    assert "One" not in str(caught.value)


# --- text ---


@pytest.mark.parametrize(
    "text",
    [
        "အဖြူရောင် ကား၊ ယာဉ်နံပါတ် မရှိ",
        "ဦးနှောက်ခြောက်စရာ မြွှေး ရွှေ့ပြောင်း",
        "白色皮卡,车牌遮挡",
        "รถกระบะสีขาว ไม่มีป้าย",
        "ລົດກະບະສີຂາວ ບໍ່ມີປ້າຍ",
        "រថយន្តភីកអាប់ពណ៌ស\u200bគ្មានផ្លាកលេខ",
        "Xe bán tải màu trắng, biển số giả",
        "two\nlines\tand a tab",
        "မြန်\u200cမာ",
    ],
)
def test_the_scripts_of_the_region_pass(text: str) -> None:
    """Stacked vowels, word joiners and line breaks of seven languages are ordinary text."""
    alert = vehicle_alert(text={"language": "my", "text": clean_text(text)})
    assert alert.text is not None
    assert alert.text.text == clean_text(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a\u202eb", "text_character"),
        ("a\u2066b", "text_character"),
        ("a\u200fb", "text_character"),
        ("a\ue000b", "text_character"),
        ("a\U0010fffdb", "text_character"),
        ("a\x00b", "text_character"),
        ("a\x1b[31mb", "text_character"),
        ("a\x85b", "text_character"),
        ("a\rb", "text_character"),
        ("a\u2028b", "text_character"),
        ("a\ufffeb", "text_character"),
        ("a\ufdd0b", "text_character"),
        ("a\U0001fffeb", "text_character"),
        ("a\ufeffb", "text_character"),
        ("a\u00adb", "text_character"),
        ("a\U000e0041b", "text_character"),
        ("a\u3164b", "text_character"),
        ("a\u2060b", "text_character"),
        ("a\ud800b", "text_character"),
        ("", "text_blank"),
        (" \u3000\n\t", "text_blank"),
        ("\u200b\u200d", "text_blank"),
        ("\u0301", "text_blank"),
        ("a" + "\u0301" * 1000, "text_marks"),
        ("e\u0301", "text_not_nfc"),
        ("\u212b", "text_not_nfc"),
        ("a" * (limits.FREE_TEXT_POINTS_MAX + 1), "text_long"),
        ("\U0001f600" * (limits.FREE_TEXT_BYTES_MAX // 4 + 1), "text_long"),
    ],
)
def test_text_that_reads_differently_from_what_it_is_is_refused(text: str, fault: str) -> None:
    """Bidi and other controls, private use, halves, noncharacters, blanks, floods of marks, two spellings."""
    assert faults(with_text(text)) == [("text.text", fault)]


@pytest.mark.parametrize("plate", ["5C\u200b1234", "5C\n1234", "5C\t1234", "x" * 65])
def test_plates_hold_one_line_without_joiners(plate: str) -> None:
    """Two plates that look alike are alike: nothing invisible stands in one."""
    assert faults(with_plate(plate))[0][0] == "entities.0.vehicle.plate"


def test_a_foreign_plate_passes() -> None:
    """Plates are kept in their own script."""
    for plate in ("云A·12345", "၅စ/၁၂၃၄", "กข 1234", "2A-1234"):
        assert Vehicle(plate=plate).plate == plate


@given(st.text(max_size=60))
def test_cleaning_is_idempotent_and_keeps_what_is_signed_in_one_form(text: str) -> None:
    """What is typed is brought to NFC once; a second pass changes nothing."""
    once = clean_text(text)
    assert clean_text(once) == once
    assert unicodedata.is_normalized("NFC", once)


@given(st.text(max_size=60))
def test_any_text_is_taken_as_it_is_or_refused(text: str) -> None:
    """The model never changes text: it is accepted to the last code point or refused."""
    try:
        alert = Alert.model_validate(with_text(text))
    except ValidationError:
        return
    assert alert.text is not None
    assert alert.text.text == text


# --- one line for lists ---


def test_a_list_never_shows_a_victims_or_a_witnesss_name() -> None:
    """Whoever walks past the screen learns a role and a pseudonym, the same at both offices."""
    for role in ("victim", "witness"):
        alert = victim_alert(
            entities=[{"entity": "person", "role": role, "name": "Person One", "document": "A1"}]
        )
        line = headline(alert, alert_id=b"\x01" * 32)
        assert line == headline(alert, alert_id=b"\x01" * 32)
        assert line != headline(alert, alert_id=b"\x02" * 32)
        assert line.startswith(f"{role.capitalize()} ·")
        assert len(line.rpartition("·")[2]) == 4
        assert "Person One" not in line


def test_free_text_beside_a_victim_stays_out_of_lists() -> None:
    """The text may hold the name, so a list shows none of it."""
    alert = victim_alert(text={"language": "en", "text": "Person One is her sister"})
    assert "sister" not in headline(alert, alert_id=bytes(32))


def test_two_victims_of_one_alert_have_two_pseudonyms() -> None:
    """Pseudonyms tell persons apart; drafts number them."""
    two = [{"entity": "person", "role": "victim"}, {"entity": "person", "role": "victim"}]
    assert headline(victim_alert(entities=two)) == "Victim ·1; Victim ·2"
    first, second = headline(victim_alert(entities=two), alert_id=bytes(32)).split("; ")
    assert first != second


def test_a_headline_says_what_to_look_for_in_the_readers_language() -> None:
    """Codes are translated, plates and names stay as they were written."""
    alert = vehicle_alert()
    assert headline(alert) == "Vehicle 5C-1234 White Toyota Hilux"
    assert headline(alert, language="zh-Hans") == "车辆 5C-1234 白色 Toyota Hilux"
    suspect = vehicle_alert(entities=[{"entity": "person", "role": "suspect", "name": "Person Two"}])
    assert headline(suspect) == "Suspect Person Two"


def test_a_headline_of_text_alone_is_its_beginning_on_one_line() -> None:
    """At most 80 characters, line breaks folded."""
    alert = vehicle_alert(entities=(), text={"language": "en", "text": "road\nclosed " + "x" * 100})
    assert headline(alert).startswith("road closed xxx")
    assert len(headline(alert)) == 80


def test_a_person_is_named_by_name_or_document_not_by_looks() -> None:
    """What identifies a person asks for a second officer; a description does not."""
    assert Person(role="driver", name="Person Two").is_named
    assert Person(role="driver", document="A1").is_named
    assert not Person(role="driver", description="tall, red cap").is_named
