"""No name, plate, text, alias, office or PIN is in any log, of offices, broker or daemons."""

import asyncio
import contextlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from audit.entry import Json, encode_entry
from demo.canary import Canary, _forms, files_below
from keys.errors import PolicyRefused
from node.views import Session
from protocol import limits
from protocol.alert import Alert, FreeText, Person, Vehicle
from runtime import logs
from tests.node.offices import Offices, an_alert, entries, node_of
from tests.simulation.daemons import BrokerHost, OfficeHost
from tests.simulation.env import EPOCH_MS
from tests.simulation.world import Host, World

OFFICES = ("မြစ်ကြီးနား", "腾冲边防")
ALIASES = ("ដារា សុខា", "นายสมชาย ใจดี")
PINS = ("846193027514", "730518264907")
PLATE = "ຂຄ 4219"
VICTIM = "Nguyễn Thị Ánh"
TEXTS = ("လူကုန်ကူးမှု သံသယ", "白色皮卡可疑", "ไม่มีใครเข้าเวร")
WORDS = (*OFFICES, *ALIASES, *PINS, PLATE, VICTIM, *TEXTS)


def needles_of(word: str) -> list[tuple[str, bytes]]:
    """The word composed and taken apart, in every form of ``demo.canary`` and as JSON escapes it."""
    shapes = dict.fromkeys(unicodedata.normalize(form, word) for form in ("NFC", "NFD"))
    return [
        (f"{word} {form}", needle)
        for shape in shapes
        for form, needle in (*_forms(shape), ("JSON", json.dumps(shape)[1:-1].encode()))
    ]


CANARY = Canary(word="", needles=tuple(needle for word in WORDS for needle in needles_of(word)))


def found_in(pieces: Iterator[tuple[str, bytes]]) -> set[str]:
    """Words that stand anywhere, in any form."""
    forms = CANARY.search_all(pieces).forms
    return {word for word in WORDS if any(word in form for form in forms)}


class Talking:
    """A host whose daemon's own log is kept, as ``journalctl`` would."""

    def __init__(self, host: Host) -> None:
        self.lines: list[str] = []
        self._host = host
        self._boot = host.boot
        host.boot = self._begin  # type: ignore[method-assign, assignment]

    def _begin(self) -> object:
        life = self._boot()
        life.context.run(logs.configure, life.clock, self.lines.append, strict=True)
        return life


