"""The link to one broker: the only socket on this side, and whose turn it is to speak.

Spec: docs/spec/broker.md. Three turns run side by side: one sends whatever is due (many ops share one
request), one waits for what arrives (a long poll over all our mailboxes there), one carries photos in parts
while nothing else is sent (docs/spec/attachments.md#parts). One rule: the link decides
when to speak, never what is true; facts come from and go to the outbox and the inbox, each in one
transaction of its own.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from keys.brokercard import BrokerAddress, BrokerCard, parse_broker_card_untrusted, verify_broker_card
from keys.errors import MalformedInput, SalweenError, Unavailable, VerificationFailed
from keys.secret import SecretBytes
from node.views import LinkView
from protocol import limits
from protocol.delivery import link_retry_ms
from protocol.requests import (
    Answer,
    Get,
    Got,
    List,
    Listed,
    Op,
    Put,
    Result,
    open_answer_untrusted,
    request_bytes,
    seal_request,
)
from runtime.broker_line import POLL_WAIT_MS, SHORT_POLL_WAIT_MS, BrokerLine, wrong_key
from runtime.env import Env
from runtime.exits import DiskFailed
from runtime.logs import get_logger

FRUITLESS_PAUSE_MS_MAX = 30_000
LOOK_ANEW_MS = 5 * limits.MINUTE_MS
INLINE_BYTES_MAX = 480 * 1024  # the answer, padded, is 512 KiB; a little more of it would be 640
SEND_OPS_MAX = 128
SEND_BYTES_MAX = 768 * 1024
PART_BYTES_AT_FIRST = 16 * 1024
PART_LOOK_S = 60.0  # what is due and may not leave, as to a frozen peer, is looked at again
PART_S = 3.0  # how long a part of a photo should take: an alert that comes meanwhile breaks it off
LATE_S = 20.0  # what takes longer may not end before EXCHANGE_TIMEOUT_S on a day a little worse

Via = Literal["broker", "usb", "qr"]  # how an envelope travels

log = get_logger("broker_link")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mailbox:
    """One of our mailboxes: ``name`` is its keystore name, ``peer`` who puts into it."""

    name: str
    peer: bytes
    get_secret: SecretBytes
    broker_address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One envelope a broker listed, or that was carried here by hand."""

    mailbox: Mailbox
    envelope_hash: bytes
    envelope: bytes
    via: Via = "broker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Ops that share one request, and ``marks`` by which their owner knows them again."""

    ops: tuple[Op, ...]
    marks: tuple[object, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Ops of one request about one part of a photo, or none when a whole one only waits to be judged.

    ``key``: which photo it is about.
    """

    ops: tuple[Op, ...] = field(repr=False)
    key: tuple[str | bytes | int, ...]
    carried_bytes: int = 0


class Traffic(Protocol):
    """What the link carries; both halves record before they let the link act."""

    async def due(self, address: str, *, ops_max: int, bytes_max: int) -> Batch:
        """What should leave now; an empty batch when nothing is due."""
        ...

    async def next_due_ms(self, address: str) -> int | None:
        """When something becomes due by itself."""
        ...

    async def settle(self, address: str, batch: Batch, results: Sequence[Result]) -> None:
        """What the broker answered, result by op."""
        ...

    def abandon(self, batch: Batch) -> None:
        """Nothing of this batch is under way any more, whatever came of it."""
        ...

    async def mailboxes(self, address: str) -> Sequence[Mailbox]:
        """Our mailboxes at this broker."""
        ...

    async def arrived(self, arrivals: Sequence[Arrival]) -> bool:
        """Take envelopes in; returns when they are committed, and whether any was not known before."""
        ...

    async def next_part(self, address: str, most_bytes: int) -> "Part | None":
        """What is carried when nothing else is due: a part of a photo."""
        ...

    async def next_part_due_ms(self, address: str) -> int | None:
        """When a part becomes due by itself."""
        ...

    async def settle_part(self, address: str, work: "Part", results: Sequence[Result]) -> None:
        """What the broker answered to a part."""
        ...

    def release_part(self, work: "Part") -> None:
        """It is not under way any more, whatever came of it."""
        ...

    def link_changed(self) -> None:
        """The state of the link changed; screens want to know."""
        ...


class Line(Protocol):
    """A way to one broker (``runtime.broker_line``, ``routes``). Unavailable when it leads nowhere now."""

    wait_ms_max: int  # how long it lets an answer be held back

    async def fetch_card(self) -> bytes:
        """What is shown as the broker's card, unverified."""
        ...

    async def carry(self, card: BrokerCard, body: bytes, *, wait_ms: int) -> bytes:
        """The answer to one encapsulated request that may be held back ``wait_ms``."""
        ...

    async def close(self) -> None:
        """Give back what it holds."""
        ...


class BrokerClient:
    """One broker's endpoint: exchanges of one encapsulated request for one answer."""

    def __init__(
        self,
        env: Env,
        address: BrokerAddress,
        card: BrokerCard | None = None,
        line: "Line | None" = None,
    ) -> None:
        """``line`` is the way there; without it the network itself."""
        self._env = env
        self.address = address
        self._card = card
        self._line: Line = line or BrokerLine(env, address)
        # The broker's clock minus ours; a broker refuses dates too far from its own clock.
        self.clock_offset_ms = 0

    async def card(self) -> BrokerCard:
        """The broker's card, fetched once and held against the hash in the address."""
        if self._card is None:
            card = parse_broker_card_untrusted(await self._line.fetch_card())
            verify_broker_card(card, self.address)
            self._card = card
        return self._card

    async def exchange(self, ops: Sequence[Op]) -> tuple[Result, ...]:
        """Run ops, one result each. Unavailable with a code that tells the layers of a connection apart."""
        for _ in range(2):
            answer = await self._exchange_once(ops)
            self.clock_offset_ms = answer.now_ms - self._env.clock.now_ms()
            if not answer.date_refused or not ops:
                return answer.results
        raise Unavailable(
            "broker_clock", "The broker keeps refusing our date. Check the clock of this machine."
        )

    @property
    def log_origin(self) -> str:
        """The broker's log; empty before the first exchange."""
        return "" if self._card is None else self._card.log_origin

    @property
    def wait_ms_max(self) -> int:
        """How long a poll may be held back on the way there."""
        return self._line.wait_ms_max

    def now_ms(self) -> int:
        """The broker's time, as far as an exchange has told it: what two offices with wrong clocks share."""
        return self._env.clock.now_ms() + self.clock_offset_ms

    async def close(self) -> None:
        """Close the connections."""
        await self._line.close()

    async def _exchange_once(self, ops: Sequence[Op]) -> Answer:
        card = await self.card()
        body, pending = seal_request(
            card.request_public, ops=ops, date_ms=max(0, self.now_ms()), random=self._env.random
        )
        wait_ms = max((op.wait_ms for op in ops if isinstance(op, List)), default=0)
        try:
            data = await self._line.carry(card, body, wait_ms=wait_ms)
            try:
                return open_answer_untrusted(pending, data)
            except (MalformedInput, VerificationFailed) as fault:
                raise Unavailable(
                    "broker_answer", f"The broker's answer does not open ({fault.code})."
                ) from fault
        except Unavailable as fault:
            if fault.code == "broker_answer":
                await self._check_who_answers()
            raise

    async def _check_who_answers(self) -> None:
        """Unavailable ``broker_wrong_key`` when the card shown at the address is not the broker's.

        Without TLS nothing else tells a stranger from a broker in trouble. What was sent is lost on the
        stranger: only the broker can open it.
        """
        data = await self._line.fetch_card()
        try:
            verify_broker_card(parse_broker_card_untrusted(data), self.address)
        except (MalformedInput, VerificationFailed) as fault:
            raise wrong_key() from fault


@dataclass(slots=True)
class _Load:
    """How many bytes of envelopes one exchange may carry: a telephone line does not bring half a megabyte in
    the minute an exchange has, and what breaks off half-way begins anew.
    """

    most: int
    now: int = field(init=False)

    def __post_init__(self) -> None:
        self.now = self.most

    def broke(self) -> None:
        """It did not arrive, or not in time. The largest envelope always may."""
        self.now = max(self.now // 2, limits.ENVELOPE_BYTES_MAX)

    def arrived(self, carried_bytes: int, seconds: float) -> None:
        """So many bytes took so long: a load that was about full says what the line can do."""
        if 2 * carried_bytes < self.now:
            return
        if seconds > LATE_S:
            self.broke()
        elif seconds < LATE_S / 4:
            self.now = min(2 * self.now, self.most)


@dataclass(slots=True)
class _Hold:
    """For how long a poll is held: something on the way may end what seems idle to it, whatever is said."""

    broken: int = 0  # polls in a row that broke after SHORT_POLL_WAIT_MS
    long_again_ms: int = 0  # monotonic

    def wait_ms(self, most_ms: int, now_ms: int) -> int:
        """How long to ask for now."""
        return most_ms if now_ms >= self.long_again_ms else min(most_ms, SHORT_POLL_WAIT_MS)

    def broke(self, held_ms: int, now_ms: int) -> None:
        """No answer came. Once is an outage; twice in a row so late is something that waits for it."""
        self.broken += held_ms > SHORT_POLL_WAIT_MS
        if self.broken == 2:
            self.broken, self.long_again_ms = 0, now_ms + limits.DAY_MS

    def ended(self, held_ms: int) -> None:
        """An answer came."""
        if held_ms > SHORT_POLL_WAIT_MS:
            self.broken = 0


@dataclass(slots=True)
class _PartLoad:
    """How many bytes one part carries, so that it takes about PART_S whatever the line."""

    now: int = PART_BYTES_AT_FIRST

    def broke(self) -> None:
        """It did not arrive: a shorter one may, on a line that is cut often."""
        self.now = max(self.now // 2, limits.ATTACHMENT_PART_BYTES_MIN)

    def arrived(self, carried_bytes: int, seconds: float) -> None:
        """Follow the line, at most fourfold at a time.

        A long way is not a narrow one: only what breaks makes parts shorter than the first.
        """
        if carried_bytes:
            fitting = int(carried_bytes * PART_S / max(seconds, PART_S / 64))
            least = min(self.now, PART_BYTES_AT_FIRST)
            self.now = min(max(fitting, least), 4 * self.now, limits.ATTACHMENT_PART_BYTES)


Clients = Callable[[BrokerAddress], BrokerClient]  # whichever way leads to that broker


class BrokerLink:
    """Keeps one broker talked to. ``run`` until cancelled; ``wake`` when there is something new to send."""

    def __init__(self, env: Env, client: BrokerClient, traffic: Traffic) -> None:
        self._env = env
        self.client = client
        self._traffic = traffic
        self._address = str(client.address)
        self._due = asyncio.Event()
        self._part_due = asyncio.Event()
        self._nothing_sends = asyncio.Event()
        self._nothing_sends.set()
        self._part: asyncio.Task[tuple[Result, ...]] | None = None
        self._part_load = _PartLoad()
        self._poll: asyncio.Task[None] | None = None
        self._taking: asyncio.Task[bool] | None = None
        self._cursors: dict[str, int] = {}
        self._behind: set[str] = set()  # mailboxes whose last list named more than it brought
        self._looked_anew_ms = env.clock.monotonic_ms()
        self._rereads = 0
        self._inline, self._send = _Load(INLINE_BYTES_MAX), _Load(SEND_BYTES_MAX)
        self._hold = _Hold()
        self._is_quiet = True  # the last poll brought nothing
        self._fruitless = 0  # answers in a row that listed items and brought us no further
        self._state: LinkView = self._view("connecting")

    @property
    def view(self) -> LinkView:
        """The link as screens show it."""
        return replace(self._state, broker_clock_offset_ms=self.client.clock_offset_ms or None)

    def wake(self) -> None:
        """Something became due."""
        self._due.set()
        self._part_due.set()

    def reread(self) -> None:
        """Mailboxes changed, or something listed before should be looked at again."""
        self._cursors.clear()
        self._rereads += 1
        # What is being taken in is let finish; the poll then begins anew by itself.
        if self._poll is not None and self._taking is None:
            self._poll.cancel()

    async def run(self) -> None:
        """Both turns, until cancelled."""
        try:
            async with self._env.task_group() as turns:
                turns.create_task(self._forever(self._send_turn), name="link-send")
                turns.create_task(self._forever(self._poll_turn), name="link-poll")
                turns.create_task(self._forever(self._part_turn, is_shown=False), name="link-part")
        finally:
            if self._taking is not None:
                # The database closes after us: what was begun is committed and followed up first.
                await asyncio.gather(self._taking, return_exceptions=True)
            await self.client.close()

    async def _forever(self, turn: Callable[[], Awaitable[None]], *, is_shown: bool = True) -> None:
        """Repeat a turn; back off while the broker cannot be reached.

        Not ``is_shown``: whether the link works is for the other turns to say; a broker may carry no photos.
        """
        attempt = 0
        while True:
            try:
                await turn()
                attempt = 0
            except DiskFailed:
                raise
            except (Unavailable, MalformedInput, VerificationFailed) as fault:
                attempt += 1
                delay_ms = link_retry_ms(attempt, self._env.jitter())
                if is_shown:
                    self._set_backing_off(fault, delay_ms)
                log.warning("link_failed", code=fault.code, attempt=attempt, delay_ms=delay_ms)
                await self._env.sleep(delay_ms / 1000)

    async def _send_turn(self) -> None:
        self._due.clear()
        batch = await self._traffic.due(self._address, ops_max=SEND_OPS_MAX, bytes_max=self._send.now)
        if batch.ops:
            assert request_bytes(batch.ops) <= limits.REQUEST_BYTES_MAX
            # The line is an alert's at once: what was sent of a part is sent again later.
            self._nothing_sends.clear()
            if self._part is not None:
                self._part.cancel()
            try:
                results = await self._ask_for_much(batch.ops, self._send)
                await self._traffic.settle(self._address, batch, results)
            finally:
                self._nothing_sends.set()
                self._traffic.abandon(batch)
            return
        next_ms = await self._traffic.next_due_ms(self._address)
        wait_s = None if next_ms is None else max(0.0, (next_ms - self._env.clock.now_ms()) / 1000)
        try:
            async with self._env.timeout(wait_s):
                await self._due.wait()
        except TimeoutError:
            pass

    async def _part_turn(self) -> None:
        """One part of one photo, when nothing else is being sent."""
        self._part_due.clear()
        await self._nothing_sends.wait()
        due_ms = await self._traffic.next_due_ms(self._address)
        if due_ms is not None and due_ms <= self._env.clock.now_ms():
            # The other turn is about to send it, or waits until the broker can be reached.
            with contextlib.suppress(TimeoutError):
                async with self._env.timeout(PART_S):
                    await self._part_due.wait()
            return
        work = await self._traffic.next_part(self._address, self._part_load.now)
        if work is None:
            next_ms = await self._traffic.next_part_due_ms(self._address)
            # What is due and was not chosen waits for something else, which wakes us, or for time to pass.
            now_ms = self._env.clock.now_ms()
            ahead_ms = 0 if next_ms is None else next_ms - now_ms
            wait_s = None if next_ms is None else ahead_ms / 1000 if ahead_ms > 0 else PART_LOOK_S
            with contextlib.suppress(TimeoutError):
                async with self._env.timeout(wait_s):
                    await self._part_due.wait()
            return
        try:
            results = await self._carry(work)
            if results is not None:
                await self._traffic.settle_part(self._address, work, results)
        finally:
            self._traffic.release_part(work)

    async def _carry(self, work: Part) -> tuple[Result, ...] | None:
        """The results of a part; None when it was broken off for something that may not wait."""
        if not work.ops:
            return ()
        if not self._nothing_sends.is_set():
            return None  # an alert came while this part was chosen
        begun_ms = self._env.clock.monotonic_ms()
        self._part = self._env.spawn(self._ask(work.ops), name="link-part-exchange")
        try:
            results = await asyncio.shield(self._part)
        except asyncio.CancelledError:
            self._part.cancel()
            turn = asyncio.current_task()
            if turn is None or turn.cancelling():
                raise  # it is we who are being ended, not the part that makes way
            return None
        except Unavailable as fault:
            if fault.code in ("broker_timeout", "broker_lost"):
                self._part_load.broke()
            raise
        finally:
            self._part = None
        seconds = (self._env.clock.monotonic_ms() - begun_ms) / 1000
        self._part_load.arrived(work.carried_bytes, seconds)
        return results

    async def _poll_turn(self) -> None:
        self._poll = self._env.spawn(self._poll_once(), name="link-long-poll")
        try:
            await asyncio.shield(self._poll)
        except asyncio.CancelledError:
            self._poll.cancel()
            turn = asyncio.current_task()
            if turn is None or turn.cancelling():
                raise  # it is we who are being ended, not the poll that is to be asked anew
        finally:
            self._poll = None

    async def _poll_once(self) -> None:
        mailboxes = await self._traffic.mailboxes(self._address)
        if not mailboxes:
            await self._env.sleep(POLL_WAIT_MS / 1000)
            return
        # Not right after something came: its deletion is under way, and it would be listed once more.
        if self._is_quiet and self._env.clock.monotonic_ms() - self._looked_anew_ms >= LOOK_ANEW_MS:
            # Cursors are the broker's word. One that went back to an older state counts from there, and what
            # lies behind our cursor would wait until this node starts again.
            self._looked_anew_ms = self._env.clock.monotonic_ms()
            self._cursors.clear()
        behind = [mailbox for mailbox in mailboxes if mailbox.name in self._behind]
        share = self._inline.now // len(mailboxes)
        share_behind = self._inline.now // max(1, len(behind))
        began_ms = self._env.clock.monotonic_ms()
        # A first look answers at once: it also proves that the link works.
        wait_ms = (
            self._hold.wait_ms(self.client.wait_ms_max, began_ms) if self._state.state == "online" else 0
        )
        ops = [
            List(
                get_secret=mailbox.get_secret.reveal(),
                cursor=self._cursors.get(mailbox.name, 0),
                wait_ms=wait_ms,
                inline_bytes_max=share_behind if mailbox in behind else share,
            )
            for mailbox in mailboxes
        ]
        try:
            results = await self._ask_for_much(ops, self._inline)
        except Unavailable:
            now_ms = self._env.clock.monotonic_ms()
            self._hold.broke(now_ms - began_ms, now_ms)
            raise
        self._hold.ended(self._env.clock.monotonic_ms() - began_ms)
        listed = [
            (mailbox, result)
            for mailbox, result in zip(mailboxes, results, strict=True)
            if isinstance(result, Listed) and result.items
        ]
        has_waited = self._env.clock.monotonic_ms() - began_ms >= wait_ms // 2
        brought = [await self._take(mailbox, result) for mailbox, result in listed]
        self._is_quiet = not any(brought)
        if any(brought) or (not listed and has_waited):
            self._fruitless = 0
            return
        # A broker that lists the same again and again, or says "nothing" at once instead of when the wait is
        # over, is listened to, but ever more seldom: a telephone line is paid by the byte.
        self._fruitless += 1
        pause_ms = min(link_retry_ms(self._fruitless, self._env.jitter()), FRUITLESS_PAUSE_MS_MAX)
        await self._env.sleep(pause_ms / 1000)

    async def _take(self, mailbox: Mailbox, listed: Listed) -> bool:
        """Take in what a mailbox lists, each part as soon as it is here; whether any of it was new."""
        rereads = self._rereads
        brought = False
        waiting: list[Arrival] = []
        cursor = listed.items[0].cursor
        for item in listed.items:
            envelope = item.envelope
            if envelope is None:
                if listed.items[0].envelope is not None:
                    break  # the next list brings as many again, in one answer and for one receipt
                # A poor link may not last for the next one: what came first is kept first.
                brought |= await self._take_in(waiting)
                waiting = []
                (got,) = await self._ask(
                    [Get(get_secret=mailbox.get_secret.reveal(), envelope_hash=item.envelope_hash)]
                )
                envelope = got.envelope if isinstance(got, Got) else None
            cursor = item.cursor
            if envelope is not None:
                waiting.append(Arrival(mailbox=mailbox, envelope_hash=item.envelope_hash, envelope=envelope))
        brought |= await self._take_in(waiting)
        if cursor == listed.items[-1].cursor:
            self._behind.discard(mailbox.name)
        else:
            self._behind.add(mailbox.name)
        # The cursor moves only past what is committed: what was not taken in is listed again.
        if self._rereads == rereads:
            self._cursors[mailbox.name] = cursor
        return brought

    async def _take_in(self, arrivals: Sequence[Arrival]) -> bool:
        if not arrivals:
            return False
        # A task of its own: a poll that is ended must not cut off what follows a commit.
        self._taking = self._env.spawn(self._traffic.arrived(arrivals), name="arrivals")
        try:
            brought = await asyncio.shield(self._taking)
        finally:
            if self._taking.done():
                self._taking = None
        self.wake()  # deletions wait to be announced
        return brought

    async def _ask_for_much(self, ops: Sequence[Op], load: _Load) -> tuple[Result, ...]:
        """As ``_ask``, and learn how much the line carries."""
        begun_ms = self._env.clock.monotonic_ms()
        try:
            results = await self._ask(ops)
        except Unavailable as fault:
            if fault.code in ("broker_timeout", "broker_lost"):
                load.broke()
            raise
        listed = [item for result in results if isinstance(result, Listed) for item in result.items]
        carried_bytes = sum(len(item.envelope or b"") for item in listed)
        # As they travel: what shares a blob would make a thin line look like a wide one.
        carried_bytes += request_bytes([op for op in ops if isinstance(op, Put)])
        load.arrived(carried_bytes, (self._env.clock.monotonic_ms() - begun_ms) / 1000)
        return results

    async def _ask(self, ops: Sequence[Op]) -> tuple[Result, ...]:
        results = await self.client.exchange(ops)
        self._set_online()
        return results

    # --- what screens see -----------------------------------------------------------------------------------

    def _view(
        self, state: str, fault: SalweenError | None = None, next_try_ms: int | None = None
    ) -> LinkView:
        return LinkView(
            state=state,  # type: ignore[arg-type]
            reason=None if fault is None else fault.code,
            detail=None if fault is None else fault.detail,
            since_ms=self._env.clock.now_ms(),
            next_try_ms=next_try_ms,
            broker_clock_offset_ms=None,  # filled in when asked for
        )

    def _set_online(self) -> None:
        if self._state.state != "online":
            log.info("link_up")
            self._state = self._view("online")
            self._traffic.link_changed()

    def _set_backing_off(self, fault: SalweenError, delay_ms: int) -> None:
        before = self._state
        self._state = self._view("backing_off", fault, self._env.clock.now_ms() + delay_ms)
        if before.state == "backing_off":
            self._state = replace(self._state, since_ms=before.since_ms)
        self._traffic.link_changed()
