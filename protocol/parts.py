"""An attachment as its carriers know it: sizes, capabilities, and how far its parts have come.

Spec: docs/spec/attachments.md#parts. One rule: a part continues what is there, so bytes are written once and
read from any of them on. Knows no key and no picture: this is all that a broker ever sees of one.
"""

from dataclasses import dataclass, replace
from typing import Final

from keys import labels
from keys.primitives import labelled_hash
from protocol import limits


def quarter_octaves(smallest: int, largest: int) -> tuple[int, ...]:
    """{1, 1.25, 1.5, 1.75} x 2^k from ``smallest`` up to ``largest``, both included."""
    sizes, octave = [], smallest
    while octave <= largest:
        sizes += [octave * quarters // 4 for quarters in (4, 5, 6, 7)]
        octave *= 2
    return tuple(size for size in sizes if size <= largest)


SIZES: Final = quarter_octaves(limits.ATTACHMENT_BYTES_MIN, limits.ATTACHMENT_BYTES_MAX)


def read_capability_hash(read_secret: bytes) -> bytes:
    """What the broker stores of a read secret, 32 bytes."""
    return labelled_hash(labels.READ_CAPABILITY, read_secret)


def write_capability_hash(write_secret: bytes) -> bytes:
    """What the broker stores of a write secret, 32 bytes."""
    return labelled_hash(labels.WRITE_CAPABILITY, write_secret)


# --- how far it has come ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One ciphertext on its way, in either direction.

    ``setbacks``: answers that brought nothing since it last came further than ever, ``furthest_bytes``.
    """

    size_bytes: int
    done_bytes: int = 0
    furthest_bytes: int = 0
    setbacks: int = 0
    next_at_ms: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether every byte is there."""
        return self.done_bytes == self.size_bytes


# What a request with one part, and an answer, holds besides it: a little more than either does.
ASKED_BYTES: Final = 1_400
ANSWERED_BYTES: Final = 128
_PADDED: Final = quarter_octaves(2_048, limits.REQUEST_BYTES_MAX)


def next_part(transfer: Transfer, most_bytes: int, *, beside_bytes: int = ASKED_BYTES) -> tuple[int, int]:
    """Offset and length of the part that goes next; length 0 when it is whole.

    It fills one of the sizes that requests and answers are padded to, or padding would cost an eighth.
    """
    most_bytes = max(limits.ATTACHMENT_PART_BYTES_MIN, min(most_bytes, limits.ATTACHMENT_PART_BYTES))
    filling = [size - beside_bytes for size in _PADDED if size - beside_bytes <= most_bytes]
    length = max(limits.ATTACHMENT_PART_BYTES_MIN, *filling) if filling else most_bytes
    return transfer.done_bytes, min(length, transfer.size_bytes - transfer.done_bytes)


def reached(transfer: Transfer, done_bytes: int, now_ms: int) -> Transfer:
    """The other side has so much, or we have. Going forward is at once; standing or going back waits.

    A broker that lost its disk makes an upload begin anew; one that lies about it does so ever more seldom.
    """
    done_bytes = min(max(done_bytes, 0), transfer.size_bytes)
    if done_bytes > transfer.furthest_bytes:
        return replace(
            transfer, done_bytes=done_bytes, furthest_bytes=done_bytes, setbacks=0, next_at_ms=now_ms
        )
    if done_bytes > transfer.done_bytes:
        return replace(transfer, done_bytes=done_bytes, next_at_ms=now_ms)
    return held_up(replace(transfer, done_bytes=done_bytes), now_ms)


def held_up(transfer: Transfer, now_ms: int) -> Transfer:
    """Nothing came of it: refused, not there yet, or nothing new."""
    setbacks = transfer.setbacks + 1
    # What is whole at the broker is asked about like an envelope, what is not like a link.
    least, most = (
        (limits.HELD_BACKOFF_MS_MIN, limits.HELD_BACKOFF_MS_MAX)
        if transfer.is_whole
        else (limits.ATTACHMENT_BACKOFF_MS_MIN, limits.ATTACHMENT_BACKOFF_MS_MAX)
    )
    wait_ms = min(least << min(setbacks - 1, 32), most)
    return replace(transfer, setbacks=setbacks, next_at_ms=now_ms + wait_ms)
