"""The alert: what an officer fills in, checked once at the edge, and again when it arrives from a peer.

Spec: docs/spec/alert.md. Codes, not words, cross the border: everything with a closed list is a code of
``codelists``; text stays in its language with its tag. One rule: after this file nothing re-checks text. It
signs nothing and hides nothing; ``disclosures`` splits an alert and ``release`` decides whether it may leave.

Errors are pydantic's, one per field, with the stable types ``text_blank``, ``text_long``, ``text_character``,
``text_marks``, ``text_not_nfc`` and the ``alert_*`` types below; no error repeats what was typed.
"""

import unicodedata
from collections.abc import Callable
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from keys import labels
from keys.errors import MalformedInput
from keys.primitives import labelled_hash
from protocol import codelists, limits
from protocol.attachment import Manifest, decode_manifest_untrusted

# --- text ---

# Khmer, Thai, Lao and Burmese need these three to break and join words; every other format character
# (bidi controls, tags, byte order marks, soft hyphens) can make text read differently from what it is.
_JOINERS: Final = frozenset("\u200b\u200c\u200d")
# Letters by category, blank by look.
_INVISIBLE_LETTERS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0\u034f\u17b4\u17b5")
_REFUSED_CATEGORIES: Final = frozenset({"Cf", "Co", "Cs", "Cc", "Zl", "Zp"})
_BLANK_CATEGORIES: Final = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf", "Mn", "Me"})


def clean_text(text: str) -> str:
    """What an officer typed, as it will be signed: NFC, one kind of line end, no spaces around it.

    Removes nothing else: what may not be sent is refused by the model, with the field named.
    """
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def _is_refused(character: str, *, many_lines: bool, joiners: bool) -> bool:
    if many_lines and character in "\n\t":
        return False
    if character in _JOINERS:
        return not joiners
    code_point = ord(character)
    return (
        character in _INVISIBLE_LETTERS
        or unicodedata.category(character) in _REFUSED_CATEGORIES
        # Noncharacters: the last two of each plane and a block of 32.
        or code_point & 0xFFFE == 0xFFFE
        or 0xFDD0 <= code_point <= 0xFDEF
    )


def check_text(
    text: str, *, points_max: int, bytes_max: int, many_lines: bool = False, joiners: bool = True
) -> str:
    """``text`` itself, or the first rule it breaks as a PydanticCustomError."""
    if len(text) > points_max:
        raise PydanticCustomError("text_long", "longer than {points} characters", {"points": points_max})
    # A text of thousands of characters uses some fifty: each is judged once.
    used = set(text)
    refused = {c for c in used if _is_refused(c, many_lines=many_lines, joiners=joiners)}
    if refused:
        first = next(character for character in text if character in refused)
        raise PydanticCustomError(
            "text_character",
            "holds the character {code_point}, which is invisible, private or turns text around",
            {"code_point": f"U+{ord(first):04X}"},
        )
    if len(text.encode("utf-8")) > bytes_max:
        raise PydanticCustomError("text_long", "longer than {bytes} bytes", {"bytes": bytes_max})
    if all(unicodedata.category(character) in _BLANK_CATEGORIES for character in text):
        raise PydanticCustomError("text_blank", "is blank")
    marks = {character for character in used if unicodedata.category(character).startswith("M")}
    if marks:
        run = 0
        for character in text:
            run = run + 1 if character in marks else 0
            if run > limits.COMBINING_RUN_MAX:
                raise PydanticCustomError("text_marks", "stacks too many marks on one letter")
    if not unicodedata.is_normalized("NFC", text):
        raise PydanticCustomError("text_not_nfc", "is not in Unicode normal form C")
    return text


def _rule(
    points_max: int, bytes_max: int, *, many_lines: bool = False, joiners: bool = True
) -> Callable[[str], str]:
    def check(text: str) -> str:
        return check_text(
            text, points_max=points_max, bytes_max=bytes_max, many_lines=many_lines, joiners=joiners
        )

    return check


