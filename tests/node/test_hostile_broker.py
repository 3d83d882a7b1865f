"""A broker that lies: whatever it answers, nothing is lost, nothing false is kept, nobody runs in circles."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from broker.daemon import config_of
from broker.identity import open_identity, read_passphrase
from keys.brokercard import BrokerCard
from keys.errors import Unavailable
from keys.primitives import Ed25519PrivateKey
from node.broker_link import Arrival
from protocol import custody, limits
from protocol.custody import Custody
from protocol.envelope import envelope_hash
from protocol.requests import (
    Delete,
    Deleted,
    Got,
    HeldAnswer,
    List,
    Listed,
    ListedItem,
    Op,
    OpRefused,
    Put,
    Result,
)
from runtime.env import Env
from tests.node.offices import (
    Offices,
    alter_answers,
    an_alert,
    count,
    entries,
    link_of,
    node_of,
    play,
    read,
    shown,
)


class Requests:
    """Counts the requests an office makes."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
        self.made += 1
        return results


def _listed(envelope: bytes, cursor: int = 1, named: bytes | None = None) -> ListedItem:
    return ListedItem(
        cursor=cursor,
        envelope_hash=named or envelope_hash(envelope),
        size_bytes=len(envelope),
        envelope=envelope,
    )


def _lists(items: Sequence[ListedItem], result: Result) -> Result:
    return replace(result, items=tuple(items)) if isinstance(result, Listed) else result


async def _custody_key(env: Env) -> Ed25519PrivateKey:
    config = config_of(env, "broker")
    passphrase = read_passphrase(env, "broker", None)
    origin = config.log_origin
    return open_identity(env, "broker", passphrase, name=config.name, log_origin=origin, tls=True).custody_key


async def _is_alive(offices: Offices) -> None:
    for office in (offices.here, offices.there):
        node = node_of(office)
        assert not node.failed.done(), node.failed


