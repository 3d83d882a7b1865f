"""What an officer typed, turned into an Alert once, at the edge; or named faults, with nothing typed lost.

Spec: docs/spec/alert.md says what an alert may hold; this says how a person is asked for it: at most 12
fields in sight, codes chosen from lists, times as "for how long". One rule: whatever arrives, the answer
is an Alert or faults that name a field; no text is repaired here beyond normal form and surrounding
space.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import parse_qsl

from pydantic import ValidationError

from keys.errors import MalformedInput
from node.web.describe import CODE_LISTS, COUNTRIES
from node.web.languages import N_
from protocol import codelists
from protocol.alert import Alert, clean_text
from protocol.limits import DAY_MS, HOUR_MS, TIME_MS_MAX

Kind = Literal["vehicle", "person", "text"]
KINDS: Final[tuple[Kind, ...]] = ("vehicle", "person", "text")
Form = Mapping[str, tuple[str, ...]]

FIELDS_MAX: Final = 96
_NAME: Final = re.compile(r"[a-z][a-z0-9_.]{0,63}")
# Only what is offered; "other" countries are written in the description.
COUNTRIES_OFFERED: Final = ("MM", "CN", "TH", "LA", "KH", "VN", "IN", "BD", "MY")
EXPIRES_HOURS: Final = (6, 24, 72, 168, 720)
REPLY_HOURS: Final = (1, 3, 6, 24, 72)
ERASE_DAYS: Final = (7, 30, 90, 180, 365)


# --- bodies -------------------------------------------------------------------------------------------------


def parse_form_untrusted(body: bytes) -> Form:
    """An urlencoded body as names with their values in order. MalformedInput only."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            encoding="utf-8",
            errors="strict",
            max_num_fields=FIELDS_MAX,
        )
    except ValueError:  # UnicodeError is one
        raise MalformedInput("body_malformed") from None
    form: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        if not _NAME.fullmatch(name):
            raise MalformedInput("body_malformed")
        form[name] = (*form.get(name, ()), value)
    return form


def is_field_name(name: str) -> bool:
    """Whether a form of ours may have a field of this name."""
    return _NAME.fullmatch(name) is not None


def parse_json_untrusted(body: bytes) -> Form:
    """A JSON object of strings and lists of strings, as if it were a form. MalformedInput only."""
    try:
        found = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_number,
            parse_float=_refuse_number,
            parse_int=_refuse_number,
        )
    except (ValueError, RecursionError):
        raise MalformedInput("body_malformed") from None
    if not isinstance(found, dict) or len(found) > FIELDS_MAX:
        raise MalformedInput("body_malformed")
    return {_name_of(name): _values_of(value) for name, value in found.items()}


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("one key twice")
    return found


def _refuse_number(_: str) -> object:
    # Every field of a form is text; refusing numbers unread also ends the ones with a million digits.
    raise ValueError("a number")


