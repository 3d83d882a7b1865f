"""Somebody with all keys of one paired office, and without its program: any header, any body, really sealed.

One forger serves the offices of fixed seeds and a pair of real nodes alike, so that each bad envelope can be
shown to the opener alone and to a whole inbox.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from keys import labels
from keys.primitives import CompositePrivateKey, blob_encrypt, labelled_hash, wrap
from keys.secret import SecretBytes
from protocol import limits
from protocol.items import encode_items
from protocol.message import Header, LeafOpening, MessageType, SignedMessage
from tests.protocol.offices import MYITKYINA, NOW_MS, TENGCHONG, plaintext_of, seed
from tests.vectors import independent

NOTHING = encode_items([])
_ROOMS_BYTES = (6863, 15055, 31423, 64159)


@dataclass
class Forger:
    """Seals to ``recipient`` whatever it is told, in the name of ``sender``."""

    sender: bytes = MYITKYINA.id
    signer: CompositePrivateKey = field(default_factory=lambda: MYITKYINA.operational)
    key_version: int = 1
    instance: bytes = MYITKYINA.instance
    recipient: bytes = TENGCHONG.id
    key_id: bytes = TENGCHONG.receive_key_id
    public: bytes = field(default_factory=lambda: TENGCHONG.receive_key.public_bytes)
    rk_known: bytes = MYITKYINA.receive_key_id
    now_ms: int = NOW_MS
    next_seq: int = 1
    _blinds: Iterator[int] = field(default_factory=itertools.count)

    def opening(self, **changes: Any) -> LeafOpening:
        """A leaf opening that fits: its own blind, the next number, a predecessor of its own."""
        number = next(self._blinds)
        given: dict[str, Any] = {
            "blind": seed(f"blind {number}", 16).reveal(),
            "leaf_index": 0,
            "pair_seq": self.next_seq,
            "rk_first": 1,
            "rk_known": self.rk_known,
            "pair_prev": seed(f"previous {number}", 32).reveal(),
        }
        return LeafOpening(**given | changes)

    def signed(
        self,
        core: bytes,
        *,
        kind: MessageType = MessageType.CONTROL,
        disclosures: bytes = b"",
        piggyback: bytes = NOTHING,
        opening: LeafOpening | None = None,
        recipient: bytes | None = None,
        signer: CompositePrivateKey | None = None,
        **changes: Any,
    ) -> tuple[SignedMessage, LeafOpening]:
        """A message with a header that fits its parts, but for ``changes``, signed as it stands."""
        opening = opening or self.opening()
        given: dict[str, Any] = {
            "type": kind,
            "suite": 1,
            "msg_id": opening.blind,
            "sender": self.sender,
            "key_version": self.key_version,
            "instance": self.instance,
            "created_ms": self.now_ms,
            "expires_ms": self.now_ms + 7 * limits.DAY_MS,
            "core_hash": labelled_hash(labels.CORE, core),
            "core_bytes": len(core),
            "piggyback_hash": labelled_hash(labels.PIGGYBACK, piggyback),
            "leaves": (opening.leaf(recipient or self.recipient),),
        }
        header = Header(**given | changes).encode()
        message = SignedMessage(
            header=header,
            signature=(signer or self.signer).sign(labels.MESSAGE, header),
            core=core,
            disclosures=disclosures,
            piggyback=piggyback,
        )
        return message, opening

    def seal(
        self,
        message: SignedMessage | bytes,
        opening: LeafOpening,
        *,
        recipient: bytes | None = None,
        degenerate_share: tuple[bytes, bytes] | None = None,
    ) -> bytes:
        """An envelope around the message or its bytes.

        ``degenerate_share``: an X25519 share to send, and the secret that comes of it.
        """
        plaintext = message if isinstance(message, bytes) else plaintext_of(message)
        room_bytes = next(room for room in _ROOMS_BYTES if len(plaintext) < room)
        padded = plaintext + b"\x80" + bytes(room_bytes - len(plaintext) - 1)
        number = next(self._blinds)
        content_key = seed(f"content key {number}", 32)
        blob = blob_encrypt(SecretBytes(content_key.reveal()), labels.BLOB, padded)
        info = b"".join(
            (
                labels.WRAP,
                b"\x01",
                self.sender,
                recipient or self.recipient,
                self.key_id,
                labelled_hash(labels.BLOB_HASH, blob),
            )
        )
        inside = content_key.reveal() + opening.encode() + bytes(4)
        if degenerate_share is None:
            wrapped = wrap(self.public, inside, info)
        else:
            wrapped = _wrap_with_share(self.public, inside, info, *degenerate_share)
        return b"\x01" + self.key_id + wrapped + blob

    def control(self, core: bytes, **changes: Any) -> bytes:
        """An authentic control message with this core."""
        message, opening = self.signed(core, **changes)
        return self.seal(message, opening)


def _wrap_with_share(public: bytes, plaintext: bytes, info: bytes, share: bytes, secret_x: bytes) -> bytes:
    """HPKE over X-Wing by hand, the X25519 half replaced: what no library of ours would send."""
    secret_m, ciphertext_m = MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
    secret = hashlib.sha3_256(secret_m + secret_x + share + public[1184:] + b"\\.//^\\").digest()
    key, nonce = independent.hpke_base_key_and_nonce(secret, info)
    return ciphertext_m + share + ChaCha20Poly1305(key).encrypt(nonce, plaintext, b"")
