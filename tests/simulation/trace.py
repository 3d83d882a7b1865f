"""What happened in a run, as one hash: events, hosts, times and sizes; never bytes that a cipher made.

Two runs of one seed must give one hash. Encryption draws randomness that no seed reaches, so nothing here,
and nothing that decides an order, may depend on the bytes of a ciphertext, a signature or a hash.
"""

import hashlib
from collections import deque

Fact = str | int


class Trace:
    """A running hash over facts, and the last of them for people."""

    def __init__(self, keep: int = 200) -> None:
        self._hash = hashlib.sha256()
        self.events = 0
        self.last: deque[tuple[int, str, tuple[Fact, ...]]] = deque(maxlen=keep)

    def note(self, at_us: int, event: str, *facts: Fact) -> None:
        """Add one event at a virtual time."""
        self.events += 1
        self.last.append((at_us, event, facts))
        self._hash.update(f"{at_us}|{event}|{'|'.join(map(str, facts))}\n".encode())

    def hexdigest(self) -> str:
        """The hash so far."""
        return self._hash.hexdigest()
