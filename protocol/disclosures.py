"""The alert in two halves: a signed core of codes and salted digests, and the values beside it.

Spec: docs/spec/alert.md#core-and-disclosures. Every text and every field of an entity is a disclosure
``(path, salt, value)``; the core holds only H(salt, path, value) of each, sorted. Erasing a value, or passing
on a part, is dropping disclosures: the core, its alert id and all signatures stay valid. One rule: every
disclosure matches exactly one digest, and ``join_alert`` wants them all; what is left after erasure is
another type.

Paths: ``urgency_reason``, ``handling_text``, ``text/language``, ``text/text``, ``e0/plate`` .. ``e15/role``,
``p0/photo`` .. ``p3/thumbnail``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from keys import labels
from keys.errors import BrokenInvariant, MalformedInput, VerificationFailed
from keys.primitives import labelled_hash
from protocol import limits, wire
from protocol.alert import Alert, FreeText, check_text

# ``random(n)`` gives n fresh bytes.
Randomness: TypeAlias = Callable[[int], bytes]

_CORE_VERSION: Final = 1
_PATH: Final = re.compile(r"(?:[a-z_]+|text/[a-z_]+|e(?:[0-9]|1[0-5])/[a-z_]+|p[0-3]/(?:photo|thumbnail))")
# Names on the wire of the codes, which are the alert's own field names.
_CODE_FIELDS: Final = (
    "kind",
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
_REPLY_BY: Final = "reply_by_ms"
_TEXT_FIELDS: Final = ("urgency_reason", "handling_text")
SigningRole: TypeAlias = Literal["author", "releaser", "emergency"]
_SIGNING_ROLES: Final[dict[str, SigningRole]] = {
    "author": "author",
    "releaser": "releaser",
    "emergency": "emergency",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """One value beside the core; ``salt`` is 16 bytes, without which the digest cannot be guessed from."""

    path: str
    salt: bytes = field(repr=False)
    value: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        """What the core holds of it, 32 bytes."""
        return labelled_hash(labels.DISCLOSURE, self.salt, self.path.encode(), self.value.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficerSignature:
    """One officer's signature inside the core. ``reason`` is given for an emergency release only."""

    role: SigningRole
    officer_number: int
    list_version: int
    signature: bytes  # Ed25519, 64
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertCore:
    """What is signed of an alert, the same for every recipient; its hash is the alert id.

    ``codes`` holds the closed-list fields under their own names; ``references`` are alert ids of 32 bytes;
    ``later`` holds fields of a later version, kept so that the hash stays right.
    """

    salt: bytes = field(repr=False)  # 32, erased with the content
    codes: Mapping[str, str]
    created_ms: int
    expires_ms: int
    erase_at_ms: int
    references: tuple[bytes, ...]
    digests: tuple[bytes, ...]  # 32 each, ascending
    audience_root: bytes  # 32
    signatures: tuple[OfficerSignature, ...]
    reply_by_ms: int | None = None  # left out of the bytes when nobody asked
    later: Mapping[str, wire.Value] = field(default_factory=lambda: MappingProxyType({}))

    def encode(self) -> bytes:
        """The core's bytes, as they are hashed, signed and sent."""
        asked: dict[str, wire.Value] = {} if self.reply_by_ms is None else {_REPLY_BY: self.reply_by_ms}
        return wire.encode(
            {
                **self.later,
                **asked,
                **self.codes,
                "v": _CORE_VERSION,
                "salt": self.salt,
                "created_ms": self.created_ms,
                "expires_ms": self.expires_ms,
                "erase_at_ms": self.erase_at_ms,
                "references": self.references,
                "digests": b"".join(self.digests),
                "audience": self.audience_root,
                "signatures": [_signature_to_wire(signature) for signature in self.signatures],
            }
        )

    @property
    def unsigned_id(self) -> bytes:
        """What officers sign, 32 bytes: the hash of this core as it was before anyone signed."""
        return labelled_hash(labels.ALERT, replace(self, signatures=()).encode())