# Plates, numbers, documents: no joiners, they would make two equal-looking plates differ.
Identifier = Annotated[
    str, AfterValidator(_rule(limits.SHORT_POINTS_MAX, limits.SHORT_BYTES_MAX, joiners=False))
]
ShortText = Annotated[str, AfterValidator(_rule(limits.SHORT_POINTS_MAX, limits.SHORT_BYTES_MAX))]
Name = Annotated[str, AfterValidator(_rule(limits.NAME_POINTS_MAX, limits.NAME_BYTES_MAX))]
Reason = Annotated[str, AfterValidator(_rule(limits.REASON_POINTS_MAX, limits.REASON_BYTES_MAX))]
Description = Annotated[
    str,
    AfterValidator(_rule(limits.DESCRIPTION_POINTS_MAX, limits.DESCRIPTION_BYTES_MAX, many_lines=True)),
]
LongText = Annotated[
    str, AfterValidator(_rule(limits.FREE_TEXT_POINTS_MAX, limits.FREE_TEXT_BYTES_MAX, many_lines=True))
]
LanguageTag = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$", max_length=32)]
CodeId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")]
TimeMs = Annotated[int, Field(ge=0, le=limits.TIME_MS_MAX)]
AlertIdHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _as_tuple(value: object) -> object:
    """Forms and decoders bring lists; the alert keeps tuples."""
    return tuple(value) if isinstance(value, list) else value


class _Frozen(BaseModel):
    # Inputs are names and plates: pydantic must not repeat them in errors that reach a log.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


# --- entities ---


class Vehicle(_Frozen):
    """A vehicle; at least one thing about it is known."""

    entity: Literal["vehicle"] = "vehicle"
    plate: Identifier | None = None
    plate_country: ShortText | None = None
    plate_province: ShortText | None = None
    make: ShortText | None = None
    model: ShortText | None = None
    colour: ShortText | None = None
    year: Identifier | None = None
    vin: Identifier | None = None
    description: Description | None = None
    seen_where: Name | None = None
    seen_at: ShortText | None = None

    @model_validator(mode="after")
    def _something_is_known(self) -> Self:
        if all(value is None for name, value in self if name != "entity"):
            raise PydanticCustomError("alert_vehicle_empty", "says nothing about the vehicle")
        return self


Role = Literal["suspect", "victim", "missing", "witness", "driver", "owner", "contact", "other"]


class Person(_Frozen):
    """A person. The role has no default: nobody may be left to guess who is a victim and who a suspect."""

    entity: Literal["person"] = "person"
    role: Role
    name: Name | None = None
    name_romanised: Name | None = None
    other_names: Name | None = None
    sex: Literal["female", "male", "other", "unknown"] | None = None
    birth: ShortText | None = None
    nationality: ShortText | None = None
    document: Identifier | None = None
    phone: Identifier | None = None
    description: Description | None = None
    last_seen: Description | None = None

    @property
    def is_named(self) -> bool:
        """Whether this says who the person is, not only what the person looks like."""
        return any(
            value is not None for value in (self.name, self.name_romanised, self.other_names, self.document)
        )


class FreeText(_Frozen):
    """Text in the language it was written in. A translation is another, signed object."""

    language: LanguageTag
    text: LongText


Entity = Annotated[Vehicle | Person, Field(discriminator="entity")]


def _check_manifest(text: str) -> str:
    try:
        decode_manifest_untrusted(text)
    except MalformedInput as error:
        raise PydanticCustomError("alert_photo", "is no manifest of a photo") from error
    return text


ManifestText = Annotated[str, AfterValidator(_check_manifest), Field(repr=False)]


class Photo(_Frozen):
    """A photo beside the alert: manifests of the picture and of its thumbnail, each with its own key."""

    thumbnail: ManifestText
    photo: ManifestText

    @property
    def manifests(self) -> tuple[Manifest, Manifest]:
        """Of the photo and of its thumbnail."""
        return decode_manifest_untrusted(self.photo), decode_manifest_untrusted(self.thumbnail)

    @model_validator(mode="after")
    def _thumbnail_is_small(self) -> Self:
        _, thumbnail = self.manifests
        if thumbnail.length_bytes > limits.THUMBNAIL_BYTES_MAX or thumbnail.type != "jpeg":
            raise PydanticCustomError("alert_photo", "has a thumbnail that is no small JPEG")
        return self


