"""A broker cosigns the log of an office that switched it on: what it learns then, and what otherwise."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from audit.entry import decode_entry_untrusted
from audit.fsck import verify
from audit.policy import parse_policy_untrusted, single_log_policy
from audit.reader import PublishedLog
from broker.exchange import Exchange
from broker.witness import Witness, WitnessedLog
from keys.errors import PolicyRefused, SalweenError
from node.views import BrokerWitnessView
from node.witness import BROKER_INTERVAL_MS
from protocol.requests import Cosign, Forward, Op, Request, Result, WitnessSays
from protocol.tokens import WITNESS_PREFIX, parse_token_untrusted
from tests.audit.logs import read_entries
from tests.node.offices import Offices, an_alert, count, entries, node_of, play
from tests.node.test_resets import back_up, restored
from tests.node.test_routes import Region, bytes_in
from tests.node.test_witness import go_back, log_of, published_files
from tests.simulation.daemons import BrokerHost, OfficeHost
from tests.simulation.world import World


async def switch_on(office: OfficeHost, broker: BrokerHost) -> None:
    """``salween-node witness add``, with a token of that broker."""
    token = parse_token_untrusted(await broker.witness_token(), WITNESS_PREFIX)
    await office.host.run(lambda env: node_of(office).broker_witnesses.add(broker.address, token))


async def held_by(broker: BrokerHost) -> tuple[WitnessedLog, ...]:
    """``salween-broker witnessed``."""
    assert broker.broker is not None
    store = broker.broker.store
    return tuple(await broker.host.run(lambda env: store.witnessed()))


async def view_of(office: OfficeHost) -> BrokerWitnessView:
    """The only broker that witnesses for this office, as its status shows it."""
    (view,) = (await office.host.run(lambda env: node_of(office).desk.status())).broker_witnesses
    return view


def lie_to(office: OfficeHost, *answers: WitnessSays) -> list[WitnessSays]:
    """From now on brokers give it the first of these, which are returned, in place of any answer."""
    lies = list(answers)
    honest = node_of(office).broker_witnesses._client

    def lying(*arguments: object) -> object:
        client = honest(*arguments)  # type: ignore[arg-type]

        async def exchange(ops: Sequence[Op]) -> tuple[Result, ...]:
            return (lies[0],)

        client.exchange = exchange  # type: ignore[method-assign]
        return client

    node_of(office).broker_witnesses._client = lying  # type: ignore[assignment]
    return lies


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Op]:
    """Every op that a broker opens from now on."""
    found: list[Op] = []
    opened = Exchange.open_untrusted

    def open_untrusted(exchange: Exchange, data: bytes) -> Request:
        request = opened(exchange, data)
        found.extend(request.ops)
        return request

    monkeypatch.setattr(Exchange, "open_untrusted", open_untrusted)
    return found


def test_a_broker_learns_of_a_log_only_while_its_office_wants_that(tmp_path: Path, asked: list[Op]) -> None:
    """Off: no question, and the log's name in nothing it can open. On: name and heads under our own
    signature, no line of a partner's, every ten minutes at most, only when it grew. Off: no more."""

    async def script(offices: Offices) -> None:
        here, there, broker = offices.here, offices.there, offices.broker
        name = node_of(here).log.origin.encode()

        def questions() -> list[Cosign]:
            return [op for op in asked if isinstance(op, Cosign)]

        async def work() -> None:
            for number in range(2):
                await here.log_in()
                await here.send(an_alert(f"KA-{number}"))
                await asyncio.sleep(720)

        await work()
        assert not questions()
        assert not [run for op in asked for run in bytes_in(op) if name in run]
        assert await held_by(broker) == ()

        begun_ms = here.now_ms()
        await switch_on(here, broker)
        (first,) = questions()
        assert name in first.body
        assert first.body.startswith(b"old 0\n\n")
        await work()
        assert 1 < len(questions()) <= 2 + (here.now_ms() - begun_ms) // BROKER_INTERVAL_MS
        partner = node_of(there).log.origin.rpartition("/")[0].encode()
        assert not [op for op in questions() if partner in op.body or op.body.count(b"\xe2\x80\x94") != 1]
        (held,) = await held_by(broker)
        assert (held.origin.encode(), held.size) == (name, (await view_of(here)).cosigned_size)
        await asyncio.sleep(1500)
        sizes = [int(op.body.partition(b"\n\n")[2].split(b"\n")[1]) for op in questions()]
        assert sizes == sorted(set(sizes))  # nothing is asked about a log that stands still
        before = len(sizes)

        await here.host.run(lambda env: node_of(here).broker_witnesses.remove(broker.address))
        await work()
        assert len(questions()) == before
        told = [entry.fields["what"] for entry in await entries(here, "cfg.change")]
        assert told == ["witness-on", "witness-off"]
        assert await count(there, "broker_witness") == 0

    play(tmp_path, script)


