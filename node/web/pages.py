"""The screens: each handler asks the desk and hands views to a template.

Spec: docs/life-of-an-alert.md, docs/operations.md. One rule: a handler decides nothing an office depends
on; rights, release, logging and truth are the desk's, and what the desk refuses is shown in words. Handlers
run only after the guard and, where they take a session, with a live one and a checked form token.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from aiohttp import web
from markupsafe import Markup
from pydantic_core import PydanticCustomError

from keys.errors import PolicyRefused, SalweenError
from node.views import Access, Recipient, Session, Submitted
from node.web import forms, photo_pages
from node.web.describe import describe
from node.web.forms import Fault, Form
from node.web.languages import BY_TAG, N_, OF_COUNTRY, words
from node.web.messages import Said, say, status_of
from node.web.show import Show, zone_of
from node.web.visit import Visit
from protocol import codelists
from protocol.alert import check_text, clean_text
from protocol.limits import REASON_BYTES_MAX, REASON_POINTS_MAX
from protocol.receipts import OFFICER_REFUSALS
from protocol.release import Mode, mode_for, needs_second_officer

ENTRIES_PER_PAGE: Final = 50
DRAFT: Final = "draft."
_LOCAL_PATH: Final = re.compile(
    r"/(?:inbox|outbox|new|pending|partners|pair|audit|status|help|carry(?:/read|/show)?"
    r"|alert/[0-9a-f]{8,64}(?:/receipt|/fate)?)"
)
_PURPOSE_ON_DUTY: Final = "duty"
# Codes, because they stand in the log, which holds no free text.
REASONS: Final = ("case", "handover", "supervision", "court", "other")
# What a page says after an action, named in its address; a word that is not here says nothing.
_NOTICES: Final = {
    "sent": N_("The alert is kept on this computer and on its way."),
    "waiting": N_("The alert is kept and waits for a second officer."),
    "released": N_("The alert is released and on its way."),
    "discarded": N_("The alert was discarded."),
    "suspend": N_("The partner is suspended."),
    "resume": N_("The partner is resumed."),
    "applied": N_("The revocation is applied. Your other partners are told."),
    "known": N_("The revocation is genuine and changes nothing here."),
    "erased": N_("The content of the alert is erased. The log keeps that it was here."),
    "held": N_("The alert is kept beyond its date."),
    "hold_ended": N_("The alert is no longer kept beyond its date."),
    "answered": N_("Your answer is kept and on its way to the other office."),
}


def _notice(visit: Visit) -> Markup | None:
    code = visit.request.query.get("done", "")
    return visit.words.gettext(_NOTICES[code]) if code in _NOTICES else None


def _by_name(faults: Sequence[Fault]) -> dict[str, str]:
    return {fault.name: fault.code for fault in faults}


def set_cookie(response: web.StreamResponse, name: str, value: str, *, max_age_s: int | None = None) -> None:
    """One cookie with everything ``__Host-`` demands. Chromium takes Secure on http://localhost."""
    response.set_cookie(
        name, value, path="/", secure=True, httponly=True, samesite="Strict", max_age=max_age_s
    )


def drop_cookie(response: web.StreamResponse, name: str) -> None:
    """Forget a cookie; the browser only obeys with the attributes it was set with."""
    response.del_cookie(name, path="/", secure=True, httponly=True, samesite="Strict")


# --- in and out ---------------------------------------------------------------------------------------------


async def home(visit: Visit) -> web.StreamResponse:
    """The address as printed leads to the inbox, or by way of it to the login."""
    return visit.see_other("/inbox")


async def show_login(visit: Visit) -> web.StreamResponse:
    """Who are you, and your PIN."""
    if visit.session is not None and not visit.wants_json:
        return visit.see_other("/inbox")
    return await login_page(visit)


async def login_page(
    visit: Visit,
    *,
    error: Said | None = None,
    status: int = 200,
    faults: tuple[Fault, ...] = (),
    draft: Form | None = None,
) -> web.Response:
    """The login page; ``draft`` is a form that was being written when the session ended."""
    officers = await visit.site.desk.officers(None)
    wish = visit.said("next") or visit.request.query.get("next", "")
    if visit.wants_json:
        return visit.json({"officers": officers})
    return visit.page(
        "login.html",
        status=status,
        officers=[officer for officer in officers if officer.state != "retired"],
        chosen=visit.said("officer"),
        next=wish if _LOCAL_PATH.fullmatch(wish) else "/inbox",
        error=error,
        faults=_by_name(faults),
        draft=draft or {},
    )


