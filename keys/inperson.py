"""Pairing in person: two screens, two codes of at most 180 bytes, each read by the other office.

Spec: docs/spec/pairing.md#in-person. The inviter shows its code; the joiner reads it and shows one that
answers it; the inviter reads that. A code names its office and is new each time, so each bundle can be signed
for the one office and the two codes that were really seen: whoever stands in between has nothing to match and
nothing to search for. The bundles follow through a rendezvous that both codes open together.

One type per step, as in ``keys.pairing``, and its last two steps are the same ones. No I/O here; time and
randomness are arguments (the encapsulation draws its own).
"""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from keys import labels, layout
from keys.brokercard import BrokerAddress, check_host
from keys.bundle import (
    BUNDLE_BYTES_MAX,
    Bundle,
    SignedBundle,
    parse_signed_bundle_untrusted,
    sign_bundle,
    verify_signed_bundle,
)
from keys.card import OFFICE_ID_BYTES
from keys.errors import MalformedInput, PolicyRefused, VerificationFailed
from keys.layout import Reader
from keys.pairing import SECRET_BYTES, TOKEN_BYTES, Confirms, Paired, Role
from keys.primitives import (
    HASH_BYTES,
    SYMMETRIC_KEY_BYTES,
    WRAP_OVERHEAD_BYTES,
    XWING_PUBLIC_BYTES,
    CompositePrivateKey,
    XWingPrivateKey,
    constant_time_equal,
    hkdf_sha256,
    labelled_hash,
    wrap,
)
from keys.rendezvous import (
    ITEM_FORMAT,
    OneAttempt,
    Rendezvous,
    from_item_untrusted,
    mailbox_of,
    open_item_untrusted,
    seal_item,
    to_item,
)
from keys.secret import SecretBytes

# What a camera of a cheap laptop reads from a screen at arm's length: 53 by 53 modules.
CODE_BYTES_MAX: Final = 180
_MAGIC: Final = b"SLWM"
_FORMAT: Final = 1
_INVITER: Final = 1
_JOINER: Final = 2
_CHECK_BYTES: Final = 5
_FAMILY: Final = "salween-meet"
_PREFIX: Final = f"{_FAMILY}1-"
_CHARACTERS_MAX: Final = 1024
_INVITER_BYTES_MIN: Final = (
    4 + 1 + 1 + OFFICE_ID_BYTES + SECRET_BYTES + 8 + TOKEN_BYTES + HASH_BYTES + 2 + 1 + _CHECK_BYTES
)
HOST_CHARACTERS_MAX: Final = CODE_BYTES_MAX - _INVITER_BYTES_MIN
_BUNDLE_ITEM_BYTES_MAX: Final = 4 + BUNDLE_BYTES_MAX + SYMMETRIC_KEY_BYTES + WRAP_OVERHEAD_BYTES


# --- the two codes ---


@dataclass(frozen=True, slots=True, kw_only=True)
class InviterCode:
    """What the first screen shows: who we are, and where and until when to meet."""

    office_id: bytes
    secret: SecretBytes  # 16 random bytes, half of the rendezvous
    token: SecretBytes  # 32 bytes: the operator's permission for the mailboxes
    broker_address: BrokerAddress
    expires_ms: int  # by the broker's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinerCode:
    """What the second screen shows: who we are, and which code this one answers."""

    office_id: bytes
    secret: SecretBytes  # 16 random bytes, the other half
    answers: bytes  # 32, ``code_hash`` of the inviter's
    key_hash: bytes  # 32, of the X-Wing key the inviter's bundle is encrypted to


MeetingCode: TypeAlias = InviterCode | JoinerCode


