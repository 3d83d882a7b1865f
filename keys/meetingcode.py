"""The two codes of a pairing in person: what each screen shows and the other camera reads.

Spec: docs/spec/pairing.md#in-person. One rule: a code names its office and is new each time, and the second
answers the first. What follows from two codes that fit is ``keys.inperson``.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from keys import labels, layout
from keys.brokercard import BrokerAddress, check_host
from keys.card import OFFICE_ID_BYTES
from keys.errors import MalformedInput, PolicyRefused
from keys.invitation import SECRET_BYTES, TOKEN_BYTES
from keys.layout import Reader
from keys.primitives import (
    HASH_BYTES,
    constant_time_equal,
    labelled_hash,
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
