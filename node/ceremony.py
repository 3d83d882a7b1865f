"""Pairing by voice, driven: two rendezvous mailboxes at a broker, two people with a telephone.

Spec: docs/spec/pairing.md. ``keys.pairing`` holds every rule; this file carries items to and from the
broker, asks the officer for the code the other side reads aloud, and records the result. One rule: our
``pair-ok`` leaves only after the half pair it speaks of is committed, and nothing is shown or sent before
the peer's has verified.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from audit.store import AuditLog
from keys import trust
from keys.card import (
    BrokerAddress,
    Bundle,
    Certificate,
    encode_broker_card,
    parse_broker_address_untrusted,
    parse_officer_list_untrusted,
)
from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, Unavailable, VerificationFailed
from keys.pairing import (
    INVITATION_LIFE_MS,
    Ceremony,
    ComparesCodes,
    Confirms,
    Invitation,
    JoinerWaitsForOffer,
    Paired,
    RendezvousMailbox,
    check_invitation,
    derive_rendezvous,
    group_code,
    own_side,
    parse_invitation_untrusted,
    start_inviter,
)
from keys.primitives import Ed25519PrivateKey, XWingPrivateKey, sha256
from keys.secret import SecretBytes
from node.broker_link import BrokerClient
from node.control import Channel
from node.identity import Identity
from node.layout import SecretName
from node.peers import Peer, insert_peer, load_peer, peer_view, save_peer
from node.receive_keys import ReceiveKeyRing
from node.secrets import Secrets
from node.views import PeerView
from protocol import limits
from protocol.conversation import new_pair_state
from protocol.items import KeyAnnouncement
from protocol.receivekeys import PeerKey, first_receive_keys
from protocol.requests import (
    Create,
    Created,
    Delete,
    List,
    Listed,
    OpRefused,
    Put,
    get_capability_hash,
    put_capability_hash,
    sign_delete,
)
from protocol.tokens import parse_token_untrusted
from runtime.env import Env
from runtime.sqlite import Database, Snapshot, Transaction

LOG_ORIGIN = re.compile(r"[a-z0-9.-]{1,40}/[0-9a-f]{16}/log[0-9]{1,6}")
POLL_MS = 20_000
CODE_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ours:
    """What we bring: secrets of a mailbox and of a receive key no peer has yet."""

    get_secret: SecretBytes
    put_secret: SecretBytes
    mailbox_seed: SecretBytes
    receive_key_id: bytes
    receive_seed: SecretBytes
    bundle: Bundle = field(repr=False)


class _Rendezvous:
    """One direction each way, through the broker."""

    def __init__(
        self, env: Env, client: BrokerClient, out: RendezvousMailbox, back: RendezvousMailbox
    ) -> None:
        self._env = env
        self._client = client
        self._out = out
        self._back = back
        self._cursor = 0

    def now_ms(self) -> int:
        """The time both sides share: the broker's."""
        return self._client.now_ms()

    async def send(self, item: bytes) -> None:
        """Lay one item into the other side's rendezvous mailbox."""
        (result,) = await self._patiently(
            lambda: self._client.exchange(
                [Put(put_secret=self._out.put_secret.reveal(), envelope=item, priority=True)]
            )
        )
        if isinstance(result, OpRefused):
            raise Unavailable(
                "rendezvous_gone", "The meeting place at the broker is gone. Begin with a new invitation."
            )

    async def receive(self, until_ms: int) -> bytes:
        """Wait for the other side's next item; PolicyRefused ``pairing_expired``."""
        while self._client.now_ms() < until_ms:
            (result,) = await self._patiently(
                lambda: self._client.exchange(
                    [
                        List(
                            get_secret=self._back.get_secret.reveal(),
                            cursor=self._cursor,
                            wait_ms=POLL_MS,
                            inline_bytes_max=limits.INLINE_BYTES_MAX,
                        )
                    ]
                )
            )
            if isinstance(result, Listed) and result.items and result.items[0].envelope is not None:
                item = result.items[0]
                self._cursor = item.cursor
                key = Ed25519PrivateKey.from_seed(self._back.signing_seed)
                done = Delete(
                    get_secret=self._back.get_secret.reveal(),
                    envelope_hash=item.envelope_hash,
                    signature=sign_delete(key, item.envelope_hash),
                )
                # Tidiness only: the mailbox lives for minutes, and the cursor is past the item.
                with contextlib.suppress(Unavailable):
                    await self._client.exchange([done])
                assert item.envelope is not None
                return item.envelope
            # A broker that answers an unknown mailbox at once must not be asked in a tight loop.
            await self._env.sleep(0.5)
        raise PolicyRefused(
            "pairing_expired", "The other office did not answer in time. Begin with a new invitation."
        )

    async def _patiently(self, call: Callable[[], Awaitable[tuple[object, ...]]]) -> tuple[object, ...]:
        """A few tries: links are poor, and a ceremony is costly to repeat."""
        for attempt in range(5):
            try:
                return await call()
            except Unavailable:
                if attempt == 4:
                    raise
                await self._env.sleep(1 + attempt)
        raise BrokenInvariant("unreachable", "the last attempt returned or raised")


