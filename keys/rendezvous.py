"""Where a ceremony meets: two mailboxes at a broker, the items in them, and the one attempt it has.

Spec: docs/spec/pairing.md#rendezvous. Shared by both ceremonies, by voice (``keys.pairing``) and in person
(``keys.inperson``). One rule: nothing here knows what an item says; whoever reads one says which it expects.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from keys import labels, layout
from keys.bundle import BUNDLE_BYTES_MAX
from keys.errors import MalformedInput, PolicyRefused, SalweenError
from keys.layout import Reader
from keys.primitives import (
    AEAD_NONCE_BYTES,
    AEAD_OVERHEAD_BYTES,
    SYMMETRIC_KEY_BYTES,
    WRAP_OVERHEAD_BYTES,
    XWingPrivateKey,
    aead_open,
    aead_seal,
    argon2id,
    hkdf_sha256,
    labelled_hash,
    wrap,
)
from keys.secret import SecretBytes

ITEM_FORMAT: Final = 1
_SEALED_BYTES_MAX: Final = BUNDLE_BYTES_MAX + AEAD_OVERHEAD_BYTES
# The same sizes as envelopes, so that a rendezvous mailbox needs no rule of its own at the broker.
ITEM_BYTES_ALLOWED: Final = (8 * 1024, 16 * 1024, 32 * 1024, 64 * 1024)
_ITEM_VERSION: Final = 0x01
_ITEM_HEAD_BYTES: Final = 5
_WRAPPED_BYTES_MAX: Final = 4 + BUNDLE_BYTES_MAX + SYMMETRIC_KEY_BYTES + WRAP_OVERHEAD_BYTES

assert ITEM_BYTES_ALLOWED[-1] >= _ITEM_HEAD_BYTES + 64 + _WRAPPED_BYTES_MAX


# --- the meeting place ---


@dataclass(frozen=True, slots=True, kw_only=True)
class RendezvousMailbox:
    """Secrets of one direction; both sides derive the same."""

    put_secret: SecretBytes  # 32 bytes
    get_secret: SecretBytes  # 32 bytes
    signing_seed: SecretBytes  # 32 bytes: Ed25519, signs deletions


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    """The two mailboxes a ceremony runs through. The inviter creates both, nobody uses them twice."""

    to_joiner: RendezvousMailbox
    to_inviter: RendezvousMailbox


def derive_rendezvous(secret: SecretBytes, broker_card_sha256: bytes) -> Rendezvous:
    """The rendezvous that an invitation's secret opens at the broker with this card. Takes 0.1 s.

    Through Argon2id, so that a spoken code of 40 bits could take the place of the 16 bytes.
    """
    salt = labelled_hash(labels.RENDEZVOUS_SALT, broker_card_sha256)[:16]
    root = argon2id(secret, salt, memory_kib=64 * 1024, iterations=3, lanes=1, length=SYMMETRIC_KEY_BYTES)
    return rendezvous_of(root)


def rendezvous_of(root: SecretBytes) -> Rendezvous:
    """The meeting that ``root`` (32 bytes) opens."""
    return Rendezvous(to_joiner=_mailbox_of(root, b"to-joiner"), to_inviter=_mailbox_of(root, b"to-inviter"))


def _mailbox_of(root: SecretBytes, direction: bytes) -> RendezvousMailbox:
    expanded = hkdf_sha256(root, b"", labels.RENDEZVOUS_EXPAND + b"|" + direction, 96).reveal()
    return RendezvousMailbox(
        put_secret=SecretBytes(expanded[:32]),
        get_secret=SecretBytes(expanded[32:64]),
        signing_seed=SecretBytes(expanded[64:]),
    )


# --- items ---


def to_item(message: bytes) -> bytes:
    """Padded to the smallest size an envelope may have."""
    head = bytes([_ITEM_VERSION]) + layout.variable(message)
    size = next(size for size in ITEM_BYTES_ALLOWED if size >= len(head))
    return head.ljust(size, b"\0")


def from_item_untrusted(item: bytes) -> bytes:
    """The inverse of ``to_item``; MalformedInput ``pairing_item_malformed``."""
    code = "pairing_item_malformed"
    if len(item) not in ITEM_BYTES_ALLOWED:
        raise MalformedInput(code, f"an item has {len(item)} bytes")
    reader = Reader(item, code)
    if reader.u8() != _ITEM_VERSION:
        reader.fail("has an unknown version")
    message = reader.variable(len(item))
    if to_item(message) != item:
        reader.fail("is not padded with zeros to the smallest size")
    return message


def seal_item(magic: bytes, key: SecretBytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """An item that only who has ``key`` reads. ``nonce``: 24 random bytes."""
    sealed = aead_seal(key, nonce, plaintext, associated)
    return to_item(magic + layout.u8(ITEM_FORMAT) + nonce + layout.variable(sealed))


def open_item_untrusted(magic: bytes, key: SecretBytes, item: bytes, associated: bytes) -> bytes:
    """The inverse; MalformedInput, or VerificationFailed for another key or ``associated``."""
    reader = Reader(from_item_untrusted(item), "pairing_item_malformed")
    reader.magic(magic, ITEM_FORMAT)
    nonce, sealed = reader.take(AEAD_NONCE_BYTES), reader.variable(_SEALED_BYTES_MAX)
    reader.end()
    return aead_open(key, nonce, sealed, associated)


def wrap_bundle(magic: bytes, public: bytes, bundle: bytes, channel_key: SecretBytes, info: bytes) -> bytes:
    """A message with an encoded bundle and the key that answers it, for the X-Wing key ``public`` alone.

    VerificationFailed (``public_key_invalid``) for a key nothing can be encrypted to.
    """
    wrapped = wrap(public, layout.variable(bundle) + channel_key.reveal(), info)
    return magic + layout.u8(ITEM_FORMAT) + layout.variable(wrapped)


def unwrap_bundle_untrusted(
    magic: bytes, private: XWingPrivateKey, message: bytes, info: bytes
) -> tuple[bytes, SecretBytes]:
    """The inverse; MalformedInput, or VerificationFailed for another key or ``info``."""
    reader = Reader(message, "pairing_item_malformed")
    reader.magic(magic, ITEM_FORMAT)
    wrapped = reader.variable(_WRAPPED_BYTES_MAX)
    reader.end()
    opened = Reader(private.unwrap(wrapped, info), "pairing_item_malformed")
    bundle, channel_key = opened.variable(BUNDLE_BYTES_MAX), SecretBytes(opened.take(SYMMETRIC_KEY_BYTES))
    opened.end()
    return bundle, channel_key


# --- one attempt ---


S = TypeVar("S")


class OneAttempt(Generic[S]):
    """The present step of one ceremony. Moves only forward; any fault, a second try included, burns it.

    Kept in memory alone: a node that restarts in the middle begins again. Once people have compared, nothing
    can be guessed any more: from then on neither junk nor time burns it.
    """

    __slots__ = ("_expires_ms", "step")

    def __init__(self, step: S, expires_ms: int) -> None:
        self.step: S | Burned = step
        self._expires_ms = expires_ms

    def abort(self) -> None:
        """Give up: what was shown or handed over is worth nothing any more."""
        self.step = Burned(code="pairing_aborted")

    def _may_burn(self) -> bool:
        raise NotImplementedError

    @contextlib.contextmanager
    def burning(self, now_ms: int) -> Iterator[None]:
        """Around each step: refused once burned or expired; a fault inside burns."""
        if isinstance(self.step, Burned):
            raise PolicyRefused(
                "pairing_burned", f"this pairing ended ({self.step.code}); begin again with a new code"
            )
        may_burn = self._may_burn()
        if may_burn and now_ms >= self._expires_ms:
            self.step = Burned(code="pairing_expired")
            raise PolicyRefused("pairing_expired", "the time for this pairing is over; begin again")
        try:
            yield
        except SalweenError as error:
            if may_burn:
                self.step = Burned(code=error.code)
            raise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Burned:
    """The ceremony failed or expired; its invitation is worth nothing any more."""

    code: str  # why, a stable error code
