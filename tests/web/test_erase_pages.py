"""Erasing one alert by hand, or keeping it, as pages: who may, what is said before, what is asked for."""

from dataclasses import replace

import pytest

from node.views import AlertRow
from tests.web.fake_desk import NOW_MS, PIN, PLAIN_ALERT, FakeDesk
from tests.web.serve import Client
from tests.web.test_pages import check_page, page

FATE = f"/alert/{PLAIN_ALERT}/fate"


@pytest.fixture
async def supervisor(client: Client) -> Client:
    """A client logged in as officer 2."""
    assert (await client.login(2)).status == 303
    return client


async def test_the_page_says_what_goes_and_what_does_not(supervisor: Client) -> None:
    """Both forms, in a page as all others; a link leads there from the alert."""
    answer = await supervisor.get(FATE)
    check_page(answer)
    found = page(answer)
    for said in (
        "Text, photos and keys go from this computer for good",
        "A backup made before brings it back until its date",
        "Only where the law asks for it",
    ):
        assert said in found.words
    assert FATE in page(await supervisor.get("/alert/" + PLAIN_ALERT)).having("href")


async def test_an_officer_is_not_offered_it_and_is_refused(officer: Client, desk: FakeDesk) -> None:
    """Nor by an address that is typed."""
    assert FATE not in page(await officer.get("/alert/" + PLAIN_ALERT)).having("href")
    assert (await officer.get(FATE)).status == 403
    answer = await officer.post(FATE + "/erase", {"reason": "mistake", "pin": PIN})
    assert (answer.status, desk.erased) == (403, [])


async def test_it_is_erased_for_a_reason_and_with_the_pin(supervisor: Client, desk: FakeDesk) -> None:
    """Without either the page comes again with what is wrong, and nothing is done."""
    for sent, status, words in (
        ({"reason": "mistake", "pin": "000000"}, 401, "The PIN is wrong. Try again."),
        ({"reason": "because", "pin": PIN}, 403, "Choose one of the list."),
    ):
        answer = await supervisor.post(FATE + "/erase", sent)
        assert (answer.status, words in page(answer).words, desk.erased) == (status, True, [])
    answer = await supervisor.post(FATE + "/erase", {"reason": "asked", "pin": PIN})
    assert (answer.status, desk.erased) == (303, [(PLAIN_ALERT, "asked")])
    found = page(await supervisor.get(answer.headers["Location"]))
    assert "The content of the alert is erased" in found.words
    assert "asked for by whom it is about" in page(await supervisor.get(FATE)).words


async def test_it_is_kept_for_a_time_of_the_list_and_no_longer(supervisor: Client, desk: FakeDesk) -> None:
    """A page that is kept shows until when, and offers the end of it in the place of erasing."""
    answer = await supervisor.post(FATE + "/hold", {"reason": "court", "days": "5000", "pin": PIN})
    assert (answer.status, desk.kept) == (403, [])
    answer = await supervisor.post(FATE + "/hold", {"reason": "court", "days": "90", "pin": PIN})
    assert (answer.status, desk.kept) == (303, [(PLAIN_ALERT, "court", 90)])
    kept = page(await supervisor.get(FATE))
    assert "Kept here until" in kept.words
    assert "Erase it now" not in kept.words
    await supervisor.post(FATE + "/end", {"pin": PIN})
    assert desk.kept[-1] == (PLAIN_ALERT, "", 0)


async def test_what_went_before_its_date_is_one_line_of_the_inbox(
    officer: Client, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why and when, nothing of what it said, and no link to open."""
    real = desk.inbox

    async def emptied(*arguments: object, **wish: object) -> tuple[AlertRow, ...]:
        first, *others = await real(*arguments, **wish)  # type: ignore[arg-type]
        return replace(first, headline="", gone_ms=NOW_MS, gone_why="sender"), *others

    monkeypatch.setattr(desk, "inbox", emptied)
    answer = await officer.get("/inbox")
    check_page(answer)
    assert "Erased before its date · erased by its sender" in page(answer).words
