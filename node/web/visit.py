"""One request as the pages see it, and how a page becomes an answer.

Every page answers twice: as HTML for people and, when ``Accept`` asks for JSON alone, as the same views
in plain JSON. One rule: HTML is only made by templates with autoescape on, from one place, so that no
handler can forget the language, the banner or the cross-site token.
"""

import asyncio
import json
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any, Final

import jinja2
from aiohttp import web
from markupsafe import Markup

from keys.errors import Unavailable
from node.views import PeerView, Session, StatusView
from node.web.describe import CODE_LISTS, COUNTRIES, LABELS, country_name, describe
from node.web.desk_api import DeskApi
from node.web.events import Streams
from node.web.foreign import foreign, plain
from node.web.forms import Form, options
from node.web.labels import clock_of, has_word, photo_state, rung, word
from node.web.languages import LANGUAGES, N_, Words
from node.web.messages import sentence
from node.web.sent import SentForms
from node.web.show import Show
from protocol import codelists
from runtime.env import Env

DISK_LOW_BYTES: Final = 256 * 2**20  # below it an officer is warned; the node itself refuses later
_WRITERS: Final = frozenset({"officer", "supervisor"})


class Gate:
    """At most so many at once; one more is Unavailable rather than queued."""

    def __init__(self, places: int) -> None:
        self._free = places

    @contextmanager
    def place(self, code: str) -> Iterator[None]:
        """Hold one place, or Unavailable ``code``."""
        if self._free == 0:
            raise Unavailable(code)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all requests of one application share."""

    desk: DeskApi
    env: Env
    hosts: Callable[[], frozenset[str]]
    session_cookie: str
    language_cookie: str
    first_language: str
    templates: jinja2.Environment
    streams: Streams
    sent: SentForms
    logins: Gate
    uploads: asyncio.Semaphore  # photos in memory at one time; the rest waits on its sender's side


@dataclass(frozen=True, slots=True, kw_only=True)
class Banner:
    """One line above every page. ``level``: danger (stop and act), warn (know this)."""

    level: str
    text: Markup
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One judged request: who asks, in which language, with which form."""

    request: web.Request
    site: Site
    words: Words
    show: Show
    status: StatusView
    session: Session | None
    wants_json: bool
    form: Form = field(default_factory=dict)

    @property
    def now_ms(self) -> int:
        """UTC milliseconds."""
        return self.site.env.clock.now_ms()

    def said(self, name: str) -> str:
        """First value of a form field, or ''."""
        return self.form.get(name, ("",))[0]

    def with_form(self, form: Form) -> "Visit":
        """The same visit, having read its body."""
        return replace(self, form=form)

    def without_session(self) -> "Visit":
        """The same visit by nobody in particular."""
        return replace(self, session=None)

    def page(self, template: str, *, status: int = 200, **context: object) -> web.Response:
        """The template as an HTML answer."""
        words, language = self.words, self.words.language.tag

        def label(name: str, code: str) -> str:
            if name in COUNTRIES:
                return country_name(code, words)
            return codelists.load(CODE_LISTS.get(name, name)).label(code, language)

        text = self.site.templates.get_template(template).render(
            _=words.gettext,
            ngettext=words.ngettext,
            words=words,
            show=self.show,
            label=label,
            name_of=lambda name: words.gettext(LABELS[name]),
            known_names=LABELS,
            options=options,
            witness_alarms=witness_alarms,
            word=lambda group, code: word(group, code, words),
            has_word=has_word,
            rung=lambda step, office: rung(step, office, words),
            photo_state=lambda photo: photo_state(photo, words, self.show),
            clock_of=lambda clock: clock_of(clock, words),
            sentence=lambda code, family="policy": sentence(code, words, family),
            describe=lambda fields: describe(fields, words, self.show),
            visit=self,
            session=self.session,
            office=self.site.desk.office_name,
            office_status=self.status,
            banners=self.banners(),
            menu=self.menu(),
            languages=LANGUAGES,
            now_ms=self.now_ms,
            **context,
        )
        return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")

    def json(self, data: object, *, status: int = 200) -> web.Response:
        """``data`` (views, or plain values) as a JSON answer."""
        return web.Response(
            text=json.dumps(to_plain(data), ensure_ascii=True),
            status=status,
            content_type="application/json",
            charset="utf-8",
        )

    def answer(self, template: str, data: object, **context: Any) -> web.Response:
        """``data`` as JSON or the template with it, as the request asks."""
        return self.json(data) if self.wants_json else self.page(template, **context)

    def see_other(self, path: str) -> web.Response:
        """Go on with a GET of one of our own paths."""
        return web.Response(status=303, headers={"Location": path})

    def banners(self) -> tuple[Banner, ...]:
        """What is wrong with the node, worst first."""
        return tuple(_banners(self))

    def menu(self) -> tuple[tuple[str, str, Markup, int], ...]:
        """(path, icon, label, count) of the pages this officer uses."""
        if self.session is None:
            return ()
        status = self.status
        writes = self.session.role in _WRITERS
        entries = (
            ("/inbox", "inbox", N_("Inbox"), status.inbox_unopened, True),
            ("/new", "new", N_("New alert"), 0, writes),
            ("/pending", "release", N_("To release"), status.awaiting_release, writes),
            ("/outbox", "outbox", N_("Outbox"), status.outbox_waiting, True),
            ("/carry", "carry", N_("By hand"), 0, writes),
            ("/partners", "partners", N_("Partners"), 0, True),
            ("/audit", "audit", N_("Log"), 0, True),
            ("/status", "status", N_("Status"), 0, True),
            ("/help", "help", N_("Help"), 0, True),
        )
        return tuple(
            (path, icon, self.words.gettext(label), count)
            for path, icon, label, count, shown in entries
            if shown
        )