def test_its_cosignatures_count_in_the_policy_and_its_log_tells_of_ours(tmp_path: Path) -> None:
    """Under every head it was asked about, verified with the policy beside the log."""

    async def script(offices: Offices) -> None:
        here, broker = offices.here, offices.broker
        await switch_on(here, broker)
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(13 * 60)
        data = (log_of(here).parent / "policy").read_bytes()
        log = PublishedLog(str(log_of(here)))
        policy = parse_policy_untrusted(data)
        report = verify(log, policy)
        members = policy.groups["brokers"].members
        assert [policy.witnesses[name].type_byte for name in members] == [4, 6]
        assert {report.cosigned[name][0] for name in members} == {report.size}
        for quorum in (b"brokers", b"partner-and-broker"):
            wanted = parse_policy_untrusted(data.replace(b"quorum none", b"quorum " + quorum))
            assert verify(log, wanted).verdicts == ["VERIFIED"]
        assert (await view_of(here)).state == "ok"
        assert broker.broker is not None
        log_there = broker.broker.log
        size = (await broker.host.run(lambda env: log_there.publish())).size
        (published,) = broker.host.disk.rglob("broker/log/checkpoint")
        name = node_of(here).log.origin.encode()
        told = [e for e in read_entries(published.parent, size) if b"wit.cosigned" in e and name in e]
        assert [decode_entry_untrusted(e)["size"] for e in told][-1] == report.size
        assert verify(PublishedLog(str(published.parent)), single_log_policy(log_there.key)).verdicts == [
            "VERIFIED"
        ]

    play(tmp_path, script)