def encode_code(code: MeetingCode) -> bytes:
    """The bytes inside the QR code, at most 180. PolicyRefused ``meeting_host_long``."""
    kind: int
    rest: tuple[bytes, ...]
    if isinstance(code, InviterCode):
        address = code.broker_address
        if len(address.host) > HOST_CHARACTERS_MAX:
            raise PolicyRefused(
                "meeting_host_long",
                f"the broker's name has {len(address.host)} characters, a code has room for"
                f" {HOST_CHARACTERS_MAX}; pair by voice, or use the broker's number",
            )
        kind, rest = (
            _INVITER,
            (
                layout.u64(code.expires_ms),
                layout.fixed(code.token.reveal(), TOKEN_BYTES),
                layout.fixed(address.card_sha256, HASH_BYTES),
                layout.u16(address.port),
                layout.ascii_text(address.host, HOST_CHARACTERS_MAX),
            ),
        )
    else:
        kind, rest = (
            _JOINER,
            (layout.fixed(code.answers, HASH_BYTES), layout.fixed(code.key_hash, HASH_BYTES)),
        )
    payload = b"".join(
        (
            _MAGIC,
            layout.u8(_FORMAT),
            layout.u8(kind),
            layout.fixed(code.office_id, OFFICE_ID_BYTES),
            layout.fixed(code.secret.reveal(), SECRET_BYTES),
            *rest,
        )
    )
    return payload + _check(payload)


def _check(payload: bytes) -> bytes:
    return labelled_hash(labels.MEETING_CHECK, payload)[:_CHECK_BYTES]


def code_text(encoded: bytes) -> str:
    """The same bytes as a line that can be pasted or typed, at most 302 characters."""
    return _PREFIX + layout.base32(encoded)


def code_hash(encoded: bytes) -> bytes:
    """Names one showing of one code; it is the nonce of the bundle its office signs."""
    return labelled_hash(labels.MEETING_CODE, encoded)


def read_code_text_untrusted(text: str) -> MeetingCode:
    """Read a pasted code; spaces, line breaks and capitals are forgiven.

    MalformedInput: ``meeting_code_malformed`` (no code of ours), ``meeting_code_version`` (of a later
    version) or ``meeting_code_mistyped`` (a wrong, missing or additional character).
    """
    if len(text) > _CHARACTERS_MAX:
        raise MalformedInput("meeting_code_malformed", "the text is too long for a code")
    line = "".join(text.split()).lower()
    if line.startswith("salween-invite"):
        raise MalformedInput(
            "meeting_code_malformed", "this is an invitation by voice: take it with pair --join"
        )
    if not line.startswith(_FAMILY):
        raise MalformedInput("meeting_code_malformed", f"a code begins with {_PREFIX}")
    if not line.startswith(_PREFIX):
        raise MalformedInput("meeting_code_version", "the other office's program has another version")
    encoded = layout.base32_bytes(line.removeprefix(_PREFIX))
    if encoded is None:
        raise _mistyped()
    return parse_code_untrusted(encoded)


def _mistyped() -> MalformedInput:
    return MalformedInput(
        "meeting_code_mistyped", "the code has a typing error; copy it again, the whole line"
    )


def parse_code_untrusted(encoded: bytes) -> MeetingCode:
    """Read the bytes of a QR code; MalformedInput as ``read_code_text_untrusted``."""
    code = "meeting_code_malformed"
    payload, check = encoded[:-_CHECK_BYTES], encoded[-_CHECK_BYTES:]
    if not constant_time_equal(check, _check(payload)):
        raise _mistyped()
    if payload.startswith(_MAGIC) and payload[4:5] != bytes([_FORMAT]):
        raise MalformedInput("meeting_code_version", "the other office's program has another version")
    if len(encoded) > CODE_BYTES_MAX:
        raise MalformedInput(code, f"a code has {len(encoded)} bytes, allowed are {CODE_BYTES_MAX}")
    reader = Reader(payload, code)
    reader.magic(_MAGIC, _FORMAT)
    kind, office, secret = reader.u8(), reader.take(OFFICE_ID_BYTES), reader.take(SECRET_BYTES)
    read: MeetingCode
    if kind == _INVITER:
        expires_ms, token, card = reader.u64(), reader.take(TOKEN_BYTES), reader.take(HASH_BYTES)
        port, host = reader.u16(), reader.ascii(HOST_CHARACTERS_MAX)
        if port == 0:
            reader.fail("names port 0")
        try:
            check_host(host)
        except MalformedInput as error:
            raise MalformedInput(code, error.detail) from error
        read = InviterCode(
            office_id=office,
            secret=SecretBytes(secret),
            token=SecretBytes(token),
            broker_address=BrokerAddress(host=host, port=port, card_sha256=card),
            expires_ms=expires_ms,
        )
    elif kind == _JOINER:
        read = JoinerCode(
            office_id=office,
            secret=SecretBytes(secret),
            answers=reader.take(HASH_BYTES),
            key_hash=reader.take(HASH_BYTES),
        )
    else:
        reader.fail(f"is of an unknown kind {kind}")
    reader.end()
    return read