class Ceremonies:
    """Runs ceremonies for one node, one at a time."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        identity: Identity,
        secrets: Secrets,
        keys: ReceiveKeyRing,
        *,
        log_directory: Path,
        witness_name: str,
        paired: Callable[[], Awaitable[None]],
        repaired: Callable[[Transaction, Peer], None],
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._identity = identity
        self._secrets = secrets
        self._keys = keys
        self._log_directory = log_directory
        self._witness_name = witness_name
        self._paired = paired
        self._repaired = repaired
        self._one_at_a_time = asyncio.Lock()

    async def invite(self, broker: str, token_text: str, channel: Channel) -> PeerView:
        """Invite another office: print the invitation, wait, compare codes, pair."""
        address = parse_broker_address_untrusted(broker)
        token = parse_token_untrusted(token_text)
        async with self._alone():
            client = BrokerClient(self._env, address)
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
                    await self._create(client, token, mailbox, "rendezvous")
                ours = await self._bring(client, token, address, encode_broker_card(card))
                own = own_side(self._identity.operational, ours.bundle, self._env.random(32))
                waits, offer = start_inviter(own, SecretBytes(self._env.random(32)))
                ceremony = Ceremony(waits, invitation.expires_ms)
                wire = _Rendezvous(self._env, client, meeting.to_joiner, meeting.to_inviter)
                await wire.send(offer)
                await channel.emit({"event": "invitation", "invitation": invitation.encode()})
                reply = await wire.receive(invitation.expires_ms)
                await self._step(ceremony, wire, reply)
                return await self._finish(
                    ceremony, wire, channel, ours, address, invitation.expires_ms, "invite"
                )
            finally:
                await client.close()

    async def join(self, text: str, channel: Channel) -> PeerView:
        """Take another office's invitation: answer, compare codes, pair."""
        invitation = parse_invitation_untrusted(text)
        address = invitation.broker_address
        async with self._alone():
            client = BrokerClient(self._env, address)
            try:
                card = await client.card()
                await client.exchange([])
                check_invitation(invitation, client.now_ms())
                meeting = await self._env.run_blocking(
                    derive_rendezvous, invitation.secret, address.card_sha256
                )
                ours = await self._bring(client, invitation.token, address, encode_broker_card(card))
                own = own_side(self._identity.operational, ours.bundle, self._env.random(32))
                ceremony = Ceremony(
                    JoinerWaitsForOffer(own=own, channel_key=SecretBytes(self._env.random(32))),
                    invitation.expires_ms,
                )
                wire = _Rendezvous(self._env, client, meeting.to_inviter, meeting.to_joiner)
                await channel.emit({"event": "waiting"})
                await self._step(ceremony, wire, await wire.receive(invitation.expires_ms))
                await self._step(ceremony, wire, await wire.receive(invitation.expires_ms))
                return await self._finish(
                    ceremony, wire, channel, ours, address, invitation.expires_ms, "join"
                )
            finally:
                await client.close()

    # --- steps ----------------------------------------------------------------------------------------------

    async def _step(self, ceremony: Ceremony, wire: _Rendezvous, item: bytes) -> None:
        answer = ceremony.receive(item, seal_nonce=self._env.random(24), now_ms=wire.now_ms())
        if answer is not None:
            await wire.send(answer)

    async def _finish(
        self,
        ceremony: Ceremony,
        wire: _Rendezvous,
        channel: Channel,
        ours: _Ours,
        address: BrokerAddress,
        expires_ms: int,
        role: str,
    ) -> PeerView:
        await self._compare(ceremony, wire, channel)
        step = ceremony.step
        if not isinstance(step, Confirms):
            raise BrokenInvariant("ceremony_step", "codes were compared and nothing is to be confirmed")
        peer_id = step.peer.bundle.office_id
        await self._keep_half(step, ours, address, role)
        pair_ok, item = step.confirm(
            self._identity.operational,
            key_version=self._identity.key_version,
            officers=(),
            now_ms=self._env.clock.now_ms(),
            seal_nonce=self._env.random(24),
        )
        await wire.send(item)
        await channel.emit({"event": "waiting"})
        ceremony.receive(
            await wire.receive(expires_ms + INVITATION_LIFE_MS),
            seal_nonce=self._env.random(24),
            now_ms=wire.now_ms(),
        )
        if not isinstance(ceremony.step, Paired):
            raise BrokenInvariant("ceremony_step", "a confirmation was taken and the pair is not made")
        await self._keep_whole(peer_id, ceremony.step, pair_ok)
        await self._paired()
        view = await self._db.read(lambda tx: peer_view(tx, load_peer(tx, peer_id), self._identity.office_id))
        await channel.emit({"event": "paired", "office_id": view.office_id, "name": view.name})
        return view

    async def _compare(self, ceremony: Ceremony, wire: _Rendezvous, channel: Channel) -> None:
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

    async def _bring(
        self, client: BrokerClient, token: SecretBytes, address: BrokerAddress, card: bytes
    ) -> _Ours:
        """Our side: a mailbox at the broker, a receive key, the signed state of our office."""
        get_secret, put_secret = SecretBytes(self._env.random(32)), SecretBytes(self._env.random(32))
        mailbox_seed, receive_seed = SecretBytes(self._env.random(32)), SecretBytes(self._env.random(32))
        mailbox = RendezvousMailbox(put_secret=put_secret, get_secret=get_secret, signing_seed=mailbox_seed)
        await self._create(client, token, mailbox, "pair")
        await self._log.publish()
        checkpoint = await self._env.run_blocking(
            self._env.files.read, str(self._log_directory / "checkpoint")
        )
        officers = await self._db.read(
            lambda tx: tx.value("SELECT bytes FROM officer_list ORDER BY version DESC LIMIT 1")
        )
        receive_key_id = self._env.random(limits.KEY_ID_BYTES)
        bundle = Bundle(
            root_public=self._identity.root_public,
            certificate=self._identity.certificate,
            officers=parse_officer_list_untrusted(officers),
            receive_generation=1,
            receive_key_id=receive_key_id,
            receive_public=XWingPrivateKey.from_seed(receive_seed).public_bytes,
            put_secret=put_secret,
            mailbox_public=Ed25519PrivateKey.from_seed(mailbox_seed).public_bytes,
            broker_address=address,
            broker_card=await client.card(),
            log_origin=self._log.origin,
            log_public=Ed25519PrivateKey.from_seed(self._secrets.get(SecretName.LOG)).public_bytes,
            witness_name=self._witness_name,
            witness_public=Ed25519PrivateKey.from_seed(self._secrets.get(SecretName.WITNESS)).public_bytes,
            checkpoint=checkpoint,
            instance=self._env.random(limits.INSTANCE_BYTES),
        )
        await self._db.transact(
            lambda tx: tx.execute(
                "INSERT INTO broker (address, card) VALUES (?, ?) ON CONFLICT (address) DO UPDATE"
                " SET card = excluded.card",
                (str(address), card),
            )
        )
        return _Ours(
            get_secret=get_secret,
            put_secret=put_secret,
            mailbox_seed=mailbox_seed,
            receive_key_id=receive_key_id,
            receive_seed=receive_seed,
            bundle=bundle,
        )

    async def _create(
        self, client: BrokerClient, token: SecretBytes, mailbox: RendezvousMailbox, kind: str
    ) -> None:
        (result,) = await client.exchange(
            [
                Create(
                    token=token.reveal(),
                    put_hash=put_capability_hash(mailbox.put_secret.reveal()),
                    get_hash=get_capability_hash(mailbox.get_secret.reveal()),
                    mailbox_public=Ed25519PrivateKey.from_seed(mailbox.signing_seed).public_bytes,
                    kind="pair" if kind == "pair" else "rendezvous",
                )
            ]
        )
        if isinstance(result, OpRefused):
            if result.code == "token_unknown":
                raise PolicyRefused(
                    "token_unknown",
                    "The broker does not know this token, or it is used up. Ask the operator for another.",
                )
            raise PolicyRefused(
                "mailbox_refused", f"The broker made no mailbox ({result.code}). Ask its operator."
            )
        if not isinstance(result, Created):
            raise Unavailable("broker_answer", "The broker's answer does not fit what was asked.")

    async def _keep_half(self, step: Confirms, ours: _Ours, address: BrokerAddress, role: str) -> None:
        """Commit the half pair: from here on the peer's confirmation is all that is missing."""
        bundle = step.peer.bundle
        if LOG_ORIGIN.fullmatch(bundle.log_origin) is None:
            raise VerificationFailed("bundle_log_origin", "The other office's log has a name nobody can use.")
        peer_id, now_ms = bundle.office_id, self._env.clock.now_ms()
        # Before any secret is kept: a mailbox nobody knows would be asked for ever.
        await self._db.read(lambda tx: _earlier(tx, peer_id, bundle.certificate))
        number = 1 + len(self._secrets.names(f"mailbox/{peer_id.hex()}/"))
        await self._secrets.put(
            {
                SecretName.mailbox(peer_id, number): SecretBytes(
                    ours.get_secret.reveal() + ours.put_secret.reveal() + ours.mailbox_seed.reveal()
                ),
                SecretName.receive(peer_id, ours.receive_key_id): ours.receive_seed,
            }
        )
        self._keys.add(peer_id, ours.receive_key_id, ours.receive_seed)

        def record(tx: Transaction) -> None:
            pinned = trust.pin_bundle(step.peer, now_ms, _earlier(tx, peer_id, bundle.certificate))
            insert_peer(
                tx,
                Peer(
                    office_id=peer_id,
                    name=bundle.certificate.name,
                    country=bundle.certificate.country,
                    since_ms=now_ms,
                    trusted=pinned,
                    pair=new_pair_state(ours.bundle.instance, bundle.instance),
                    receive_keys=first_receive_keys(
                        key_id=ours.receive_key_id,
                        public=ours.bundle.receive_public,
                        peer_instance=bundle.instance,
                        now_ms=now_ms,
                    ),
                    peer_key=PeerKey(
                        announcement=KeyAnnouncement(
                            key_version=bundle.certificate.key_version,
                            rk_gen=bundle.receive_generation,
                            key_id=bundle.receive_key_id,
                            public=bundle.receive_public,
                        ),
                        rk_first=1,
                    ),
                    broker_address=str(bundle.broker_address),
                    put_secret=bundle.put_secret,
                    own_broker_address=str(address),
                    officer_list_sent=ours.bundle.officers.list_version,
                    last_heard_ms=now_ms,
                    ack_due_ms=None,
                    log_origin=bundle.log_origin,
                    log_public=bundle.log_public,
                    witness_name=bundle.witness_name,
                    witness_public=bundle.witness_public,
                    checkpoint=bundle.checkpoint,
                ),
            )
            tx.execute(
                "INSERT INTO broker (address, card) VALUES (?, ?) ON CONFLICT (address) DO UPDATE"
                " SET card = excluded.card",
                (str(bundle.broker_address), encode_broker_card(bundle.broker_card)),
            )
            self._log.append(tx, "pair.begin", {"peer": _pseudonym(bundle), "role": role})

        await self._db.transact(record)

    async def _keep_whole(self, peer_id: bytes, paired: Paired, own_pair_ok: bytes) -> None:
        now_ms = self._env.clock.now_ms()

        def record(tx: Transaction) -> None:
            peer = load_peer(tx, peer_id)
            peer.trusted = trust.activate(peer.trusted, now_ms)
            self._repaired(tx, peer)
            save_peer(tx, peer)
            tx.execute(
                "INSERT INTO pairing_evidence (peer, at_ms, transcript, own_pair_ok, peer_pair_ok)"
                " VALUES (?, ?, ?, ?, ?)",
                (peer_id, now_ms, paired.transcript, own_pair_ok, paired.evidence),
            )
            self._log.append(
                tx,
                "pair.ok",
                {
                    "peer": peer.pseudonym,
                    "transcript": paired.transcript.hex(),
                    "origin": peer.log_origin,
                    "key": sha256(peer.log_public).hex(),
                },
            )

        await self._db.transact(record)

    def _alone(self) -> asyncio.Lock:
        if self._one_at_a_time.locked():
            raise PolicyRefused(
                "pairing_under_way", "Another pairing is under way. Finish it or end that command first."
            )
        return self._one_at_a_time


def _earlier(tx: Snapshot, peer_id: bytes, brought: Certificate) -> trust.TrustedPeer | None:
    """What is known of this office from before; PolicyRefused ``already_paired``.

    An office that lost everything but its root comes back under a higher key version while we still hold the
    pair for active.
    """
    known = tx.one("SELECT trusted FROM peer WHERE office_id = ?", (peer_id,))
    earlier = None if known is None else trust.parse_trusted_peer_untrusted(known[0])
    if (
        earlier is not None
        and earlier.state is trust.PairState.ACTIVE
        and brought.key_version <= earlier.certificate.key_version
    ):
        raise PolicyRefused(
            "already_paired", "This office is already paired with that one; nothing was changed."
        )
    return earlier


def _pseudonym(bundle: Bundle) -> str:
    return bundle.log_origin.split("/")[1]
