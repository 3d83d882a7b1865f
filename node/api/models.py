"""What a program sends, and what it is answered where that is no view of the desk already.

Spec: docs/operations.md#local-api. One rule: a field nobody knows is refused, so that a program learns of its
typing error and not of a default.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from node.alerts import REASON_CODES
from node.views import ERASE_REASONS, HOLD_REASONS, AlertRow, OutboxRow, PeerView, PhotoView, Recipient
from protocol import limits
from protocol.alert import Alert
from protocol.attachment import PictureType
from protocol.release import Mode

_HEX: Final = r"^[0-9a-f]{64}$"
AlertId = Annotated[str, Field(pattern=_HEX, description="64 hex digits")]
OfficeId = Annotated[str, Field(pattern=_HEX, description="64 hex digits; see /partners")]
PhotoName = Annotated[
    str, Field(pattern=r"^[0-9a-f]{32}$", description="32 hex digits, as its upload answered")
]
PhotoNumber = Annotated[
    int,
    Field(
        ge=0,
        lt=2 * limits.PHOTOS_PER_ALERT_MAX,
        description="even: a photo, as its list numbers it; one more: its thumbnail, a JPEG",
    ),
]
PATH_PARTS: Final[dict[str, Any]] = {"alert_id": AlertId, "photo": PhotoName, "number": PhotoNumber}
_TIMES: Final = ("created_ms", "expires_ms", "erase_at_ms")


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _alert_schema(schema: dict[str, Any]) -> None:
    """An alert as ``Alert`` checks it; the times the office fills in may be missing."""
    alert = Alert.model_json_schema(ref_template="#/components/schemas/{model}")
    alert.pop("$defs", None)
    del alert["properties"]["photos"]  # they are sent beside it
    alert["required"] = [name for name in alert["required"] if name not in _TIMES]
    schema.clear()
    schema.update(alert)


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("a photo stands there twice")
    return names


class Sending(_Sent):
    """An alert and whom it is for. Without times it is made now, expires in a week, is erased in a month."""

    alert: Annotated[dict[str, Any], Field(json_schema_extra=_alert_schema)]
    recipients: Annotated[tuple[OfficeId, ...], Field(min_length=1, max_length=limits.RECIPIENTS_MAX)]
    mode: Annotated[
        Mode | None,
        Field(
            description="To several offices: one by one, or all at once, which is much shorter on the line"
            " and shows the broker that these mailboxes belong together. The offices never see one another."
            " Without it: one by one to eight or fewer, and whenever two officers must sign."
        ),
    ] = None
    photos: Annotated[
        tuple[PhotoName, ...],
        AfterValidator(_each_once),
        Field(
            max_length=limits.PHOTOS_PER_ALERT_MAX,
            description="Photos uploaded before, in this order; each is sent with one alert.",
            json_schema_extra={"uniqueItems": True},
        ),
    ] = ()


class Opening(_Sent):
    """Why an alert is opened: it stands in the log, before the content is unsealed."""

    purpose: Annotated[str, Field(json_schema_extra={"enum": sorted(REASON_CODES)})]


class Answering(_Sent):
    """An answer to an alert that came in: ``code`` is of the list that belongs to the step."""

    step: Annotated[str, Field(pattern=r"^(assigned|outcome|refused)$")]
    code: Annotated[str, Field(max_length=limits.CODE_BYTES_MAX, pattern=r"^[a-z0-9_-]*$")] = ""


class Erasing(_Sent):
    """Why an alert is erased before its date, and the PIN of the supervisor whose token this is."""

    reason: Annotated[str, Field(json_schema_extra={"enum": sorted(ERASE_REASONS)})]
    pin: Annotated[str, Field(max_length=64)]


class Holding(_Sent):
    """Why and for how many days from now an alert is kept beyond its date; 0 days end that."""

    reason: Annotated[str, Field(json_schema_extra={"enum": sorted(HOLD_REASONS)})] = ""
    days: Annotated[int, Field(ge=0, le=366)]
    pin: Annotated[str, Field(max_length=64)]


class Which(_Sent):
    """Which alerts of the inbox."""

    only_unopened: bool = False
    peer: OfficeId | None = None
    urgency: Annotated[str, Field(pattern=r"^(immediate|expected|future)$")] | None = None


class Partners(_Sent):
    """Offices this one is paired with."""

    items: tuple[PeerView, ...]


class Inbox(_Sent):
    """Alerts that came in, newest first; nothing of a victim stands here."""

    items: tuple[AlertRow, ...]


class Outbox(_Sent):
    """Our own alerts, newest first, and how far each came."""

    items: tuple[OutboxRow, ...]


class Receipts(_Sent):
    """How far one alert of ours came with each office."""

    alert_id: AlertId
    state: str
    recipients: tuple[Recipient, ...]


class Photos(_Sent):
    """The photos beside one alert, and how far each is here."""

    items: tuple[PhotoView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A photo or thumbnail, answered as its bytes."""

    kind: PictureType
    data: bytes


class Answered(_Sent):
    """The answer was kept; it leaves with the next message."""

    alert_id: AlertId
    step: str
    code: str


class Fault(_Sent):
    """Why nothing was done: a code of docs/spec/errors.md, and words for the person who reads the log."""

    code: str
    detail: str
