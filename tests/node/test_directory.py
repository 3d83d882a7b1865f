"""A directory that is damaged, mixed up or cut off: stable codes, and what can be mended mends itself."""

import asyncio
from pathlib import Path

import pytest

from keys.errors import SalweenError
from keys.secret import SecretBytes
from node.daemon import Node
from node.layout import SecretName
from node.peers import load_peers
from tests.node.offices import Offices, an_alert, node_of, play, read, shown
from tests.simulation.daemons import CHEAP_PROFILE, PASSPHRASE, OfficeHost


async def refusal(office: OfficeHost, passphrase: bytes = PASSPHRASE) -> str:
    office.host.boot()
    with pytest.raises(SalweenError) as caught:
        await office.host.run(lambda env: Node.open(env, "node", SecretBytes(passphrase), kdf=CHEAP_PROFILE))
    office.host.kill()
    assert caught.value.detail
    return caught.value.code


def file_of(office: OfficeHost, name: str) -> Path:
    (found,) = office.host.disk.rglob(f"node/{name}")
    return found


def test_seeds_nobody_announced_go_at_the_next_start(tmp_path: Path) -> None:
    """Keystore written, power lost before the transaction: the extra key is dropped, the rest opens."""

    async def script(offices: Offices) -> None:
        here = offices.here
        node = node_of(here)
        (peer_id,) = await read(here, lambda tx: [p.office_id for p in load_peers(tx)])
        live = node._secrets.names("receive/")
        await here.host.run(lambda env: node.keys.make(peer_id))
        extra = SecretName.receive(b"\x07" * 32, b"8 bytes.")
        await here.host.run(lambda env: node._secrets.put({extra: SecretBytes(b"x" * 32)}))
        assert len(node._secrets.names("receive/")) == len(live) + 2
        here.host.kill(power_loss=True)
        await here.restart()
        assert node_of(here)._secrets.names("receive/") == live
        await offices.there.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        assert await shown(here) == 1

    play(tmp_path, script)


def test_faults_of_the_directory_have_stable_codes(tmp_path: Path) -> None:
    """Wrong passphrase, keystore damaged, cut, of another office; database damaged, cut or gone."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        for office in (here, there):
            await office.host.run(lambda env, office=office: node_of(office).stop())  # type: ignore[misc]
            office.host.kill()
        assert await refusal(here, b"five six seven eight") == "keystore_wrong_passphrase"
        keystore, database = file_of(here, "keystore").read_bytes(), file_of(here, "node.db").read_bytes()

        for data, code in (
            (keystore[:40], "keystore_damaged"),
            (keystore[:-1], "keystore_damaged"),
            (keystore[:60] + bytes([keystore[60] ^ 1]) + keystore[61:], "keystore_damaged"),
            (file_of(there, "keystore").read_bytes(), "database_wrong_key"),
        ):
            file_of(here, "keystore").write_bytes(data)
            assert await refusal(here) == code
        file_of(here, "keystore").write_bytes(keystore)

        flipped = bytearray(database)
        flipped[len(database) // 2] ^= 1
        for broken, code in ((bytes(flipped), "database_damaged"), (database[:8192], "database_damaged")):
            file_of(here, "node.db").write_bytes(broken)
            assert await refusal(here) == code
        file_of(here, "node.db").unlink()
        assert await refusal(here) == "database_missing"

    play(tmp_path, script)


def test_a_log_that_went_back_in_time_keeps_the_node_up_and_silent(tmp_path: Path) -> None:
    """A restored database behind its high-water mark: nothing is sent, received or signed; no crash."""

    async def script(offices: Offices) -> None:
        here = offices.here
        await here.host.run(lambda env: node_of(here).log.publish())
        here.host.kill()
        older = file_of(here, "node.db").read_bytes()
        saved = {path.name: path.read_bytes() for path in here.host.disk.rglob("node/node.db-wal")}
        await here.restart()
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(60)
        await here.host.run(lambda env: node_of(here).log.publish())
        here.host.kill()
        file_of(here, "node.db").write_bytes(older)
        for path in here.host.disk.rglob("node/node.db-wal"):
            path.write_bytes(saved.get(path.name, b""))
        here.host.boot()

        async def open_node(env: object) -> Node:
            node = await Node.open(env, "node", SecretBytes(PASSPHRASE), kdf=CHEAP_PROFILE)  # type: ignore[arg-type]
            await node.start_links()
            await node.listen()
            return node

        here.node = await here.host.run(open_node)
        node = node_of(here)
        assert node.log.refusal is not None
        assert node.log.refusal.code == "log_rolled_back"
        await asyncio.sleep(600)
        assert not node.failed.done()
        assert list(node.link_views()) == []
        status = await here.host.run(lambda env: node.desk.status())
        assert status.log.state == "rolled_back"
        with pytest.raises(SalweenError) as told:
            await here.host.run(lambda env: node.desk.login(1, "246813"))
        assert told.value.code == "log_rolled_back"

    play(tmp_path, script)
