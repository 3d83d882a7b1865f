"""Pairing in person as pages: whose it is, what each step shows, and that nothing happens twice."""

import ast
import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keys.errors import MalformedInput, VerificationFailed
from node import meetingdesk
from node.web.messages import MESSAGES
from runtime.env import Listener
from tests.web.fake_desk import HOSTILE, OUR_CODE, PIN, SAFETY_NUMBER, THEIR_CODE, FakeDesk
from tests.web.serve import Answer, Client, client_of
from tests.web.test_pages import check_page

ROOT = Path(__file__).parents[2]
SUPERVISOR = 2
BEGIN = {"broker": "salween://broker:7440#x", "token": "salween-token1-x", "pin": PIN}
TURN = re.compile(r'name="turn" value="([0-9]+)"')


@pytest.fixture
async def supervisor(client: Client) -> Client:
    assert (await client.login(SUPERVISOR)).status == 303
    return client


@pytest.fixture
async def other(listener: Listener) -> AsyncIterator[Client]:
    """The same supervisor on another screen: another session."""
    async with client_of(listener) as speaking:
        assert (await speaking.login(SUPERVISOR)).status == 303
        yield speaking


async def shown(client: Client) -> Answer:
    answer = await client.get("/pair")
    assert answer.status == 200
    check_page(answer)
    return answer


async def reply(client: Client, text: str, turn: str = "") -> Answer:
    if not turn:
        found = TURN.search((await shown(client)).text)
        assert found is not None
        turn = found[1]
    return await client.post("/pair/reply", {"turn": turn, "text": text})


async def until_ended(desk: FakeDesk, count: int = 1) -> None:
    async with asyncio.timeout(5):
        while desk.meetings.ended < count:
            await asyncio.sleep(0.01)


async def test_we_show_first(supervisor: Client, desk: FakeDesk) -> None:
    """Code, a mistyped answer, the right one, the name, paired."""
    assert "/pair/begin" in (await shown(supervisor)).text
    begun = await supervisor.post("/pair/begin", BEGIN)
    assert (begun.status, begun.location) == (303, "/pair")
    page = await shown(supervisor)
    assert OUR_CODE in page.text
    svg = await supervisor.get("/pair/code.svg")
    assert svg.headers["Content-Type"].startswith("image/svg+xml")
    assert svg.headers["Cache-Control"] == "no-store"
    assert "<svg" in svg.text
    await reply(supervisor, "salween-meet1-x")
    assert "meeting_code_mistyped" in (await shown(supervisor)).text
    await reply(supervisor, THEIR_CODE)
    page = await shown(supervisor)
    assert SAFETY_NUMBER in page.text
    assert "Tengchong BLO" in page.text
    assert OUR_CODE not in page.text
    await reply(supervisor, "yes")
    page = await shown(supervisor)
    assert "Paired" in page.text
    assert SAFETY_NUMBER in page.text
    assert desk.meetings.begun == [(BEGIN["broker"], BEGIN["token"])]
    await supervisor.post("/pair/end", {})
    assert "/pair/begin" in (await shown(supervisor)).text


async def test_they_show_first(supervisor: Client, desk: FakeDesk) -> None:
    """Reading, then our code with a page that asks again by itself, then the name; not the one: nothing."""
    await supervisor.post("/pair/answer", {"pin": PIN})
    assert "/pair/code.svg" not in (await shown(supervisor)).text
    await reply(supervisor, THEIR_CODE)
    page = await shown(supervisor)
    assert OUR_CODE in page.text
    assert 'content="3; url=/pair/wait"' in page.text
    desk.meetings.was_read.set()
    await asyncio.sleep(0.01)
    assert SAFETY_NUMBER in (await supervisor.get("/pair/wait")).text
    await reply(supervisor, "no")
    assert "pairing_not_recognised" in (await shown(supervisor)).text


