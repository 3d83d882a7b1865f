"""Who must sign before an alert may leave an office, and the only maker of a ReleasedAlert.

Spec: docs/spec/alert.md#release. Author and releaser sign the alert's identity and its audience with officer
keys, so the node cannot send a released alert to anyone else. Two officers are mandatory for victims, named
persons, H2 and above, and TLP:RED. One rule: the recipient checks the same conditions with ``check_release``;
a sender whose own program was changed gains nothing. What this protects against is one officer, not a stolen
node, which holds every key.

An author may sign now and a releaser hours later: ``prepare``, then ``release_prepared``. When no second
officer can be reached, the author signs again as ``emergency`` with a reason: marked, counted and to be
reviewed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from keys import labels
from keys.card import OfficerEntry, Role
from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, VerificationFailed
from keys.primitives import Ed25519PrivateKey, ed25519_verify, labelled_hash
from protocol import codelists, limits, wire
from protocol.alert import Alert, Person
from protocol.disclosures import (
    AlertCore,
    Disclosure,
    OfficerSignature,
    Randomness,
    SigningRole,
    alert_id,
    checked_reason,
    decode_core_untrusted,
    decode_disclosures_untrusted,
    encode_disclosures,
    join_alert,
    split_alert,
)

_SIGNING_LABEL: Final[dict[SigningRole, bytes]] = {
    "author": labels.OFFICER_AUTHOR,
    "releaser": labels.OFFICER_RELEASER,
    "emergency": labels.OFFICER_EMERGENCY,
}
Mode: TypeAlias = Literal["separate", "shared"]
_NEED_SECOND_HANDLING: Final = frozenset({"H2", "H3"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePolicy:
    """What an office asks of alerts, its own and its peers', beyond what is mandatory.

    ``supervisor_releases``: the second signature must be a supervisor's. ``emergency_allowed``: one officer
    may release alone with a reason.
    """

    supervisor_releases: bool = True
    emergency_allowed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficerSigner:
    """An officer whose key is open: number and role as on the office's list of version ``list_version``."""

    number: int
    list_version: int
    role: Role
    key: Ed25519PrivateKey = field(repr=False)

    def sign(self, label: bytes, message: bytes) -> bytes:
        """64-byte signature of ``message`` under ``label``."""
        return self.key.sign(label, message)


def needs_second_officer(alert: Alert) -> bool:
    """Whether one officer alone may not release it: a victim, a named person, H2 or H3, or TLP:RED."""
    return (
        alert.has_victim
        or any(isinstance(entity, Person) and entity.is_named for entity in alert.entities)
        or alert.handling in _NEED_SECOND_HANDLING
        or alert.tlp == "red"
    )


def mode_for(alert: Alert, recipients: int, asked: Mode | None = None) -> Mode:
    """How an alert to so many leaves: under one signature and around one blob (*shared*), or each by itself.

    Shared costs a fraction of the line, and shows a broker which mailboxes belong together. PolicyRefused
    ``shared_sensitive`` when it is asked for what needs two officers.
    """
    is_sensitive = needs_second_officer(alert)
    if asked == "shared" and is_sensitive:
        raise PolicyRefused(
            "shared_sensitive",
            "An alert that needs two officers is sent to each office by itself: choose that, and try again.",
        )
    if asked is None:
        asked = "shared" if recipients > limits.SEPARATE_RECIPIENTS_MAX and not is_sensitive else "separate"
    return asked if recipients > 1 else "separate"


def draft_digest(alert: Alert, audience: Sequence[bytes]) -> bytes:
    """Names exactly what a screen showed before it was confirmed, 32 bytes: content and recipients.

    A page carries it through the confirmation, so that what changed in between is not signed unseen.
    """
    content = alert.model_dump_json().encode()
    return labelled_hash(labels.DRAFT, content, *sorted(audience))


# --- audience: a Merkle tree over salted recipient ids ---