def _banners(visit: Visit) -> list[Banner]:
    status, words, show = visit.status, visit.words, visit.show
    link = status.link
    found = []
    if status.log.state != "ok":
        code = f"log_{status.log.state}"
        found.append(Banner(level="danger", text=sentence(code, words), code=code))
    if status.log.witness == "unwitnessed" and status.log.unwitnessed_since_ms is not None:
        code = "witness_unwitnessed"
        since = words.gettext("Since %(time)s.", time=show.when(status.log.unwitnessed_since_ms))
        text = Markup(" ").join((sentence(code, words), since))
        found.append(Banner(level="danger", text=text, code=code))
    if status.disk_free_bytes < DISK_LOW_BYTES:
        found.append(
            Banner(
                level="danger",
                text=words.gettext(
                    "The disk is nearly full: %(free)s are left. Free some space soon.",
                    free=show.disk_size(status.disk_free_bytes),
                ),
                code="disk_low",
            )
        )
    if link.reason == "not_paired":
        found.append(Banner(level="warn", text=sentence(link.reason, words), code=link.reason))
    elif link.state != "online":
        parts = [
            words.gettext("Not connected to the broker since %(time)s.", time=show.when(link.since_ms)),
            sentence(link.reason or "link_starting", words, "unavailable"),
            words.gettext("What you write is kept and leaves by itself later."),
        ]
        if link.next_try_ms is not None:
            parts.insert(
                2, words.gettext("Next try %(when)s.", when=show.ago(link.next_try_ms, visit.now_ms))
            )
        found.append(Banner(level="warn", text=Markup(" ").join(parts), code=link.reason or link.state))
    for peer in status.peers:
        found += _banners_of(peer, words, show)
    if status.clock_doubt is not None:
        found.append(Banner(level="warn", text=sentence("clock_doubt", words), code="clock_doubt"))
    if status.quarantined:
        text = words.ngettext(
            "%(count)s item from a partner did not pass the checks and is kept aside.",
            "%(count)s items from partners did not pass the checks and are kept aside.",
            status.quarantined,
        )
        found.append(Banner(level="warn", text=text, code="quarantined"))
    return found


def witness_alarms(peer: PeerView) -> tuple[str, ...]:
    """Codes of what one office refuses to witness of the other's log."""
    alarms = []
    if peer.witness is not None and peer.witness.their_refusal is not None:
        alarms.append("witness_their_log")
    if peer.witness is not None and peer.witness.refused is not None:
        alarms.append("witness_our_log")
    return tuple(alarms)


def _banners_of(peer: PeerView, words: Words, show: Show) -> list[Banner]:
    """What stands still or is silent between us and one office."""
    name = Markup("<b>%s:</b> ") % foreign(peer.name)
    found = []
    if peer.frozen_code is not None:
        text = name + sentence(peer.frozen_code, words)
        found.append(Banner(level="danger", text=text, code=peer.frozen_code))
    if peer.unknown_keys_since_ms is not None:
        found.append(Banner(level="danger", text=name + sentence("unknown_keys", words), code="unknown_keys"))
    for beginning in peer.beginnings:
        if beginning.why in ("refused", "foreign", "not_newer"):
            code = f"reset_{beginning.why}"
            found.append(Banner(level="danger", text=name + sentence(code, words), code=code))
    for code in witness_alarms(peer):
        found.append(Banner(level="danger", text=name + sentence(code, words), code=code))
    if peer.no_proof_since_ms is not None and peer.frozen_code is None:
        since = words.gettext("Since %(time)s.", time=show.when(peer.no_proof_since_ms))
        text = name + Markup(" ").join((since, sentence("no_proof", words)))
        found.append(Banner(level="warn", text=text, code="no_proof"))
    return found


def to_plain(value: object) -> object:
    """Views as plain values for JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def make_templates() -> jinja2.Environment:
    """Jinja with autoescape always on and an error for every misspelt name."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_load_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: dict[str, Callable[..., Any]] = {"foreign": foreign, "plain": plain}
    environment.filters.update(filters)
    return environment


def _load_template(name: str) -> str | None:
    found = pkgutil.get_data(__package__, f"templates/{name}")
    return None if found is None else found.decode("utf-8")
