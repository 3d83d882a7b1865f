"""The screens: every one in every language, hostile text inert, and what happens after each button."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from keys.errors import BrokenInvariant, PolicyRefused, Unavailable, VerificationFailed
from keys.notice import notice_text
from node.views import AlertSentAgain, BrokerLossView, BrokerWitnessView, StatusView, WitnessView
from node.web import forms
from node.web.guard import cookie_name
from node.web.languages import LANGUAGES
from tests.web.fake_desk import (
    EXERCISE_ALERT,
    HOSTILE,
    HOSTILE_ALERT,
    MAE_SAI,
    NOW_MS,
    OFFICE_ID,
    PIN,
    PLAIN_ALERT,
    TENGCHONG,
    VICTIM_ALERT,
    FakeDesk,
    an_alert,
)
from tests.web.serve import Answer, Client

PAGES = (
    "/inbox", "/inbox?unopened=1&urgency=expected&peer=" + TENGCHONG, "/alert/" + PLAIN_ALERT,
    "/alert/" + HOSTILE_ALERT, "/alert/" + EXERCISE_ALERT, "/alert/" + "0a" * 32, "/new", "/new?kind=person",
    "/new?kind=text", "/pending", "/outbox", "/partners", "/audit", "/audit?before=40", "/status", "/help",
    "/carry", "/carry/to/" + TENGCHONG, "/carry/read", "/alert/" + PLAIN_ALERT + "/fate",
)  # fmt: skip
SCRIPTS = (
    "/static/salween.js",
    "/static/camera.js",
    "/static/carry.js",
    "/static/pair.js",
    "/static/vendor/jsQR.js",
)
FORM: dict[str, str | list[str]] = {
    "kind": "vehicle",
    "recipients": TENGCHONG,
    "urgency": "expected",
    "crime_type": "stolen_vehicle",
    "vehicle.plate": "7G 4821",
    "source": "B",
    "information": "2",
}
VICTIM_FORM: dict[str, str | list[str]] = {
    "kind": "person",
    "recipients": TENGCHONG,
    "urgency": "expected",
    "crime_type": "human_trafficking",
    "person.role": "victim",
    "person.birth": "about 17",
    "source": "B",
    "information": "2",
}


class Page(HTMLParser):
    """What stands in a page: tags, attributes, ids, and text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data

    def having(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def page(answer: Answer) -> Page:
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    return Page(answer.text)


def check_page(answer: Answer) -> Page:
    """What must hold of every page: labels, landmarks, no inline code, hostile text inert."""
    found = page(answer)
    ids = found.having("id")
    assert len(ids) == len(set(ids)), "an id twice"
    tags = [tag for tag, _ in found.tags]
    assert tags.count("h1") == 1
    assert tags.count("main") == 1
    labelled = set(found.having("for"))
    for tag, attributes in found.tags:
        # Inline code or style would be stopped by the policy; here it must not even be written.
        assert not [name for name in attributes if name.startswith("on") or name == "style"], attributes
        assert tag not in ("iframe", "object", "embed", "base", "style", "foreignobject")
        for name in ("href", "src", "action", "formaction"):
            assert attributes.get(name, "/").startswith(("/", "#")), attributes
        if tag == "script":
            assert attributes["src"] in SCRIPTS
        if tag == "img":
            assert attributes["src"] in ("/pair/code.svg", "/carry/pictures.png")
            assert attributes["alt"]
        if tag in ("input", "select", "textarea") and attributes.get("type") not in (
            "hidden",
            "radio",
            "checkbox",
        ):
            inside_label = attributes.get("name") in ("urgency", "peer")
            assert attributes.get("id") in labelled or inside_label, attributes
        for described in attributes.get("aria-describedby", "").split():
            assert described in ids, described
        for link in [
            attributes["href"][1:] for name in ("href",) if attributes.get(name, "").startswith("#")
        ]:
            assert link in ids, link
    return found


async def in_language(client: Client, tag: str) -> None:
    client.cookies[f"{cookie_name(OFFICE_ID)}-language"] = tag


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.tag)
async def test_every_page_opens_in_every_language(client: Client, desk: FakeDesk, language: object) -> None:
    """No page raises, each says its language, and all have labels, landmarks and no inline code."""
    tag = language.tag  # type: ignore[attr-defined]
    desk.link_state = "backing_off"
    await in_language(client, tag)
    answer = await client.get("/login")
    assert page(answer).tags[0] == ("html", {"lang": tag})
    await client.login(2)
    session = next(iter(desk.sessions.values()))
    await desk.submit(session, an_alert(handling="H2"), [TENGCHONG])
    await desk.submit(
        session,
        an_alert(handling="H2", status="exercise", text={"language": "my", "text": "စာ"}),
        [TENGCHONG],
    )
    for path in PAGES:
        answer = await client.get(path)
        assert answer.status == 200, path
        found = check_page(answer)
        assert found.tags[0][1]["lang"] == tag
        assert not desk.fails_with
    text = {**FORM, "kind": "text", "text.text": "a\nb", "text.language": "my"}
    for form in (FORM, VICTIM_FORM, text):
        check_page(await client.post("/new", form | {"action": "review"}))
        answer = await client.post("/new", {"kind": form["kind"], "action": "review"})
        assert answer.status == 422
        check_page(answer)
    check_page(await client.get("/alert/" + VICTIM_ALERT))
    check_page(await client.post("/audit/verify", {}))
    check_page(await client.post("/pending/" + "f" * 32 + "/release", {"pin": PIN}))


