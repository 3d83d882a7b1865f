"""The line of text that opens a pairing by voice: where to meet, with what secret, until when.

Spec: docs/spec/pairing.md#invitation. One rule: it is a secret and good once; a typing error is told apart
from something that is no invitation. What follows from it is ``keys.rendezvous`` and ``keys.pairing``.
"""

from dataclasses import dataclass
from typing import Final

from keys import labels, layout
from keys.brokercard import BrokerAddress, check_host
from keys.errors import MalformedInput, PolicyRefused
from keys.layout import Reader
from keys.primitives import (
    HASH_BYTES,
    constant_time_equal,
    labelled_hash,
)
from keys.secret import SecretBytes

INVITATION_LIFE_MS: Final = 10 * 60 * 1000
SECRET_BYTES: Final = 16
TOKEN_BYTES: Final = 32

_INVITATION_PREFIX: Final = "salween-invite1-"
_INVITATION_CHARACTERS_MAX: Final = 1024
_CHECK_BYTES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A single-use line of text that lets another office meet us at a broker, once."""

    broker_address: BrokerAddress
    secret: SecretBytes  # 16 bytes: names and opens the rendezvous
    token: SecretBytes  # 32 bytes: the operator's permission for the joiner's own mailbox
    expires_ms: int

    def encode(self) -> str:
        """One line of about 200 characters, with a checksum against typing errors. It is a secret."""
        address = self.broker_address
        payload = b"".join(
            (
                layout.u64(self.expires_ms),
                layout.fixed(self.secret.reveal(), SECRET_BYTES),
                layout.fixed(self.token.reveal(), TOKEN_BYTES),
                layout.fixed(address.card_sha256, HASH_BYTES),
                layout.u16(address.port),
                layout.ascii_text(address.host, 253),
            )
        )
        body = payload + _invitation_check(payload)
        return _INVITATION_PREFIX + layout.base32(body)


def _invitation_check(payload: bytes) -> bytes:
    return labelled_hash(labels.INVITATION_CHECK, payload)[:_CHECK_BYTES]


def parse_invitation_untrusted(text: str) -> Invitation:
    """Read an invitation; spaces, line breaks and capitals are forgiven.

    MalformedInput: ``invitation_malformed`` (not an invitation at all) or ``invitation_mistyped`` (one, but
    with a wrong, missing or additional character). Whether it expired is ``check_invitation``'s to say.
    """
    if len(text) > _INVITATION_CHARACTERS_MAX:
        raise MalformedInput("invitation_malformed", "the text is too long for an invitation")
    line = "".join(text.split()).lower()
    if not line.startswith(_INVITATION_PREFIX):
        raise MalformedInput("invitation_malformed", f"an invitation begins with {_INVITATION_PREFIX}")
    mistyped = MalformedInput(
        "invitation_mistyped", "the invitation has a typing error; copy it again, the whole line"
    )
    body = layout.base32_bytes(line.removeprefix(_INVITATION_PREFIX))
    if body is None:
        raise mistyped
    payload, check = body[:-_CHECK_BYTES], body[-_CHECK_BYTES:]
    if not constant_time_equal(check, _invitation_check(payload)):
        raise mistyped
    reader = Reader(payload, "invitation_malformed")
    expires_ms = reader.u64()
    secret, token = reader.take(SECRET_BYTES), reader.take(TOKEN_BYTES)
    card_sha256, port, host = reader.take(HASH_BYTES), reader.u16(), reader.ascii(253)
    reader.end()
    if port == 0:
        reader.fail("names port 0")
    try:
        check_host(host)
    except MalformedInput as error:
        raise MalformedInput("invitation_malformed", error.detail) from error
    return Invitation(
        broker_address=BrokerAddress(host=host, port=port, card_sha256=card_sha256),
        secret=SecretBytes(secret),
        token=SecretBytes(token),
        expires_ms=expires_ms,
    )


def check_invitation(invitation: Invitation, now_ms: int) -> None:
    """Raise PolicyRefused (``invitation_expired``) once its time is over."""
    if now_ms >= invitation.expires_ms:
        raise PolicyRefused(
            "invitation_expired", "the invitation has expired; ask the other office for a new one"
        )
