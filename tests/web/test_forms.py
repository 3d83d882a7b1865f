"""Typed text to Alert: once, with every fault named and nothing typed lost."""

import json
from urllib.parse import urlencode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keys.errors import MalformedInput
from node.web import forms
from node.web.forms import (
    Fault,
    Form,
    Parsed,
    parse_alert_untrusted,
    parse_form_untrusted,
    parse_json_untrusted,
)
from node.web.messages import MESSAGES
from protocol.alert import Person, Vehicle
from protocol.limits import DAY_MS, HOUR_MS
from tests.web.fake_desk import MAE_SAI, NOW_MS, TENGCHONG

PARTNERS = (TENGCHONG, MAE_SAI)
VEHICLE: Form = {
    "kind": ("vehicle",),
    "recipients": (TENGCHONG,),
    "urgency": ("expected",),
    "crime_type": ("stolen_vehicle",),
    "vehicle.plate": ("7G 4821",),
    "source": ("B",),
    "information": ("2",),
}
PERSON: Form = {**VEHICLE, "kind": ("person",), "person.role": ("victim",), "person.birth": ("about 17",)}
PERSON = {name: values for name, values in PERSON.items() if not name.startswith("vehicle.")}


def parsed(form: Form, **changed: str) -> Parsed | tuple[Fault, ...]:
    return parse_alert_untrusted(
        {**form, **{name.replace("__", "."): (value,) for name, value in changed.items()}},
        now_ms=NOW_MS,
        partners=PARTNERS,
    )


def test_a_short_form_is_enough() -> None:
    """Everything not asked for has a sane default, and times count from now."""
    found = parsed(VEHICLE)
    assert isinstance(found, Parsed)
    alert = found.alert
    assert (alert.status, alert.handling, alert.tlp, alert.severity) == ("actual", "H0", "amber", "unknown")
    assert alert.created_ms == NOW_MS
    assert alert.expires_ms == NOW_MS + 72 * HOUR_MS
    assert alert.erase_at_ms == NOW_MS + 180 * DAY_MS
    assert alert.entities == (Vehicle(plate="7G 4821"),)
    assert found.recipients == (TENGCHONG,)


def test_a_person_goes_sooner_and_travels_less_far() -> None:
    """Defaults for persons: H1 and 30 days, which is the longest a victim may be kept."""
    found = parsed(PERSON)
    assert isinstance(found, Parsed)
    assert found.alert.handling == "H1"
    assert found.alert.erase_at_ms == NOW_MS + 30 * DAY_MS
    assert found.alert.entities == (Person(role="victim", birth="about 17"),)


@pytest.mark.parametrize(
    ("form", "changed", "fault"),
    [
        (VEHICLE, {"crime_type": ""}, Fault(name="crime_type", code="field_required")),
        (VEHICLE, {"crime_type": "politics"}, Fault(name="crime_type", code="field_choice")),
        (VEHICLE, {"urgency": "yesterday"}, Fault(name="urgency", code="field_choice")),
        (VEHICLE, {"urgency": "immediate"}, Fault(name="urgency_reason", code="alert_urgency_reason")),
        (VEHICLE, {"handling": "H3"}, Fault(name="handling_text", code="alert_handling_text")),
        (VEHICLE, {"vehicle__plate": ""}, Fault(name="vehicle.plate", code="alert_vehicle_empty")),
        (VEHICLE, {"vehicle__plate": "7\u202eG"}, Fault(name="vehicle.plate", code="text_character")),
        (VEHICLE, {"vehicle__plate": "7" * 65}, Fault(name="vehicle.plate", code="text_long")),
        (VEHICLE, {"vehicle__make": "e" + "\u0301" * 40}, Fault(name="vehicle.make", code="text_marks")),
        (VEHICLE, {"vehicle__seen_where": "\u2800"}, Fault(name="vehicle.seen_where", code="text_character")),
        (VEHICLE, {"recipients": "00" * 32}, Fault(name="recipients", code="recipient_unknown")),
        (VEHICLE, {"erase_days": "7", "expires_hours": "720"}, Fault(name="erase_days", code="alert_erase")),
        (VEHICLE, {"expires_hours": "1e9"}, Fault(name="expires_hours", code="field_choice")),
        (VEHICLE, {"wings": "2"}, Fault(name="wings", code="field_unknown")),
        (PERSON, {"person__role": ""}, Fault(name="person.role", code="field_required")),
        (PERSON, {"person__role": "hero"}, Fault(name="person.role", code="field_choice")),
        (PERSON, {"erase_days": "90"}, Fault(name="erase_days", code="alert_erase_late")),
    ],
)
def test_each_fault_is_named_at_its_field(form: Form, changed: dict[str, str], fault: Fault) -> None:
    """One fault, one field, one sentence in every language."""
    assert parsed(form, **changed) == (fault,)
    assert fault.code in MESSAGES


def test_all_faults_are_named_at_once_in_the_order_of_the_form() -> None:
    """Nobody corrects one field to be told of the next."""
    found = parsed({"kind": ("person",)})
    assert isinstance(found, tuple)
    assert [fault.name for fault in found] == [
        "recipients",
        "crime_type",
        "person.role",
        "source",
        "information",
    ]