def expect_inviter(code: MeetingCode, own_id: bytes) -> InviterCode:
    """The code a joiner reads first. PolicyRefused: ``meeting_code_own`` or ``meeting_code_turn``."""
    _check_other(code, own_id)
    if not isinstance(code, InviterCode):
        raise PolicyRefused(
            "meeting_code_turn", "this code answers another one; read the code of the office that began"
        )
    return code


def check_meeting(code: InviterCode, now_ms: int) -> None:
    """Raise PolicyRefused (``meeting_code_expired``) once its time is over, by the broker's clock."""
    if now_ms >= code.expires_ms:
        raise PolicyRefused(
            "meeting_code_expired", "this code has expired; ask the other office to begin again"
        )


def expect_joiner(code: MeetingCode, own_id: bytes, shown: bytes) -> JoinerCode:
    """The code an inviter reads, which must answer the one it shows.

    PolicyRefused: ``meeting_code_own``, ``meeting_code_turn`` or ``meeting_code_foreign``.
    """
    _check_other(code, own_id)
    if not isinstance(code, JoinerCode):
        raise PolicyRefused(
            "meeting_code_turn", "both offices began; one ends that and reads the other's code instead"
        )
    if not constant_time_equal(code.answers, code_hash(shown)):
        raise PolicyRefused(
            "meeting_code_foreign",
            "this code answers another code than the one on this screen; let the other office read it anew",
        )
    return code


def _check_other(code: MeetingCode, own_id: bytes) -> None:
    if code.office_id == own_id:
        raise PolicyRefused("meeting_code_own", "this is our own code; read the one on the other screen")


# --- what both codes give together ---


def derive_meeting(inviter: InviterCode, joiner: JoinerCode) -> Rendezvous:
    """The rendezvous that only who saw both screens can find."""
    secret = SecretBytes(inviter.secret.reveal() + joiner.secret.reveal())
    both = _both(encode_code(inviter), encode_code(joiner))
    root = hkdf_sha256(secret, both, labels.MEETING_RENDEZVOUS, SYMMETRIC_KEY_BYTES)
    return Rendezvous(to_joiner=mailbox_of(root, b"to-joiner"), to_inviter=mailbox_of(root, b"to-inviter"))


def _both(inviter: bytes, joiner: bytes) -> bytes:
    return labelled_hash(labels.MEETING_BOTH, inviter, joiner)


def _bundle_info(inviter: bytes, joiner: bytes) -> bytes:
    return labels.MEETING_BUNDLE + _both(inviter, joiner)


def _reply_key(channel_key: SecretBytes, inviter: bytes, joiner: bytes) -> SecretBytes:
    return hkdf_sha256(channel_key, _both(inviter, joiner), labels.MEETING_REPLY, SYMMETRIC_KEY_BYTES)


# --- items ---

_KEY: Final = b"SLM1"
_BUNDLE: Final = b"SLM2"
_REPLY: Final = b"SLM3"


def _peer_bundle_untrusted(
    data: bytes, *, peer_id: bytes, peer_code: bytes, own: SignedBundle
) -> SignedBundle:
    """Parse and verify: made by the office whose code we read, for us, for these two codes."""
    signed = parse_signed_bundle_untrusted(data)
    if not (
        signed.bundle.office_id == peer_id
        and signed.peer_id == own.bundle.office_id
        and signed.own_nonce == code_hash(peer_code)
        and signed.peer_nonce == own.own_nonce
    ):
        raise VerificationFailed(
            "pairing_bundle_foreign", "a bundle was made by another office or for another ceremony"
        )
    verify_signed_bundle(signed)
    return signed


