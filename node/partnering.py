"""What both ceremonies share: what an office brings, the way to a rendezvous, and how a pair is concluded.

Spec: docs/spec/pairing.md. ``keys.pairing`` and ``keys.inperson`` hold the rules. One rule: our ``pair-ok``
leaves only after the half pair it speaks of is committed, and nothing of the pair is shown or sent before the
peer's has verified.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from audit.note import TYPE_ED25519, VerifierKey
from audit.store import AuditLog
from audit.witness import read_head_untrusted
from keys.brokercard import BrokerAddress, encode_broker_card
from keys.bundle import Bundle, encode_signed_bundle
from keys.card import Certificate, parse_officer_list_untrusted
from keys.errors import BrokenInvariant, MalformedInput, PolicyRefused, Unavailable, VerificationFailed
from keys.inperson import Meeting
from keys.invitation import INVITATION_LIFE_MS
from keys.pairing import Ceremony, Confirms, Paired
from keys.primitives import Ed25519PrivateKey, XWingPrivateKey
from keys.rendezvous import RendezvousMailbox
from keys.secret import SecretBytes
from keys.trust import PairState
from node.addresses import keep_card
from node.broker_link import BrokerClient
from node.control import Channel
from node.halfpairs import HalfPair, HalfPairs, comes_back, half_pairs, insert_half
from node.identity import Identity
from node.layout import SecretName
from node.mailboxes import next_number
from node.peers import find_peer, load_peer, peer_view
from node.receive_keys import ReceiveKeyRing
from node.reset_keys import ResetKeyRing
from node.secrets import Secrets
from node.views import PeerView
from protocol import limits
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
from runtime.env import Env
from runtime.sqlite import Database, Transaction

LOG_ORIGIN = re.compile(r"[a-z0-9.-]{1,40}/[0-9a-f]{16}/log[0-9]{1,6}")
POLL_MS = 20_000
YES = "yes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """What we bring to a ceremony: secrets of a mailbox and of a receive key no peer has yet."""

    get_secret: SecretBytes
    put_secret: SecretBytes
    mailbox_seed: SecretBytes
    receive_key_id: bytes
    receive_seed: SecretBytes
    bundle: Bundle = field(repr=False)


class Wire:
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


class Partnering:
    """The office's side of every ceremony, one at a time."""

    def __init__(
        self,
        env: Env,
        db: Database,
        log: AuditLog,
        identity: Identity,
        secrets: Secrets,
        keys: ReceiveKeyRing,
        reset_keys: ResetKeyRing,
        half_pairs: HalfPairs,
        *,
        log_directory: Path,
        witness_name: str,
        paired: Callable[[], Awaitable[None]],
    ) -> None:
        self._env = env
        self._db = db
        self._log = log
        self._identity = identity
        self._secrets = secrets
        self._keys = keys
        self._reset_keys = reset_keys
        self._half_pairs = half_pairs
        self._log_directory = log_directory
        self._witness_name = witness_name
        self._paired = paired
        self._one_at_a_time = asyncio.Lock()

    def alone(self) -> asyncio.Lock:
        """Held for the whole of a ceremony; PolicyRefused ``pairing_under_way``."""
        if self._one_at_a_time.locked():
            raise PolicyRefused(
                "pairing_under_way", "Another pairing is under way. Finish it or end that command first."
            )
        return self._one_at_a_time

    # --- what we bring --------------------------------------------------------------------------------------

    async def bring(
        self, client: BrokerClient, token: SecretBytes, address: BrokerAddress, card: bytes
    ) -> Ours:
        """Our side: a mailbox at the broker, a receive key, the signed state of our office."""
        get_secret, put_secret = SecretBytes(self._env.random(32)), SecretBytes(self._env.random(32))
        mailbox_seed, receive_seed = SecretBytes(self._env.random(32)), SecretBytes(self._env.random(32))
        mailbox = RendezvousMailbox(put_secret=put_secret, get_secret=get_secret, signing_seed=mailbox_seed)
        await self.create(client, token, mailbox, "pair")
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
        await self._db.transact(lambda tx: keep_card(tx, str(address), card))
        return Ours(
            get_secret=get_secret,
            put_secret=put_secret,
            mailbox_seed=mailbox_seed,
            receive_key_id=receive_key_id,
            receive_seed=receive_seed,
            bundle=bundle,
        )

    async def create(
        self, client: BrokerClient, token: SecretBytes, mailbox: RendezvousMailbox, kind: str
    ) -> None:
        """Make one mailbox. PolicyRefused ``token_unknown`` or ``mailbox_refused``."""
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

    # --- the end of a ceremony ------------------------------------------------------------------------------

    async def ask_to_replace(self, brought: Certificate, channel: Channel) -> None:
        """An office that is paired already is paired anew only if its officer here says so.

        One that was retired here, or that comes back under a higher key version after it lost everything but
        its root, replaces nothing that works. PolicyRefused ``already_paired``.
        """
        earlier = await self._db.read(lambda tx: find_peer(tx, brought.office_id))
        if earlier is None or earlier.trusted.state is not PairState.ACTIVE:
            return
        if earlier.retired_ms is not None or comes_back(earlier, brought):
            return
        answer = await channel.ask({"event": "replace", "name": earlier.name, "asks": True})
        if answer.strip().lower() != YES:
            raise PolicyRefused(
                "already_paired", "This office is already paired with that one; nothing was changed."
            )

    async def conclude(
        self,
        attempt: Ceremony | Meeting,
        wire: Wire,
        channel: Channel,
        ours: Ours,
        address: BrokerAddress,
        *,
        expires_ms: int,
        role: str,
        how: str,
    ) -> PeerView:
        """People have compared: keep the half pair, say our word, wait for the peer's."""
        step = attempt.step
        if not isinstance(step, Confirms):
            raise BrokenInvariant("ceremony_step", "nothing was compared that could be confirmed")
        peer_id = step.peer.bundle.office_id
        try:
            await self.ask_to_replace(step.peer.bundle.certificate, channel)
        except PolicyRefused:
            attempt.abort()
            raise
        pair_ok, item = step.confirm(
            self._identity.operational,
            key_version=self._identity.key_version,
            officers=(),
            now_ms=self._env.clock.now_ms(),
            reset_key=await self._reset_keys.for_pairing(peer_id),
            seal_nonce=self._env.random(24),
        )
        half = await self._keep_half(step, ours, address, pair_ok, role=role, how=how)
        # From here on the peer may be active, and say its word over the pair itself: be reachable for it.
        await self._paired()
        await wire.send(item)
        await channel.emit({"event": "waiting"})
        attempt.receive(
            await wire.receive(expires_ms + INVITATION_LIFE_MS),
            seal_nonce=self._env.random(24),
            now_ms=wire.now_ms(),
        )
        paired = attempt.step
        if not isinstance(paired, Paired):
            raise BrokenInvariant("ceremony_step", "a confirmation was taken and the pair is not made")
        await self._db.transact(lambda tx: self._keep_whole(tx, half, paired.evidence))
        await self._paired()
        view = await self._db.read(lambda tx: peer_view(tx, load_peer(tx, peer_id), self._identity.office_id))
        await channel.emit({"event": "paired", "office_id": view.office_id, "name": view.name})
        return view

    async def _keep_half(
        self, step: Confirms, ours: Ours, address: BrokerAddress, pair_ok: bytes, *, role: str, how: str
    ) -> HalfPair:
        """Commit the half pair: from here on the peer's confirmation is all that is missing."""
        bundle = step.peer.bundle
        if LOG_ORIGIN.fullmatch(bundle.log_origin) is None:
            raise VerificationFailed("bundle_log_origin", "The other office's log has a name nobody can use.")
        _check_head(bundle)
        peer_id = bundle.office_id
        half = HalfPair(
            peer=peer_id,
            number=next_number(self._secrets.names(f"mailbox/{peer_id.hex()}/")),
            at_ms=self._env.clock.now_ms(),
            role=role,
            how=how,
            transcript=step.transcript,
            own_pair_ok=pair_ok,
            bundle=encode_signed_bundle(step.peer),
            instance=ours.bundle.instance,
            receive_key_id=ours.receive_key_id,
            receive_public=ours.bundle.receive_public,
            own_broker_address=str(address),
            officer_list=ours.bundle.officers.list_version,
        )
        await self._secrets.put(
            {
                half.mailbox: SecretBytes(
                    ours.get_secret.reveal() + ours.put_secret.reveal() + ours.mailbox_seed.reveal()
                ),
                SecretName.receive(peer_id, ours.receive_key_id): ours.receive_seed,
            }
        )
        self._keys.add(peer_id, ours.receive_key_id, ours.receive_seed)

        def record(tx: Transaction) -> None:
            insert_half(tx, half)
            keep_card(tx, str(bundle.broker_address), encode_broker_card(bundle.broker_card))
            self._log.append(
                tx, "pair.begin", {"peer": bundle.log_origin.split("/")[1], "role": role, "how": how}
            )

        await self._db.transact(record)
        return half

    def _keep_whole(self, tx: Transaction, half: HalfPair, evidence: bytes) -> None:
        """Unless the peer's word came over the pair itself meanwhile."""
        if any(known.number == half.number for known in half_pairs(tx, half.peer)):
            self._half_pairs.complete(tx, half, evidence)


def _check_head(bundle: Bundle) -> None:
    """VerificationFailed ``bundle_checkpoint``: later heads of its log are held against this one."""
    if not bundle.checkpoint:
        return
    key = VerifierKey(name=bundle.log_origin, type_byte=TYPE_ED25519, public=bundle.log_public)
    try:
        read_head_untrusted(bundle.checkpoint, key)
    except (MalformedInput, VerificationFailed) as fault:
        raise VerificationFailed(
            "bundle_checkpoint", "The other office's log did not sign the checkpoint it brought."
        ) from fault
