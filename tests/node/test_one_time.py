"""Real nodes and one-time keys: one alert each, gone once it was opened, never used twice; many restarts."""

import asyncio
from pathlib import Path

from keys.trust import PairState
from node import one_time
from node.peers import load_peers
from protocol import limits
from protocol.onetime import NOTHING_OFFERED, OfferedKeys
from protocol.receivekeys import live_key_ids
from runtime.sqlite import Snapshot, Transaction
from tests.node.offices import Offices, an_alert, node_of, play, read, shown, write
from tests.simulation.daemons import OfficeHost

HOUR_S = 3600


async def own_ids(office: OfficeHost) -> set[bytes]:
    """One-time keys this office can open with."""

    def look(tx: Snapshot) -> set[bytes]:
        return {k.key_id for p in load_peers(tx) for k in one_time.load_own(tx, p.office_id).live}

    return await read(office, look)


async def offered(office: OfficeHost) -> OfferedKeys:
    """Keys of its only peer that this office has not used."""

    def look(tx: Snapshot) -> OfferedKeys:
        row = tx.one("SELECT keys FROM one_time_offered", ())
        return NOTHING_OFFERED if row is None else OfferedKeys.decode(row[0])

    return await read(office, look)


async def seed_ids(office: OfficeHost) -> set[bytes]:
    """Every receive key whose seed is in the keystore."""
    names = node_of(office).keys._secrets.names("receive/")
    return {bytes.fromhex(name.rsplit("/", 1)[1]) for name in names}


async def supplied(offices: Offices) -> None:
    """One alert to begin with, and the offer that follows it within the hour."""
    await offices.here.send(an_alert("KA-0"))
    await asyncio.sleep(2 * HOUR_S)
    await offices.here.log_in()
    assert len((await offered(offices.here)).keys) == limits.ONE_TIME_OFFERED_MAX


def test_rule_8_an_alert_takes_a_one_time_key_that_goes_once_it_was_opened(tmp_path: Path) -> None:
    """The sender uses the oldest unused key; after the commit the receiver has neither seed nor id of it."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await supplied(offices)
        (first, second, *_) = (await offered(here)).keys
        assert first.key_id in await seed_ids(there)
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        assert await shown(there) == 2
        assert first.key_id not in await seed_ids(there)
        assert first.key_id not in await own_ids(there)
        assert second.key_id in await own_ids(there)
        assert first.key_id not in {key.key_id for key in (await offered(here)).keys}
        # The receipt topped the supply up without a message of its own.
        assert len((await offered(here)).keys) == limits.ONE_TIME_OFFERED_MAX
        named = await read(
            there,
            lambda tx: {
                key
                for p in load_peers(tx)
                for key in (
                    *live_key_ids(p.receive_keys),
                    *(k.key_id for k in one_time.load_own(tx, p.office_id).live),
                )
            },
        )
        assert named <= await seed_ids(there)

    play(tmp_path, script)


def test_rule_8_a_sender_restored_from_a_backup_uses_a_key_twice_and_loses_nothing(tmp_path: Path) -> None:
    """Its envelope is a late duplicate at the receiver; the broker holds it no more; it is sealed anew."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await supplied(offices)
        backup = await offered(here)
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        assert await shown(there) == 2

        def restore(tx: Transaction) -> None:
            tx.execute("UPDATE one_time_offered SET keys = ?", (backup.encode(),))

        await write(here, restore)
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(30)
        assert await shown(there) == 2, "the key is gone"
        await asyncio.sleep(HOUR_S)
        assert await shown(there) == 3

    play(tmp_path, script)


def test_a_node_restarted_a_hundred_times_keeps_its_instance_and_closes_keys(tmp_path: Path) -> None:
    """Alerts flow both ways meanwhile: one instance per pair, every alert once, no key left over."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there

        async def instances(office: OfficeHost) -> tuple[bytes, bytes, int]:
            def look(tx: Snapshot) -> tuple[bytes, bytes, int]:
                (peer,) = load_peers(tx)
                assert peer.trusted.state is PairState.ACTIVE
                pair = peer.pair
                return pair.outbound.instance, pair.inbound.instance, len(pair.earlier)

            return await read(office, look)

        async def generation(office: OfficeHost) -> int:
            return await read(office, lambda tx: load_peers(tx)[0].receive_keys.cur.rk_gen)

        began, generation_began = await instances(here), await generation(here)
        sent = 0
        for restart in range(100):
            if restart % 5 == 0:
                await there.log_in()
                await there.send(an_alert(f"TC-{restart}"))
                await here.send(an_alert(f"KA-{restart}"))
                sent += 1
            await asyncio.sleep(0.5 + restart % 7)
            here.host.kill()
            await here.restart()
        await asyncio.sleep(3 * HOUR_S)
        assert await instances(here) == began
        mine, theirs, earlier = await instances(there)
        assert (theirs, mine, earlier) == began
        assert await shown(here) == await shown(there) == sent
        for office in (here, there):
            old = await read(office, lambda tx: load_peers(tx)[0].receive_keys.old)
            assert len(old) <= 1
            assert len(await seed_ids(office)) <= 3 + limits.ONE_TIME_OFFERED_MAX
        assert await generation(here) >= generation_began + 5, "keys went on being replaced"

    play(tmp_path, script)
