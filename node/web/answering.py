"""The buttons under a received alert: take it on, say what came of it, or refuse it.

Spec: docs/spec/receipts.md. One rule: the desk decides whether the answer may be given; this hands it over.
"""

from aiohttp import web

from node.views import Session
from node.web.visit import Visit


async def answer(visit: Visit, session: Session) -> web.StreamResponse:
    """One answer; the page afterwards is the inbox, because to open the alert again is another entry."""
    step = visit.said("step")
    code = visit.said(step) if step in ("outcome", "refused") else ""
    await visit.site.desk.answer(session, visit.request.match_info["alert_id"], step, code)
    return visit.json({}) if visit.wants_json else visit.see_other("/inbox?done=answered")
