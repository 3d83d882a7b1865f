"""A receipt to hand over: which events of an alert can be proved, and one page of paper for one of them.

Spec: docs/auditing.md#receipts. One rule: choosing is free; the desk makes a receipt, and records that it
did, for a button that was pressed.
"""

from aiohttp import web
from markupsafe import Markup

from node.qr import qr_markup
from node.views import Session
from node.web.visit import Visit

AS_FILE = "file"
COMMAND = "salween-audit receipt FILE --policy FILE"


async def choose(visit: Visit, session: Session) -> web.StreamResponse:
    """What happened to this alert that our log can prove."""
    alert_id = visit.request.match_info["alert_id"]
    events = await visit.site.desk.events_of(session, alert_id)
    return visit.answer("receipts.html", events, alert_id=alert_id, events=events)


async def make(visit: Visit, session: Session) -> web.StreamResponse:
    """The receipt of one event: a page that prints, or the file itself."""
    receipt = await visit.site.desk.receipt(
        session, visit.request.match_info["alert_id"], visit.said("event"), visit.said("office") or None
    )
    if visit.said("as") == AS_FILE:
        kept = {"Content-Disposition": f'attachment; filename="{receipt.name}"'}
        return web.Response(body=receipt.file.encode(), content_type="application/octet-stream", headers=kept)
    # Our own picture: digits of a path and nothing of anybody's.
    picture = Markup(qr_markup(receipt.file.encode()))  # noqa: S704
    return visit.answer(
        "receipt.html",
        receipt,
        receipt=receipt,
        picture=picture,
        command=COMMAND,
        office_id=visit.said("office"),
    )
