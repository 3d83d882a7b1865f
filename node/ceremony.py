"""Pairing by voice, driven: two rendezvous mailboxes at a broker, two people with a telephone.

Spec: docs/spec/pairing.md. ``keys.pairing`` holds every rule; this file carries items to and from the
broker and asks the officer for the code the other side reads aloud; ``node.partnering`` concludes.
"""

from keys.brokercard import encode_broker_card, parse_broker_address_untrusted
from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused
from keys.invitation import INVITATION_LIFE_MS, Invitation, check_invitation, parse_invitation_untrusted
from keys.pairing import Ceremony, ComparesCodes, JoinerWaitsForOffer, group_code, own_side, start_inviter
from keys.rendezvous import derive_rendezvous
from keys.secret import SecretBytes
from node.broker_link import Clients
from node.control import Channel
from node.identity import Identity
from node.partnering import Partnering, Wire
from node.views import PeerView
from protocol.tokens import parse_token_untrusted
from runtime.env import Env

CODE_TRIES = 5


class Ceremonies:
    """Runs ceremonies for one node, one at a time."""

    def __init__(self, env: Env, identity: Identity, partnering: Partnering, clients: Clients) -> None:
        self._env = env
        self._identity = identity
        self._partnering = partnering
        self._clients = clients

    async def invite(self, broker: str, token_text: str, channel: Channel) -> PeerView:
        """Invite another office: print the invitation, wait, compare codes, pair."""
        address = parse_broker_address_untrusted(broker)
        token = parse_token_untrusted(token_text)
        async with self._partnering.alone():
            client = self._clients(address)
            try:
                card = await client.card()
                await client.exchange([])  # an invitation lives by the broker's clock: ours may be years off
                secret = SecretBytes(self._env.random(16))
                invitation = Invitation(
                    broker_address=address,
                    secret=secret,
                    token=token,
                    expires_ms=client.now_ms() + INVITATION_LIFE_MS,
                )
                meeting = await self._env.run_blocking(derive_rendezvous, secret, address.card_sha256)
                for mailbox in (meeting.to_joiner, meeting.to_inviter):
                    await self._partnering.create(client, token, mailbox, "rendezvous")
                ours = await self._partnering.bring(client, token, address, encode_broker_card(card))
                own = own_side(self._identity.operational, ours.bundle, self._env.random(32))
                waits, offer = start_inviter(own, SecretBytes(self._env.random(32)))
                ceremony = Ceremony(waits, invitation.expires_ms)
                wire = Wire(self._env, client, meeting.to_joiner, meeting.to_inviter)
                await wire.send(offer)
                await channel.emit({"event": "invitation", "invitation": invitation.encode()})
                reply = await wire.receive(invitation.expires_ms)
                await self._step(ceremony, wire, reply)
                await self._compare(ceremony, wire, channel)
                return await self._partnering.conclude(
                    ceremony,
                    wire,
                    channel,
                    ours,
                    address,
                    expires_ms=invitation.expires_ms,
                    role="invite",
                    how="voice",
                )
            finally:
                await client.close()

    async def join(self, text: str, channel: Channel) -> PeerView:
        """Take another office's invitation: answer, compare codes, pair."""
        invitation = parse_invitation_untrusted(text)
        address = invitation.broker_address
        async with self._partnering.alone():
            client = self._clients(address)
            try:
                card = await client.card()
                await client.exchange([])
                check_invitation(invitation, client.now_ms())
                meeting = await self._env.run_blocking(
                    derive_rendezvous, invitation.secret, address.card_sha256
                )
                ours = await self._partnering.bring(
                    client, invitation.token, address, encode_broker_card(card)
                )
                own = own_side(self._identity.operational, ours.bundle, self._env.random(32))
                ceremony = Ceremony(
                    JoinerWaitsForOffer(own=own, channel_key=SecretBytes(self._env.random(32))),
                    invitation.expires_ms,
                )
                wire = Wire(self._env, client, meeting.to_inviter, meeting.to_joiner)
                await channel.emit({"event": "waiting"})
                await self._step(ceremony, wire, await wire.receive(invitation.expires_ms))
                await self._step(ceremony, wire, await wire.receive(invitation.expires_ms))
                await self._compare(ceremony, wire, channel)
                return await self._partnering.conclude(
                    ceremony,
                    wire,
                    channel,
                    ours,
                    address,
                    expires_ms=invitation.expires_ms,
                    role="join",
                    how="voice",
                )
            finally:
                await client.close()

    # --- steps ----------------------------------------------------------------------------------------------

    async def _step(self, ceremony: Ceremony, wire: Wire, item: bytes) -> None:
        answer = ceremony.receive(item, seal_nonce=self._env.random(24), now_ms=wire.now_ms())
        if answer is not None:
            await wire.send(answer)

    async def _compare(self, ceremony: Ceremony, wire: Wire, channel: Channel) -> None:
        """Show our code, take the other's as typed. A slip in form may be typed again, a wrong code not."""
        step = ceremony.step
        if not isinstance(step, ComparesCodes):
            raise BrokenInvariant("ceremony_step", "there are no codes to compare")
        event = {"event": "code", "mine": group_code(step.own_code), "asks": True}
        for _ in range(CODE_TRIES):
            typed = await channel.ask(event)
            try:
                ceremony.type_code(typed, now_ms=wire.now_ms())
            except MalformedInput as slip:
                event = {**event, "again": slip.detail}
                continue
            return
        ceremony.abort()
        raise PolicyRefused("pairing_aborted", "No code was typed. Begin with a new invitation.")