def _audience_leaf(salt: bytes, office_id: bytes) -> bytes:
    return labelled_hash(labels.AUDIENCE, b"leaf", salt, office_id)


def _audience_node(left: bytes, right: bytes) -> bytes:
    return labelled_hash(labels.AUDIENCE, b"node", left, right)


def _audience_tree(audience: Sequence[bytes], random: Randomness) -> tuple[tuple[bytes, ...], list[bytes]]:
    """The leaves, and one opening per recipient: salt 16 | index u16 | path of 32-byte hashes, lowest first.

    Padded with random leaves to a power of two, and each recipient at a place drawn by lot: an opening tells
    the number of recipients only roughly, and nothing of the order in which they were chosen.
    """
    count = 1 << (len(audience) - 1).bit_length()
    places = list(range(count))
    if count > 1:
        places.sort(key=lambda _: random(limits.SALT_BYTES))
    leaves = [b""] * count
    salts = [random(limits.SALT_BYTES) for _ in audience]
    for office_id, salt, index in zip(audience, salts, places, strict=False):
        leaves[index] = _audience_leaf(salt, office_id)
    for index in places[len(audience) :]:
        leaves[index] = random(limits.HASH_BYTES)
    openings = [_opening_in(leaves, salt, index) for salt, index in zip(salts, places, strict=False)]
    return tuple(leaves), openings


def _audience_root(leaves: Sequence[bytes]) -> bytes:
    level = list(leaves)
    while len(level) > 1:
        level = [_audience_node(level[at], level[at + 1]) for at in range(0, len(level), 2)]
    return level[0]


def opening_among_untrusted(leaves: Sequence[bytes], office_id: bytes, salt: bytes, index: int) -> bytes:
    """The opening of this office's leaf among all of an audience, for ``check_release``.

    PolicyRefused ``not_in_audience`` when it is not the leaf that stands there.
    """
    if leaves[index] != _audience_leaf(salt, office_id):
        raise PolicyRefused("not_in_audience", "its officers did not release this alert to this office")
    return _opening_in(leaves, salt, index)


def _opening_in(leaves: Sequence[bytes], salt: bytes, index: int) -> bytes:
    """salt | index | path of the leaf at ``index`` of 2^k."""
    path: list[bytes] = []
    level, at = list(leaves), index
    while len(level) > 1:
        path.append(level[at ^ 1])
        level = [_audience_node(level[i], level[i + 1]) for i in range(0, len(level), 2)]
        at >>= 1
    return salt + index.to_bytes(2, "big") + b"".join(path)


def check_audience_untrusted(root: bytes, office_id: bytes, opening: bytes) -> None:
    """Raise unless ``opening`` proves that the officers named ``office_id`` as a recipient.

    MalformedInput (``audience_opening``) or PolicyRefused (``not_in_audience``).
    """
    path_at = limits.SALT_BYTES + 2
    depth, odd_bytes = divmod(len(opening) - path_at, limits.HASH_BYTES)
    if odd_bytes or not 0 <= depth <= limits.AUDIENCE_DEPTH_MAX:
        raise MalformedInput("audience_opening", "an audience opening has an impossible length")
    index = int.from_bytes(opening[limits.SALT_BYTES : path_at], "big")
    if index >> depth:
        raise MalformedInput("audience_opening", "an audience opening names a place outside its tree")
    node = _audience_leaf(opening[: limits.SALT_BYTES], office_id)
    for at in range(path_at, len(opening), limits.HASH_BYTES):
        sibling = opening[at : at + limits.HASH_BYTES]
        node = _audience_node(sibling, node) if index & 1 else _audience_node(node, sibling)
        index >>= 1
    if node != root:
        raise PolicyRefused("not_in_audience", "its officers did not release this alert to this office")


# --- signing ---


def _officer_message(core: AlertCore, reason: str) -> bytes:
    """What an officer's signature covers: the unsigned alert, its audience, and a reason if there is one."""
    return core.unsigned_id + core.audience_root + reason.encode()


