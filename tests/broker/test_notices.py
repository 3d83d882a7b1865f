"""Revocations at a broker: the strongest true one of each office is shown, and no flood pushes it out."""

import pytest

from keys.card import issue_revocation, parse_revocation_untrusted
from keys.notice import Notice, encode_notice, parse_notice_untrusted
from keys.primitives import CompositePrivateKey
from keys.secret import SecretBytes
from protocol import limits
from protocol.requests import Notices, NoticesAnswer, OpRefused, Publish, Published, Refusal
from tests.broker.ends import Client, House


def a_root(number: int) -> CompositePrivateKey:
    return CompositePrivateKey.from_seed(SecretBytes(number.to_bytes(64, "big")))


ROOT = a_root(1)


def a_notice(
    below: int = 2, root: CompositePrivateKey = ROOT, shown: CompositePrivateKey | None = None
) -> bytes:
    revocation = issue_revocation(root, revoked_below=below, since_ms=1, reason="node_stolen")
    return encode_notice(
        Notice(root_public=(shown or root).public_bytes, revocation=parse_revocation_untrusted(revocation))
    )


def a_notice_like(found: list[bytes], below: int) -> None:
    """There is one notice, and it revokes below so much."""
    assert [parse_notice_untrusted(one).revocation.revoked_below for one in found] == [below]


def a_notice_of(found: list[bytes], root: CompositePrivateKey) -> int:
    """Below what the one notice of this office revokes."""
    read = [parse_notice_untrusted(one) for one in found]
    (below,) = [one.revocation.revoked_below for one in read if one.root_public == root.public_bytes]
    return below


async def shown(office: Client) -> list[bytes]:
    """Everything shown, page by page."""
    found: list[bytes] = []
    cursor = 0
    while True:
        (page,) = await office.ask(Notices(cursor=cursor))
        assert isinstance(page, NoticesAnswer)
        found += page.notices
        cursor = page.cursor
        if not page.more:
            return found


async def test_a_paper_alone_may_publish_and_everybody_is_shown(house: House, office: Client) -> None:
    """No mailbox, no token; it survives a restart, and a second copy changes nothing."""
    assert await office.ask(Publish(notice=a_notice())) == (Published(),)
    assert await office.ask(Publish(notice=a_notice())) == (Published(),)
    await house.restart()
    a_notice_like(await shown(office), 2)


async def test_the_strongest_of_an_office_is_kept_and_comes_anew(office: Client) -> None:
    """A stronger one replaces, under a new cursor: whoever asks on hears of it. A weaker one does not."""
    await office.ask(Publish(notice=a_notice(2)))
    (first,) = await office.ask(Notices())
    assert isinstance(first, NoticesAnswer)
    await office.ask(Publish(notice=a_notice(5)), Publish(notice=a_notice(3)))
    (later,) = await office.ask(Notices(cursor=first.cursor))
    assert isinstance(later, NoticesAnswer)
    a_notice_like(list(later.notices), 5)
    a_notice_like(await shown(office), 5)


@pytest.mark.parametrize("fault", ["other_root", "altered", "cut", "junk"])
async def test_what_its_root_did_not_sign_is_not_shown(office: Client, fault: str) -> None:
    """A wrong root, another number, half of it, noise."""
    notice = a_notice()
    forged = {
        "other_root": a_notice(9, root=a_root(2), shown=ROOT),
        "altered": notice[:2025] + bytes([notice[2025] ^ 1]) + notice[2026:],
        "cut": notice[:-1],
        "junk": b"junk",
    }[fault]
    await office.ask(Publish(notice=notice))
    assert await office.ask(Publish(notice=forged)) == (OpRefused(code=Refusal.MALFORMED),)
    a_notice_like(await shown(office), 2)