async def login(visit: Visit) -> web.StreamResponse:
    """Open a session. The cookie a browser brought along is never taken over: the desk makes a new token."""
    draft = {
        name.removeprefix(DRAFT): values for name, values in visit.form.items() if name.startswith(DRAFT)
    }
    number, pin = visit.said("officer"), visit.said("pin")
    faults = []
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        faults.append(Fault(name="officer", code="officer_missing"))
    if not pin:
        faults.append(Fault(name="pin", code="pin_missing"))
    if faults:
        if visit.wants_json:
            raise PolicyRefused("form_invalid", ", ".join(fault.name for fault in faults))
        return await login_page(visit, status=422, faults=tuple(faults), draft=draft)
    try:
        session = await _login(visit, int(number), pin)
    except SalweenError as error:
        if visit.wants_json:
            raise
        said = say(error, visit.words)
        return await login_page(visit, error=said, status=status_of(error), draft=draft)
    if visit.session is not None:
        await visit.site.desk.logout(visit.session)
    response: web.StreamResponse
    if visit.wants_json:
        plain = {
            "csrf": session.csrf,
            "officer": session.officer,
            "alias": session.alias,
            "role": session.role,
        }
        response = visit.json(plain)
    elif draft:
        response = await _form_page(replace(visit, session=session), draft)
    else:
        wish = visit.said("next")
        response = visit.see_other(wish if _LOCAL_PATH.fullmatch(wish) else "/inbox")
    set_cookie(response, visit.site.session_cookie, session.token)
    return response


async def _login(visit: Visit, officer: int, pin: str) -> Session:
    with visit.site.logins.place("login_busy"):
        return await visit.site.desk.login(officer, pin)


async def logout(visit: Visit, session: Session) -> web.StreamResponse:
    """End the session here and at the desk."""
    await visit.site.desk.logout(session)
    response = visit.json({}) if visit.wants_json else visit.see_other("/login")
    drop_cookie(response, visit.site.session_cookie)
    return response


async def choose_language(visit: Visit) -> web.StreamResponse:
    """Keep the chosen language for a year, and go back."""
    tag, wish = visit.said("language"), visit.said("next")
    response = visit.see_other(wish if _LOCAL_PATH.fullmatch(wish) else "/")
    if tag in BY_TAG:
        set_cookie(response, visit.site.language_cookie, tag, max_age_s=365 * 24 * 3600)
    return response


# --- reading ------------------------------------------------------------------------------------------------


async def inbox(visit: Visit, session: Session) -> web.StreamResponse:
    """Received alerts, newest first, by the filters in the address."""
    query = visit.request.query
    peers = await visit.site.desk.peers(session)
    peer = next((p.office_id for p in peers if p.office_id == query.get("peer")), None)
    urgency = next((u for u in forms.options("urgency") if u == query.get("urgency")), None)
    only_unopened = query.get("unopened") == "1"
    rows = await visit.site.desk.inbox(session, only_unopened=only_unopened, peer=peer, urgency=urgency)
    return visit.answer(
        "inbox.html",
        rows,
        rows=rows,
        peers=peers,
        chosen={"peer": peer, "urgency": urgency, "unopened": only_unopened},
        is_filtered=bool(peer or urgency or only_unopened),
        notice=_notice(visit),
        urgencies=forms.options("urgency"),
    )


async def show_alert(visit: Visit, session: Session) -> web.StreamResponse:
    """One alert. Opening it is an entry in the log; one about a victim first asks for the reason."""
    return await _open(visit, session, _PURPOSE_ON_DUTY)


async def show_alert_with_reason(visit: Visit, session: Session) -> web.StreamResponse:
    """One alert, opened for the reason the officer chose."""
    reason = visit.said("reason")
    if reason not in REASONS:
        if visit.wants_json:
            raise PolicyRefused("reason_unknown", ", ".join(REASONS))
        return _ask_reason(visit, faults=(Fault(name="reason", code="reason_unknown"),))
    return await _open(visit, session, reason)


async def ask_to_print(visit: Visit, session: Session) -> web.StreamResponse:
    """Paper is kept where no program erases it: whoever prints says why."""
    del session
    return _ask_reason(visit, access="print")


