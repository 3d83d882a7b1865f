"""An alert in words: its fields as labelled rows in one reader's language.

Takes the alert's plain values (``AlertView.fields``, ``Alert.model_dump()``) rather than the model, because a
newer office may send fields and codes that this one has not learnt: those are shown by their own name, never
hidden. One rule: everything that a person typed goes through ``foreign``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from node.web.foreign import foreign
from node.web.languages import BY_TAG, N_, Words
from node.web.show import Show
from protocol import codelists

LABELS: Final[Mapping[str, str]] = {
    "status": N_("Status"),
    "crime_type": N_("Crime type"),
    "urgency": N_("Urgency"),
    "urgency_reason": N_("Why immediate"),
    "severity": N_("Severity"),
    "certainty": N_("Certainty"),
    "source": N_("Source"),
    "information": N_("Information"),
    "handling": N_("Handling"),
    "handling_text": N_("Condition of handling"),
    "tlp": N_("Audience (TLP)"),
    "created_ms": N_("Written"),
    "expires_ms": N_("Expires"),
    "erase_at_ms": N_("Erased at both offices"),
    "reply_by_ms": N_("Answer wanted by"),
    "references": N_("Refers to"),
    "recipients": N_("Recipients"),
    "photos": N_("Photos"),
    "reply_hours": N_("Answer wanted within"),
    "expires_hours": N_("Expires after"),
    "erase_days": N_("Erased at both offices after"),
    "vehicle.plate": N_("Plate"),
    "vehicle.plate_country": N_("Country of the plate"),
    "vehicle.plate_province": N_("Province on the plate"),
    "vehicle.make": N_("Make"),
    "vehicle.model": N_("Model"),
    "vehicle.colour": N_("Colour"),
    "vehicle.year": N_("Year"),
    "vehicle.vin": N_("Chassis number (VIN)"),
    "vehicle.description": N_("Description"),
    "vehicle.seen_where": N_("Seen where"),
    "vehicle.seen_at": N_("Seen when"),
    "person.role": N_("Role"),
    "person.name": N_("Name in its own script"),
    "person.name_romanised": N_("Name as in the document"),
    "person.other_names": N_("Other names"),
    "person.sex": N_("Sex"),
    "person.birth": N_("Born or age"),
    "person.nationality": N_("Nationality"),
    "person.document": N_("Document number"),
    "person.phone": N_("Phone"),
    "person.description": N_("Description"),
    "person.last_seen": N_("Last seen"),
    "text.text": N_("Text"),
    "text.language": N_("Language of the text"),
}
# Values that are codes of a list; every other value is text somebody typed.
CODE_LISTS: Final[Mapping[str, str]] = {
    "status": "status",
    "crime_type": "crime_types",
    "urgency": "urgency",
    "severity": "severity",
    "certainty": "certainty",
    "source": "source",
    "information": "information",
    "handling": "handling",
    "tlp": "tlp",
    "vehicle.colour": "vehicle_colours",
    "person.role": "roles",
    "person.sex": "sex",
}
COUNTRIES: Final = frozenset({"vehicle.plate_country", "person.nationality"})
_ENTITY_TITLES: Final = {"vehicle": N_("Vehicle"), "person": N_("Person")}
_TIMES: Final = ("created_ms", "reply_by_ms", "expires_ms", "erase_at_ms")
_ASSESSMENT: Final = (
    "urgency", "urgency_reason", "crime_type", "severity", "certainty", "source", "information", "handling",
    "handling_text", "tlp",
)  # fmt: skip
_LONG: Final = frozenset({"vehicle.description", "person.description", "person.last_seen", "text.text"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One labelled value.

    ``english`` is the label of a code in English, beside one nobody native has checked.
    """

    label: Markup
    value: Markup
    english: str | None = None
    is_long: bool = False
    language: str | None = None  # BCP 47 tag of free text


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A titled group of rows. ``is_victim`` marks a person who must be protected."""

    title: Markup
    rows: tuple[Row, ...]
    is_victim: bool = False


def describe(fields: Mapping[str, object], words: Words, show: Show) -> tuple[Section, ...]:
    """All fields of one alert: what it is about first, then assessment and handling, then times."""
    return tuple(section for section in _sections(fields, words, show) if section.rows)


def _sections(fields: Mapping[str, object], words: Words, show: Show) -> Iterator[Section]:
    for entity in _items(fields.get("entities")):
        if isinstance(entity, Mapping):
            kind = str(entity.get("entity"))
            yield Section(
                title=words.gettext(_ENTITY_TITLES[kind]) if kind in _ENTITY_TITLES else foreign(kind),
                rows=tuple(
                    _row(f"{kind}.{name}", value, words)
                    for name, value in entity.items()
                    if name != "entity" and value not in (None, "")
                ),
                is_victim=entity.get("role") == "victim",
            )
    text = fields.get("text")
    if isinstance(text, Mapping):
        tag = str(text.get("language"))
        row = _row("text.text", text.get("text"), words)
        written_in = Row(label=_name("text.language", words), value=_language(tag))
        yield Section(
            title=_name("text.text", words),
            rows=(
                Row(label=row.label, value=row.value, is_long=True, language=tag if tag in BY_TAG else None),
                written_in,
            ),
        )
    yield Section(
        title=words.gettext("Assessment and handling"),
        rows=tuple(_row(name, fields[name], words) for name in _ASSESSMENT if fields.get(name) is not None),
    )
    yield Section(
        title=words.gettext("Times and links"),
        rows=(
            *(_time(name, fields.get(name), words, show) for name in _TIMES if fields.get(name) is not None),
            *(_row("references", value, words) for value in _items(fields.get("references"))),
        ),
    )
    known = {"kind", "status", "entities", "text", "references", *_ASSESSMENT, *_TIMES}
    yield Section(
        title=words.gettext("Fields this version does not know"),
        rows=tuple(
            Row(label=foreign(name), value=foreign(value))
            for name, value in fields.items()
            if name not in known
        ),
    )


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _row(name: str, value: object, words: Words) -> Row:
    label = _name(name, words)
    if name in CODE_LISTS and isinstance(value, str):
        known = codelists.load(CODE_LISTS[name])
        translated, english = known.label(value, words.language.tag), known.label(value, "en")
        return Row(label=label, value=foreign(translated), english=english if english != translated else None)
    if name in COUNTRIES and isinstance(value, str):
        return Row(label=label, value=foreign(country_name(value, words)))
    return Row(label=label, value=foreign(value), is_long=name in _LONG)


def _name(name: str, words: Words) -> Markup:
    return words.gettext(LABELS[name]) if name in LABELS else foreign(name.rpartition(".")[2])


def _time(name: str, value: object, words: Words, show: Show) -> Row:
    shown = show.when(value) if isinstance(value, int) else foreign(value)
    return Row(label=_name(name, words), value=shown)


def _language(tag: str) -> Markup:
    return Markup("{}").format(BY_TAG[tag].own_name) if tag in BY_TAG else foreign(tag)


def country_name(country: str, words: Words) -> str:
    """A country's name for its ISO 3166 code; anything else as it was written."""
    return str(words.locale.territories.get(country, country)) if len(country) == 2 else country
