"""The five error families every package raises, by what the caller should do next.

::

    SalweenError
    ├── MalformedInput       drop and count it
    ├── VerificationFailed   quarantine and record it; tell the peer nothing
    ├── PolicyRefused        tell the officer why
    ├── Unavailable          try again later
    └── BrokenInvariant      our bug: stop the task, keep the data

Codes are stable and listed in docs/spec/errors.md; a test holds the two lists equal.
No error carries a key, plaintext, a name or a plate: ``detail`` goes to screens and logs.
"""

from typing import ClassVar


class SalweenError(Exception):
    """Base of all expected failures.

    ``code`` is a stable lower_snake_case word for machines; ``detail`` is a sentence for people.
    """

    family: ClassVar[str] = "error"

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class MalformedInput(SalweenError):
    """Bytes from outside that are not what they should be."""

    family = "malformed"


class VerificationFailed(SalweenError):
    """Well-formed, but a signature, tag, hash or key does not hold."""

    family = "verification"


class PolicyRefused(SalweenError):
    """Understood and authentic, but a rule says no. ``detail`` says what to do next."""

    family = "policy"


class Unavailable(SalweenError):
    """Not now: link, disk, broker or peer. Trying again later may succeed."""

    family = "unavailable"


class BrokenInvariant(SalweenError):
    """A promise of our own code does not hold."""

    family = "invariant"
