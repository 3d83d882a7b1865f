"""Each act is in the log, in the transaction that does it: neither is ever there without the other."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audit.entry import TYPES, decode_entry_untrusted
from keys.secret import SecretBytes
from node.paper import read_sheet
from node.restore import renew
from protocol import limits
from protocol.alert import Alert
from protocol.delivery import DeliveryState
from runtime.sqlite import Database, Transaction
from tests.node.offices import (
    OFFICER_PIN,
    Offices,
    an_alert,
    node_of,
    play,
    settled,
    write,
)
from tests.node.test_resets import back_up, restored
from tests.simulation.daemons import PASSPHRASE
from tests.simulation.env import EPOCH_MS

# What changes nothing but the log: it was refused, handed out, looked at or ended in memory. A try of a PIN
# is counted before it is made, or killing the node would give another; its entry follows.
ALONE = {"acc.deny", "audit.export", "backup.made", "clk.off", "ses.fail", "ses.logout", "stick.in"}
EXPECTED = {
    *ALONE, "acc.export", "acc.print", "acc.read", "ans.given", "backup.loss", "backup.restore", "bk.ack",
    "bk.box", "bk.in", "bk.out", "clk.off", "clk.step", "content.erased", "key.rotate", "log.start",
    "msg.cancel", "msg.custody", "msg.expired", "msg.receipt", "msg.recv", "msg.seal", "msg.submit",
    "officer.add", "officer.pin-reset", "officer.retire", "pair.begin", "pair.ok", "peer.reset",
    "peer.resume", "peer.retire", "peer.suspend", "rel.author", "ses.login", "stick.out",
}  # fmt: skip

LAST = "SELECT idx, hash FROM leaf ORDER BY idx DESC LIMIT 1"
SAME = "SELECT 1 FROM leaf WHERE idx = ? AND hash = ?"


class Watch:
    """Every transaction of every database: the entries it made, and whether it changed anything else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[str, list[bool]] = {}
        honest = Database._run_write

        def watched(database: Database, call: Any) -> Any:
            connection = database._connection
            last = connection.execute(LAST).get
            changes = connection.total_changes()
            outcome = honest(database, call)
            # A log that began anew in this transaction has other entries in the same places.
            is_same = last is None or connection.execute(SAME, last).get
            after = last[0] if last is not None and is_same else -1
            made: list[Any] = connection.execute("SELECT entry FROM leaf WHERE idx > ?", (after,)).fetchall()
            others = connection.total_changes() - changes - len(made)
            for (entry,) in made:
                self.seen.setdefault(decode_entry_untrusted(entry)["t"], []).append(others > 0)
            return outcome

        monkeypatch.setattr(Database, "_run_write", watched)


def short_lived(plate: str) -> Alert:
    """Void after an hour, erased after two."""
    times = {"expires_ms": EPOCH_MS + limits.HOUR_MS, "erase_at_ms": EPOCH_MS + 2 * limits.HOUR_MS}
    return an_alert(plate).model_copy(update=times)


def prolong_one(tx: Transaction) -> None:
    """The last alert still travels after its end, as one does that a reset asked for again."""
    hh, state = tx.execute(
        "SELECT hh, state FROM delivery WHERE alert_id IS NOT NULL ORDER BY rowid DESC LIMIT 1"
    )[0]
    later = replace(DeliveryState.decode(state), expires_ms=EPOCH_MS + limits.BACKUP_HORIZON_MS)
    tx.execute(
        "UPDATE delivery SET state = ?, expires_ms = ? WHERE hh = ?", (later.encode(), later.expires_ms, hh)
    )


def test_every_act_of_an_office_and_its_entry_are_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paired, sent, read, printed, answered, withdrawn, erased, backed up, restored, retired, and officers'
    own: an entry without its rows, or an act without its entry, is found here."""
    watch = Watch(monkeypatch)

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await settled(offices)
        node = node_of(here)
        second = await offices.second_officer()
        await here.host.run(lambda env: node.desk.logout(second))
        await here.host.run(lambda env: node.reset_pin(2, "864209753"))
        await here.host.run(lambda env: node.retire_officer(2))
        with pytest.raises(Exception, match="pin_wrong"):
            await here.host.run(lambda env: node.desk.login(1, OFFICER_PIN))

        await back_up(there)
        await there.send(an_alert("KA-LOST"))
        sent = await here.send(short_lived("KA-1"))
        await asyncio.sleep(60)
        assert sent.alert_id is not None
        alert_id = sent.alert_id
        for access in ("read", "print", "export"):
            await there._at_desk(
                lambda n, s, access=access: n.desk.open_alert(s, alert_id, purpose="duty", access=access)  # type: ignore[misc]
            )
        await there._at_desk(lambda n, s: n.desk.answer(s, alert_id, "assigned"))
        await restored(there)
        await asyncio.sleep(300)

        there.host.kill()
        there.host.boot()
        await there.host.run(
            lambda env: renew(env, "node", read_sheet(env, "sheet"), SecretBytes(PASSPHRASE))
        )
        there.host.kill()
        await there.restart()

        offices.broker.host.kill()
        await here.log_in()
        for plate in ("KA-2", "KA-3"):
            await here.send(short_lived(plate))
        await write(here, prolong_one)
        await there.import_stick(await here.export_stick("Tengchong"))
        here.host.step_clock(3 * limits.HOUR_MS)
        await asyncio.sleep(120)
        with pytest.raises(Exception, match="alert_erased"):
            await here.open_alert(alert_id)

        await write(
            here,
            lambda tx: tx.execute(
                "INSERT INTO evidence (peer, at_ms, code, hh, proof)"
                " SELECT office_id, 0, 'x', x'', x'' FROM peer"
            ),
        )
        (peer,) = await here.peers()
        await here._at_desk(lambda n, s: n.desk.evidence(s, peer.office_id))
        await here._at_desk(lambda n, s: n.desk.custody_notes(s, ["00" * 16]))
        await here._at_desk(lambda n, s: n.desk.suspend(s, peer.office_id))
        await here._at_desk(lambda n, s: n.desk.resume(s, peer.office_id))
        await here._at_desk(lambda n, s: n.desk.retire(s, peer.office_id, None))

    play(tmp_path, script)
    assert EXPECTED - set(watch.seen) == set()
    assert {kind for kind, others in watch.seen.items() if not all(others)} == ALONE


def test_every_other_entry_type_is_named_by_the_test_of_its_act() -> None:
    """Freezing, releasing, photos, brokers and the like have worlds of their own."""
    tests = Path(__file__).parents[1]
    page = (tests.parent / "docs" / "spec" / "log.md").read_text(encoding="utf-8")
    reserved = set(re.findall(r"^\| `([a-z]+\.[a-z-]+)` .*\| reserved \|$", page, flags=re.MULTILINE))
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("node", "broker", "scenarios")
        for path in (tests / folder).glob("test_*.py")
        if path != Path(__file__)
    )
    assert {name for name in set(TYPES) - reserved - EXPECTED if f'"{name}"' not in sources} == set()