def alert_id(core: bytes) -> bytes:
    """The alert's name for receipts, references and screens, 32 bytes: H(core)."""
    return labelled_hash(labels.CORE, core)


def _signature_to_wire(signature: OfficerSignature) -> wire.Value:
    fields: dict[str, wire.Value] = {
        "role": signature.role,
        "officer": signature.officer_number,
        "list": signature.list_version,
        "sig": signature.signature,
    }
    if signature.role == "emergency":
        fields["reason"] = signature.reason
    return fields


def _signature_from_wire(value: wire.Value) -> OfficerSignature:
    fields = wire.Fields(value, "signature")
    role = _SIGNING_ROLES.get(fields.text("role", bytes_max=limits.CODE_BYTES_MAX))
    if role is None:
        raise MalformedInput("core_signature_role", "a signature has a role nobody knows")
    signature = OfficerSignature(
        role=role,
        officer_number=fields.integer("officer", least=1, most=limits.U32_MAX),
        list_version=fields.integer("list", least=1, most=limits.U32_MAX),
        signature=fields.raw("sig", size=limits.ED25519_SIGNATURE_BYTES),
        reason=_checked_reason(fields) if role == "emergency" else "",
    )
    fields.done()
    return signature


def _checked_reason(fields: wire.Fields) -> str:
    reason = fields.text("reason", bytes_max=limits.REASON_BYTES_MAX)
    return checked_reason(reason)


def checked_reason(reason: str) -> str:
    """An emergency reason as it may be signed, or MalformedInput (``emergency_reason``)."""
    try:
        return check_text(reason, points_max=limits.REASON_POINTS_MAX, bytes_max=limits.REASON_BYTES_MAX)
    except PydanticCustomError as error:
        raise MalformedInput("emergency_reason", f"the reason {error.message()}") from error


def decode_core_untrusted(data: bytes) -> AlertCore:
    """Read a core; every accepted core encodes back to ``data``. MalformedInput only.

    A field this version does not know is kept in ``later``, unless its name begins with ``!``: then the
    sender says that the alert must not be read without it (``core_critical``).
    """
    fields = wire.Fields(wire.decode_untrusted(data, bytes_max=limits.BODY_BYTES_MAX), "core")
    fields.integer("v", least=_CORE_VERSION, most=_CORE_VERSION)
    references = fields.items("references", items_max=limits.REFERENCES_MAX)
    digests = fields.raw("digests", bytes_max=limits.DISCLOSURES_MAX * limits.HASH_BYTES)
    signatures = fields.items("signatures", items_max=limits.OFFICER_SIGNATURES_MAX)
    core = AlertCore(
        salt=fields.raw("salt", size=limits.CORE_SALT_BYTES),
        codes=MappingProxyType(
            {name: fields.text(name, bytes_max=limits.CODE_BYTES_MAX) for name in _CODE_FIELDS}
        ),
        created_ms=fields.integer("created_ms", most=limits.TIME_MS_MAX),
        expires_ms=fields.integer("expires_ms", most=limits.TIME_MS_MAX),
        erase_at_ms=fields.integer("erase_at_ms", most=limits.TIME_MS_MAX),
        references=tuple(_hash(reference) for reference in references),
        digests=_split_digests(digests),
        audience_root=fields.raw("audience", size=limits.HASH_BYTES),
        signatures=tuple(_signature_from_wire(signature) for signature in signatures),
        reply_by_ms=fields.integer(_REPLY_BY, most=limits.TIME_MS_MAX) if fields.has(_REPLY_BY) else None,
        later=MappingProxyType(fields.rest()),
    )
    if any(name.startswith("!") for name in core.later):
        raise MalformedInput("core_critical", "the alert needs a later version of this program to be read")
    return core


def _hash(value: wire.Value) -> bytes:
    if not isinstance(value, bytes) or len(value) != limits.HASH_BYTES:
        raise MalformedInput("field_type", "a reference is not a hash")
    return value


