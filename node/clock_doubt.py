"""A clock that differs from a broker's is said in our log, so that an auditor takes it for a wrong clock.

Spec: docs/spec/log.md#entries. One rule: nothing is corrected. A broker may lie about the time; what it
showed is entered beside our own, and whoever holds logs against each other weighs both.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from audit.entry import Json
from audit.store import AuditLog
from node.broker_link import BrokerClient
from protocol import limits
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Transaction

CLOCK_DOUBT_MS: Final = 2 * limits.MINUTE_MS
"""Clocks of brokers and offices further apart than this are worth a word, to people and in the log."""
_AGAIN_MS: Final = 10 * limits.MINUTE_MS
"""A broker whose clock jumps to and fro does not fill the log."""

log = get_logger("clock_doubt")


class ClockDoubt:
    """Enters how far each broker's clock is from ours, whenever that changed by ``CLOCK_DOUBT_MS``."""

    def __init__(
        self, env: Env, db: Database, audit_log: AuditLog, *, clients: Callable[[], Sequence[BrokerClient]]
    ) -> None:
        self._env = env
        self._db = db
        self._log = audit_log
        self._clients = clients
        self._said: dict[str, tuple[int, int]] = {}
        """Broker's log -> (offset said last, monotonic time of that); a start begins with none."""

    async def record_once(self) -> None:
        """After an exchange; costs nothing while clocks agree."""
        for client in self._clients():
            offset_ms = client.clock_offset_ms
            origin = client.log_origin
            said_ms, at_mo = self._said.get(origin, (0, -_AGAIN_MS))
            now_mo = self._env.clock.monotonic_ms()
            shown_ms = self._env.clock.now_ms() + offset_ms
            if (
                not origin
                or abs(offset_ms - said_ms) <= CLOCK_DOUBT_MS
                or now_mo - at_mo < _AGAIN_MS
                or not 0 <= shown_ms <= limits.TIME_MS_MAX
            ):
                continue
            await self._db.transact(partial(self._enter, entry={"origin": origin, "at": shown_ms}))
            self._said[origin] = (offset_ms, now_mo)
            log.warning("clock_differs")

    def _enter(self, tx: Transaction, *, entry: dict[str, Json]) -> None:
        self._log.append(tx, "clk.off", entry)
