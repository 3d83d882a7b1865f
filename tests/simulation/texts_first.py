"""I22: a photo never delays an alert's text, looked at where an office asks its brokers.

An alert is due at a broker from the commit that keeps it until it is put there, unless the broker refused it
or has no room. Of each link: at most one part of a photo begins while an alert is due (one that was chosen
just before its commit), none while something is being put, and what is under way then ends in that moment.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from node.broker_link import BrokerClient
from protocol.requests import Op, PartGet, PartPut, Put
from tests.simulation.checkers import Broken, Witness
from tests.simulation.daemons import OfficeHost
from tests.simulation.loop import HOST

_ALERTS_DUE: Final = (
    "SELECT d.hh FROM delivery d JOIN peer p ON p.office_id = d.peer WHERE d.alert_id IS NOT NULL"
    " AND d.phase = 'kept' AND d.cause IS NULL AND d.next_at_ms <= ? AND p.broker_address = ?"
    " AND p.state = 'active' AND p.frozen_ms IS NULL"
    # Where the mailbox is full, alerts wait for room and not for the line.
    " AND NOT EXISTS (SELECT 1 FROM full_mailbox f WHERE f.peer = d.peer AND f.urgent = d.urgent)"
)


class _Line:
    """What one life of an office is doing at one broker."""

    def __init__(self) -> None:
        self.parts_begun: dict[bytes, int] = {}  # while this alert was due
        self.put_since_s: float | None = None


class TextsFirst:
    """Watches the offices of one schedule."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._lines: dict[tuple[str, int, str], _Line] = {}
        self.parts = 0  # that began while an alert was due, and may have

    @contextlib.contextmanager
    def watching(self, offices: Mapping[str, OfficeHost]) -> Iterator[None]:
        """``offices`` by the names of their hosts."""
        honest = BrokerClient.exchange

        async def exchange(client: BrokerClient, ops: Sequence[Op]) -> tuple[Any, ...]:
            host = HOST.get()
            office = None if host is None else offices.get(host.name)
            if host is None or office is None:
                return await honest(client, ops)
            line = self._lines.setdefault((host.name, host.number, str(client.address)), _Line())
            now_s = office.host._world.loop.time
            if any(isinstance(op, Put) for op in ops):
                line.put_since_s = now_s()
                try:
                    return await honest(client, ops)
                finally:
                    line.put_since_s = None
            if not any(isinstance(op, PartPut | PartGet) for op in ops):
                return await honest(client, ops)
            self._part_begins(office, line, str(client.address))
            try:
                return await honest(client, ops)
            finally:
                if line.put_since_s is not None and now_s() > line.put_since_s and host.is_alive:
                    self._found(f"{office.name} goes on with a part of a photo beside what it puts")

        BrokerClient.exchange = exchange  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            BrokerClient.exchange = honest  # type: ignore[method-assign]

    def _part_begins(self, office: OfficeHost, line: _Line, address: str) -> None:
        if line.put_since_s is not None:
            self._found(f"{office.name} begins a part of a photo beside what it puts")
        node = office.node
        if node is None:
            return  # it is starting
        due = node.database._connection.execute(_ALERTS_DUE, (office.now_ms(), address))
        line.parts_begun = {hh: line.parts_begun.get(hh, 0) + 1 for (hh,) in due}
        self.parts += bool(line.parts_begun)
        if any(begun > 1 for begun in line.parts_begun.values()):
            self._found(f"{office.name} sends another part of a photo while an alert waits")

    def _found(self, what: str) -> None:
        if self._witness.overheard is None:
            self._witness.overheard = Broken("I22", what)