async def test_hostile_text_is_shown_and_does_nothing(officer: Client) -> None:
    """B30, B31, B32, B40, B45: shown as text, inside bdi, with what cannot be seen as boxed code points."""
    for path in ("/inbox", "/outbox", "/partners", "/alert/" + HOSTILE_ALERT):
        answer = await officer.get(path)
        found = check_page(answer)
        assert "<script>document.title" in found.words
        assert answer.text.count("<script") == 1
        for hidden in "\u202e\u2066\u200b\U000e0041":
            assert hidden not in answer.text
    assert "U+202E" in found.words
    assert "{{ 7*7 }}" in found.words
    assert "U+0301" in found.words, "a flood of marks is cut into visible code points"


async def test_a_code_from_a_newer_office_is_shown_as_it_is(officer: Client) -> None:
    """Unknown codes, fields and languages are never hidden."""
    found = page(await officer.get("/alert/" + HOSTILE_ALERT))
    assert "new_code_2031" in found.words
    assert "drone" in found.words
    assert "wings" in found.words
    assert "Fields this version does not know" in found.words


async def test_the_ladder_says_how_far_and_whose_clock(officer: Client) -> None:
    """Kept, broker, delivered with the peer's log index, opened; what is not reached says so."""
    words = " ".join(page(await officer.get("/alert/" + "0a" * 32)).words.split())
    assert "Held by the broker, who cannot read it" in words
    assert "Delivered: on the disk of Tengchong BLO" in words
    assert "clock of Tengchong BLO" in words
    assert "clock of the broker" in words
    assert "entry 412 of its log" in words
    assert "Opened by an officer of Mae Sai BLO not yet" in words


async def test_an_exercise_cannot_be_taken_for_real(officer: Client) -> None:
    """A strip above the alert and a word in every list."""
    found = page(await officer.get("/alert/" + EXERCISE_ALERT))
    assert "This is not about a real event." in found.words
    assert "strip strip-exercise" in found.having("class")
    assert "Exercise" in page(await officer.get("/inbox")).words


# --- victims ------------------------------------------------------------------------------------------------


async def test_a_victim_s_alert_opens_only_for_a_reason(officer: Client, desk: FakeDesk) -> None:
    """Asked first, logged with it, and refused without one of the list."""
    answer = await officer.get("/alert/" + VICTIM_ALERT)
    assert answer.status == 403
    assert "about 17" not in answer.text
    for reason in ("", "duty", "because"):
        answer = await officer.post("/alert/" + VICTIM_ALERT, {"reason": reason})
        assert answer.status == 422
        assert "about 17" not in answer.text
    assert desk.opened == []
    answer = await officer.post("/alert/" + VICTIM_ALERT, {"reason": "case"})
    assert answer.status == 200
    assert "about 17" in answer.text
    assert desk.opened == [(VICTIM_ALERT, "case")]