def _name_of(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise MalformedInput("body_malformed")
    return name


def _values_of(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    for text in values:
        if not isinstance(text, str) or not _is_encodable(text):
            raise MalformedInput("body_malformed")
    return tuple(values)


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate written as an escape
        return False
    return True


# --- the form for a new alert -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of the form.

    ``place``: sight (at most 12 of a kind), more (folded), when (shown on a choice).
    """

    name: str
    control: Literal["line", "area", "select", "radio", "offices"]
    place: Literal["sight", "more", "marking", "when"] = "sight"
    is_required: bool = False
    default: str = ""
    hint: str = ""
    words_max: int = 0  # longest text in code points; 0 for choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One refused field: its name in the form and a message code of messages.py."""

    name: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A form that gave an alert, and to whom it shall go (office ids in hex, none twice)."""

    alert: Alert
    recipients: tuple[str, ...]


_RECIPIENTS: Final = Field(name="recipients", control="offices", is_required=True)
_COMMON: Final = (
    Field(name="urgency", control="radio", is_required=True, default="expected"),
    Field(name="urgency_reason", control="line", place="when", words_max=200),
    Field(name="crime_type", control="select", is_required=True),
)
_GRADING: Final = (
    Field(name="source", control="select", is_required=True),
    Field(name="information", control="select", is_required=True),
)
_LINE: Final = 64
_NAMES: Final = 120
_AREA: Final = 1000

_ABOUT: Final[Mapping[Kind, tuple[Field, ...]]] = {
    "vehicle": (
        Field(name="vehicle.plate", control="line", words_max=_LINE, hint=N_("As written on the vehicle")),
        Field(name="vehicle.plate_country", control="select"),
        Field(name="vehicle.colour", control="select"),
        Field(name="vehicle.make", control="line", words_max=_LINE),
        Field(name="vehicle.seen_where", control="line", words_max=_NAMES),
        Field(name="vehicle.seen_at", control="line", words_max=_LINE),
        Field(name="vehicle.description", control="area", words_max=_AREA),
        Field(name="vehicle.model", control="line", place="more", words_max=_LINE),
        Field(name="vehicle.plate_province", control="line", place="more", words_max=_LINE),
        Field(name="vehicle.year", control="line", place="more", words_max=_LINE),
        Field(name="vehicle.vin", control="line", place="more", words_max=_LINE),
    ),
    "person": (
        Field(name="person.role", control="select", is_required=True),
        Field(name="person.name", control="line", words_max=_NAMES),
        Field(name="person.name_romanised", control="line", words_max=_NAMES),
        Field(name="person.sex", control="select"),
        Field(name="person.birth", control="line", words_max=_LINE, hint=N_("For example 1998, or about 25")),
        Field(name="person.last_seen", control="area", words_max=_AREA),
        Field(name="person.description", control="area", words_max=_AREA),
        Field(name="person.nationality", control="select", place="more"),
        Field(name="person.document", control="line", place="more", words_max=_LINE),
        Field(name="person.phone", control="line", place="more", words_max=_LINE),
        Field(name="person.other_names", control="line", place="more", words_max=_NAMES),
    ),
    "text": (
        Field(name="text.text", control="area", is_required=True, words_max=8000),
        Field(name="text.language", control="select", is_required=True),
    ),
}


def _marking(kind: Kind) -> tuple[Field, ...]:
    return (
        # A person's data goes sooner and travels less far unless somebody decides otherwise.
        Field(name="handling", control="select", place="marking", default="H1" if kind == "person" else "H0"),
        Field(name="handling_text", control="line", place="when", words_max=200),
        Field(name="tlp", control="select", place="marking", default="amber"),
        Field(name="reply_hours", control="select", place="marking"),
        Field(name="expires_hours", control="select", place="marking", default="72"),
        Field(
            name="erase_days",
            control="select",
            place="marking",
            default={"vehicle": "180", "person": "30", "text": "90"}[kind],
        ),
        Field(name="severity", control="select", place="marking", default="unknown"),
        Field(name="certainty", control="select", place="marking", default="unknown"),
        Field(name="status", control="select", place="marking", default="actual"),
    )


FIELDS: Final[Mapping[Kind, tuple[Field, ...]]] = {
    kind: (_RECIPIENTS, *_COMMON, *_ABOUT[kind], *_GRADING, *_marking(kind)) for kind in KINDS
}
# Said by the officer on the way, not part of the alert.
_NOT_FIELDS: Final = frozenset(
    {"kind", "csrf", "action", "form_id", "language", "mode", "photos", "photo_fault"}
)

assert all(sum(field.place == "sight" for field in fields) <= 12 for fields in FIELDS.values())


def options(name: str) -> tuple[str, ...]:
    """The values a choice offers, in order; labels are for the page to find."""
    if name in CODE_LISTS:
        return tuple(codelists.load(CODE_LISTS[name]).codes)
    if name in COUNTRIES:
        return COUNTRIES_OFFERED
    return {
        "reply_hours": tuple(map(str, REPLY_HOURS)),
        "expires_hours": tuple(map(str, EXPIRES_HOURS)),
        "erase_days": tuple(map(str, ERASE_DAYS)),
        "text.language": codelists.LANGUAGES,
    }[name]


def kind_of(form: Form) -> Kind:
    """Which kind the form is about; vehicle when it does not say."""
    said = form.get("kind", ("",))[0]
    return next((kind for kind in KINDS if kind == said), "vehicle")


def parse_alert_untrusted(form: Form, *, now_ms: int, partners: Sequence[str]) -> Parsed | tuple[Fault, ...]:
    """The alert that the form describes, or every fault found, in the order of the form. Never raises.

    ``partners`` are the office ids (hex) that may be chosen.
    """
    kind = kind_of(form)
    fields = FIELDS[kind]
    typed = {field.name: clean_text(form.get(field.name, (field.default,))[0]) for field in fields}
    faults = [*_faults_of_choices(fields, typed), *_faults_of_recipients(form, partners)]
    # What was typed for another kind comes along unread, so that the page can give it back.
    known = {field.name for other in KINDS for field in FIELDS[other]} | _NOT_FIELDS
    faults += [Fault(name=name, code="field_unknown") for name in form if name not in known]
    if not faults:
        try:
            return Parsed(alert=_alert(kind, typed, now_ms), recipients=form["recipients"])
        except ValidationError as error:
            faults = [
                Fault(name=_field_of(fault["loc"], fault["type"], kind), code=_code_of(fault["type"]))
                for fault in error.errors(include_url=False, include_context=False, include_input=False)
            ]
    order = {field.name: place for place, field in enumerate(fields)}
    return tuple(sorted(dict.fromkeys(faults), key=lambda fault: order.get(fault.name, len(order))))


def _faults_of_choices(fields: Sequence[Field], typed: Mapping[str, str]) -> list[Fault]:
    faults = []
    for field in fields:
        value = typed[field.name]
        if field.control == "offices":
            continue
        if not value:
            # A choice with a default has no empty option to choose.
            if field.is_required or field.default:
                faults.append(Fault(name=field.name, code="field_required"))
        elif field.control in ("select", "radio") and value not in options(field.name):
            faults.append(Fault(name=field.name, code="field_choice"))
    return faults


def _faults_of_recipients(form: Form, partners: Sequence[str]) -> list[Fault]:
    chosen = form.get("recipients", ())
    if not chosen:
        return [Fault(name="recipients", code="recipients_none")]
    if len(set(chosen)) != len(chosen) or any(office not in partners for office in chosen):
        return [Fault(name="recipients", code="recipient_unknown")]
    return []


def _alert(kind: Kind, typed: Mapping[str, str], now_ms: int) -> Alert:
    about = {
        name.partition(".")[2]: value
        for name, value in typed.items()
        if name.startswith(f"{kind}.") and value
    }
    expires_ms = min(now_ms + int(typed["expires_hours"]) * HOUR_MS, TIME_MS_MAX)
    # Counted from now like the expiry; content that outlives its erasure date makes no sense to either
    # office.
    erase_at_ms = min(now_ms + int(typed["erase_days"]) * DAY_MS, TIME_MS_MAX)
    values: dict[str, object] = {
        name: typed[name] or None
        for name in (
            "status",
            "crime_type",
            "urgency",
            "severity",
            "certainty",
            "source",
            "information",
            "handling",
            "tlp",
        )
    }
    values["urgency_reason"] = typed["urgency_reason"] or None if typed["urgency"] == "immediate" else None
    values["handling_text"] = typed["handling_text"] or None if typed["handling"] == "H3" else None
    if typed["reply_hours"]:
        values["reply_by_ms"] = min(now_ms + int(typed["reply_hours"]) * HOUR_MS, TIME_MS_MAX)
    values |= {"created_ms": now_ms, "expires_ms": expires_ms, "erase_at_ms": erase_at_ms}
    if kind == "text":
        values["text"] = about
    else:
        values["entities"] = [{"entity": kind, **about}]
    return Alert.model_validate(values)


_FIELD_OF_RULE: Final = {
    "alert_urgency_reason": "urgency_reason",
    "alert_handling_text": "handling_text",
    "alert_expires": "expires_hours",
    "alert_reply_by": "reply_hours",
    "alert_erase": "erase_days",
    "alert_erase_late": "erase_days",
}


def _field_of(loc: tuple[int | str, ...], rule: str, kind: Kind) -> str:
    """Name in the form of what pydantic complains about; the kind's first field for the whole."""
    first = FIELDS[kind][4].name
    if rule in _FIELD_OF_RULE:
        return _FIELD_OF_RULE[rule]
    names = [part for part in loc if isinstance(part, str)]
    name = f"{kind}.{names[-1]}" if names and names[0] in ("entities", "text") else "".join(names[-1:])
    return name if any(field.name == name for field in FIELDS[kind]) else first


def _code_of(rule: str) -> str:
    if rule.startswith(("text_", "alert_")):
        return rule
    return "field_required" if rule == "missing" else "field_choice"
