"""One encapsulated request in, one sealed answer out.

Spec: docs/spec/broker.md#requests. The order, which everything else relies on: open, date, replay, carry
out and commit, wait if asked to and nothing came, sign custody, seal. One rule: whatever an answer says was
durable before it was sealed. Knows no HTTP; raises MalformedInput or VerificationFailed for bytes that are
no request to this broker, PolicyRefused ``replayed`` for one that was answered before.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from broker.arrivals import Arrivals, Listening
from broker.custody import sign_results
from broker.forwarder import Forwarder
from broker.identity import BrokerIdentity
from broker.metrics import BrokerMetrics
from broker.replay import DIGEST_BYTES, ReplayMemory
from broker.store.base import CarriedOut, Order, Store, order_of
from keys.errors import PolicyRefused
from keys.primitives import sha256
from protocol import limits
from protocol.requests import (
    Delete,
    Forward,
    List,
    Listed,
    ListedItem,
    MailboxOp,
    OpRefused,
    Refusal,
    Request,
    Result,
    check_date,
    forwarding_token_hash,
    open_request_untrusted,
    seal_answer,
)
from runtime.env import Env

HAND_OUT_BATCH_MAX: Final = 1024
STRANGERS_WAITING_MAX: Final = 64  # beyond it polls on nothing are answered at once


class Exchange:
    """Answers requests. One per running broker."""

    def __init__(
        self,
        *,
        env: Env,
        identity: BrokerIdentity,
        store: Store,
        arrivals: Arrivals,
        forwarder: Forwarder,
        metrics: BrokerMetrics,
        on_error: Callable[[Exception], None],
    ) -> None:
        """``on_error`` is told what goes wrong after an answer has left."""
        self._env = env
        self._identity = identity
        self._store = store
        self._arrivals = arrivals
        self._forwarder = forwarder
        self._metrics = metrics
        self._on_error = on_error
        self._boot_ms = env.clock.now_ms()
        self._boot_monotonic_ms = env.clock.monotonic_ms()
        self._memory = ReplayMemory(boot_ms=self._boot_ms)
        self._handed_out: list[int] = []  # log indexes whose bk.out is still to be written
        self._strangers_waiting = 0  # polls that showed no capability of ours
        self._noting: asyncio.Task[None] | None = None

    def now_ms(self) -> int:
        """The clock requests are dated by: the wall clock at boot, and steady since.

        A step of the wall clock in between would turn away every node that had just learnt our time.
        """
        return self._boot_ms + self._env.clock.monotonic_ms() - self._boot_monotonic_ms

    def open_untrusted(self, data: bytes) -> Request:
        """Open an encapsulated request; MalformedInput or VerificationFailed if it is none to this broker."""
        return open_request_untrusted(self._identity.request_key, data)

    async def answer(self, request: Request) -> bytes:
        """The sealed answer; PolicyRefused ``replayed``, and what the store raises when it cannot go on."""
        now_ms = self.now_ms()
        try:
            check_date(request.date_ms, now_ms=now_ms, boot_ms=self._memory.floor_ms)
        except PolicyRefused:
            self._metrics.requests.labels("time_only").inc()
            return seal_answer(request, (), now_ms, self._env.random)
        digest = sha256(request.enc)[:DIGEST_BYTES]
        if self._memory.knows(digest, request.date_ms):
            raise PolicyRefused("replayed", "this request was answered before; make a new one")
        # Before the first await, so that two copies at the same time are not both answered.
        self._memory.remember(digest, request.date_ms, now_ms)
        carried = await self._carry_out_request(request)
        if not carried.known:
            self._memory.forget(digest, request.date_ms)
        return self._seal(request, carried)

    async def close(self) -> None:
        """Wait until what was handed out is recorded."""
        if self._noting is not None:
            await self._noting

    async def _carry_out_request(self, request: Request) -> CarriedOut:
        ops = [op for op in request.ops if not isinstance(op, Forward)]
        if len(ops) == len(request.ops):
            return await self._carry_out(ops)
        match request.ops:
            case (Forward() as op,):
                return await self._forward(op)
            case _:
                # Whatever waits for another broker would hold up what shares its request.
                refused = OpRefused(code=Refusal.MALFORMED)
                return CarriedOut(results=(refused,) * len(request.ops), known=False, handed_out=())

    async def _forward(self, op: Forward) -> CarriedOut:
        token_hash = forwarding_token_hash(op.token)
        if not await self._store.may_forward(token_hash):
            refused = OpRefused(code=Refusal.TOKEN_UNKNOWN)
            return CarriedOut(results=(refused,), known=False, handed_out=())
        result = await self._forwarder.carry(op, token_hash)
        return CarriedOut(results=(result,), known=True, handed_out=())

    async def _carry_out(self, ops: Sequence[MailboxOp]) -> CarriedOut:
        own_key = self._identity.custody_key.public_bytes
        orders = [order_of(op, own_key) for op in ops]
        wait_ms = min((op.wait_ms for op in ops if isinstance(op, List)), default=0)
        if not wait_ms or not all(isinstance(op, List | Delete) for op in ops):
            # Whoever puts or asks wants to know now; only a deletion may ride on a poll.
            return await self._store.carry_out(orders, bytes_max=limits.INLINE_BYTES_MAX)
        with self._arrivals.listening(order.box_hash for order in orders) as poll:
            carried = await self._store.carry_out(orders, bytes_max=limits.INLINE_BYTES_MAX)
            if any(isinstance(result, Listed) and result.items for result in carried.results):
                return carried
            if carried.known or self._strangers_waiting < STRANGERS_WAITING_MAX:
                await self._wait(poll, wait_ms, carried.known)
        return _arrived(orders, carried, poll)

    async def _wait(self, poll: Listening, wait_ms: int, known: bool) -> None:
        self._metrics.polls_waiting.inc()
        self._strangers_waiting += not known
        try:
            async with self._env.timeout(wait_ms / 1000):
                await poll.changed.wait()
        except TimeoutError:
            pass
        finally:
            self._metrics.polls_waiting.dec()
            self._strangers_waiting -= not known

    def _seal(self, request: Request, carried: CarriedOut) -> bytes:
        for op, result in zip(request.ops, carried.results, strict=True):
            outcome = str(result.code) if isinstance(result, OpRefused) else "done"
            self._metrics.operations.labels(type(op).__name__.lower(), outcome).inc()
        self._note_handed_out(carried.handed_out)
        signed = sign_results(request.ops, carried.results, self._identity.custody_key)
        self._metrics.requests.labels("answered").inc()
        return seal_answer(request, signed, self.now_ms(), self._env.random)

    # That an item was fetched is the broker's own claim, which nobody can check and no answer waits for: it
    # is committed right after, together with whatever else is being committed then. What is promised or
    # deleted is committed before the answer.
    def _note_handed_out(self, log_indexes: Sequence[int]) -> None:
        self._handed_out += log_indexes
        if self._handed_out and self._noting is None:
            self._noting = self._env.spawn(self._note(), name="handed-out")

    async def _note(self) -> None:
        try:
            while self._handed_out:
                batch = self._handed_out[:HAND_OUT_BATCH_MAX]
                del self._handed_out[:HAND_OUT_BATCH_MAX]
                await self._store.note_handed_out(batch)
        except Exception as error:
            # A log that may not be written (rolled back) still lets offices fetch what is theirs.
            self._handed_out.clear()
            self._on_error(error)
        finally:
            self._noting = None


def _arrived(orders: Sequence[Order], carried: CarriedOut, poll: Listening) -> CarriedOut:
    """The results of a poll: what was carried out before, and the items announced while it waited."""
    bytes_left, listed_left = limits.INLINE_BYTES_MAX, limits.LISTED_PER_ANSWER_MAX
    handed_out: list[int] = []
    results: list[Result] = []
    for order, result in zip(orders, carried.results, strict=True):
        if not isinstance(order.op, List):
            results.append(result)
            continue
        inline_left = min(order.op.inline_bytes_max, bytes_left)
        items: list[ListedItem] = []
        # One mailbox may be named by many orders: what came is counted for each of them.
        came = [item for item in poll.items.get(order.box_hash, ()) if item.cursor > order.op.cursor]
        for item in came[:listed_left]:
            if item.size_bytes <= inline_left:
                inline_left -= item.size_bytes
                bytes_left -= item.size_bytes
                handed_out.append(item.cursor)
                items.append(item)
            else:
                inline_left = 0
                items.append(replace(item, envelope=None))
        results.append(Listed(items=tuple(items), more=poll.overflowed or len(items) < len(came)))
        listed_left -= len(items)
    return CarriedOut(results=tuple(results), known=carried.known, handed_out=tuple(handed_out))