async def test_an_alert_prints_only_from_a_page_that_asked_why(officer: Client, desk: FakeDesk) -> None:
    """Also one without a victim: nothing erases paper. The page that shows an alert prints a line instead."""
    shown = await officer.get("/alert/" + PLAIN_ALERT)
    assert f'href="/alert/{PLAIN_ALERT}/print"' in shown.text
    assert page(shown).words.count("it is in the log") == 1
    desk.opened.clear()
    asked = await officer.get(f"/alert/{PLAIN_ALERT}/print")
    assert asked.status == 200
    assert "Nothing erases paper" in page(asked).words
    for reason in ("", "duty", "because"):
        assert (await officer.post(f"/alert/{PLAIN_ALERT}/print", {"reason": reason})).status == 422
    assert desk.opened == []
    printed = await officer.post(f"/alert/{PLAIN_ALERT}/print", {"reason": "court"})
    assert printed.status == 200
    assert desk.opened == [(PLAIN_ALERT, "court", "print")]
    assert "Your printing is in the log" in page(printed).words
    assert "only-print" not in printed.text
    assert "/answer" not in printed.text


def test_the_reasons_offered_are_reasons_the_desk_takes() -> None:
    """One closed list on both sides; plain duty is not among them."""
    from node.alerts import PURPOSE_DUTY, REASON_CODES
    from node.web.pages import REASONS

    assert set(REASONS) == set(REASON_CODES) - {PURPOSE_DUTY}


# --- writing ------------------------------------------------------------------------------------------------


async def test_an_alert_is_shown_before_it_leaves(officer: Client, desk: FakeDesk) -> None:
    """Review shows what each recipient will see, in the language of their country; nothing is sent yet."""
    answer = await officer.post("/new", {**FORM, "recipients": [TENGCHONG, MAE_SAI], "action": "review"})
    words = page(answer).words
    assert "7G 4821" in words
    assert "车牌" in words
    assert "ป้ายทะเบียน" in words
    assert desk.sent == []
    answer = await officer.post("/new", {**_hidden(answer), "action": "send"})
    assert (answer.status, answer.location) == (303, "/outbox?done=sent")
    assert desk.sent[0][1] == (TENGCHONG, MAE_SAI)
    assert "on its way" in page(await officer.get(answer.location)).words


async def test_an_officer_chooses_how_it_goes_to_several_and_reads_what_that_shows(
    officer: Client, desk: FakeDesk
) -> None:
    """One office: nothing to choose. Several: what the broker would learn. Two officers: no choice."""
    both = [TENGCHONG, MAE_SAI]
    assert "mode" not in _radios(await officer.post("/new", {**FORM, "action": "review"}))
    answer = await officer.post("/new", {**FORM, "recipients": both, "action": "review"})
    assert _radios(answer)["mode"] == {"separate": True, "shared": False}
    assert "The broker learns that these mailboxes belong together." in page(answer).words
    sent = await officer.post("/new", {**_hidden(answer), "mode": "shared", "action": "send"})
    assert sent.location == "/outbox?done=sent"
    assert desk.sent_modes == ["shared"]
    wrong = await officer.post("/new", {**FORM, "recipients": both, "mode": "both", "action": "send"})
    assert wrong.status == 422
    assert desk.sent_modes == ["shared"]
    answer = await officer.post("/new", {**VICTIM_FORM, "recipients": both, "action": "review"})
    assert "mode" not in _radios(answer)
    assert "It goes to each office by itself" in page(answer).words
    edited = await officer.post("/new", {**_hidden(answer), "mode": "shared", "action": "edit"})
    assert "mode" not in _hidden(edited)


def _radios(answer: Answer) -> dict[str, dict[str, bool]]:
    found: dict[str, dict[str, bool]] = {}
    for tag, attributes in page(answer).tags:
        if tag == "input" and attributes.get("type") == "radio":
            found.setdefault(attributes["name"], {})[attributes.get("value", "")] = "checked" in attributes
    return found


