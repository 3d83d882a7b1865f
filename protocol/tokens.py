"""The operator's token as people copy it: ``salween-token1-`` and base32 with a checksum.

Spec: docs/spec/broker.md#tokens. A token lets its holder make a few mailboxes at one broker. It is a secret;
the broker stores its hash alone (``requests.creation_token_hash``).
"""

import base64
from typing import Final

from keys import labels
from keys.errors import MalformedInput
from keys.primitives import labelled_hash
from keys.secret import SecretBytes
from protocol import limits

PREFIX: Final = "salween-token1-"
API_PREFIX: Final = "salween-api1-"
_CHECK_BYTES: Final = 3
_CHARACTERS_MAX: Final = 128


def encode_token(token: SecretBytes, prefix: str = PREFIX) -> str:
    """The one line that is handed out."""
    body = token.reveal()
    return prefix + base64.b32encode(body + _check(body)).decode("ascii").rstrip("=").lower()


def parse_token_untrusted(text: str, prefix: str = PREFIX) -> SecretBytes:
    """The 32 secret bytes; spaces, line breaks and capitals are forgiven. MalformedInput only."""
    line = "".join(text[: 2 * _CHARACTERS_MAX].split()).lower()
    if not line.startswith(prefix) or len(line) > _CHARACTERS_MAX:
        raise MalformedInput(
            "token_malformed", f"Such a token begins with {prefix}; ask the broker's operator for one."
        )
    letters = line.removeprefix(prefix)
    try:
        data = base64.b32decode(letters.upper().encode("ascii") + b"=" * (-len(letters) % 8))
    except ValueError:
        data = b""
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if len(body) != limits.SECRET_BYTES or check != _check(body):
        raise MalformedInput("token_mistyped", "The token has a typing error; copy it again, the whole line.")
    return SecretBytes(body)


def _check(body: bytes) -> bytes:
    return labelled_hash(labels.TOKEN_CHECK, body)[:_CHECK_BYTES]