def _split_digests(joined: bytes) -> tuple[bytes, ...]:
    size = limits.HASH_BYTES
    digests = tuple(joined[at : at + size] for at in range(0, len(joined), size))
    # Ascending and unequal: the order then says nothing about which digest is which field.
    if len(joined) % size or any(a >= b for a, b in pairwise(digests)):
        raise MalformedInput("core_digests", "digests are not whole, ascending and unequal")
    return digests


# --- the disclosures part of a body ---


def encode_disclosures(disclosures: Sequence[Disclosure]) -> bytes:
    """The bytes beside the core: ``[[path, salt, value], ...]`` in ascending order of paths."""
    ordered = sorted(disclosures, key=lambda disclosure: disclosure.path)
    return wire.encode([[d.path, d.salt, d.value] for d in ordered])


def decode_disclosures_untrusted(data: bytes) -> tuple[Disclosure, ...]:
    """Read what ``encode_disclosures`` writes; paths ascending, each once. MalformedInput only."""
    value = wire.decode_untrusted(data, bytes_max=limits.BODY_BYTES_MAX)
    if not isinstance(value, list) or len(value) > limits.DISCLOSURES_MAX:
        raise MalformedInput("disclosures", "disclosures are not a list of allowed length")
    disclosures = tuple(_disclosure_from_wire(entry) for entry in value)
    if any(a.path >= b.path for a, b in pairwise(disclosures)):
        raise MalformedInput("disclosures", "paths are not ascending and unequal")
    return disclosures


def _disclosure_from_wire(entry: wire.Value) -> Disclosure:
    match entry:
        case [str(path), bytes(salt), str(value)] if len(salt) == limits.SALT_BYTES and _is_path(path):
            return Disclosure(path=path, salt=salt, value=value)
    raise MalformedInput("disclosures", "an entry is not path, salt and value")


def _is_path(path: str) -> bool:
    return len(path) <= limits.PATH_BYTES_MAX and _PATH.fullmatch(path) is not None


# --- alert to halves and back ---


def split_alert(
    alert: Alert, *, audience_root: bytes, random: Randomness
) -> tuple[AlertCore, tuple[Disclosure, ...]]:
    """The core, not yet signed by any officer, and the disclosures in order of their paths."""
    disclosures = tuple(
        Disclosure(path=path, salt=random(limits.SALT_BYTES), value=value)
        for path, value in sorted(_values(alert).items())
    )
    core = AlertCore(
        salt=random(limits.CORE_SALT_BYTES),
        codes=MappingProxyType({name: str(getattr(alert, name)) for name in _CODE_FIELDS}),
        created_ms=alert.created_ms,
        expires_ms=alert.expires_ms,
        erase_at_ms=alert.erase_at_ms,
        references=tuple(bytes.fromhex(reference) for reference in alert.references),
        digests=tuple(sorted(disclosure.digest for disclosure in disclosures)),
        audience_root=audience_root,
        signatures=(),
        reply_by_ms=alert.reply_by_ms,
    )
    if len({disclosure.salt for disclosure in disclosures}) != len(disclosures):
        raise BrokenInvariant("salt_repeated", "the source of randomness repeats itself")
    return core, disclosures


def _values(alert: Alert) -> dict[str, str]:
    """Everything of an alert that may have to be erased, by path."""
    found: dict[str, str | None] = {name: getattr(alert, name) for name in _TEXT_FIELDS}
    if alert.text is not None:
        found |= {"text/language": alert.text.language, "text/text": alert.text.text}
    for index, entity in enumerate(alert.entities):
        found |= {f"e{index}/{name}": value for name, value in entity}
    for index, photo in enumerate(alert.photos):
        found |= {f"p{index}/{name}": value for name, value in photo}
    return {path: value for path, value in found.items() if value is not None}