def _hidden(answer: Answer) -> dict[str, str | list[str]]:
    found: dict[str, list[str]] = {}
    for tag, attributes in page(answer).tags:
        if tag == "input" and attributes.get("type") == "hidden" and "name" in attributes:
            found.setdefault(attributes["name"], []).append(attributes.get("value", ""))
    return dict(found)


async def test_a_button_pressed_twice_sends_once(officer: Client, desk: FakeDesk) -> None:
    """The form's own id: the second press is shown the first one's result."""
    fields = _hidden(await officer.post("/new", {**FORM, "action": "review"}))
    first = await officer.post("/new", {**fields, "action": "send"})
    second = await officer.post("/new", {**fields, "action": "send"})
    assert first.location == second.location
    assert len(desk.sent) == 1


@pytest.mark.parametrize(
    "action", ["review", "send", "edit", "kind.person", "kind.x", "language.th", "language.x", "?"]
)
async def test_no_form_whatever_breaks_the_page(officer: Client, desk: FakeDesk, action: str) -> None:
    """Every field hostile, repeated, in the wrong place or missing: an answer with faults, never a 500."""
    every = {field.name for kind in forms.KINDS for field in forms.FIELDS[kind]}
    for value in (HOSTILE, "", "\x00", "-1", "9" * 30, TENGCHONG, "immediate"):
        hostile: dict[str, str | list[str]] = {name: [value, HOSTILE] for name in every}
        for changed in (
            hostile,
            {**hostile, "kind": value},
            {**FORM, **hostile},
            {"kind": value, "form_id": value},
        ):
            answer = await officer.post("/new", {**changed, "action": action})
            assert answer.status in (200, 422), (action, value)
            check_page(answer)
    assert desk.sent == []


async def test_a_failed_sending_loses_nothing_and_may_be_tried_again(officer: Client, desk: FakeDesk) -> None:
    """The form comes back filled, with the reason in words; the same form then goes through."""
    fields = _hidden(await officer.post("/new", {**FORM, "action": "review"}))
    desk.fails_with = Unavailable("disk_low", "3 MiB left")
    answer = await officer.post("/new", {**fields, "action": "send"})
    assert answer.status == 503
    assert 'value="7G 4821"' in answer.text
    assert "The disk is nearly full" in page(answer).words
    desk.fails_with = None
    answer = await officer.post("/new", {**fields, "action": "send"})
    assert answer.status == 303
    assert len(desk.sent) == 1


async def test_a_refused_form_keeps_every_word(officer: Client) -> None:
    """Faults are named in a summary linked to the fields, and all that was typed stands there again."""
    typed = {
        **FORM,
        "vehicle.plate": "",
        "vehicle.description": "two\nlines",
        "vehicle.vin": "7\u202eA",
        "urgency": "immediate",
        "recipients": [MAE_SAI],
    }
    answer = await officer.post("/new", {**typed, "action": "review"})
    assert answer.status == 422
    found = check_page(answer)
    assert "two\nlines</textarea>" in answer.text
    assert "#f-vehicle-vin" in found.having("href")
    assert found.having("aria-invalid") == ["true"]
    checked = [a["value"] for tag, a in found.tags if tag == "input" and "checked" in a]
    assert checked == [MAE_SAI, "immediate"]


async def test_changing_kind_or_language_loses_nothing(officer: Client) -> None:
    """What was typed for a vehicle waits while the form shows a person, and comes back."""
    answer = await officer.post("/new", {**FORM, "action": "kind.person"})
    assert answer.status == 200
    assert _hidden(answer)["vehicle.plate"] == ["7G 4821"]
    answer = await officer.post("/new", {**FORM, "action": "language.th"})
    assert 'value="7G 4821"' in answer.text
    assert page(answer).tags[0] == ("html", {"lang": "th"})
    assert page(await officer.get("/inbox")).tags[0] == ("html", {"lang": "th"})