async def test_a_flood_of_strangers_pushes_out_nothing_that_a_mailbox_vouches_for(
    house: House, office: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rooms of four stand for a thousand: strangers push out strangers, the oldest first."""
    monkeypatch.setattr(limits, "NOTICES_UNVOUCHED_MAX", 4)
    mailbox = await office.make_mailbox(await house.token())
    await office.ask(Publish(notice=a_notice(), get_secret=mailbox.get_secret))
    for number in range(10, 20):
        assert await office.ask(Publish(notice=a_notice(root=a_root(number)))) == (Published(),)
    roots = [parse_notice_untrusted(found).root_public for found in await shown(office)]
    assert roots == [ROOT.public_bytes, *(a_root(number).public_bytes for number in range(16, 20))]


async def test_strangers_publish_so_many_an_hour(
    house: House, office: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what they push out was shown for most of a day; a mailbox is not held up by them."""
    monkeypatch.setattr(limits, "NOTICES_UNVOUCHED_PER_HOUR_MAX", 3)
    mailbox = await office.make_mailbox(await house.token())
    answers = [(await office.ask(Publish(notice=a_notice(root=a_root(n)))))[0] for n in range(10, 15)]
    assert answers == [Published()] * 3 + [OpRefused(code=Refusal.BUSY)] * 2
    assert await office.ask(Publish(notice=a_notice(), get_secret=mailbox.get_secret)) == (Published(),)
    house.clock.shift_ms += limits.HOUR_MS + 1
    assert await office.ask(Publish(notice=a_notice(root=a_root(30)))) == (Published(),)


async def test_one_mailbox_vouches_for_so_many_and_is_a_stranger_beyond(
    house: House, office: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile office that is registered here cannot push out what others vouch for, nor fill the room."""
    monkeypatch.setattr(limits, "NOTICES_PER_MAILBOX_MAX", 3)
    monkeypatch.setattr(limits, "NOTICES_UNVOUCHED_PER_HOUR_MAX", 2)
    true, hostile = (
        await office.make_mailbox(await house.token()),
        await office.make_mailbox(await house.token()),
    )
    await office.ask(Publish(notice=a_notice(), get_secret=true.get_secret))
    answers = [
        (await office.ask(Publish(notice=a_notice(root=a_root(number)), get_secret=hostile.get_secret)))[0]
        for number in range(10, 16)
    ]
    assert answers == [Published()] * 5 + [OpRefused(code=Refusal.BUSY)]
    stronger = Publish(notice=a_notice(7, root=a_root(10)), get_secret=hostile.get_secret)
    assert await office.ask(stronger) == (Published(),)
    found = await shown(office)
    assert len(found) == 1 + 3 + 2
    assert parse_notice_untrusted(found[0]).root_public == ROOT.public_bytes


async def test_who_vouches_for_a_paper_cannot_throw_it_out_with_others(house: House, office: Client) -> None:
    """A thief at a mailbox takes the true revocation under his wing, and then says much more."""
    await office.ask(Publish(notice=a_notice()))
    mailbox = await office.make_mailbox(await house.token())
    await office.ask(Publish(notice=a_notice(), get_secret=mailbox.get_secret))
    for number in range(10, 14 + limits.NOTICES_PER_MAILBOX_MAX):
        await office.ask(Publish(notice=a_notice(root=a_root(number)), get_secret=mailbox.get_secret))
    assert a_notice_of(await shown(office), ROOT) == 2


async def test_a_voucher_never_weakens_what_is_shown(house: House, office: Client) -> None:
    """An older revocation, truly signed, on the word of a mailbox: the stronger one stays, vouched for."""
    mailbox = await office.make_mailbox(await house.token())
    await office.ask(Publish(notice=a_notice(5)))
    await office.ask(Publish(notice=a_notice(3), get_secret=mailbox.get_secret))
    a_notice_like(await shown(office), 5)


async def test_a_voucher_comes_later_and_a_rendezvous_is_none(
    house: House, office: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What paper published, a partner vouches for once it has applied it; a stranger's meeting cannot."""
    monkeypatch.setattr(limits, "NOTICES_UNVOUCHED_MAX", 1)
    token = await house.token()
    pair, passing = await office.make_mailbox(token), await office.make_mailbox(token, "rendezvous")
    await office.ask(Publish(notice=a_notice()))
    await office.ask(Publish(notice=a_notice(), get_secret=pair.get_secret))
    for number in (10, 11):
        await office.ask(Publish(notice=a_notice(root=a_root(number)), get_secret=passing.get_secret))
    assert {parse_notice_untrusted(found).root_public for found in await shown(office)} == {
        ROOT.public_bytes,
        a_root(11).public_bytes,
    }


async def test_one_request_publishes_a_few(office: Client) -> None:
    """Each costs a signature check in the writer's turn."""
    asked = [Publish(notice=a_notice(root=a_root(number))) for number in range(10, 16)]
    assert await office.ask(*asked) == (
        *[Published()] * limits.PUBLISHES_PER_REQUEST_MAX,
        *[OpRefused(code=Refusal.BUSY)] * 2,
    )


async def test_pages_hold_everything_once(office: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, oldest first."""
    monkeypatch.setattr(limits, "NOTICES_PER_ANSWER_MAX", 2)
    for number in range(10, 15):
        await office.ask(Publish(notice=a_notice(root=a_root(number))))
    roots = [parse_notice_untrusted(found).root_public for found in await shown(office)]
    assert roots == [a_root(number).public_bytes for number in range(10, 15)]
