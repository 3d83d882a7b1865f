"""What may happen to an office once in a schedule, beyond breaking down: restored, copied, kept in the dark.

I15: an office restored from a backup takes every alert again that its partner sent since, lists what else it
cannot know, and alerts flow. I16: two copies of one office that both speak are seen by the first partner that
hears both; it keeps what both signed and stops. I18: a broker that withholds is shown within two heartbeats.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keys.errors import PolicyRefused
from keys.secret import SecretBytes
from node.paper import read_sheet
from node.resets import lost_after_restore
from node.restore import restore
from runtime.env import Env
from tests.simulation.checkers import Broken, Seen
from tests.simulation.daemons import CHEAP_PROFILE, PASSPHRASE, OfficeHost
from tests.simulation.disk import SimulatedDisk
from tests.simulation.world import Host

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

TURNS: Final = ("restored", "copied", "withheld")
BACKUP: Final = "backup"
BACKUP_PASSPHRASE: Final = SecretBytes(b"four words on paper")
HEARTBEAT_S: Final = 3600
SLACK_S: Final = 10 * 60  # what a heartbeat may take on its way, and the rounds of both nodes
NOTICED_S: Final = 10 * 60


@dataclass(frozen=True, slots=True)
class Kept:
    """A backup outside the office, and what its officers had seen when it was made."""

    data: bytes
    seen: Seen


async def back_up(schedule: "Schedule", office: OfficeHost) -> Kept | None:
    """As an officer does every evening; None when the office is down, or knows no partner well enough.

    A pair whose partner was never reached has no reset key yet, and is paired anew after a loss instead.
    """
    node = office.node
    if office.host.life is None or node is None:
        return None
    known = await office.host.run(lambda env: node.database.read(lambda tx: tx.execute(_RESET_KEYS)))
    if (await schedule.partner_of(office)).office_id not in [row[0].hex() for row in known]:
        return None
    if office.node is not node:
        return None  # started again meanwhile
    seen = schedule.witness.seen_by(office.name)

    async def make(env: Env) -> bytes:
        await node.backup(BACKUP, BACKUP_PASSPHRASE, with_operational=False)
        data: bytes = env.files.read(BACKUP)
        env.files.remove(BACKUP)
        return data

    data = await office.host.run(make)
    schedule.world.note("backup", office.name, len(seen.shown), len(seen.ticks))
    return Kept(data=data, seen=seen)


async def restore_office(schedule: "Schedule", office: OfficeHost, kept: Kept) -> None:
    """The machine is gone; the backup and the recovery sheet are put into a new one."""
    host = office.host
    if host.life is not None:
        host.kill()
    sheet = next(data for path, data in _disk(host).content().items() if path.endswith("/sheet"))
    schedule.put_disk(host, SimulatedDisk(random.Random(0)))
    office.node = None  # nobody sits at the desk of the machine that is gone
    host.boot()

    async def begin(env: Env) -> None:
        env.files.write_atomic(BACKUP, kept.data, mode=0o600)
        env.files.write_atomic("sheet", sheet, mode=0o600)
        await restore(
            env,
            BACKUP,
            "node",
            read_sheet(env, "sheet"),
            backup_passphrase=BACKUP_PASSPHRASE,
            passphrase=SecretBytes(PASSPHRASE),
            kdf=CHEAP_PROFILE,
        )

    await host.run(begin)
    schedule.witness.went_back(office.name, kept.seen)
    await schedule.boot_office(office)
    schedule.note_log_key(office)


async def check_restored(office: OfficeHost, partner: str) -> None:
    """I15: the partner has answered, and the office can say what it cannot know any more."""
    node = office.node
    assert node is not None
    told = await office.host.run(lambda env: node.database.read(lost_after_restore))
    if not [
        reset for reset in told if reset["peer"].startswith(partner) and reset["answered_ms"] is not None
    ]:
        raise Broken("I15", f"{office.name} was restored and {partner} never told it what was lost")


async def withhold(schedule: "Schedule") -> None:
    """I18: for more than two heartbeats the broker lists nothing, and every screen must say so."""
    for broker in schedule.liars.values():
        broker.withholds = True
    began = {office.name: office.now_ms() for office in schedule.offices}
    await asyncio.sleep(2 * HEARTBEAT_S + SLACK_S)
    for office in schedule.offices:
        since_ms = (await schedule.partner_of(office)).no_proof_since_ms
        if since_ms is None:
            raise Broken("I18", f"{office.name} is kept in the dark and does not say so")
        if since_ms > began[office.name]:
            raise Broken("I18", f"{office.name} dates its last proof after the broker fell silent")
    for broker in schedule.liars.values():
        broker.withholds = False
    await asyncio.sleep(HEARTBEAT_S + SLACK_S)
    for office in schedule.offices:
        if (await schedule.partner_of(office)).no_proof_since_ms is not None:
            raise Broken("I18", f"{office.name} hears its partner again and still says it does not")


async def copy_office(schedule: "Schedule", office: OfficeHost, partner: OfficeHost) -> None:
    """I16: a copy of the whole directory runs elsewhere while the office goes on, and both speak."""
    office.host.kill()
    copy = OfficeHost(schedule.world, office.name, office.country)
    copy.host.name = f"{office.host.name}-copy"
    schedule.put_disk(copy.host, _disk(office.host).copy())
    await schedule.boot_office(office)
    await schedule.send_apart(office)
    copy.host.boot()
    await copy.serve()
    try:
        await schedule.send_apart(copy)
    except PolicyRefused as refused:
        if refused.code != "pair_frozen":
            raise
        return  # an acknowledgement had told it that it is a copy before it could speak
    await asyncio.sleep(NOTICED_S)
    if (await schedule.partner_of(partner)).frozen_code is None:
        raise Broken("I16", f"{partner.name} hears two copies of {office.name} and goes on")
    node = partner.node
    assert node is not None
    taken = await partner.host.run(lambda env: node.database.read(lambda tx: tx.execute(_VERSIONS)))
    if not any(header in proof and signature in proof for header, signature, proof in taken):
        raise Broken("I16", f"{partner.name} froze the pair and did not keep what it had taken before")


_RESET_KEYS: Final = "SELECT peer FROM reset_key WHERE own = 0"
# The version taken in first stands whole in the proof, beside the one that came second.
_VERSIONS: Final = (
    "SELECT r.header, r.signature, e.proof FROM evidence e JOIN received r"
    " ON r.peer = e.peer AND r.hh <> e.hh"
)


def _disk(host: Host) -> SimulatedDisk:
    assert host.simulated_disk is not None
    return host.simulated_disk