def test_junk_is_kept_as_evidence_and_blocks_nothing(tmp_path: Path) -> None:
    """Random, flipped and cut bytes: quarantined, off the broker, never shown; alerts still cross."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(30)
        taken: list[bytes] = []
        delivered = 0

        def flips(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            """Every listed envelope comes with six broken versions of it in front."""
            nonlocal delivered
            out = []
            for op, result in zip(ops, results, strict=True):
                if isinstance(op, List) and isinstance(result, Listed) and result.items:
                    items: list[ListedItem] = []
                    for item in result.items:
                        whole = item.envelope
                        assert whole is not None
                        taken.append(whole)
                        for at in (0, 3, 20, 1300, len(whole) - 1):
                            broken = bytearray(whole)
                            broken[at] ^= 1
                            items.append(_listed(bytes(broken), item.cursor))
                        items.append(_listed(whole[:-1], item.cursor))
                        items.append(_listed(os.urandom(8192), item.cursor))
                        items.append(item)
                        delivered += 7
                    result = replace(result, items=tuple(items))
                out.append(result)
            return out

        alter_answers(there, flips)
        for number in range(2, 6):
            await here.send(an_alert(f"KA-{number}"))
            await asyncio.sleep(20)
        await asyncio.sleep(120)
        assert await shown(there) == 5
        assert delivered >= 28
        assert await count(there, "quarantine", "verdict = 'junk'") == min(delivered, 100)
        assert await count(there, "broker_delete") == 0
        bad = await entries(there, "msg.recv")
        assert sum(e.fields["verdict"] in ("badsig", "pending") for e in bad) == delivered
        await _is_alive(offices)

    play(tmp_path, script)


def test_only_the_last_hundred_junk_items_are_kept(tmp_path: Path) -> None:
    """F50: A mailbox that somebody floods cannot fill the disk, not with unknown keys either."""

    async def script(offices: Offices) -> None:
        there = offices.there
        flood = 3

        def junk(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            nonlocal flood
            if any(isinstance(op, List) for op in ops) and flood:
                flood -= 1
                items = [_listed(b"\x01" + os.urandom(8191)) for _ in range(60)]
                return [_lists(items, result) for result in results]
            return results

        alter_answers(there, junk)
        link_of(there).reread()
        await asyncio.sleep(300)
        assert flood == 0
        assert await count(there, "quarantine") == 100
        await offices.here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        assert await shown(there) == 1

    play(tmp_path, script)


def test_the_broker_cannot_put_a_false_name_to_bytes(tmp_path: Path) -> None:
    """The log names the bytes that came, whatever hash the broker listed them under."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        false_name = bytes(range(32))
        seen: list[bytes] = []

        def renames(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            out = []
            for result in results:
                if isinstance(result, Listed) and result.items:
                    seen.extend(item.envelope_hash for item in result.items)
                    items = [replace(item, envelope_hash=false_name) for item in result.items]
                    result = replace(result, items=tuple(items))
                out.append(result)
            return out

        alter_answers(there, renames)
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        named = {e.fields["env"] for e in await entries(there, "msg.recv")}
        assert named
        assert false_name.hex() not in named
        assert named <= {e.fields["env"] for e in await entries(here, "msg.seal")}

    play(tmp_path, script)


@pytest.mark.parametrize(
    "lie",
    [
        {"origin": "salween/broker/somebody-else/log1"},
        {"origin": "Not An Origin; rm -rf"},
        {"log_index": 2**60},
        {"time_ms": 5},
        {"signature": bytes(64)},
    ],
)
def test_a_false_custody_note_is_no_custody(tmp_path: Path, lie: dict[str, object]) -> None:
    """F46: no rung for a note that does not verify or names another log; the alert is kept and crosses."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there

        def lies(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            return [replace(r, **lie) if isinstance(r, Custody) else r for r in results]  # type: ignore[arg-type]

        alter_answers(here, lies)
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(120)
        assert await shown(there) == 1
        (row,) = await here.outbox()
        assert [rung.step for rung in row.recipients[0].ladder] == ["kept", "delivered"]
        assert await count(here, "custody") == 0
        await _is_alive(offices)

    play(tmp_path, script)


def test_custody_signed_over_impossible_facts_is_no_custody(tmp_path: Path) -> None:
    """Even well signed: an index no log can have must not reach ours, where it would stop the node."""

    async def script(offices: Offices) -> None:
        key = await offices.broker.host.run(_custody_key)

        def lies(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            notes = [replace(r, log_index=2**60) for r in results if isinstance(r, Custody)]
            signed = iter(custody.sign_custody(notes, key) if notes else ())
            return [next(signed) if isinstance(r, Custody) else r for r in results]

        alter_answers(offices.here, lies)
        await offices.here.send(an_alert("KA-1"))
        await asyncio.sleep(120)
        assert await shown(offices.there) == 1
        assert await count(offices.here, "custody") == 0
        await _is_alive(offices)

    play(tmp_path, script)


@pytest.mark.parametrize("code", ["busy", "bad_signature", "some_later_code"])
def test_a_broker_that_does_not_delete_is_not_asked_in_a_loop(tmp_path: Path, code: str) -> None:
    """A refused deletion is repeated after a minute or not at all, never at once."""

    async def script(offices: Offices) -> None:
        there = offices.there
        requests = Requests()

        def refuses(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            requests.made += any(isinstance(op, Delete) for op in ops)
            return [OpRefused(code=code) if isinstance(r, Deleted) else r for r in results]

        alter_answers(there, refuses)
        await offices.here.send(an_alert("KA-1"))
        await asyncio.sleep(600)
        assert 1 <= requests.made <= 20
        assert await shown(there) == 1

    play(tmp_path, script)


def test_an_endless_list_of_the_same_is_listened_to_ever_more_seldom(tmp_path: Path) -> None:
    """F49: A broker that lists one item for ever gets few requests and entries; news still comes."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        stored: list[ListedItem] = []
        requests = Requests()

        def repeats(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            requests(ops, results)
            out = []
            for result in results:
                if isinstance(result, Listed):
                    fresh = [
                        i for i in result.items if i.envelope_hash not in {s.envelope_hash for s in stored}
                    ]
                    stored.extend(fresh)
                    result = replace(result, items=tuple(stored))
                out.append(result)
            return out

        alter_answers(there, repeats)
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(1800)
        assert requests.made < 300
        assert len(await entries(there, "msg.recv")) < 400
        await here.log_in()
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(120)
        assert await shown(there) == 2

    play(tmp_path, script)


def test_an_answer_that_does_not_open_backs_off_in_words(tmp_path: Path) -> None:
    """Garbage instead of an answer: the cause is told, requests are few, and all crosses afterwards."""

    async def script(offices: Offices) -> None:
        here = offices.here
        client = link_of(here).client
        line = client._line
        show, answer = line.fetch_card, line.carry
        is_garbage = True
        asked = 0

        async def fetch_card() -> bytes:
            nonlocal asked
            asked += 1
            return os.urandom(256) if is_garbage else await show()

        async def carry(card: BrokerCard, body: bytes, *, wait_ms: int) -> bytes:
            nonlocal asked
            asked += 1
            return os.urandom(256) if is_garbage else await answer(card, body, wait_ms=wait_ms)

        line.fetch_card = fetch_card  # type: ignore[method-assign]
        line.carry = carry  # type: ignore[method-assign]
        await here.send(an_alert("KA-1"))
        link_of(here).reread()
        await asyncio.sleep(600)
        status = await here.host.run(lambda env: node_of(here).desk.status())
        assert (status.link.state, status.link.reason) == ("backing_off", "broker_wrong_key")
        assert status.link.detail
        assert asked < 50  # the head of its log is asked for as well
        is_garbage = False
        await asyncio.sleep(900)
        assert await shown(offices.there) == 1

    play(tmp_path, script)


def test_a_broker_with_an_impossible_clock_stops_nothing(tmp_path: Path) -> None:
    """A time at the end of the calendar is told as a doubt, not obeyed into a wall."""

    async def script(offices: Offices) -> None:
        here = offices.here
        client = link_of(here).client
        once = client._exchange_once
        lies = True

        async def far_future(ops: Sequence[Op]) -> object:
            answer = await once(ops)
            return replace(answer, now_ms=limits.TIME_MS_MAX) if lies else answer

        client._exchange_once = far_future  # type: ignore[method-assign, assignment]
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(600)
        await _is_alive(offices)
        lies = False
        await asyncio.sleep(1200)
        assert await shown(offices.there) == 1

    play(tmp_path, script)


def test_a_broker_that_forgets_what_it_holds_is_sent_it_again(tmp_path: Path) -> None:
    """Custody given and nothing kept: the sender asks, seals anew, and the alert arrives once."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        swallowed = 0

        def swallows(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            nonlocal swallowed
            out = []
            for result in results:
                if isinstance(result, Listed) and result.items and swallowed < 1:
                    swallowed += 1
                    result = replace(result, items=())
                out.append(result)
            return out

        alter_answers(there, swallows)
        alter_answers(
            here,
            lambda ops, results: [
                HeldAnswer(held=False) if isinstance(r, HeldAnswer) else r for r in results
            ],
        )
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(900)
        assert await shown(there) == 1
        assert await count(here, "ladder", "step = 'delivered'") == 1

    play(tmp_path, script)


def test_a_broker_that_keeps_saying_no_has_an_alert_sealed_anew_ever_more_seldom(tmp_path: Path) -> None:
    """It withholds and denies what it took: not a seal a minute, and the alert is there in the end."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        alter_answers(
            here,
            lambda ops, results: [
                HeldAnswer(held=False) if isinstance(r, HeldAnswer) else r for r in results
            ],
        )
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(6 * 3600)
        sealed = await read(
            here, lambda tx: tx.value("SELECT attempt FROM delivery WHERE alert_id IS NOT NULL")
        )
        # 1 min doubling, each up to a half less: 9 questions in 4.3 hours, 10 in 8.5.
        assert 8 <= sealed - 1 <= 11
        await there.restart()
        await asyncio.sleep(120)
        assert await shown(there) == 1
        await asyncio.sleep(60)
        assert await count(here, "delivery", "alert_id IS NOT NULL AND phase = 'acknowledged'") == 1

    play(tmp_path, script)


def test_items_that_are_fetched_one_by_one_are_kept_one_by_one(tmp_path: Path) -> None:
    """A link that breaks after each item still makes way: what came before the break is not fetched again."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        for number in range(8):
            await here.send(an_alert(f"KA-{number}"))
        await asyncio.sleep(30)
        await there.restart()
        client = link_of(there).client
        honest = client.exchange
        fetched: list[bytes] = []

        async def meagre(ops: Sequence[Op]) -> tuple[Result, ...]:
            """Nothing comes inline, and every third fetch breaks."""
            if len(fetched) % 3 == 2 and any(not isinstance(op, (List, Put, Delete)) for op in ops):
                fetched.append(b"")
                raise Unavailable("broker_lost", "The connection to the broker broke.")
            results = await honest(ops)
            out: list[Result] = []
            for result in results:
                if isinstance(result, Listed):
                    result = replace(
                        result, items=tuple(replace(item, envelope=None) for item in result.items)
                    )
                if isinstance(result, Got):
                    fetched.append(envelope_hash(result.envelope))
                out.append(result)
            return tuple(out)

        client.exchange = meagre  # type: ignore[method-assign]
        link_of(there).reread()
        await asyncio.sleep(300)
        assert await shown(there) == 8
        whole = [named for named in fetched if named]
        assert len(whole) <= 2 * len(set(whole))

    play(tmp_path, script)


def test_what_a_broker_makes_by_itself_is_no_sign_of_life(tmp_path: Path) -> None:
    """A broker that withholds everything cannot make the peer look heard by listing bytes of its own."""

    async def script(offices: Offices) -> None:
        there = offices.there

        def invents(ops: Sequence[Op], results: tuple[Result, ...]) -> Sequence[Result]:
            items = [_listed(b"\x01" + os.urandom(8191))]
            return [_lists(items, result) for result in results]

        (before,) = await there.peers()
        alter_answers(there, invents)
        link_of(there).reread()
        await asyncio.sleep(600)
        assert await count(there, "quarantine") > 0
        (after,) = await there.peers()
        assert after.last_heard_ms == before.last_heard_ms

    play(tmp_path, script)


def test_what_came_out_of_a_mailbox_already_given_up_holds_up_no_deletion(tmp_path: Path) -> None:
    """The last answer of an old mailbox is taken in after its secrets are gone: nobody can sign for those."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        address = str(link_of(there).client.address)
        (mailbox,) = await there.host.run(lambda env: node_of(there).mailboxes.readable(address))
        gone = replace(mailbox, name="a mailbox given up")
        junk = [os.urandom(8192) for _ in range(limits.OPS_PER_REQUEST_MAX + 1)]
        late = [Arrival(mailbox=gone, envelope_hash=envelope_hash(data), envelope=data) for data in junk]
        await there.host.run(lambda env: node_of(there)._inbox.arrived(late))
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(120)
        assert await shown(there) == 1
        assert await count(there, "broker_delete") == 0

    play(tmp_path, script)