def check_disclosures(core: AlertCore, disclosures: Sequence[Disclosure]) -> int:
    """How many of the core's digests have no disclosure here; VerificationFailed for one without a digest."""
    open_digests = set(core.digests)
    for disclosure in disclosures:
        if disclosure.digest not in open_digests:
            raise VerificationFailed("disclosure_unsigned", "a value stands beside the core, not under it")
        open_digests.remove(disclosure.digest)
    return len(open_digests)


def join_alert(core: AlertCore, disclosures: Sequence[Disclosure]) -> Alert:
    """The alert of both halves, checked as if an officer had just typed it.

    VerificationFailed: ``disclosure_unsigned`` or ``disclosure_missing``. MalformedInput: ``alert_invalid``,
    naming the fields but never their content.
    """
    if check_disclosures(core, disclosures):
        raise VerificationFailed("disclosure_missing", "a value named by the core is not here")
    values = {disclosure.path: disclosure.value for disclosure in disclosures}
    numbered, text, plain = _by_group(values)
    try:
        return Alert.model_validate(
            {
                **core.codes,
                **plain,
                "created_ms": core.created_ms,
                "expires_ms": core.expires_ms,
                "erase_at_ms": core.erase_at_ms,
                "reply_by_ms": core.reply_by_ms,
                "entities": numbered["e"],
                "photos": numbered["p"],
                "text": FreeText.model_validate(text) if text else None,
                "references": [reference.hex() for reference in core.references],
            }
        )
    except ValidationError as error:
        raise MalformedInput("alert_invalid", describe_faults(error)) from None


def describe_faults(error: ValidationError) -> str:
    """Which fields are wrong and how, without what they hold."""
    return "; ".join(_describe_fault(fault["loc"], fault["type"]) for fault in error.errors())


def _describe_fault(where: tuple[int | str, ...], kind: str) -> str:
    # The name of a field that does not exist is the peer's own word.
    known = where[:-1] if kind == "extra_forbidden" else where
    return f"{'.'.join(str(part) for part in known)} {kind}".strip()


def _by_group(
    values: Mapping[str, str],
) -> tuple[dict[str, list[dict[str, str]]], dict[str, str], dict[str, str]]:
    """Values of entities (e) and of photos (p) in order, of the free text, and of the alert itself."""
    numbered: dict[str, dict[int, dict[str, str]]] = {"e": {}, "p": {}}
    text: dict[str, str] = {}
    plain: dict[str, str] = {}
    for path, value in values.items():
        group, _, name = path.rpartition("/")
        if group == "text":
            text[name] = value
        elif group:
            numbered[group[0]].setdefault(int(group[1:]), {})[name] = value
        elif name in _TEXT_FIELDS:
            plain[name] = value
        else:
            # Otherwise a disclosure could stand in for a code that officers signed.
            raise MalformedInput("alert_invalid", "a disclosure names a field that is not one")
    for found in numbered.values():
        if sorted(found) != list(range(len(found))):
            raise MalformedInput("alert_invalid", "entities or photos are not numbered from 0")
    in_order = {group: [found[index] for index in sorted(found)] for group, found in numbered.items()}
    return in_order, text, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactedAlert:
    """What is left of an alert after some values were erased, or were never passed on.

    ``values`` maps paths to what is left; ``missing`` counts the values that are gone, and cannot say which.
    """

    core: AlertCore
    values: Mapping[str, str]
    missing: int


def join_redacted(core: AlertCore, disclosures: Sequence[Disclosure]) -> RedactedAlert:
    """As ``join_alert``, but with values missing. Each value left still verifies, and is still text."""
    missing = check_disclosures(core, disclosures)
    for disclosure in disclosures:
        try:
            check_text(
                disclosure.value,
                points_max=limits.FREE_TEXT_POINTS_MAX,
                bytes_max=limits.FREE_TEXT_BYTES_MAX,
                many_lines=True,
            )
        except PydanticCustomError as error:
            raise MalformedInput("alert_invalid", f"{disclosure.path} {error.type}") from None
    values = {disclosure.path: disclosure.value for disclosure in disclosures}
    return RedactedAlert(core=core, values=MappingProxyType(values), missing=missing)