async def print_alert(visit: Visit, session: Session) -> web.StreamResponse:
    """One alert on a page that prints; that it was printed is an entry before the page is made."""
    reason = visit.said("reason")
    if reason not in REASONS:
        return _ask_reason(visit, faults=(Fault(name="reason", code="reason_unknown"),), access="print")
    return await _open(visit, session, reason, access="print")


async def _open(visit: Visit, session: Session, purpose: str, access: Access = "read") -> web.StreamResponse:
    try:
        alert = await visit.site.desk.open_alert(
            session, visit.request.match_info["alert_id"], purpose=purpose, access=access
        )
    except PolicyRefused as error:
        if error.code != "reason_needed" or visit.wants_json:
            raise
        return _ask_reason(visit, access=access)
    peers = await visit.site.desk.peers(session)
    countries = {peer.name: peer.country for peer in peers}
    return visit.answer(
        "alert.html",
        alert,
        alert=alert,
        access=access,
        countries=countries,
        cause_of=_cause_of(visit),
        may_answer=access == "read" and alert.incoming and session.role in ("officer", "supervisor"),
        outcomes=tuple(codelists.load("outcomes").codes),
        refusals=OFFICER_REFUSALS,
    )


def _ask_reason(visit: Visit, faults: tuple[Fault, ...] = (), access: Access = "read") -> web.Response:
    return visit.page(
        "reason.html",
        status=422 if faults else 200 if access == "print" else 403,
        access=access,
        alert_id=visit.request.match_info["alert_id"],
        faults=_by_name(faults),
        reasons=REASONS,
    )


def _reason(typed: str, name: str) -> tuple[str, Fault | None]:
    """A reason as it will be kept, or what is wrong with it."""
    reason = clean_text(typed)
    if not reason:
        return reason, Fault(name=name, code="field_required")
    try:
        check_text(reason, points_max=REASON_POINTS_MAX, bytes_max=REASON_BYTES_MAX)
    except PydanticCustomError as error:
        return reason, Fault(name=name, code=error.type)
    return reason, None


async def outbox(visit: Visit, session: Session) -> web.StreamResponse:
    """Our own alerts and where each delivery stands, with the cause in words."""
    rows = await visit.site.desk.outbox(session)
    return visit.answer("outbox.html", rows, rows=rows, notice=_notice(visit), cause_of=_cause_of(visit))


def _cause_of(visit: Visit) -> Callable[[Recipient], str | None]:
    """Why a delivery has not arrived: what the desk says, else what follows from how far it came."""

    def cause(recipient: Recipient) -> str | None:
        if recipient.cause is not None:
            return recipient.cause
        reached = recipient.ladder[-1].step if recipient.ladder else "kept"
        if reached == "on_broker":
            return "waiting_pickup"
        return "waiting_link" if reached == "kept" and visit.status.link.state != "online" else None

    return cause


async def partners(visit: Visit, session: Session) -> web.StreamResponse:
    """Offices we are paired with, and the numbers to compare by voice."""
    if visit.wants_json:
        return visit.json(await visit.site.desk.peers(session))
    return await _partners_page(visit, session)


async def _partners_page(
    visit: Visit, session: Session, *, status: int = 200, error: Said | None = None, at: str = ""
) -> web.StreamResponse:
    return visit.page(
        "partners.html",
        status=status,
        peers=await visit.site.desk.peers(session),
        notice=_notice(visit),
        error=error,
        error_at=at,
    )


async def hold_partner(visit: Visit, session: Session) -> web.StreamResponse:
    """Suspend or resume a partner by hand, after the PIN was typed again."""
    peer, verb = visit.request.match_info["office_id"], visit.request.match_info["verb"]
    fresh: Session | None = None
    response: web.StreamResponse
    try:
        fresh = await _login_again(visit, session)
        if verb == "suspend":
            await visit.site.desk.suspend(fresh, peer)
        else:
            await visit.site.desk.resume(fresh, peer)
        response = visit.json({}) if visit.wants_json else visit.see_other(f"/partners?done={verb}")
    except SalweenError as error:
        if fresh is None and (visit.wants_json or error.code == "session_ended"):
            raise
        now = fresh or session
        said = say(error, visit.words)
        response = (
            visit.json(error_json(error, said), status=status_of(error))
            if visit.wants_json
            else await _partners_page(
                replace(visit, session=now), now, status=status_of(error), error=said, at=peer
            )
        )
    if fresh is not None:
        set_cookie(response, visit.site.session_cookie, fresh.token)
    return response