@pytest.mark.parametrize("where", ["after keeping", "after asking"])
def test_a_death_on_either_side_of_the_answer_costs_one_question(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that kept a head and died says so when it is back; an office that died asks again."""

    async def script(offices: Offices) -> None:
        here, broker = offices.here, offices.broker
        await switch_on(here, broker)
        await here.send(an_alert("KA-1"))
        dying = broker if where == "after keeping" else here
        cosigned = Witness.cosigned

        def dies(witness: Witness, op: Cosign, result: Result) -> Result:
            if dying.host.life is not None:
                monkeypatch.setattr(Witness, "cosigned", cosigned)
                dying.host.kill()
            return cosigned(witness, op, result)

        monkeypatch.setattr(Witness, "cosigned", dies)
        while dying.host.life is not None:
            await asyncio.sleep(1)
        await asyncio.sleep(60)
        await dying.restart()
        await asyncio.sleep(13 * 60)
        view = await view_of(here)
        (held,) = await held_by(broker)
        assert (view.cosigned_size, view.refused, view.trouble) == (held.size, None, None)
        assert view.cosigned_size == node_of(here).log.published.size
        assert held.refused == ()

    play(tmp_path, script)


def test_a_log_that_went_back_is_refused_kept_there_and_stays_read_only_here(tmp_path: Path) -> None:
    """409 with our own longer head: both notes are kept there, and our node records and signs nothing."""

    async def script(offices: Offices) -> None:
        here, there, broker = offices.here, offices.there, offices.broker
        await switch_on(here, broker)
        there.host.kill()  # the broker alone can tell
        await asyncio.sleep(10 * 60)
        await here.log_in()
        size = node_of(here).log.published.size
        kept = published_files(here)
        for number in range(3):
            await here.send(an_alert(f"KA-{number}"))
        await asyncio.sleep(15 * 60)
        (longest,) = await held_by(broker)
        assert longest.size > size + 4

        await go_back(here, size, kept)
        assert node_of(here).log.refusal is None
        await asyncio.sleep(15 * 60)
        error = node_of(here).failed.exception()
        assert isinstance(error, PolicyRefused)
        assert error.code == "log_rolled_back"
        (held,) = await held_by(broker)
        (refused,) = held.refused
        assert (held.size, refused.code, refused.size < held.size) == (longest.size, "went_back", True)
        assert refused.offered
        assert refused.held

    play(tmp_path, script)


def test_what_it_does_not_cosign_is_late_shown_and_told_by_the_doctor(tmp_path: Path) -> None:
    """Late after 15 minutes, in time again when it is back; a lie and a withdrawn token are named"""

    async def script(offices: Offices) -> None:
        here, broker = offices.here, offices.broker
        await switch_on(here, broker)
        broker.host.kill()
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(5 * 60)
        assert (await view_of(here)).state == "ok"
        await asyncio.sleep(20 * 60)
        late = await view_of(here)
        assert (late.state, late.trouble) == ("late", "broker_down")
        await broker.restart()
        await asyncio.sleep(15 * 60)
        mended = await view_of(here)
        assert (mended.state, mended.trouble) == ("ok", None)

        node = node_of(here)
        lies = lie_to(here, WitnessSays(status=200), WitnessSays(status=403))
        for expected in ("bad_note", "status 403"):
            await here.log_in()
            await here.send(an_alert("KA-2"))
            await asyncio.sleep(15 * 60)
            checks = await here.host.run(lambda env: node_of(here).doctor())
            (told,) = [check for check in checks if check["what"].startswith("witness ")]
            assert told["detail"].endswith(expected)
            del lies[0]
            lies.append(WitnessSays(status=403))
        assert (await view_of(here)).refused == 403
        assert not node.failed.done()

    play(tmp_path, script)


def test_a_wrong_token_or_a_log_begun_anew_is_witnessed_by_no_broker(tmp_path: Path) -> None:
    """Another office's token switches nothing on; after a restore it is off until it is wanted again."""

    async def script(offices: Offices) -> None:
        here, broker = offices.here, offices.broker
        token = parse_token_untrusted(await broker.witness_token(), WITNESS_PREFIX)
        for office, code in ((here, ""), (offices.there, "witness_refused")):
            add = node_of(office).broker_witnesses.add
            if not code:
                await office.host.run(lambda env, add=add: add(broker.address, token))  # type: ignore[misc]
                continue
            with pytest.raises(PolicyRefused, match="404") as refused:
                await office.host.run(lambda env, add=add: add(broker.address, token))  # type: ignore[misc]
            assert refused.value.code == code
            assert await count(office, "broker_witness") == 0
        assert broker.broker is not None
        keys = broker.broker.store.witness_keys
        lies = lie_to(offices.there, WitnessSays(status=200, keys=keys), WitnessSays(status=200))
        for code in ("bad_note", "witness_keys"):
            with pytest.raises(SalweenError) as refused_here:
                await switch_on(offices.there, broker)
            assert refused_here.value.code == code
            assert await count(offices.there, "broker_witness") == 0
            del lies[0]
            lies.append(lies[0] if lies else WitnessSays(status=200))
        await back_up(here)
        await restored(here)
        await asyncio.sleep(15 * 60)
        assert await count(here, "broker_witness") == 0
        assert len(await held_by(broker)) == 1
        policy = parse_policy_untrusted((log_of(here).parent / "policy").read_bytes())
        assert len(policy.groups["brokers"].members) == 2  # what they signed of the ended log still counts

    play(tmp_path, script)


def test_through_another_broker_the_witness_never_sees_the_office(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route leads to the witness as well: it knows the log, and not from where it is asked."""
    with World(seed=5, directory=tmp_path) as world:
        region = Region(world)

        async def script() -> None:
            region.watch(monkeypatch)
            await region.make()
            await region.route(region.here, region.east, region.west)
            await switch_on(region.here, region.west)
            await asyncio.sleep(20 * 60)
            (held,) = await held_by(region.west)
            assert held.origin == node_of(region.here).log.origin
            assert ("myitkyina", "west") not in region.spoken
            assert not [op for op in region.seen["east"] if isinstance(op, Cosign)]
            assert [op for op in region.seen["east"] if isinstance(op, Forward)]

        world.run(script())