def _sign(core: AlertCore, role: SigningRole, signer: OfficerSigner, reason: str = "") -> OfficerSignature:
    return OfficerSignature(
        role=role,
        officer_number=signer.number,
        list_version=signer.list_version,
        signature=signer.sign(_SIGNING_LABEL[role], _officer_message(core, reason)),
        reason=reason,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedAlert:
    """Signed by its author, waiting for a releaser. ``alert`` is what the releaser must be shown."""

    alert: Alert
    core: AlertCore
    disclosures: tuple[Disclosure, ...]
    audience: tuple[tuple[bytes, bytes], ...]  # (office id 32, opening)
    audience_leaves: tuple[bytes, ...]  # all 2^k; none in a draft of a version that kept openings alone

    @property
    def author(self) -> OfficerSignature:
        """The author's signature."""
        return self.core.signatures[0]

    def to_bytes(self) -> bytes:
        """For the node's database."""
        return wire.encode(
            {
                "v": 1,
                "core": self.core.encode(),
                "disclosures": encode_disclosures(self.disclosures),
                "audience": [list(entry) for entry in self.audience],
                "leaves": b"".join(self.audience_leaves),
            }
        )


_PREPARED_BYTES_MAX: Final = 2 * limits.BODY_BYTES_MAX + limits.RECIPIENTS_MAX * 544
_LEAVES_BYTES_MAX: Final = limits.RECIPIENTS_MAX * limits.HASH_BYTES


def prepared_from_bytes(data: bytes) -> PreparedAlert:
    """The inverse of ``PreparedAlert.to_bytes``; other bytes are BrokenInvariant (``prepared_alert``)."""
    try:
        fields = wire.Fields(wire.decode_untrusted(data, bytes_max=_PREPARED_BYTES_MAX), "prepared alert")
        fields.integer("v", least=1, most=1)
        core = decode_core_untrusted(fields.raw("core", bytes_max=limits.BODY_BYTES_MAX))
        disclosures = decode_disclosures_untrusted(fields.raw("disclosures", bytes_max=limits.BODY_BYTES_MAX))
        listed = fields.items("audience", items_max=limits.RECIPIENTS_MAX)
        joined = fields.raw("leaves", bytes_max=_LEAVES_BYTES_MAX) if fields.has("leaves") else b""
        fields.done()
        alert = join_alert(core, disclosures)
        audience: list[tuple[bytes, bytes]] = []
        for entry in listed:
            match entry:
                case [bytes(office_id), bytes(opening)]:
                    check_audience_untrusted(core.audience_root, office_id, opening)
                    audience.append((office_id, opening))
                case _:
                    raise MalformedInput("prepared_alert", "a recipient is not an id and an opening")
    except (MalformedInput, VerificationFailed, PolicyRefused) as error:
        raise BrokenInvariant(
            "prepared_alert", f"a stored prepared alert is damaged: {error.code}"
        ) from error
    if [signature.role for signature in core.signatures] != ["author"]:
        raise BrokenInvariant("prepared_alert", "a stored prepared alert is not signed by one author")
    leaves = [joined[at : at + limits.HASH_BYTES] for at in range(0, len(joined), limits.HASH_BYTES)]
    if leaves and _audience_root(leaves) != core.audience_root:
        raise BrokenInvariant("prepared_alert", "a stored prepared alert has the leaves of another audience")
    return PreparedAlert(
        alert=alert,
        core=core,
        disclosures=disclosures,
        audience=tuple(audience),
        audience_leaves=tuple(leaves),
    )


_MAKER: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedAlert:
    """An alert that may leave, to exactly this audience. Only this file makes one."""

    alert_id: bytes  # 32
    core: bytes
    disclosures: bytes
    audience: tuple[tuple[bytes, bytes], ...]  # (office id 32, opening for its piggyback)
    audience_leaves: tuple[bytes, ...]  # all 2^k, or none when they are not known
    created_ms: int
    expires_ms: int
    erase_at_ms: int
    is_emergency: bool
    maker: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.maker is not _MAKER:
            raise BrokenInvariant("not_released", "only protocol.release makes a released alert")

    def opening_for(self, office_id: bytes) -> bytes:
        """This recipient's audience opening; PolicyRefused (``not_in_audience``) for anyone else."""
        for recipient, opening in self.audience:
            if recipient == office_id:
                return opening
        raise PolicyRefused("not_in_audience", "this alert was not released to that office")

    def place_of(self, office_id: bytes) -> tuple[bytes, int]:
        """This recipient's salt (16 bytes) and index among the leaves; errors as ``opening_for``."""
        opening = self.opening_for(office_id)
        salt_end = limits.SALT_BYTES
        return opening[:salt_end], int.from_bytes(opening[salt_end : salt_end + 2], "big")


def prepare(
    alert: Alert, *, author: OfficerSigner, audience: Sequence[bytes], random: Randomness
) -> PreparedAlert:
    """Fix content and recipients and sign both as author.

    PolicyRefused: ``audience_empty``, ``audience_repeated``, ``audience_too_large``, ``crime_type_unknown``.
    """
    if not audience:
        raise PolicyRefused("audience_empty", "choose at least one office to send to")
    if len(set(audience)) != len(audience):
        raise PolicyRefused("audience_repeated", "an office is chosen twice")
    if len(audience) > limits.RECIPIENTS_MAX:
        raise PolicyRefused("audience_too_large", f"at most {limits.RECIPIENTS_MAX} offices")
    # Purpose lock: an office sends only for crimes on the list; a newer peer's code is shown, not refused.
    if alert.crime_type not in codelists.load("crime_types").codes:
        raise PolicyRefused("crime_type_unknown", "choose a crime type from the list")
    leaves, openings = _audience_tree(audience, random)
    core, disclosures = split_alert(alert, audience_root=_audience_root(leaves), random=random)
    return PreparedAlert(
        alert=alert,
        core=replace(core, signatures=(_sign(core, "author", author),)),
        disclosures=disclosures,
        audience=tuple(zip(audience, openings, strict=True)),
        audience_leaves=leaves,
    )


def release_prepared(
    prepared: PreparedAlert,
    *,
    policy: ReleasePolicy,
    now_ms: int,
    releaser: OfficerSigner | None = None,
    emergency_author: OfficerSigner | None = None,
    emergency_reason: str | None = None,
) -> ReleasedAlert:
    """Add the second signature, or the author's emergency signature, and let the alert go.

    PolicyRefused: ``alert_expired``, ``second_officer_needed``, ``same_officer``, ``supervisor_needed``,
    ``emergency_not_allowed``, ``emergency_reason``.
    """
    core = prepared.core
    if now_ms >= core.expires_ms:
        raise PolicyRefused("alert_expired", "this alert expired before it was released; write it again")
    needed = needs_second_officer(prepared.alert)
    is_emergency = False
    if releaser is not None:
        if releaser.number == prepared.author.officer_number:
            raise PolicyRefused("same_officer", "the author cannot also release; ask another officer")
        if needed and policy.supervisor_releases and releaser.role is not Role.SUPERVISOR:
            raise PolicyRefused("supervisor_needed", "a supervisor has to release this alert")
        core = replace(core, signatures=(*core.signatures, _sign(core, "releaser", releaser)))
    elif needed:
        if emergency_author is None or emergency_reason is None:
            raise PolicyRefused("second_officer_needed", "a second officer has to release this alert")
        if not policy.emergency_allowed:
            raise PolicyRefused("emergency_not_allowed", "this office does not allow release by one officer")
        if emergency_author.number != prepared.author.officer_number:
            raise PolicyRefused("emergency_author", "only the author can release in an emergency")
        try:
            reason = checked_reason(emergency_reason)
        except MalformedInput as error:
            raise PolicyRefused("emergency_reason", error.detail) from error
        signature = _sign(core, "emergency", emergency_author, reason)
        core = replace(core, signatures=(*core.signatures, signature))
        is_emergency = True
    encoded = core.encode()
    return ReleasedAlert(
        alert_id=alert_id(encoded),
        core=encoded,
        disclosures=encode_disclosures(prepared.disclosures),
        audience=prepared.audience,
        audience_leaves=prepared.audience_leaves,
        created_ms=core.created_ms,
        expires_ms=core.expires_ms,
        erase_at_ms=core.erase_at_ms,
        is_emergency=is_emergency,
        maker=_MAKER,
    )


def release(
    alert: Alert,
    *,
    author: OfficerSigner,
    releaser: OfficerSigner | None,
    emergency_reason: str | None,
    audience: Sequence[bytes],
    policy: ReleasePolicy,
    random: Randomness,
    now_ms: int,
) -> ReleasedAlert:
    """``prepare`` and ``release_prepared`` in one step, for alerts that need no wait; errors of both."""
    return release_prepared(
        prepare(alert, author=author, audience=audience, random=random),
        policy=policy,
        now_ms=now_ms,
        releaser=releaser,
        emergency_author=None if emergency_reason is None else author,
        emergency_reason=emergency_reason,
    )


# --- the recipient's side ---


def check_release(
    alert: Alert,
    core: AlertCore,
    *,
    officer: Callable[[int, int], OfficerEntry],
    office_id: bytes,
    opening: bytes | None,
    policy: ReleasePolicy,
) -> bool:
    """Raise unless this alert was released as its content demands, to ``office_id``; true for an emergency.

    ``officer(list_version, number)`` looks the key up on the sender's list and may raise Unavailable or
    VerificationFailed. PolicyRefused: ``author_missing``, ``second_officer_missing``, ``same_officer``,
    ``supervisor_needed``, ``officer_not_valid``, ``emergency_not_allowed``, ``audience_opening_missing``,
    ``not_in_audience``. VerificationFailed: ``signature_invalid``, ``officer_unknown``.
    """
    by_role = {signature.role: signature for signature in core.signatures}
    if len(by_role) != len(core.signatures):
        raise PolicyRefused("officer_signatures", "an officer role signed twice")
    author, releaser, emergency = (by_role.get(role) for role in ("author", "releaser", "emergency"))
    if author is None:
        raise PolicyRefused("author_missing", "no officer signed as author")
    entries = {role: _checked_signature(core, signature, officer) for role, signature in by_role.items()}
    needed = needs_second_officer(alert)
    if releaser is not None:
        if entries["releaser"].public == entries["author"].public or (
            releaser.officer_number == author.officer_number
        ):
            raise PolicyRefused("same_officer", "author and releaser are one officer")
        if needed and policy.supervisor_releases and entries["releaser"].role is not Role.SUPERVISOR:
            raise PolicyRefused("supervisor_needed", "the releaser is not a supervisor")
    elif needed:
        if emergency is None:
            raise PolicyRefused("second_officer_missing", "one officer alone released what needs two")
        if emergency.officer_number != author.officer_number:
            raise PolicyRefused("emergency_author", "the emergency was not signed by the author")
        if not policy.emergency_allowed:
            raise PolicyRefused("emergency_not_allowed", "this office takes no release by one officer")
    if opening is None:
        raise PolicyRefused("audience_opening_missing", "nothing shows that it was released to this office")
    check_audience_untrusted(core.audience_root, office_id, opening)
    return emergency is not None


def _checked_signature(
    core: AlertCore, signature: OfficerSignature, officer: Callable[[int, int], OfficerEntry]
) -> OfficerEntry:
    entry = officer(signature.list_version, signature.officer_number)
    # Only the end counts, and only on this list: a sender whose clock stands at 1970 must still get through.
    if entry.until_ms and core.created_ms >= entry.until_ms:
        raise PolicyRefused("officer_not_valid", "an officer signed after the time the list gives")
    message = _officer_message(core, signature.reason)
    ed25519_verify(entry.public, _SIGNING_LABEL[signature.role], message, signature.signature)
    return entry
