"""The operations of the local API: one table, and one call of the desk behind each row.

Spec: docs/operations.md#local-api. One rule: an operation decides nothing; what the pages may not do, no
program may. The document (``openapi``) and the routes (``app``) are made from this table alone.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from keys.errors import PolicyRefused
from node.api.models import (
    Answered,
    Answering,
    Erasing,
    Holding,
    Inbox,
    Opening,
    Outbox,
    Partners,
    Photos,
    Picture,
    Receipts,
    Sending,
    Which,
)
from node.desk import Desk
from node.integrations import Acting, Integrations
from node.photos import STAGED_BY_PROGRAMS_MAX
from node.views import AlertView, FateView, StagedPhoto, StatusView, Submitted
from protocol.alert import Alert
from protocol.attachment import PICTURE_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, judged and read. ``sent`` is the query or body, of the operation's model, or a photo."""

    desk: Desk
    integrations: Integrations
    acting: Acting
    scope: str
    path: Mapping[str, str]
    sent: Any
    once_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row of the table. ``query`` or ``body`` is the model of what is sent, if anything is."""

    name: str
    method: str
    path: str
    scope: str
    summary: str
    returns: type
    carry_out: Callable[[Call], Awaitable[object]]
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    status: int = 200
    is_once: bool = False  # takes Idempotency-Key
    takes_photo: bool = False  # the body is one, as it is

    @property
    def gives_picture(self) -> bool:
        """Whether the answer is one, as it is."""
        return self.returns is Picture


def request_invalid(faults: ValidationError) -> PolicyRefused:
    """Every fault at once, by its place."""
    named = "; ".join(
        f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults.errors(include_input=False)
    )
    return PolicyRefused("request_invalid", f"Nothing was done. {named}")


async def _status(call: Call) -> StatusView:
    call.acting.require(call.scope)
    return await call.desk.status()


async def _partners(call: Call) -> Partners:
    return Partners(items=await call.desk.peers(call.acting.require(call.scope)))


async def _inbox(call: Call) -> Inbox:
    which: Which = call.sent
    session = call.acting.require(call.scope)
    rows = await call.desk.inbox(
        session, only_unopened=which.only_unopened, peer=which.peer, urgency=which.urgency
    )
    return Inbox(items=rows)


async def _outbox(call: Call) -> Outbox:
    return Outbox(items=await call.desk.outbox(call.acting.require(call.scope)))


async def _receipts(call: Call) -> Receipts:
    row = await call.desk.sent_one(call.acting.require(call.scope), call.path["alert_id"])
    return Receipts(alert_id=row.alert_id, state=row.state, recipients=row.recipients)


async def _send(call: Call) -> Submitted:
    sending: Sending = call.sent
    session = call.acting.require(call.scope)
    try:
        alert = Alert.model_validate_json(json.dumps(call.desk.with_times(sending.alert)))
    except ValidationError as faults:
        raise request_invalid(faults) from faults
    return await call.integrations.once(
        call.acting,
        call.once_key,
        lambda: call.desk.submit(session, alert, sending.recipients, sending.photos, sending.mode),
    )


async def _upload(call: Call) -> StagedPhoto:
    session = call.acting.require(call.scope)

    async def stage() -> StagedPhoto:
        photo = await call.desk.stage_photo(session, call.sent, waiting_max=STAGED_BY_PROGRAMS_MAX)
        return StagedPhoto(photo=photo)

    return await call.integrations.upload_once(call.acting, call.once_key, stage)


async def _remove(call: Call) -> StagedPhoto:
    await call.desk.unstage_photo(call.acting.require(call.scope), call.path["photo"])
    return StagedPhoto(photo=call.path["photo"])


async def _photos(call: Call) -> Photos:
    return Photos(items=await call.desk.photos(call.acting.require(call.scope), call.path["alert_id"]))


async def _picture(call: Call) -> Picture:
    session = call.acting.require(call.scope)
    kind, data = await call.desk.photo(session, call.path["alert_id"], int(call.path["number"]))
    return Picture(kind=PICTURE_TYPES[kind], data=data)


async def _open(call: Call) -> AlertView:
    opening: Opening = call.sent
    session = call.acting.require(call.scope)
    return await call.desk.open_alert(session, call.path["alert_id"], purpose=opening.purpose)


async def _answer(call: Call) -> Answered:
    answering: Answering = call.sent
    session = call.acting.require(call.scope)
    await call.desk.answer(session, call.path["alert_id"], answering.step, answering.code)
    return Answered(alert_id=call.path["alert_id"], step=answering.step, code=answering.code)


async def _erase(call: Call) -> FateView:
    erasing: Erasing = call.sent
    session = call.acting.require(call.scope)
    await call.desk.erase(session, call.path["alert_id"], erasing.reason, erasing.pin)
    return await call.desk.fate(session, call.path["alert_id"])


async def _hold(call: Call) -> FateView:
    holding: Holding = call.sent
    session = call.acting.require(call.scope)
    await call.desk.hold(session, call.path["alert_id"], holding.reason, holding.days, holding.pin)
    return await call.desk.fate(session, call.path["alert_id"])


OPERATIONS: Final = (
    Operation(
        name="status",
        method="GET",
        path="/status",
        scope="status:read",
        summary="The node at a glance.",
        returns=StatusView,
        carry_out=_status,
    ),
    Operation(
        name="partners",
        method="GET",
        path="/partners",
        scope="partners:read",
        summary="Offices this one is paired with.",
        returns=Partners,
        carry_out=_partners,
    ),
    Operation(
        name="inbox",
        method="GET",
        path="/inbox",
        scope="alerts:list",
        summary="Alerts that came in, by a line each.",
        query=Which,
        returns=Inbox,
        carry_out=_inbox,
    ),
    Operation(
        name="send",
        method="POST",
        path="/alerts",
        scope="alerts:send",
        summary="Send an alert; what a second officer must release waits for that.",
        body=Sending,
        returns=Submitted,
        carry_out=_send,
        status=201,
        is_once=True,
    ),
    Operation(
        name="upload",
        method="POST",
        path="/photos",
        scope="alerts:send",
        summary="Take a photo to send with an alert, for a day; it is made anew, without metadata.",
        takes_photo=True,
        returns=StagedPhoto,
        carry_out=_upload,
        status=201,
        is_once=True,
    ),
    Operation(
        name="remove",
        method="DELETE",
        path="/photos/{photo}",
        scope="alerts:send",
        summary="Forget a photo that was uploaded and not sent.",
        returns=StagedPhoto,
        carry_out=_remove,
    ),
    Operation(
        name="open",
        method="POST",
        path="/alerts/{alert_id}/open",
        scope="alerts:read",
        summary="Open one alert; the access is in the log before the content is unsealed.",
        body=Opening,
        returns=AlertView,
        carry_out=_open,
    ),
    Operation(
        name="photos",
        method="GET",
        path="/alerts/{alert_id}/photos",
        scope="alerts:read",
        summary="The photos beside an alert this token opened, and how far each came.",
        returns=Photos,
        carry_out=_photos,
    ),
    Operation(
        name="picture",
        method="GET",
        path="/alerts/{alert_id}/photos/{number}",
        scope="alerts:read",
        summary="A photo or thumbnail beside an alert this token opened, once it is whole.",
        returns=Picture,
        carry_out=_picture,
    ),
    Operation(
        name="answer",
        method="POST",
        path="/alerts/{alert_id}/answers",
        scope="alerts:answer",
        summary="Answer an alert that came in.",
        body=Answering,
        returns=Answered,
        carry_out=_answer,
        status=201,
    ),
    Operation(
        name="erase",
        method="POST",
        path="/alerts/{alert_id}/erasure",
        scope="alerts:erase",
        summary="Erase an alert before its date, here and at those it was sent to; asks for the PIN.",
        body=Erasing,
        returns=FateView,
        carry_out=_erase,
        status=201,
    ),
    Operation(
        name="hold",
        method="POST",
        path="/alerts/{alert_id}/hold",
        scope="alerts:erase",
        summary="Keep an alert beyond its date, or no longer; asks for the PIN.",
        body=Holding,
        returns=FateView,
        carry_out=_hold,
        status=201,
    ),
    Operation(
        name="outbox",
        method="GET",
        path="/outbox",
        scope="receipts:read",
        summary="Our own alerts and their receipts, by a line each.",
        returns=Outbox,
        carry_out=_outbox,
    ),
    Operation(
        name="receipts",
        method="GET",
        path="/alerts/{alert_id}/receipts",
        scope="receipts:read",
        summary="How far one alert of ours came.",
        returns=Receipts,
        carry_out=_receipts,
    ),
)
