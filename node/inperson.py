"""Pairing in person, driven: one code on each screen, read by the other office's camera or pasted.

Spec: docs/spec/pairing.md#in-person. ``keys.inperson`` holds every rule; this file shows and reads the codes,
carries items to and from the broker and asks the officer whether the name on the screen is the office across
the table; ``node.partnering`` concludes.
"""

from keys.brokercard import encode_broker_card, parse_broker_address_untrusted
from keys.card import safety_number
from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, SalweenError
from keys.inperson import (
    InviterShows,
    InviterWaitsForKey,
    Meeting,
    OwnOffice,
    Recognises,
    derive_meeting,
    start_joiner,
)
from keys.invitation import INVITATION_LIFE_MS
from keys.meetingcode import (
    InviterCode,
    check_meeting,
    code_text,
    encode_code,
    expect_inviter,
    read_code_text_untrusted,
)
from keys.secret import SecretBytes
from node.broker_link import BrokerClient, Clients
from node.control import Channel
from node.identity import Identity
from node.partnering import YES, Ours, Partnering, Wire
from node.views import PeerView
from protocol.tokens import parse_token_untrusted
from runtime.env import Env

READ_TRIES = 20


class Meetings:
    """Runs ceremonies in person for one node."""

    def __init__(self, env: Env, identity: Identity, partnering: Partnering, clients: Clients) -> None:
        self._env = env
        self._identity = identity
        self._partnering = partnering
        self._clients = clients

    async def begin(self, broker: str, token_text: str, channel: Channel) -> PeerView:
        """Show our code first, then read the other office's."""
        address = parse_broker_address_untrusted(broker)
        token = parse_token_untrusted(token_text)
        async with self._partnering.alone():
            client = self._clients(address)
            try:
                card = await client.card()
                await client.exchange([])  # a code lives by the broker's clock: ours may be years off
                code = InviterCode(
                    office_id=self._identity.office_id,
                    secret=SecretBytes(self._env.random(16)),
                    token=token,
                    broker_address=address,
                    expires_ms=client.now_ms() + INVITATION_LIFE_MS,
                )
                shown = code_text(encode_code(code))
                ours = await self._partnering.bring(client, token, address, encode_broker_card(card))
                meeting = Meeting(
                    InviterShows(
                        own=self._own(ours), code=code, channel_key=SecretBytes(self._env.random(32))
                    ),
                    code.expires_ms,
                )
                await self._read_answer(meeting, client, shown, channel)
                step = meeting.step
                if not isinstance(step, InviterWaitsForKey):
                    raise BrokenInvariant("ceremony_step", "a code was read and no key is awaited")
                place = derive_meeting(code, step.joiner)
                wire = Wire(self._env, client, place.to_joiner, place.to_inviter)
                await channel.emit({"event": "waiting"})
                for _ in ("key", "bundle"):
                    await self._step(meeting, wire, await wire.receive(code.expires_ms))
                await self._recognise(meeting, wire, channel)
                return await self._partnering.conclude(
                    meeting,
                    wire,
                    channel,
                    ours,
                    address,
                    expires_ms=code.expires_ms,
                    role="invite",
                    how="person",
                )
            finally:
                await client.close()

    async def answer(self, channel: Channel) -> PeerView:
        """Read the other office's code first, then show ours."""
        async with self._partnering.alone():
            code = await self._read_inviter(channel)
            address = code.broker_address
            client = self._clients(address)
            try:
                card = await client.card()
                await client.exchange([])
                check_meeting(code, client.now_ms())
                ours = await self._partnering.bring(client, code.token, address, encode_broker_card(card))
                step, key = start_joiner(
                    self._own(ours),
                    code,
                    secret=SecretBytes(self._env.random(16)),
                    ephemeral_seed=SecretBytes(self._env.random(32)),
                )
                meeting = Meeting(step, code.expires_ms)
                place = derive_meeting(code, step.code)
                for mailbox in (place.to_joiner, place.to_inviter):
                    await self._partnering.create(client, code.token, mailbox, "rendezvous")
                wire = Wire(self._env, client, place.to_inviter, place.to_joiner)
                await wire.send(key)
                await channel.emit({"event": "meeting-code", "code": code_text(encode_code(step.code))})
                await self._step(meeting, wire, await wire.receive(code.expires_ms))
                await self._recognise(meeting, wire, channel)
                return await self._partnering.conclude(
                    meeting,
                    wire,
                    channel,
                    ours,
                    address,
                    expires_ms=code.expires_ms,
                    role="join",
                    how="person",
                )
            finally:
                await client.close()

    # --- steps ----------------------------------------------------------------------------------------------

    def _own(self, ours: Ours) -> OwnOffice:
        return OwnOffice(operational=self._identity.operational, bundle=ours.bundle)

    async def _step(self, meeting: Meeting, wire: Wire, item: bytes) -> None:
        answer = meeting.receive(item, seal_nonce=self._env.random(24), now_ms=wire.now_ms())
        if answer is not None:
            await wire.send(answer)

    async def _read_answer(
        self, meeting: Meeting, client: BrokerClient, shown: str, channel: Channel
    ) -> None:
        """Show our code and read the one that answers it; what does not may be read again."""
        event: dict[str, object] = {"event": "meeting-code", "code": shown, "asks": True}
        for _ in range(READ_TRIES):
            text = await channel.ask(event)
            try:
                meeting.take_code(text, now_ms=client.now_ms())
            except (MalformedInput, PolicyRefused) as slip:
                if not isinstance(meeting.step, InviterShows):
                    raise
                event = _again(event, slip)
                continue
            return
        meeting.abort()
        raise _nothing_read()

    async def _read_inviter(self, channel: Channel) -> InviterCode:
        event: dict[str, object] = {"event": "scan", "asks": True}
        for _ in range(READ_TRIES):
            text = await channel.ask(event)
            try:
                return expect_inviter(read_code_text_untrusted(text), self._identity.office_id)
            except (MalformedInput, PolicyRefused) as slip:
                event = _again(event, slip)
        raise _nothing_read()

    async def _recognise(self, meeting: Meeting, wire: Wire, channel: Channel) -> None:
        """The last look of a person: is this the office across the table?"""
        step = meeting.step
        if not isinstance(step, Recognises):
            raise BrokenInvariant("ceremony_step", "there is no office to be recognised")
        certificate = step.peer.bundle.certificate
        answer = await channel.ask(
            {
                "event": "recognise",
                "name": certificate.name,
                "country": certificate.country,
                "safety_number": safety_number(step.own_id, certificate.office_id),
                "asks": True,
            }
        )
        if answer.strip().lower() != YES:
            meeting.abort()
            raise PolicyRefused(
                "pairing_not_recognised", "The officer did not recognise that office; nothing was paired."
            )
        meeting.accept(now_ms=wire.now_ms())


def _again(event: dict[str, object], slip: SalweenError) -> dict[str, object]:
    return {**event, "again": slip.detail, "again_code": slip.code}


def _nothing_read() -> PolicyRefused:
    return PolicyRefused("pairing_aborted", "No code was read. Begin again.")
