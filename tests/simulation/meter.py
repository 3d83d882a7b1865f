"""Bytes on the line of each office, both ways, as TLS 1.3 would carry what the virtual line carries bare.

Not counted: TCP and IP, and the handshake of a connection, of which one carries a day.
"""

import asyncio
import re
from collections import Counter
from typing import Final

from tests.node.offices import Offices, node_of
from tests.simulation.daemons import OfficeHost

RECORD_BYTES: Final = 22  # RFC 8446: header 5, type 1, tag 16
_RECORD_MAX: Final = 16_384  # what is written at once is one record up to here
_LENGTH = re.compile(rb"^POST /v1 .*Content-Length: ([0-9]+)\r\n", re.DOTALL)


class Meter:
    """From now on, of both offices."""

    def __init__(self, offices: Offices) -> None:
        self.carried: Counter[str] = Counter()
        self.writes: Counter[tuple[str, int]] = Counter()  # ("up" or "down", bytes without TLS): how many
        self.asked: dict[str, list[int]] = {"myitkyina": [], "tengchong": []}  # sizes of requests
        offices.world.network.on_written = self._note

    def _note(self, host: str, to: str, data: bytes) -> None:
        for office in {host, to} & self.asked.keys():
            self.carried[office] += len(data) + RECORD_BYTES * -(-len(data) // _RECORD_MAX)
            self.writes["up" if host == office else "down", len(data)] += 1
            if host == office and (found := _LENGTH.match(data)):
                self.asked[office].append(int(found[1]))

    def clear(self) -> None:
        """Begin anew."""
        self.carried.clear()
        self.writes.clear()
        for sizes in self.asked.values():
            sizes.clear()

    def poll_bytes(self) -> int:
        """Of a poll that brings nothing: the request that is sent most often, the empty answer, and what says
        meanwhile that it is still held.
        """
        polls, poll = max((times, size) for (way, size), times in self.writes.items() if way == "up")
        often = [size for (way, size), times in self.writes.items() if way == "down" and times > polls // 2]
        return poll + sum(often) + (1 + len(often)) * RECORD_BYTES


async def send_cover_now(office: OfficeHost) -> None:
    """The moment of its next cover comes now."""
    cover = node_of(office)._cover
    for peer_id, (_, seen) in list(cover._due.items()):
        cover._due[peer_id] = (0, seen)
    await office.host.run(lambda env: cover.send_due())


async def cost_of_cover(offices: Offices, meter: Meter) -> tuple[int, int]:
    """Of one from here to there: what the line carries in the office that sends it and in the other one.

    Both have ``cover_mean_s`` set.
    """
    await send_cover_now(offices.here)  # or what was said at first takes its place
    await asyncio.sleep(10)
    for office in (offices.here, offices.there):
        for entry in node_of(office)._links.values():
            entry.link.reread()  # no poll ends meanwhile but by what comes
    await asyncio.sleep(2)
    meter.clear()
    await send_cover_now(offices.here)
    await asyncio.sleep(10)
    return meter.carried["myitkyina"], meter.carried["tengchong"]
