"""The way on to another broker: one office's sealed request out, the other broker's sealed answer back.

Spec: docs/spec/broker.md#forwarding. It hides from each broker what the other knows: this one sees who asks
and nothing of what, the other what and not who. One rule: no open proxy. Only the holder of a token goes on,
only to a name of the operator's list, which pins the other broker's keys; nothing is followed, kept, logged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keys.brokercard import (
    BrokerCard,
    parse_broker_address_untrusted,
    parse_broker_card_untrusted,
    verify_broker_card,
)
from keys.errors import MalformedInput, Unavailable, VerificationFailed
from protocol import limits
from protocol.requests import Forward, Forwarded, OpRefused, Refusal
from runtime.broker_line import BrokerLine
from runtime.env import Env

ONWARD_TIMEOUT_S: Final = 20.0  # with the longest wait it ends before the asker's own patience does
# Of one token: an office polls at some foreign brokers and sends beside that; a pairing polls as well.
IN_FLIGHT_MAX: Final = 8
HELD_MAX: Final = 4
BURST_MAX: Final = 120
REQUESTS_PER_S: Final = 2.0
BYTES_IN_FLIGHT_MAX: Final = 32 * 2**20
_CARD_LIFE_MS: Final = limits.HOUR_MS


class _Other:
    """One broker of the list."""

    def __init__(self, env: Env, address: str) -> None:
        self._env = env
        self.address = parse_broker_address_untrusted(address)
        self.line = BrokerLine(env, self.address)
        self._card: tuple[int, bytes, BrokerCard] | None = None

    async def card(self) -> tuple[bytes, BrokerCard]:
        """Its card, verified against the operator's list. Unavailable, MalformedInput, VerificationFailed."""
        now_ms = self._env.clock.monotonic_ms()
        if self._card is None or now_ms - self._card[0] > _CARD_LIFE_MS:
            data = await self.line.fetch_card()
            card = parse_broker_card_untrusted(data)
            verify_broker_card(card, self.address)
            self._card = (now_ms, data, card)
        return self._card[1:]

    def forget_card(self) -> None:
        """Fetch it anew next time."""
        self._card = None


@dataclass(slots=True)
class _Holder:
    """What one token is using now, and what it may still ask."""

    filled_ms: int
    allowance: float = BURST_MAX
    in_flight: int = 0
    held: int = 0

    def admits(self, wait_ms: int, now_ms: int) -> bool:
        """Whether one more may go on; it is counted if so."""
        self.allowance = min(BURST_MAX, self.allowance + (now_ms - self.filled_ms) / 1000 * REQUESTS_PER_S)
        self.filled_ms = now_ms
        if self.allowance < 1 or self.in_flight >= IN_FLIGHT_MAX or (wait_ms and self.held >= HELD_MAX):
            return False
        self.allowance -= 1
        self.in_flight += 1
        self.held += bool(wait_ms)
        return True

    def ended(self, wait_ms: int) -> None:
        """One came back, or did not."""
        self.in_flight -= 1
        self.held -= bool(wait_ms)


class Forwarder:
    """Carries requests on for holders of tokens. One per running broker; ``close`` once."""

    def __init__(self, env: Env, brokers: Mapping[str, str]) -> None:
        """``brokers`` is the operator's list: an address by each name."""
        self._env = env
        self._others = {name: _Other(env, address) for name, address in brokers.items()}
        self._holders: dict[bytes, _Holder] = {}
        self._bytes_in_flight = 0

    async def carry(self, op: Forward, token_hash: bytes) -> Forwarded | OpRefused:
        """What the other broker answers; the caller knows that the token is good."""
        other = self._others.get(op.target)
        if other is None:
            return OpRefused(code=Refusal.NOT_FOUND)
        holder = self._holders.setdefault(token_hash, _Holder(self._env.clock.monotonic_ms()))
        size_bytes = len(op.request)
        if self._bytes_in_flight + size_bytes > BYTES_IN_FLIGHT_MAX:
            return OpRefused(code=Refusal.BUSY)
        if not holder.admits(op.wait_ms, self._env.clock.monotonic_ms()):
            return OpRefused(code=Refusal.BUSY)
        self._bytes_in_flight += size_bytes
        try:
            return await self._go_on(other, op)
        except Unavailable as fault:
            return OpRefused(code=Refusal.BUSY if fault.code == "broker_busy" else Refusal.UNREACHABLE)
        except (MalformedInput, VerificationFailed):
            return OpRefused(code=Refusal.UNREACHABLE)
        finally:
            self._bytes_in_flight -= size_bytes
            holder.ended(op.wait_ms)

    async def close(self) -> None:
        """Close the connections; what is under way is answered as unreachable."""
        for other in self._others.values():
            await other.line.close()

    async def _go_on(self, other: _Other, op: Forward) -> Forwarded:
        data, card = await other.card()
        if not op.request:
            return Forwarded(answer=data)
        try:
            answer = await other.line.carry(
                card,
                op.request,
                wait_ms=op.wait_ms,
                answer_bytes_max=limits.FORWARDED_BYTES_MAX,
                timeout_s=ONWARD_TIMEOUT_S,
            )
        except Unavailable:
            other.forget_card()  # it may have another TLS key by now
            raise
        return Forwarded(answer=answer)