async def apply_notice(visit: Visit, session: Session) -> web.StreamResponse:
    """Apply a revocation that came by letter; it proves itself, so any officer may."""
    try:
        learnt = await visit.site.desk.apply_notice(session, visit.said("notice"))
    except SalweenError as error:
        if visit.wants_json or error.code == "session_ended":
            raise
        said = say(error, visit.words)
        return await _partners_page(visit, session, status=status_of(error), error=said, at="notice")
    if visit.wants_json:
        return visit.json(learnt)
    is_applied = learnt.about == "partner" and learnt.is_news
    return visit.see_other(f"/partners?done={'applied' if is_applied else 'known'}")


async def status(visit: Visit, _: Session) -> web.StreamResponse:
    """The node at a glance."""
    return visit.answer("status.html", visit.status)


async def show_help(visit: Visit, _: Session) -> web.StreamResponse:
    """What the words, colours and keys mean."""
    return visit.answer("help.html", {})


# --- the log ------------------------------------------------------------------------------------------------


async def audit(visit: Visit, session: Session) -> web.StreamResponse:
    """Entries of our own log, newest first."""
    return await _audit_page(visit, session)


async def verify(visit: Visit, session: Session) -> web.StreamResponse:
    """Verify the published log now and show the verdict above its entries."""
    verdict = await visit.site.desk.verify_log(session)
    if visit.wants_json:
        return visit.json(verdict)
    return await _audit_page(visit, session, verdict)


async def _audit_page(visit: Visit, session: Session, verdict: object = None) -> web.StreamResponse:
    said = visit.request.query.get("before", "")
    before = int(said) if said.isascii() and said.isdigit() and len(said) <= 15 else None
    entries = await visit.site.desk.log_entries(session, before=before, count=ENTRIES_PER_PAGE)
    older = entries[-1].index if entries and entries[-1].index > 0 else None
    return visit.answer("audit.html", entries, entries=entries, verdict=verdict, older=older, before=before)


# --- writing ------------------------------------------------------------------------------------------------


async def new_alert(visit: Visit, session: Session) -> web.StreamResponse:
    """An empty form of the kind in the address."""
    if visit.wants_json:
        return visit.json(await visit.site.desk.peers(session))
    kind = visit.request.query.get("kind", "vehicle")
    return await _form_page(visit, {"kind": (kind,)})


async def submit_alert(visit: Visit, session: Session) -> web.StreamResponse:
    """Every button of the form: change kind or language, check and show, go back, send."""
    action = visit.said("action") or ("send" if visit.wants_json else "review")
    verb, _, what = action.partition(".")
    if photo_pages.FAULT in visit.form:
        fault = Fault(name=photo_pages.PHOTOS, code=visit.said(photo_pages.FAULT))
        return await _form_page(visit, visit.form, faults=(fault,), status=422)
    if verb == "drop":
        return await _form_page(visit, await photo_pages.drop(visit, session, what))
    if verb == "kind":
        return await _form_page(visit, {**visit.form, "kind": (what,)})
    if verb == "language":
        return await _form_in(visit, what)
    if verb not in ("review", "send"):
        return await _form_page(visit, visit.form)
    peers = await visit.site.desk.peers(session)
    parsed = forms.parse_alert_untrusted(
        visit.form,
        now_ms=visit.now_ms,
        partners=[peer.office_id for peer in peers if peer.state == "active"],
    )
    if not isinstance(parsed, forms.Parsed):
        if visit.wants_json:
            return visit.json(
                {"error": {"code": "form_invalid", "family": "policy", "fields": parsed}}, status=422
            )
        return await _form_page(visit, visit.form, faults=parsed, status=422)
    if verb == "review":
        return await _review_page(visit, session, parsed)
    form_id = visit.said("form_id")
    if not re.fullmatch(r"[0-9a-f]{32}", form_id):
        form_id = _form_id(visit)
    try:
        mode = _mode_of(visit)
        done = await visit.site.sent.once(
            session.officer,
            form_id,
            lambda: visit.site.desk.submit(
                session,
                parsed.alert,
                parsed.recipients,
                photo_pages.photos_of(visit.form),
                mode,
            ),
        )
    except SalweenError as error:
        if visit.wants_json:
            raise
        said = say(error, visit.words)
        return await _form_page(visit, visit.form, error=said, status=status_of(error))
    return _submitted(visit, done)


def _mode_of(visit: Visit) -> Mode | None:
    match visit.said("mode"):
        case "separate" | "shared" as mode:
            return mode
        case "":
            return None
        case _:
            # Left to the rule, it might show a broker what nobody meant to show.
            raise PolicyRefused("form_invalid", "mode")