async def test_only_the_reading_page_may_use_the_camera(supervisor: Client) -> None:
    """Every other page, and every other step, stays denied."""
    allowed = []
    for path in ("/partners", "/pair", "/help"):
        allowed.append("camera=(self)" in (await supervisor.get(path)).headers["Permissions-Policy"])
    await supervisor.post("/pair/begin", BEGIN)
    answer = await supervisor.get("/pair")
    assert allowed == [False, False, False]
    assert "camera=(self), microphone=()" in answer.headers["Permissions-Policy"]
    assert "trusted-types 'none'" in answer.headers["Content-Security-Policy"]
    for path in ("/partners", "/pair/code.svg", "/static/pair.js"):
        assert "camera=()" in (await supervisor.get(path)).headers["Permissions-Policy"]
    await reply(supervisor, THEIR_CODE)
    assert "camera=()" in (await supervisor.get("/pair")).headers["Permissions-Policy"]


@pytest.mark.parametrize("number", [1, 3])
async def test_only_a_supervisor_pairs(client: Client, desk: FakeDesk, number: int) -> None:
    """Neither an officer nor an auditor sees a step, begins, or is offered to."""
    await client.login(number)
    assert 'href="/pair"' not in (await client.get("/partners")).text
    for path in ("/pair", "/pair/wait", "/pair/code.svg"):
        answer = await client.get(path)
        assert answer.status == 403
        assert "pairing_supervisor" in answer.text
    for verb in ("begin", "answer", "reply"):
        assert (await client.post(f"/pair/{verb}", BEGIN)).status == 403
    assert desk.meetings.begun == []


async def test_nobody_pairs_without_a_session(client: Client, desk: FakeDesk) -> None:
    """A page leads to the login, a form is not carried out."""
    assert (await client.get("/pair")).location == "/login?next=/pair"
    assert (await client.post("/pair/begin", BEGIN)).status == 401
    assert desk.meetings.begun == []


@pytest.mark.parametrize("pin", ["", "918273"])
async def test_the_pin_is_asked_again(supervisor: Client, desk: FakeDesk, pin: str) -> None:
    """A wrong one begins nothing; what else was typed is kept, the PIN is not."""
    answer = await supervisor.post("/pair/begin", {**BEGIN, "pin": pin})
    assert answer.status == 401
    check_page(answer)
    assert BEGIN["broker"] in answer.text
    assert "918273" not in answer.text
    assert (await supervisor.post("/pair/answer", {"pin": pin})).status == 401
    assert desk.meetings.begun == []


async def test_a_foreign_page_or_an_old_token_does_nothing(supervisor: Client, desk: FakeDesk) -> None:
    """The guard stands before these forms as before every other."""
    assert (await supervisor.post("/pair/begin", {**BEGIN, "csrf": "0" * 32})).status == 403
    answer = await supervisor.post("/pair/begin", BEGIN, **{"Sec-Fetch-Site": "same-site"})
    assert answer.status == 403
    assert (await supervisor.get("/pair/begin")).status == 405
    assert desk.meetings.begun == []


async def test_a_button_pressed_twice_acts_once(supervisor: Client, desk: FakeDesk) -> None:
    """Two begins make one ceremony, two answers to one question are one."""
    await asyncio.gather(*(supervisor.post("/pair/begin", BEGIN) for _ in range(3)))
    assert len(desk.meetings.begun) == 1
    turn = TURN.search((await shown(supervisor)).text)
    assert turn is not None
    await asyncio.gather(*(reply(supervisor, THEIR_CODE, turn[1]) for _ in range(3)))
    assert desk.meetings.taken == [THEIR_CODE]
    assert (await reply(supervisor, "yes", turn[1])).status == 303
    assert SAFETY_NUMBER in (await shown(supervisor)).text, "an old answer recognises nobody"
    assert desk.meetings.taken == [THEIR_CODE]


async def test_another_session_sees_and_does_nothing(
    supervisor: Client, other: Client, desk: FakeDesk
) -> None:
    """Not even the same officer on another screen."""
    await supervisor.post("/pair/begin", BEGIN)
    turn = TURN.search((await shown(supervisor)).text)
    assert turn is not None
    assert OUR_CODE not in (await shown(other)).text
    assert (await other.get("/pair/code.svg")).status == 409
    assert (await reply(other, THEIR_CODE, turn[1])).status == 409
    assert (await other.post("/pair/begin", BEGIN)).status == 409
    await other.post("/pair/end", {})
    assert OUR_CODE in (await shown(supervisor)).text
    assert desk.meetings.taken == []
    assert desk.meetings.ended == 0