class Named(Offices):
    """Offices with names worth searching for."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broker = BrokerHost(world)
        self.here, self.there = (
            OfficeHost(world, name, country) for name, country in zip(OFFICES, ("MM", "CN"), strict=True)
        )
        self.talking = [Talking(one.host) for one in (self.broker, self.here, self.there)]

    async def officer(self, office: OfficeHost, which: int) -> Session:
        """Officer 2 of an office, logged in."""
        node, alias, pin = node_of(office), ALIASES[which], PINS[which]
        await office.host.run(lambda env: node.add_officer(alias=alias, role="officer", pin=pin))
        return await office.host.run(lambda env: node.desk.login(2, pin))

    async def published(self) -> None:
        """Both offices and the broker publish all they logged."""
        for office in (self.here, self.there):
            node = node_of(office)
            await office.host.run(lambda env, node=node: node.log.publish())  # type: ignore[misc]
        broker = self.broker.broker
        assert broker is not None
        await self.broker.host.run(lambda env: broker.log.publish())

    def logs(self) -> Iterator[tuple[str, bytes]]:
        """Every published file, and every line the daemons wrote."""
        for one in (self.broker.host, self.here.host, self.there.host):
            for folder in one.disk.rglob("log"):
                yield from files_below(folder)
        for talking in self.talking:
            yield f"daemon of {talking._host.name}", "\n".join(talking.lines).encode()


def suspicious() -> Alert:
    """Everything an officer can type that is about somebody."""
    return an_alert(PLATE).model_copy(
        update={
            "crime_type": "human_trafficking",
            "entities": (Vehicle(plate=PLATE, colour="white"), Person(role="victim", name=VICTIM)),
            "text": FreeText(language="my", text=TEXTS[0]),
            "expires_ms": EPOCH_MS + 9 * limits.MINUTE_MS,
            "erase_at_ms": EPOCH_MS + 10 * limits.MINUTE_MS,
        }
    )


async def a_day_at_work(offices: Named) -> None:
    """Written, put aside, refused, released in emergency, read, printed, answered, carried, erased."""
    await offices.make()
    here, there = offices.here, offices.there
    author, reader = await offices.officer(here, 0), await offices.officer(there, 1)
    node, peer = node_of(here), node_of(there)
    (office,) = await here.peers()
    for ending in ("discard", "emergency", "release"):
        put = await here.host.run(lambda env: node.desk.submit(author, suspicious(), [office.office_id]))
        draft = put.draft_id
        assert draft is not None
        if ending == "discard":
            await here.host.run(lambda env, draft=draft: node.desk.discard(author, draft))  # type: ignore[misc]
        elif ending == "emergency":
            await here.host.run(
                lambda env, draft=draft: node.desk.release_emergency(author, draft, TEXTS[2])  # type: ignore[misc]
            )
        else:
            await here._at_desk(lambda n, s, draft=draft: n.desk.release(s, draft))  # type: ignore[misc]
    second = an_alert(PLATE).model_copy(update={"text": FreeText(language="zh", text=TEXTS[1])})
    await here.host.run(lambda env: node.desk.submit(author, second, [office.office_id]))
    await here.export_stick(OFFICES[1])
    await asyncio.sleep(120)
    rows = await there.inbox()
    assert len(rows) == 3
    for row in rows:
        for purpose in ("duty", "case"):
            with contextlib.suppress(PolicyRefused):  # about a victim, on plain duty
                await there.host.run(
                    lambda env, row=row, purpose=purpose: peer.desk.open_alert(  # type: ignore[misc]
                        reader, row.alert_id, purpose=purpose, access="print"
                    )
                )
        await there.host.run(
            lambda env, row=row: peer.desk.answer(reader, row.alert_id, "outcome", "rescued")  # type: ignore[misc]
        )
    for pin in ("111112", PINS[1][::-1]):
        with pytest.raises(PolicyRefused):
            await there.host.run(lambda env, pin=pin: peer.desk.login(2, pin))  # type: ignore[misc]
    there.host.kill()
    await there.restart()
    await asyncio.sleep(11 * 60)
    await offices.published()


def test_no_log_holds_anything_of_anybody(tmp_path: Path) -> None:
    """In seven writing systems, plain, UTF-16, hex, base64, composed and taken apart, compressed as well."""
    with World(seed=7, directory=tmp_path) as world:
        offices = Named(world)

        async def whole() -> set[str]:
            await a_day_at_work(offices)
            kinds = {e.kind for office in (offices.here, offices.there) for e in await entries(office)}
            assert {
                "acc.deny", "acc.print", "ans.given", "content.erased", "officer.add", "pair.ok",
                "rel.author", "rel.emergency", "rel.refuse", "rel.release", "ses.fail", "stick.out",
            } <= kinds  # fmt: skip
            assert all(talking.lines for talking in offices.talking[1:])
            return found_in(offices.logs())

        assert world.run(whole()) == set()


def test_the_same_search_finds_each_word_in_a_log_made_wrong_on_purpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers that put one word into each entry, in one form after another: none of them is missed."""
    turn = iter(range(10**9))

    def wrong(entry: Mapping[str, Json]) -> bytes:
        number = next(turn)
        word = WORDS[number % len(WORDS)]
        forms = needles_of(word)
        planted = forms[number // len(WORDS) % len(forms)][1]
        return encode_entry(entry)[:-1] + b',"zz":"' + planted + b'"}'

    monkeypatch.setattr("audit.store.encode_entry", wrong)
    with World(seed=7, directory=tmp_path) as world:
        offices = Named(world)

        async def whole() -> set[str]:
            await offices.make()
            await offices.published()
            return found_in(offices.logs())

        assert world.run(whole()) == set(WORDS)