class Alert(_Frozen):
    """One alert as an officer wrote it. Times are Unix milliseconds; references are alert ids in hex.

    ``expires_ms``: stop resending, afterwards it is stale. ``erase_at_ms``: both offices erase the content.
    ``reply_by_ms``: when the sender wants to have heard of an officer; silence is recorded then.
    """

    kind: Literal["alert"] = "alert"
    status: Literal["actual", "exercise", "test"]
    crime_type: CodeId
    urgency: Literal["immediate", "expected", "future"]
    urgency_reason: Reason | None = None
    severity: Literal["extreme", "severe", "moderate", "minor", "unknown"]
    certainty: Literal["observed", "likely", "possible", "unlikely", "unknown"]
    source: Literal["A", "B", "C", "X"]
    information: Literal["1", "2", "3", "4"]
    handling: Literal["H0", "H1", "H2", "H3"]
    handling_text: Reason | None = None
    tlp: Literal["red", "amber+strict", "amber", "green", "clear"]
    created_ms: TimeMs
    expires_ms: TimeMs
    erase_at_ms: TimeMs
    reply_by_ms: TimeMs | None = None
    entities: Annotated[
        tuple[Entity, ...], BeforeValidator(_as_tuple), Field(max_length=limits.ENTITIES_MAX)
    ] = ()
    text: FreeText | None = None
    references: Annotated[
        tuple[AlertIdHex, ...], BeforeValidator(_as_tuple), Field(max_length=limits.REFERENCES_MAX)
    ] = ()
    photos: Annotated[
        tuple[Photo, ...], BeforeValidator(_as_tuple), Field(max_length=limits.PHOTOS_PER_ALERT_MAX)
    ] = ()

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """What is carried beside it, by number: each photo, then its thumbnail."""
        return tuple(manifest for photo in self.photos for manifest in photo.manifests)

    @property
    def has_victim(self) -> bool:
        """Whether any person in it is a victim."""
        return any(isinstance(entity, Person) and entity.role == "victim" for entity in self.entities)

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.urgency == "immediate" and self.urgency_reason is None:
            raise PydanticCustomError("alert_urgency_reason", "urgency_reason: immediate needs a reason")
        if self.handling == "H3" and self.handling_text is None:
            raise PydanticCustomError("alert_handling_text", "handling_text: H3 needs its condition in words")
        if not self.entities and self.text is None:
            raise PydanticCustomError("alert_empty", "an alert needs an entity or text")
        if len(set(self.references)) != len(self.references):
            raise PydanticCustomError("alert_references", "references: one alert is named twice")
        if len({manifest.read_secret for manifest in self.manifests}) != len(self.manifests):
            raise PydanticCustomError("alert_photo", "photos: one is named twice")
        return self

    @model_validator(mode="after")
    def _times_agree(self) -> Self:
        if self.expires_ms <= self.created_ms:
            raise PydanticCustomError("alert_expires", "expires_ms: an alert expires after it was made")
        if self.erase_at_ms < self.expires_ms:
            raise PydanticCustomError("alert_erase", "erase_at_ms: content is not erased before it expires")
        if self.reply_by_ms is not None and not self.created_ms < self.reply_by_ms <= self.expires_ms:
            raise PydanticCustomError(
                "alert_reply_by", "reply_by_ms: an answer is asked for after it was made, before it expires"
            )
        days_max = limits.VICTIM_ERASE_AFTER_MS_MAX if self.has_victim else limits.ERASE_AFTER_MS_MAX
        if self.erase_at_ms - self.created_ms > days_max:
            raise PydanticCustomError(
                "alert_erase_late",
                "erase_at_ms: this alert is erased at most {days} days after it was made",
                {"days": days_max // limits.DAY_MS},
            )
        return self


# --- one line for lists ---

_HEADLINE_POINTS_MAX: Final = 80
# Whose name a list shows to everyone who can see the screen.
_NAMED_IN_LISTS: Final = frozenset({"suspect", "missing", "driver", "owner"})


def headline(alert: Alert, *, alert_id: bytes = b"", language: str = "en") -> str:
    """One line of at most 80 characters for lists. Never a victim's or witness's name, nor text beside one.

    ``alert_id`` (32 bytes) gives protected persons a pseudonym such as ``Victim ·a1b2``, the same at both
    offices; without it they are numbered.
    """
    parts = [
        _vehicle_headline(entity, language)
        if isinstance(entity, Vehicle)
        else _person_headline(entity, index, alert_id, language)
        for index, entity in enumerate(alert.entities)
    ]
    if not parts and alert.text is not None:
        parts = [" ".join(alert.text.text.split())]
    line = "; ".join(parts)
    return line if len(line) <= _HEADLINE_POINTS_MAX else line[: _HEADLINE_POINTS_MAX - 1] + "…"


def _vehicle_headline(vehicle: Vehicle, language: str) -> str:
    colour = vehicle.colour and codelists.load("vehicle_colours").label(vehicle.colour, language)
    known = [vehicle.plate, colour, vehicle.make, vehicle.model]
    return " ".join([codelists.load("entities").label("vehicle", language), *filter(None, known)])


def _person_headline(person: Person, index: int, alert_id: bytes, language: str) -> str:
    role = codelists.load("roles").label(person.role, language)
    shown = person.name or person.name_romanised
    if person.role in _NAMED_IN_LISTS and shown:
        return f"{role} {shown}"
    if not alert_id:
        return f"{role} ·{index + 1}"
    return f"{role} ·{labelled_hash(labels.PSEUDONYM, alert_id, bytes([index])).hex()[:4]}"