def _submitted(visit: Visit, done: Submitted, word: str = "sent") -> web.StreamResponse:
    if visit.wants_json:
        return visit.json(done)
    if done.state == "awaiting_release":
        return visit.see_other("/pending?done=waiting")
    return visit.see_other(f"/outbox?done={word}")


def _form_id(visit: Visit) -> str:
    return visit.site.env.random(16).hex()


async def _form_in(visit: Visit, tag: str) -> web.StreamResponse:
    """The same form, nothing lost, in another language from now on."""
    if tag not in BY_TAG:
        return await _form_page(visit, visit.form)
    spoken = words(tag)
    show = Show(spoken, zone_of(visit.status.country))
    response = await _form_page(replace(visit, words=spoken, show=show), visit.form)
    set_cookie(response, visit.site.language_cookie, tag, max_age_s=365 * 24 * 3600)
    return response


async def _form_page(
    visit: Visit,
    form: Form,
    *,
    faults: tuple[Fault, ...] = (),
    error: Said | None = None,
    status: int = 200,
) -> web.Response:
    assert visit.session is not None, "only officers write"
    kind = forms.kind_of(form)
    peers = await visit.site.desk.peers(visit.session)
    fields = forms.FIELDS[kind]
    typed = {field.name: form.get(field.name, (field.default,))[0] for field in fields}
    if not typed.get("text.language"):
        typed["text.language"] = visit.words.language.tag
    recipients = form.get("recipients", ())
    active = [peer for peer in peers if peer.state == "active"]
    if not recipients and len(active) == 1:
        recipients = (active[0].office_id,)
    # What was typed for another kind stays in the page, so that a wrong press of a tab loses nothing.
    here = {field.name for field in fields}
    elsewhere = {
        field.name: form[field.name][0]
        for other in forms.KINDS
        for field in forms.FIELDS[other]
        if field.name not in here and form.get(field.name, ("",))[0]
    }
    choices = _labels_of_choices(visit)
    return visit.page(
        "new.html",
        status=status,
        kind=kind,
        kinds=forms.KINDS,
        fields=fields,
        typed=typed,
        recipients=recipients,
        photos=photo_pages.photos_of(form),
        peers=active,
        elsewhere=elsewhere,
        faults=_by_name(faults),
        error=error,
        by_name={field.name: field for field in fields},
        labels_of_choices=choices,
        gist=_gist(visit, typed, choices),
    )


def _labels_of_choices(visit: Visit) -> dict[str, dict[str, str]]:
    """Labels of the choices that are lengths of time or languages rather than codes of a list."""
    hour_ms = 3_600_000
    return {
        "reply_hours": {str(h): visit.show.lasting(h * hour_ms) for h in forms.REPLY_HOURS},
        "expires_hours": {str(h): visit.show.lasting(h * hour_ms) for h in forms.EXPIRES_HOURS},
        "erase_days": {str(d): visit.show.lasting(d * 24 * hour_ms) for d in forms.ERASE_DAYS},
        "text.language": {tag: language.own_name for tag, language in BY_TAG.items()},
    }


def _gist(visit: Visit, typed: dict[str, str], choices: dict[str, dict[str, str]]) -> Markup:
    """What the folded part of the form says at this moment, so that nobody sends a default unseen."""
    language = visit.words.language.tag
    codes = [codelists.load(name).label(typed[name], language) for name in ("status", "handling", "tlp")]
    times = visit.words.gettext(
        "expires after %(expires)s, erased after %(erased)s",
        expires=choices["expires_hours"].get(typed["expires_hours"], "?"),
        erased=choices["erase_days"].get(typed["erase_days"], "?"),
    )
    return Markup(" · ").join([*codes, times])


async def _review_page(visit: Visit, session: Session, parsed: forms.Parsed) -> web.Response:
    """What will leave, and what each recipient will see in the language of their country."""
    peers = [p for p in await visit.site.desk.peers(session) if p.office_id in parsed.recipients]
    fields = parsed.alert.model_dump(mode="python", exclude={"photos"})
    tags = {OF_COUNTRY.get(peer.country, "en") for peer in peers}
    theirs = []
    for tag in sorted(tags - {visit.words.language.tag}):
        spoken = words(tag)
        readers = [peer for peer in peers if OF_COUNTRY.get(peer.country, "en") == tag]
        show = Show(spoken, zone_of(readers[0].country))
        theirs.append((BY_TAG[tag], readers, describe(fields, spoken, show)))
    return visit.page(
        "review.html",
        alert=fields,
        kind=forms.kind_of(visit.form),
        recipients=peers,
        theirs=theirs,
        form=_without_buttons(visit.form),
        form_id=_form_id(visit),
        needs_release=needs_second_officer(parsed.alert),
        mode=mode_for(parsed.alert, len(peers)),
        photos=photo_pages.photos_of(visit.form),
    )


