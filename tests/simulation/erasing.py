"""I24: what is erased is gone, with its photos, whatever broke meanwhile.

Some alerts with photos are due within minutes, while they are on their way and everything breaks. At the end
all clocks go on until every alert is due. Then no key, no content, no picture, no thumbnail and no part of
one stands in the database, its journal or any file of either office, and at the broker no part is left.
"""

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

from node.views import AlertRow
from protocol import limits
from runtime.sqlite import Snapshot
from tests.node.erased import found_in, needles_of
from tests.node.offices import node_of, read
from tests.simulation.checkers import Broken
from tests.simulation.daemons import OfficeHost
from tests.simulation.photos import Photographers, pictures

if TYPE_CHECKING:
    from tests.simulation.schedule import Schedule

SCHEDULES: Final = 0.6  # share of those with photos
ALERTS: Final = 0.5  # share of alerts with photos that are due within minutes
DUE_MS: Final = (20 * limits.SECOND_MS, 6 * limits.MINUTE_MS)
ALL_DUE_MS: Final = (
    36 * limits.DAY_MS
)  # alerts last 30 days, attachments at a broker 14, what is set aside 35
ERASED_S: Final = 70 * 60  # what is set aside is looked at once an hour


class Erasing:
    """What one schedule erases, and what of it was seen on the disks before."""

    def __init__(self, seed: int, photos: Photographers) -> None:
        self._choices = random.Random(f"schedule/{seed}/erasing")
        self._photos = photos
        self.is_at_work = photos.is_at_work and self._choices.random() < SCHEDULES
        self._is_any_lasting = False
        self._seen: dict[bytes, str] = {}
        self._keys: dict[bytes, str] = {}  # no disk ever holds them in clear

    def lasts_ms(self, names: list[str]) -> int | None:
        """For how long an alert with these photos is kept; None for as long as others."""
        if not self.is_at_work or not names:
            return None
        if self._choices.random() >= ALERTS:
            self._is_any_lasting = True
            return None
        return self._choices.randint(*DUE_MS)

    async def remember(self, office: OfficeHost, alert_id: str | None, *, incoming: bool) -> None:
        """What stands at this office of an alert with photos, as far as it is here."""
        if not self.is_at_work or alert_id is None:
            return
        photos = node_of(office)._photos

        def keys(tx: Snapshot) -> list[bytes]:
            rows = tx.execute(
                "SELECT blob, kek, sealed FROM photo WHERE alert_id = ?", (bytes.fromhex(alert_id),)
            )
            return [photos._manifest(*row).key for row in rows]

        of = f"of {alert_id[:8]} at {office.name}"
        for name, needle in (await needles_of(office, alert_id, incoming=incoming)).items():
            self._seen[needle] = f"{name} {of}"
        for key in await read(office, keys):
            self._keys[key] = f"content key {of}"

    async def look(self, office: OfficeHost, inbox: tuple[AlertRow, ...]) -> None:
        """What came with photos, and how far they are."""
        if self.is_at_work:
            for row in inbox:
                if self._photos.photos_of(row):
                    await self.remember(office, row.alert_id, incoming=True)

    async def check(self, schedule: "Schedule") -> None:
        """Let time pass until everything is due, and look through all disks."""
        if not self.is_at_work or not self._seen:
            return
        never = {f"picture {place}": made[-64:-16] for place, (_, made) in enumerate(pictures())}
        needles = {name: needle for needle, name in (*self._seen.items(), *self._keys.items())} | never
        before = [name for office in schedule.offices for name in found_in(office, needles)]
        if never.keys() & set(before) or {*self._keys.values()} & set(before):
            raise Broken("I24", f"a disk holds what is never written in clear: {before}")
        if self._is_any_lasting and not before:
            raise AssertionError("whoever looks for what is erased sees nothing of what is not")
        for host in schedule.hosts():
            host.step_clock(ALL_DUE_MS)
        await asyncio.sleep(ERASED_S)
        for office in schedule.offices:
            if found := found_in(office, needles):
                name, place = next(iter(found.items()))
                raise Broken("I24", f"{office.name} erased everything and holds {name} in {place}")
        for broker in schedule.brokers:
            running: Any = broker.broker
            rows = await broker.host.run(lambda env, db=running._db: db.read(_at_broker))  # type: ignore[misc]
            if rows:
                raise Broken("I24", f"{broker.host.name} still holds {rows} parts of photos that are due")


def _at_broker(tx: Snapshot) -> int:
    tables = ("attachments", "attachment_parts")
    return sum(int(tx.value(f"SELECT count(*) FROM {table}")) for table in tables)