def test_what_was_typed_for_a_choice_no_longer_made_does_not_travel() -> None:
    """A reason left over after the urgency was lowered stays out of the alert."""
    found = parsed(VEHICLE, urgency="future", urgency_reason="left over", handling_text="left over")
    assert isinstance(found, Parsed)
    assert (found.alert.urgency_reason, found.alert.handling_text) == (None, None)


def test_what_was_typed_for_another_kind_is_not_a_fault_and_does_not_travel() -> None:
    """The page carries it along so that a wrong press loses nothing; the alert holds one kind."""
    found = parsed(PERSON, vehicle__plate="7G 4821")
    assert isinstance(found, Parsed)
    assert [entity.entity for entity in found.alert.entities] == ["person"]


def test_one_office_chosen_twice_is_refused() -> None:
    """An audience is a set."""
    form = {**VEHICLE, "recipients": (TENGCHONG, TENGCHONG)}
    assert parse_alert_untrusted(form, now_ms=NOW_MS, partners=PARTNERS) == (
        Fault(name="recipients", code="recipient_unknown"),
    )


@pytest.mark.parametrize("kind", forms.KINDS)
def test_at_most_twelve_fields_are_in_sight(kind: forms.Kind) -> None:
    """A form is filled in under two minutes."""
    assert sum(field.place == "sight" for field in forms.FIELDS[kind]) <= 12


names = st.sampled_from(
    [*sorted({field.name for kind in forms.KINDS for field in forms.FIELDS[kind]}), "kind"]
)
good = st.sampled_from(
    [
        "vehicle",
        "person",
        "text",
        "immediate",
        "expected",
        "stolen_vehicle",
        "B",
        "2",
        "H3",
        "H0",
        "red",
        "victim",
        "suspect",
        "72",
        "30",
        "7",
        "en",
        "my",
        "actual",
        "exercise",
        TENGCHONG,
        "white",
        "MM",
    ]
)
texts = (
    st.text(max_size=80)
    | good
    | st.text(alphabet=st.characters(categories=["Cf", "Mn", "Zs", "Lo"]), max_size=200)
)


@settings(max_examples=400)
@given(
    st.dictionaries(names, st.lists(texts, min_size=1, max_size=3).map(tuple), max_size=20),
    st.integers(min_value=0, max_value=253_402_300_799_999),
)
@example({**VEHICLE, "vehicle.plate": ("\U000e0041",)}, NOW_MS)
def test_any_form_gives_an_alert_or_named_faults(form: Form, now_ms: int) -> None:
    """No form data whatever raises, and no fault is without a field and a known code."""
    found = parse_alert_untrusted({**VEHICLE, **form}, now_ms=now_ms, partners=PARTNERS)
    if isinstance(found, Parsed):
        assert found.recipients
        return
    assert found
    for fault in found:
        assert fault.name
        assert fault.code in MESSAGES


@given(st.binary(max_size=300))
def test_any_body_gives_a_form_or_malformed_input(body: bytes) -> None:
    """Whatever bytes arrive as a form."""
    for parse in (parse_form_untrusted, parse_json_untrusted):
        try:
            form = parse(body)
        except MalformedInput:
            continue
        for values in form.values():
            for value in values:
                value.encode("utf-8")


typed_forms = st.dictionaries(
    st.from_regex(r"[a-z][a-z_.]{0,20}", fullmatch=True),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=4),
    max_size=20,
)


@given(typed_forms)
def test_a_browser_s_form_is_read_as_it_was_typed(typed: dict[str, list[str]]) -> None:
    """Percent-encoded UTF-8, repeated names in order, blanks kept."""
    body = urlencode(typed, doseq=True).encode()
    assert parse_form_untrusted(body) == {name: tuple(values) for name, values in typed.items()}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"a":"1","a":"2"}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1}',
        b'{"a":1.5}',
        b'{"a":' + b"9" * 60_000 + b"}",
        b'{"a":null}',
        b'{"a":{"b":"c"}}',
        b'{"a":["b",["c"]]}',
        b'{"A":"b"}',
        b'{"":"b"}',
        b'"a"',
        b"[]",
        b"",
        b"\xff",
        b'{"a":"\\ud800"}',
        b'{"a":"b"} x',
        b"\xef\xbb\xbf{}",
        json.dumps({f"a{n}": "b" for n in range(200)}).encode(),
    ],
)
def test_hostile_json_is_malformed(body: bytes) -> None:
    """B69: depth, double keys, NaN, huge numbers, lone surrogates, other types: refused, never a crash."""
    with pytest.raises(MalformedInput, match="body_malformed"):
        parse_json_untrusted(body)


@pytest.mark.parametrize(
    "body",
    [b"a", b"a=%ff", b"a=%ed%a0%80", b"\xff=1", b"A=1", b"%00=1", b"&".join(b"a=1" for _ in range(200))],
)
def test_hostile_form_bodies_are_malformed(body: bytes) -> None:
    """No silent repair of broken UTF-8, no unnamed and no thousand fields."""
    with pytest.raises(MalformedInput, match="body_malformed"):
        parse_form_untrusted(body)


def test_an_empty_body_is_an_empty_form() -> None:
    """A button without a form."""
    assert parse_form_untrusted(b"") == {}
    assert parse_json_untrusted(b"{}") == {}