async def test_a_form_outlives_the_session(officer: Client, desk: FakeDesk) -> None:
    """Locked while writing: the login page carries the draft, and the form comes back filled."""
    desk.sessions.clear()
    answer = await officer.post("/new", {**FORM, "vehicle.description": "half a sent", "action": "review"})
    assert answer.status == 401
    carried = _hidden(answer)
    assert carried["draft.vehicle.description"] == ["half a sent"]
    assert "half a sent" not in page(answer).words
    answer = await officer.post("/login", {**carried, "officer": "1", "pin": PIN})
    assert answer.status == 200
    assert "half a sent</textarea>" in answer.text
    assert desk.sent == []
    answer = await officer.post("/new", {**FORM, "action": "review"})
    assert answer.status == 200


async def test_a_wrong_pin_on_the_way_back_still_loses_nothing(officer: Client, desk: FakeDesk) -> None:
    """The draft stays in the page until the PIN is right."""
    desk.sessions.clear()
    carried = _hidden(await officer.post("/new", {**FORM, "action": "review"}))
    answer = await officer.post("/login", {**carried, "officer": "1", "pin": "000000"})
    assert answer.status == 401
    assert _hidden(answer)["draft.vehicle.plate"] == ["7G 4821"]


# --- four eyes ----------------------------------------------------------------------------------------------


async def put_up(officer: Client, desk: FakeDesk) -> str:
    fields = _hidden(await officer.post("/new", {**VICTIM_FORM, "action": "review"}))
    answer = await officer.post("/new", {**fields, "action": "send"})
    assert answer.location == "/pending?done=waiting"
    return next(iter(desk.drafts))


async def test_a_victim_s_alert_waits_for_a_second_officer(officer: Client, desk: FakeDesk) -> None:
    """The author sees it waiting and cannot release it; the second officer types the PIN again."""
    draft = await put_up(officer, desk)
    answer = await officer.post(f"/pending/{draft}/release", {"pin": PIN})
    assert answer.status == 403
    assert "The author cannot be the second officer." in page(answer).words
    await officer.login(2)
    answer = await officer.post(f"/pending/{draft}/release", {"pin": PIN})
    assert (answer.status, answer.location) == (303, "/outbox?done=released")
    assert desk.drafts == {}


async def test_releasing_needs_the_pin_and_changes_the_session(officer: Client, desk: FakeDesk) -> None:
    """Without it, or with a wrong one, nothing is released; with it a stolen cookie is worth nothing."""
    draft = await put_up(officer, desk)
    await officer.login(2)
    before = officer.cookies[cookie_name(OFFICE_ID)]
    for pin, code in (("", "pin_missing"), ("000000", "pin_wrong_here")):
        answer = await officer.post(f"/pending/{draft}/release", {"pin": pin})
        assert answer.status == 403
        assert code in answer.text
    assert draft in desk.drafts
    await officer.post(f"/pending/{draft}/release", {"pin": PIN})
    assert before not in desk.sessions
    assert officer.cookies[cookie_name(OFFICE_ID)] in desk.sessions
    assert (await officer.get("/outbox")).status == 200


async def test_an_emergency_needs_a_reason_and_keeps_it(officer: Client, desk: FakeDesk) -> None:
    """One key, only its author's, with the PIN; a refused try keeps the words."""
    draft = await put_up(officer, desk)
    answer = await officer.post(f"/pending/{draft}/emergency", {"pin": PIN, "reason": " "})
    assert "emergency_reason_needed" in answer.text
    answer = await officer.post(f"/pending/{draft}/emergency", {"pin": "0", "reason": "crossing now"})
    assert 'value="crossing now"' in answer.text
    answer = await officer.post(f"/pending/{draft}/emergency", {"pin": PIN, "reason": "crossing now"})
    assert answer.location == "/outbox?done=released"


async def test_a_draft_can_be_discarded_once(officer: Client, desk: FakeDesk) -> None:
    """The second press is told that it is gone."""
    draft = await put_up(officer, desk)
    assert (await officer.post(f"/pending/{draft}/discard", {})).location == "/pending?done=discarded"
    answer = await officer.post(f"/pending/{draft}/discard", {})
    assert answer.status == 409
    assert "no longer waits" in page(answer).words


