"""Memory of encapsulations already answered, so that a recorded request cannot be played again.

Spec: docs/spec/broker.md#replay. A request is answered only while its date lies within DATE_SKEW_MS_MAX of
the broker's clock and not before its boot, so an encapsulation must be known only as long as its date would
still be taken. One rule: memory is bounded, and when it is full the broker refuses more dates rather than
forget what it has answered. In memory only: after a restart every date before the boot is refused.
"""

from typing import Final

from protocol import limits

REMEMBERED_MAX: Final = 1_000_000  # about 100 MB at worst; at 4,000 requests/s it is four minutes
GENERATION_MS: Final = 60_000
DIGEST_BYTES: Final = 16


class ReplayMemory:
    """Which encapsulations were answered or are being answered, by the minute of their date."""

    def __init__(self, *, boot_ms: int, remembered_max: int = REMEMBERED_MAX) -> None:
        self._floor_ms = boot_ms
        self._remembered_max = remembered_max
        self._generations: dict[int, set[bytes]] = {}
        self._count = 0

    @property
    def floor_ms(self) -> int:
        """Dates before this are refused."""
        return self._floor_ms

    def knows(self, enc_digest: bytes, date_ms: int) -> bool:
        """Whether this encapsulation was answered before. ``enc_digest``: 16 bytes of a hash of it."""
        return enc_digest in self._generations.get(date_ms // GENERATION_MS, ())

    def remember(self, enc_digest: bytes, date_ms: int, now_ms: int) -> None:
        """Remember an encapsulation whose date was taken."""
        number = date_ms // GENERATION_MS
        generation = self._generations.get(number)
        if generation is None:
            oldest_taken = (now_ms - limits.DATE_SKEW_MS_MAX) // GENERATION_MS
            for old in [old for old in self._generations if old < oldest_taken]:
                self._drop(old)
            generation = self._generations.setdefault(number, set())
        if enc_digest not in generation:
            generation.add(enc_digest)
            self._count += 1
        if self._count > self._remembered_max:
            oldest = min(self._generations)
            self._drop(oldest)
            self._floor_ms = max(self._floor_ms, (oldest + 1) * GENERATION_MS)

    def forget(self, enc_digest: bytes, date_ms: int) -> None:
        """Forget one that showed no capability: strangers do not fill the memory."""
        generation = self._generations.get(date_ms // GENERATION_MS)
        if generation is not None and enc_digest in generation:
            generation.remove(enc_digest)
            self._count -= 1

    def _drop(self, number: int) -> None:
        self._count -= len(self._generations.pop(number))

    @property
    def count(self) -> int:
        """How many encapsulations are remembered."""
        return self._count
