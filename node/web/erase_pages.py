"""Erasing one alert by hand, or keeping it beyond its date: what will happen, why, and the PIN again.

Spec: docs/spec/log.md#erasure. One rule: nothing here opens the alert; its line and its dates are all that is
shown.
"""

from typing import Final

from aiohttp import web

from keys.errors import PolicyRefused, SalweenError
from node.views import ERASE_REASONS, HOLD_REASONS, Session
from node.web.messages import Said, say, status_of
from node.web.visit import Visit

HOLD_DAYS: Final = (30, 90, 180, 366)
_DONE: Final = {"erase": "erased", "hold": "held", "end": "hold_ended"}


async def ask(visit: Visit, session: Session) -> web.StreamResponse:
    """When this alert goes, and what may be done about that."""
    return await _page(visit, session)


async def act(visit: Visit, session: Session) -> web.StreamResponse:
    """Erase it, keep it, or keep it no longer."""
    desk, alert_id = visit.site.desk, visit.request.match_info["alert_id"]
    verb, reason, pin = visit.request.match_info["verb"], visit.said("reason"), visit.said("pin")
    try:
        if verb == "erase":
            await desk.erase(session, alert_id, reason, pin)
        else:
            typed = visit.said("days") if verb == "hold" else "0"
            days = int(typed) if typed in ("0", *map(str, HOLD_DAYS)) else -1
            await desk.hold(session, alert_id, reason, days, pin)
    except SalweenError as error:
        if visit.wants_json or error.code == "session_ended":
            raise
        shown = PolicyRefused("pin_wrong_here") if error.code == "pin_wrong" else error
        return await _page(visit, session, error=say(shown, visit.words), status=status_of(error))
    if visit.wants_json:
        return visit.json({})
    return visit.see_other(f"/inbox?done={_DONE[verb]}")


async def _page(
    visit: Visit, session: Session, *, error: Said | None = None, status: int = 200
) -> web.StreamResponse:
    fate = await visit.site.desk.fate(session, visit.request.match_info["alert_id"])
    if visit.wants_json:
        return visit.json(fate)
    return visit.page(
        "erase.html",
        status=status,
        fate=fate,
        error=error,
        erase_reasons=ERASE_REASONS,
        hold_reasons=HOLD_REASONS,
        hold_days=HOLD_DAYS,
    )