# --- failures in words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (PolicyRefused("alert_erased"), 410, "was erased as agreed"),
        (PolicyRefused("a_new_rule", "the detail"), 403, "A rule does not allow this"),
        (Unavailable("disk_full"), 503, "The disk is full"),
        (VerificationFailed("certificate_mismatch"), 422, "A signature or key did not hold"),
        (BrokenInvariant("vault_row_missing"), 500, "a fault of its own"),
        (RuntimeError("of a name in it"), 500, "a fault of its own"),
    ],
)
async def test_every_failure_is_said_in_words(
    officer: Client, desk: FakeDesk, error: Exception, status: int, words: str
) -> None:
    """By code, else by family with the code beside it; a foreign exception's own words stay out."""
    desk.fails_with = error
    answer = await officer.get("/inbox")
    assert answer.status == status
    assert words in page(answer).words
    assert "of a name in it" not in answer.text
    answer = await officer.get("/inbox", Accept="application/json")
    assert answer.status == status
    assert set(json.loads(answer.text)["error"]) == {"code", "family", "message", "detail"}


async def test_a_desk_that_cannot_answer_at_all_is_said_too(
    officer: Client, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the banner is known then; the sentence and the code still are."""

    async def fail() -> StatusView:
        raise Unavailable("disk_error", "EIO")

    monkeypatch.setattr(desk, "status", fail)
    answer = await officer.get("/inbox")
    assert answer.status == 503
    assert "The disk failed." in page(answer).words
    answer = await officer.get("/inbox", Accept="application/json")
    assert json.loads(answer.text)["error"]["code"] == "disk_error"


async def test_a_link_that_is_down_is_said_on_every_page(officer: Client, desk: FakeDesk) -> None:
    """Since when, why, when next, and that nothing is lost; also clock, disk and what was kept aside."""
    desk.link_state = "backing_off"
    desk.log_state = "rolled_back"
    for path in ("/inbox", "/new", "/status", "/help"):
        found = page(await officer.get(path))
        codes = found.having("data-code")
        of_peers = ["equivocation", "unknown_keys"]
        assert codes == [
            "log_rolled_back",
            "disk_low",
            "broker_timeout",
            *of_peers,
            "clock_doubt",
            "quarantined",
        ]
        assert "signed two different messages under one number" in found.words
        assert "The broker does not answer in time." in found.words
        assert "Next try in 2 minutes." in found.words


async def test_a_log_that_no_partner_witnesses_is_said_and_a_refusal_by_its_partner(
    officer: Client, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late stands on the status page; UNWITNESSED, and what an office refuses to witness, on every one."""
    assert page(await officer.get("/inbox")).having("data-code") == ["equivocation", "unknown_keys"]
    desk.log_witness = "late"
    assert "witness_unwitnessed" not in page(await officer.get("/status")).having("data-code")
    assert "1,188 of 1,204 entries · late" in page(await officer.get("/status")).words
    desk.log_witness = "unwitnessed"
    real = desk.status

    async def alarmed() -> StatusView:
        view = await real()
        witness = WitnessView(
            cosigned_size=7, cosigned_ms=view.now_ms, refused=422, their_refusal="not_a_prefix"
        )
        return replace(view, peers=(replace(view.peers[0], witness=witness), *view.peers[1:]))

    monkeypatch.setattr(desk, "status", alarmed)
    found = page(await officer.get("/inbox"))
    assert {"witness_unwitnessed", "witness_their_log", "witness_our_log"} <= set(found.having("data-code"))
    assert "UNWITNESSED" in page(await officer.get("/status")).words
    assert "We refuse to witness the log of this office" in found.words


async def test_a_broker_that_witnesses_is_shown_with_what_it_knows(
    officer: Client, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing where none was asked; else how far it cosigned, that it refuses, and what this costs."""
    knows = "This broker knows the name of our log, its size and when it grows."
    assert knows not in page(await officer.get("/status")).words
    real = desk.status
    broker = BrokerWitnessView(
        address="salween://own.example:7440#abc",
        since_ms=0,
        cosigned_size=7,
        cosigned_ms=1,
        refused=None,
        trouble=None,
        state="late",
    )

    async def witnessed() -> StatusView:
        return replace(await real(), broker_witnesses=(broker, replace(broker, refused=422)))

    monkeypatch.setattr(desk, "status", witnessed)
    words = page(await officer.get("/status")).words
    assert "7 of 1,204 entries · late · salween://own.example:7440 " + knows in words
    assert "the witness refuses" in words


@pytest.mark.parametrize(
    ("form", "kept"),
    [
        ({"step": "assigned", "outcome": "rescued", "refused": "no_capacity"}, ("assigned", "")),
        ({"step": "outcome", "outcome": "seized", "refused": "no_capacity"}, ("outcome", "seized")),
        ({"step": "refused", "outcome": "seized", "refused": "no_capacity"}, ("refused", "no_capacity")),
    ],
)
async def test_the_buttons_under_a_received_alert_answer_it(
    officer: Client, desk: FakeDesk, form: dict[str, str | list[str]], kept: tuple[str, str]
) -> None:
    """Each button hands over its own choice and no other, and ends in the inbox with a word."""
    opened = page(await officer.get("/alert/" + PLAIN_ALERT))
    assert "Take it on" in opened.words
    answer = await officer.post(f"/alert/{PLAIN_ALERT}/answer", form)
    assert (answer.status, desk.answers) == (303, [(PLAIN_ALERT, *kept)])
    said = page(await officer.get("/inbox?done=answered")).words
    assert "Your answer is kept and on its way to the other office." in said


async def test_a_broker_that_lost_its_disk_is_told_with_the_alerts_sent_again(
    officer: Client, desk: FakeDesk
) -> None:
    """Which broker, when, how many, and exactly which; one that could not make them again says what to do."""
    sent = tuple(
        AlertSentAgain(alert_id=letter * 64, peer_name=HOSTILE[:48], state=state)
        for letter, state in (("a", "on_broker"), ("b", "delivered"))
    )
    desk.losses = (
        BrokerLossView(broker="203.0.113.7:7440", at_ms=NOW_MS, mailboxes=2, alerts=sent, alerts_more=1),
        BrokerLossView(broker="203.0.113.8:7440", at_ms=NOW_MS, mailboxes=0, alerts=(), alerts_more=0),
    )
    answer = await officer.get("/status")
    found = check_page(answer)
    assert {f"/alert/{letter * 64}" for letter in "ab"} <= set(found.having("href"))
    words = " ".join(found.words.split())
    assert "The broker at 203.0.113.7:7440 lost its mailboxes; they were made again at" in words
    assert "3 alerts are sent again." in words
    assert "The outbox shows the others." in words
    assert "could not make them again. The administrator gets a token" in words
    assert "0 alerts are sent again." in words
    for language in LANGUAGES:
        await officer.post("/language", {"language": language.tag, "next": "/status"})
        assert "203.0.113.7:7440" in check_page(await officer.get("/status")).words


async def test_a_waiting_alert_says_why(officer: Client, desk: FakeDesk) -> None:
    """Also when the desk gives no cause of its own."""
    desk.link_state = "connecting"
    assert "Waits for the connection to the broker." in page(await officer.get("/outbox")).words


# --- for programs -------------------------------------------------------------------------------------------


async def test_programs_get_the_same_views(client: Client, desk: FakeDesk) -> None:
    """JSON in, JSON out, under the same cookie, Origin and token."""
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    answer = await client.ask(
        "POST", "/login", data=json.dumps({"officer": "1", "pin": PIN}), headers=headers
    )
    assert answer.status == 200
    csrf = json.loads(answer.text)["csrf"]
    body = json.dumps({**FORM, "recipients": [TENGCHONG], "form_id": "ab" * 16})
    answer = await client.ask("POST", "/new", data=body, headers=headers)
    assert (answer.status, json.loads(answer.text)["error"]["code"]) == (403, "csrf_wrong")
    headers["X-Salween-CSRF"] = csrf
    for _ in range(2):
        answer = await client.ask("POST", "/new", data=body, headers=headers)
        assert json.loads(answer.text) == {"state": "released", "alert_id": f"{1:064x}", "draft_id": None}
    assert len(desk.sent) == 1
    answer = await client.ask("POST", "/new", data="{}", headers=headers)
    assert answer.status == 422
    assert json.loads(answer.text)["error"]["fields"][0] == {"name": "recipients", "code": "recipients_none"}
    for path in ("/inbox", "/outbox", "/partners", "/pending", "/audit"):
        assert isinstance(json.loads((await client.get(path, Accept="application/json")).text), list)
    alert = json.loads((await client.get("/alert/" + PLAIN_ALERT, Accept="application/json")).text)
    assert alert["fields"]["entities"][0]["plate"] == "云N·A1234"
    assert json.loads((await client.get("/status", Accept="application/json")).text)["office_id"] == OFFICE_ID
    answer = await client.ask("POST", "/audit/verify", data="{}", headers=headers)
    assert json.loads(answer.text)["verdict"] == "VERIFIED"
    answer = await client.ask("POST", "/alert/" + VICTIM_ALERT, data='{"reason": "case"}', headers=headers)
    assert json.loads(answer.text)["access_index"] == 1203
    assert desk.sessions[next(iter(desk.sessions))].token not in answer.text


async def test_a_browser_gets_html_whatever_else_it_accepts(officer: Client) -> None:
    """Only a request that asks for JSON and not for HTML is a program's."""
    answer = await officer.get("/inbox", Accept="text/html,application/json;q=0.9,*/*;q=0.8")
    assert answer.headers["Content-Type"].startswith("text/html")


async def test_a_page_that_refreshes_itself_is_not_use(officer: Client, desk: FakeDesk) -> None:
    """Otherwise an unattended screen would never lock."""
    desk.touches.clear()
    await officer.get("/inbox", **{"X-Salween-Passive": "1"})
    await officer.get("/inbox")
    assert desk.touches == [False, True]


async def test_an_auditor_is_not_shown_what_auditors_do_not_do(client: Client) -> None:
    """The menu of a reader has no writing in it; the desk refuses it anyway."""
    await client.login(3)
    links = page(await client.get("/audit")).having("href")
    assert "/audit" in links
    assert "/new" not in links
    assert "/pending" not in links


async def test_a_partner_is_suspended_and_resumed_with_the_pin(officer: Client, desk: FakeDesk) -> None:
    """Only supervisors are offered it; without the PIN, or with a wrong one, nothing changes."""
    path = f"/partners/{TENGCHONG}/suspend"
    assert path not in (await officer.get("/partners")).text
    await officer.login(2)
    assert path in (await officer.get("/partners")).text
    for pin, code in (("", "pin_missing"), ("000000", "pin_wrong_here")):
        answer = await officer.post(path, {"pin": pin})
        assert answer.status == 403
        assert code in answer.text
    assert desk.held == []
    assert (await officer.post(path, {"pin": PIN})).location == "/partners?done=suspend"
    assert desk.held == [TENGCHONG]
    await officer.get("/partners")
    answer = await officer.post(f"/partners/{TENGCHONG}/resume", {"pin": PIN})
    assert (answer.location, desk.held) == ("/partners?done=resume", [])


async def test_a_suspended_partner_says_why_and_what_to_do(officer: Client) -> None:
    """Since when, why, and who ends it."""
    assert "the office revoked its own key. Telephone it" in page(await officer.get("/partners")).words


async def test_a_pasted_revocation_is_applied_or_says_what_is_wrong(officer: Client) -> None:
    """Half a text is told from a whole one."""
    text = notice_text(b"a notice")
    assert (await officer.post("/partners/revocation", {"notice": text})).location == "/partners?done=applied"
    answer = await officer.post("/partners/revocation", {"notice": text[:30]})
    assert answer.status == 400
    assert "no whole revocation" in page(answer).words