def _without_buttons(form: Form) -> dict[str, tuple[str, ...]]:
    buttons = ("csrf", "action", "form_id", "mode", photo_pages.FAULT)
    return {name: values for name, values in form.items() if name not in buttons}


def draft_of(form: Form) -> dict[str, tuple[str, ...]]:
    """The part of a form that an officer typed, to be carried over a new login."""
    return _without_buttons(form)


# --- four eyes ----------------------------------------------------------------------------------------------


async def pending(visit: Visit, session: Session) -> web.StreamResponse:
    """Alerts that wait for a second officer, in full: nobody signs a headline."""
    return await _pending_page(visit, session)


async def _pending_page(
    visit: Visit,
    session: Session,
    *,
    status: int = 200,
    error: Said | None = None,
    at: str = "",
    typed: str = "",
) -> web.StreamResponse:
    waiting = await visit.site.desk.pending(session)
    if visit.wants_json:
        return visit.json(waiting)
    peers = {peer.office_id: peer for peer in await visit.site.desk.peers(session)}
    return visit.page(
        "pending.html",
        status=status,
        waiting=waiting,
        peers=peers,
        notice=_notice(visit),
        error=error,
        error_at=at,
        typed=typed,
    )


async def release(visit: Visit, session: Session) -> web.StreamResponse:
    """Release, or send without a second officer, after the PIN was typed again."""
    draft_id, verb = visit.request.match_info["draft_id"], visit.request.match_info["verb"]
    fresh: Session | None = None
    try:
        if verb == "discard":
            await visit.site.desk.discard(session, draft_id)
            return visit.json({}) if visit.wants_json else visit.see_other("/pending?done=discarded")
        reason = ""
        if verb == "emergency":
            reason, fault = _reason(visit.said("reason"), "reason")
            if fault is not None:
                raise PolicyRefused(
                    "emergency_reason_needed" if fault.code == "field_required" else fault.code
                )
        fresh = await _login_again(visit, session)
        done = (
            await visit.site.desk.release_emergency(fresh, draft_id, reason)
            if verb == "emergency"
            else await visit.site.desk.release(fresh, draft_id)
        )
        response = _submitted(visit, done, "released")
    except SalweenError as error:
        if fresh is None and (visit.wants_json or error.code == "session_ended"):
            raise
        now = fresh or session
        seen = replace(visit, session=now)
        if visit.wants_json:
            said = say(error, visit.words)
            response = visit.json(error_json(error, said), status=status_of(error))
        else:
            response = await _pending_page(
                seen,
                now,
                status=status_of(error),
                error=say(error, visit.words),
                at=draft_id,
                typed=visit.said("reason"),
            )
    if fresh is not None:
        set_cookie(response, visit.site.session_cookie, fresh.token)
    return response


async def _login_again(visit: Visit, session: Session) -> Session:
    """The same officer, proven again; the old session ends, so a stolen cookie does not outlive a release."""
    pin = visit.said("pin")
    if not pin:
        raise PolicyRefused("pin_missing")
    try:
        fresh = await _login(visit, session.officer, pin)
    except PolicyRefused as error:
        if error.code == "pin_wrong":
            raise PolicyRefused("pin_wrong_here") from None
        raise
    await visit.site.desk.logout(session)
    return fresh


def error_json(error: SalweenError, said: Said) -> dict[str, object]:
    """An error for programs: stable code and family, and the sentence people would see."""
    return {
        "error": {
            "code": error.code,
            "family": error.family,
            "message": str(said.sentence),
            "detail": said.detail,
        }
    }


# --- changes ------------------------------------------------------------------------------------------------


async def events(visit: Visit, session: Session) -> web.StreamResponse:
    """The stream that tells open pages what changed."""
    desk = visit.site.desk
    async with desk.subscribe() as changes:
        return await visit.site.streams.serve(
            visit.request,
            visit.site.env,
            session.token,
            lambda: desk.session(session.token, touch=False),
            changes,
        )