async def test_a_ceremony_ends_with_its_session(
    supervisor: Client, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once when the officer logs out, soon when the screen locks by itself."""
    monkeypatch.setattr(meetingdesk, "WATCH_S", 0.02)
    await supervisor.post("/pair/begin", BEGIN)
    await supervisor.post("/logout", {})
    assert desk.meetings.ended == 1
    await supervisor.login(SUPERVISOR)
    await supervisor.post("/pair/answer", {"pin": PIN})
    desk.lock_all()
    await until_ended(desk, 2)


async def test_a_question_nobody_answers_ends(
    supervisor: Client, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the page says so and lets begin again."""
    monkeypatch.setattr(meetingdesk, "INVITATION_LIFE_MS", 20)
    await supervisor.post("/pair/begin", BEGIN)
    await until_ended(desk)
    assert "pairing_expired" in (await shown(supervisor)).text
    await supervisor.post("/pair/end", {})
    assert "/pair/begin" in (await shown(supervisor)).text


async def test_waiting_does_not_keep_a_screen_unlocked(supervisor: Client, desk: FakeDesk) -> None:
    """The page that asks by itself, and its picture, do not count as use."""
    await supervisor.post("/pair/begin", BEGIN)
    desk.touches.clear()
    await supervisor.get("/pair/wait")
    await supervisor.get("/pair/code.svg")
    assert desk.touches == [False, False]
    await supervisor.get("/pair")
    assert desk.touches[-1] is True


async def test_a_failure_is_said_in_words(supervisor: Client, desk: FakeDesk) -> None:
    """With its code, also one of our own without its message."""
    for error, code in (
        (VerificationFailed("meeting_key_foreign"), "meeting_key_foreign"),
        (RuntimeError("secret words"), "internal_error"),
    ):
        desk.meetings.fails_with = error
        await supervisor.post("/pair/begin", BEGIN)
        await reply(supervisor, THEIR_CODE)
        page = await shown(supervisor)
        assert code in page.text
        assert "secret words" not in page.text
        await supervisor.post("/pair/end", {})


async def test_a_pairing_that_failed_keeps_what_was_typed(supervisor: Client, desk: FakeDesk) -> None:
    """A mistyped address is corrected, not typed again; the PIN is."""
    desk.meetings.fails_at_once = MalformedInput("broker_address_malformed")
    await supervisor.post("/pair/begin", BEGIN)
    await asyncio.sleep(0.01)
    page = await shown(supervisor)
    assert "This is not the address of a broker." in page.text
    for name in ("broker", "token"):
        assert f'value="{BEGIN[name]}"' in page.text
    assert PIN not in page.text
    desk.meetings.fails_at_once = None
    await supervisor.post("/pair/begin", BEGIN)
    assert OUR_CODE in (await shown(supervisor)).text


async def test_a_hostile_name_is_inert(supervisor: Client, desk: FakeDesk) -> None:
    """What the other office is called is its own choice."""
    desk.meetings.peer_name = HOSTILE
    await supervisor.post("/pair/begin", BEGIN)
    await reply(supervisor, THEIR_CODE)
    assert "<script>document" not in (await shown(supervisor)).text


@pytest.mark.parametrize(
    "path", ["keys/inperson.py", "node/inperson.py", "node/partnering.py", "node/meetingdesk.py"]
)
def test_every_error_of_a_ceremony_has_a_sentence(path: str) -> None:
    """Codes of the errors these files raise, but for faults of our own."""
    families = {"MalformedInput", "VerificationFailed", "PolicyRefused"}
    codes = {
        call.args[0].value
        for call in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in families
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }
    assert codes
    assert codes <= set(MESSAGES), codes - set(MESSAGES)