# --- the steps ---


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnOffice:
    """What one side brings: signed only when the other's code was read."""

    operational: CompositePrivateKey = field(repr=False)
    bundle: Bundle = field(repr=False)

    @property
    def office_id(self) -> bytes:
        """Ours."""
        return self.bundle.office_id

    def sign(self, *, own_code: bytes, peer_id: bytes, peer_code: bytes) -> tuple[SignedBundle, bytes]:
        """Our bundle for the office and the two codes that were seen; parsed and encoded."""
        encoded = sign_bundle(
            self.operational,
            self.bundle,
            own_nonce=code_hash(own_code),
            peer_id=peer_id,
            peer_nonce=code_hash(peer_code),
        )
        return parse_signed_bundle_untrusted(encoded), encoded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InviterShows:
    """The inviter's code is on its screen; it has not read the joiner's."""

    own: OwnOffice
    code: InviterCode
    channel_key: SecretBytes  # 32 random bytes

    def take_code(self, joiner: JoinerCode) -> "InviterWaitsForKey":
        """Sign our bundle for the office whose code was read."""
        shown, read = encode_code(self.code), encode_code(joiner)
        signed, encoded = self.own.sign(own_code=shown, peer_id=joiner.office_id, peer_code=read)
        return InviterWaitsForKey(
            own=signed,
            encoded=encoded,
            shown=shown,
            joiner=joiner,
            channel_key=self.channel_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InviterWaitsForKey:
    """Both codes are read; the key that the joiner's code names is in the rendezvous."""

    own: SignedBundle
    encoded: bytes
    shown: bytes
    joiner: JoinerCode
    channel_key: SecretBytes

    def receive_key(self, item: bytes) -> tuple["InviterWaitsForBundle", bytes]:
        """Hold the key against the code; encrypt our bundle to it."""
        reader = Reader(from_item_untrusted(item), "pairing_item_malformed")
        reader.magic(_KEY, ITEM_FORMAT)
        public = reader.take(XWING_PUBLIC_BYTES)
        reader.end()
        if not constant_time_equal(_key_hash(public), self.joiner.key_hash):
            raise VerificationFailed(
                "meeting_key_foreign", "the key at the broker is not the one the other screen showed"
            )
        read = encode_code(self.joiner)
        plaintext = layout.variable(self.encoded) + self.channel_key.reveal()
        wrapped = wrap(public, plaintext, _bundle_info(self.shown, read))
        waits = InviterWaitsForBundle(
            own=self.own,
            encoded=self.encoded,
            shown=self.shown,
            read=read,
            peer_id=self.joiner.office_id,
            channel_key=self.channel_key,
        )
        return waits, to_item(_BUNDLE + layout.u8(ITEM_FORMAT) + layout.variable(wrapped))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InviterWaitsForBundle:
    """Our bundle is on its way; the joiner's follows under the key that came with it."""

    own: SignedBundle
    encoded: bytes
    shown: bytes
    read: bytes
    peer_id: bytes
    channel_key: SecretBytes

    def receive_bundle(self, item: bytes) -> "Recognises":
        """Open and verify the joiner's bundle."""
        key = _reply_key(self.channel_key, self.shown, self.read)
        encoded = open_item_untrusted(_REPLY, key, item, _both(self.shown, self.read))
        peer = _peer_bundle_untrusted(encoded, peer_id=self.peer_id, peer_code=self.read, own=self.own)
        return Recognises(
            role="inviter",
            own_id=self.own.bundle.office_id,
            peer=peer,
            transcript=_transcript(self.shown, self.read, self.encoded, encoded),
            channel_key=self.channel_key,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JoinerWaitsForBundle:
    """The joiner has read one code and shows its own; the inviter's bundle comes when it has read that."""

    own: OwnOffice
    inviter: InviterCode
    code: JoinerCode
    ephemeral: XWingPrivateKey

    def receive_bundle(self, item: bytes, seal_nonce: bytes) -> tuple["Recognises", bytes]:
        """Open and verify the inviter's bundle; answer with ours. ``seal_nonce``: 24 random bytes."""
        read, shown = encode_code(self.inviter), encode_code(self.code)
        reader = Reader(from_item_untrusted(item), "pairing_item_malformed")
        reader.magic(_BUNDLE, ITEM_FORMAT)
        wrapped = reader.variable(_BUNDLE_ITEM_BYTES_MAX)
        reader.end()
        opened = Reader(self.ephemeral.unwrap(wrapped, _bundle_info(read, shown)), "pairing_item_malformed")
        encoded = opened.variable(BUNDLE_BYTES_MAX)
        channel_key = SecretBytes(opened.take(SYMMETRIC_KEY_BYTES))
        opened.end()
        signed, ours = self.own.sign(own_code=shown, peer_id=self.inviter.office_id, peer_code=read)
        peer = _peer_bundle_untrusted(encoded, peer_id=self.inviter.office_id, peer_code=read, own=signed)
        reply = seal_item(_REPLY, _reply_key(channel_key, read, shown), seal_nonce, ours, _both(read, shown))
        recognises = Recognises(
            role="joiner",
            own_id=self.own.office_id,
            peer=peer,
            transcript=_transcript(read, shown, encoded, ours),
            channel_key=channel_key,
        )
        return recognises, reply


def start_joiner(
    own: OwnOffice, inviter: InviterCode, *, secret: SecretBytes, ephemeral_seed: SecretBytes
) -> tuple[JoinerWaitsForBundle, bytes]:
    """First step of the joiner, once it has read the inviter's code, and the item with its key.

    ``secret``: 16 random bytes, ``ephemeral_seed``: 32 random bytes, each used once.
    """
    ephemeral = XWingPrivateKey.from_seed(ephemeral_seed)
    code = JoinerCode(
        office_id=own.office_id,
        secret=secret,
        answers=code_hash(encode_code(inviter)),
        key_hash=_key_hash(ephemeral.public_bytes),
    )
    item = to_item(_KEY + layout.u8(ITEM_FORMAT) + ephemeral.public_bytes)
    return JoinerWaitsForBundle(own=own, inviter=inviter, code=code, ephemeral=ephemeral), item


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recognises:
    """Both bundles are here and verified; the officer says whether this is the office across the table."""

    role: Role
    own_id: bytes
    peer: SignedBundle
    transcript: bytes
    channel_key: SecretBytes

    def accept(self) -> Confirms:
        """It is."""
        return Confirms(
            role=self.role,
            own_id=self.own_id,
            peer=self.peer,
            transcript=self.transcript,
            channel_key=self.channel_key,
        )


def _key_hash(public: bytes) -> bytes:
    return labelled_hash(labels.MEETING_KEY, public)


def _transcript(inviter: bytes, joiner: bytes, inviter_bundle: bytes, joiner_bundle: bytes) -> bytes:
    return labelled_hash(labels.MEETING_TRANSCRIPT, inviter, joiner, inviter_bundle, joiner_bundle)


# --- one meeting ---

Step: TypeAlias = (
    InviterShows
    | InviterWaitsForKey
    | InviterWaitsForBundle
    | JoinerWaitsForBundle
    | Recognises
    | Confirms
    | Paired
)


class Meeting(OneAttempt[Step]):
    """The present step of one ceremony in person."""

    __slots__ = ()

    def take_code(self, text: str, *, now_ms: int) -> None:
        """Take the joiner's code as read or pasted.

        What is no answer to the code on our screen changes nothing and may be read again: there is nothing to
        guess. The first answer is the only one.
        """
        read: JoinerCode | None = None
        if isinstance(self.step, InviterShows):
            own_id, shown = self.step.own.office_id, encode_code(self.step.code)
            read = expect_joiner(read_code_text_untrusted(text), own_id, shown)
        with self.burning(now_ms):
            if not isinstance(self.step, InviterShows) or read is None:
                raise _out_of_turn()
            self.step = self.step.take_code(read)

    def receive(self, item: bytes, *, seal_nonce: bytes, now_ms: int) -> bytes | None:
        """Take the other side's next item; return the item to send, if any. ``seal_nonce``: 24 bytes."""
        to_send: bytes | None = None
        with self.burning(now_ms):
            match self.step:
                case InviterWaitsForKey() as step:
                    self.step, to_send = step.receive_key(item)
                case InviterWaitsForBundle() as step:
                    self.step = step.receive_bundle(item)
                case JoinerWaitsForBundle() as step:
                    self.step, to_send = step.receive_bundle(item, seal_nonce)
                case Confirms() as step:
                    self.step = step.receive_confirmation(item)
                case _:
                    raise _out_of_turn()
        return to_send

    def accept(self, *, now_ms: int) -> None:
        """The officer recognised the other office."""
        with self.burning(now_ms):
            if not isinstance(self.step, Recognises):
                raise _out_of_turn()
            self.step = self.step.accept()

    def _may_burn(self) -> bool:
        return not isinstance(self.step, Confirms | Paired)


def _out_of_turn() -> PolicyRefused:
    return PolicyRefused("pairing_out_of_turn", "nothing is expected from the other side now; begin again")
