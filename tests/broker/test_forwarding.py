"""One broker hands requests on to another: what goes, what comes back, and what it does for nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.forwarder import BURST_MAX, HELD_MAX
from keys.brokercard import parse_broker_card_untrusted, verify_broker_card
from protocol.requests import (
    Forward,
    Forwarded,
    Listed,
    OpRefused,
    PendingRequest,
    Put,
    forwarding_token_hash,
    open_answer_untrusted,
    seal_request,
)
from tests.broker.ends import Client, House, an_envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class Two:
    """A broker near, which forwards to one far; a client of each; a token of the near one."""

    near: House
    far: House
    office: Client  # at the near one
    peer: Client  # at the far one
    token: bytes

    def forward(
        self, request: bytes, *, target: str = "far", wait_ms: int = 0, token: bytes = b""
    ) -> Forward:
        return Forward(token=token or self.token, target=target, wait_ms=wait_ms, request=request)


@asynccontextmanager
async def two(tmp_path: Path, *, tls: bool = False) -> AsyncIterator[Two]:
    """Both started; the far one with TLS if asked."""
    far = await House.build(tmp_path / "far", tls=tls)
    await far.start()
    assert far.addresses is not None
    near = await House.build(tmp_path / "near", forward={"far": str(far.addresses.address)})
    await near.start()
    try:
        async with near.client() as office, far.client(tls=tls) as peer:
            yield Two(near=near, far=far, office=office, peer=peer, token=await near.forwarding_token())
    finally:
        await near.stop()
        await far.stop()


@pytest.mark.parametrize("tls", [False, True])
async def test_what_is_forwarded_is_done_there_and_answered_to_us_alone(tmp_path: Path, tls: bool) -> None:
    """Card, put and list through the near broker; the far one keeps the item; the near one holds nothing."""
    async with two(tmp_path, tls=tls) as ends:
        box = await ends.peer.make_mailbox(await ends.far.token())
        shown = await ends.office.ask_one(ends.forward(b""))
        assert isinstance(shown, Forwarded)
        verify_broker_card(parse_broker_card_untrusted(shown.answer), ends.peer.address)
        envelope = an_envelope(ends.near.env)
        body, pending = seal_request(
            ends.peer.card.request_public,
            ops=[Put(put_secret=box.put_secret, envelope=envelope)],
            date_ms=ends.far.env.clock.now_ms(),
            random=ends.near.env.random,
        )
        result = await ends.office.ask_one(ends.forward(body))
        assert isinstance(result, Forwarded)
        assert open_answer_untrusted(pending, result.answer).results
        listed = await ends.peer.list(box)
        assert [item.envelope for item in listed.items] == [envelope]
        assert ends.near.broker is not None
        assert ends.near.broker.store.totals().items == 0


async def test_nothing_goes_on_without_a_token_or_to_a_name_not_on_the_list(tmp_path: Path) -> None:
    """A stranger, a withdrawn token, an address in place of a name: refused before anything leaves."""
    async with two(tmp_path) as ends:
        asked_far = _requests(ends.far)
        for op, code in (
            (ends.forward(b"x" * 1280, token=bytes(32)), "token_unknown"),
            (ends.forward(b"x" * 1280, target="else"), "not_found"),
            (ends.forward(b"x" * 1280, target="localhost"), "not_found"),
            (ends.forward(b"x" * 1280, token=await ends.near.token()), "token_unknown"),
        ):
            assert await ends.office.ask_one(op) == OpRefused(code=code)
        assert _requests(ends.far) == asked_far


async def test_a_forward_is_alone_in_its_request(tmp_path: Path) -> None:
    """Two forwards, or one beside an op of our own: none is carried out."""
    async with two(tmp_path) as ends:
        box = await ends.office.make_mailbox(await ends.near.token())
        asked_far = _requests(ends.far)
        refused = OpRefused(code="malformed")
        assert await ends.office.ask(ends.forward(b""), ends.forward(b"")) == (refused, refused)
        put = box.put(an_envelope(ends.near.env))
        assert await ends.office.ask(ends.forward(b""), put) == (refused, refused)
        assert (await ends.office.list(box)).items == ()
        assert _requests(ends.far) == asked_far


async def test_so_many_polls_at_a_time_and_no_more(tmp_path: Path) -> None:
    """One poll too many of a token is refused while the others wait; what is no poll still passes."""
    async with two(tmp_path) as ends:
        box = await ends.peer.make_mailbox(await ends.far.token())

        def poll() -> tuple[bytes, PendingRequest]:
            return seal_request(
                ends.peer.card.request_public,
                ops=[box.list(wait_ms=20_000)],
                date_ms=ends.far.env.clock.now_ms(),
                random=ends.near.env.random,
            )

        polls = [poll() for _ in range(HELD_MAX)]
        waiting = [
            asyncio.ensure_future(ends.office.ask_one(ends.forward(body, wait_ms=20_000)))
            for body, _ in polls
        ]
        while _polls(ends.far) < HELD_MAX:
            await asyncio.sleep(0.01)
        assert await ends.office.ask_one(ends.forward(poll()[0], wait_ms=1)) == OpRefused(code="busy")
        assert isinstance(await ends.office.ask_one(ends.forward(b"")), Forwarded)
        envelope = an_envelope(ends.near.env)
        await ends.peer.put(box, envelope)
        for (_, pending), result in zip(polls, await asyncio.gather(*waiting), strict=True):
            assert isinstance(result, Forwarded)
            (listed,) = open_answer_untrusted(pending, result.answer).results
            assert isinstance(listed, Listed)
            assert [item.envelope for item in listed.items] == [envelope]
        assert isinstance(await ends.office.ask_one(ends.forward(poll()[0], wait_ms=1)), Forwarded)


async def test_a_token_may_ask_so_often_and_no_more(tmp_path: Path) -> None:
    """After a burst it is told to come back later, and may when time has passed; others are untouched."""
    async with two(tmp_path) as ends:
        other = await ends.near.forwarding_token()
        answers = [await ends.office.ask_one(ends.forward(b"")) for _ in range(BURST_MAX + 40)]
        assert answers[:BURST_MAX] == [answers[0]] * BURST_MAX
        assert OpRefused(code="busy") in answers[BURST_MAX:]
        assert isinstance(await ends.office.ask_one(ends.forward(b"", token=other)), Forwarded)
        ends.near.clock.shift_ms += 10_000
        assert isinstance(await ends.office.ask_one(ends.forward(b"")), Forwarded)


async def test_a_broker_that_is_away_or_another_is_unreachable(tmp_path: Path) -> None:
    """Down, or answering with another card: one word, and nothing of the request goes to the stranger."""
    async with two(tmp_path) as ends:
        assert ends.far.addresses is not None
        port = ends.far.addresses.port
        await ends.far.stop()
        assert await ends.office.ask_one(ends.forward(b"x" * 1280)) == OpRefused(code="unreachable")
        stranger = await House.build(tmp_path / "stranger", port=port)
        await stranger.start()
        try:
            assert await ends.office.ask_one(ends.forward(b"x" * 1280)) == OpRefused(code="unreachable")
            assert _requests(stranger) == 0
        finally:
            await stranger.stop()


async def test_a_token_that_was_withdrawn_is_unknown(tmp_path: Path) -> None:
    """At once, and over a restart."""
    async with two(tmp_path) as ends:
        assert isinstance(await ends.office.ask_one(ends.forward(b"")), Forwarded)
        await ends.near.restart()
        async with ends.near.client() as office:
            assert isinstance(await office.ask_one(ends.forward(b"")), Forwarded)
            assert ends.near.broker is not None
            assert await ends.near.broker.store.withdraw_standing_token(
                "forwarding", forwarding_token_hash(ends.token)
            )
            assert await office.ask_one(ends.forward(b"")) == OpRefused(code="token_unknown")


def _requests(house: House) -> float:
    value = 0.0
    for metric in house.registry.collect():
        for sample in metric.samples:
            if sample.name == "salween_broker_requests_total":
                value += sample.value
    return value


def _polls(house: House) -> float:
    return house.registry.get_sample_value("salween_broker_polls_waiting") or 0.0
