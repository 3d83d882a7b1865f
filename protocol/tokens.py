"""Tokens as people copy them: what they are for, and base32 with a checksum.

Spec: docs/spec/broker.md#tokens. A broker's creation token lets its holder make a few mailboxes there, its
forwarding token reach other brokers through it, its witness token have a log cosigned; a node's API token
acts for an officer. All are secrets; who gave them out stores hashes alone.
"""

from typing import Final

from keys import labels
from keys.errors import MalformedInput
from keys.layout import base32, base32_bytes
from keys.primitives import labelled_hash
from keys.secret import SecretBytes
from protocol import limits

PREFIX: Final = "salween-token1-"
FORWARDING_PREFIX: Final = "salween-forward1-"
WITNESS_PREFIX: Final = "salween-witness1-"
API_PREFIX: Final = "salween-api1-"
_CHECK_BYTES: Final = 3
_CHARACTERS_MAX: Final = 128


def encode_token(token: SecretBytes, prefix: str = PREFIX) -> str:
    """The one line that is handed out."""
    body = token.reveal()
    return prefix + base32(body + _check(body))


def parse_token_untrusted(text: str, prefix: str = PREFIX) -> SecretBytes:
    """The 32 secret bytes; spaces, line breaks and capitals are forgiven. MalformedInput only."""
    line = "".join(text[: 2 * _CHARACTERS_MAX].split()).lower()
    if not line.startswith(prefix) or len(line) > _CHARACTERS_MAX:
        raise MalformedInput(
            "token_malformed", f"Such a token begins with {prefix}; ask the broker's operator for one."
        )
    data = base32_bytes(line.removeprefix(prefix)) or b""
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if len(body) != limits.SECRET_BYTES or check != _check(body):
        raise MalformedInput("token_mistyped", "The token has a typing error; copy it again, the whole line.")
    return SecretBytes(body)


def _check(body: bytes) -> bytes:
    return labelled_hash(labels.TOKEN_CHECK, body)[:_CHECK_BYTES]
