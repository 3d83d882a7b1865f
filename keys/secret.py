"""Secrets that cannot be printed, logged, pickled, copied or compared by accident.

Spec: docs/spec/suite.md#secrets. One rule: the bytes leave a ``SecretBytes`` only through ``reveal()``, a
word that can be searched for. Python cannot promise that memory is wiped; ``wipe()`` shortens the time.
"""

import hmac
from typing import NoReturn, final

from keys.errors import BrokenInvariant


class Guarded:
    """Base of everything that holds key material: no pickle, copy, comparison, hash or telling text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    # object.__format__ would accept width and fill and then print; a secret has one text, whatever is asked.
    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is never pickled or copied")

    # A subclass may not bring pickling back through the state hook alone.
    def __getstate__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is never pickled or copied")

    def __copy__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is never pickled or copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is never pickled or copied")

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not compared with ==; use equals()")

    def __ne__(self, other: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not compared with !=; use equals()")

    def __hash__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} has no hash")


@final
class SecretBytes(Guarded):
    """A secret of known length, readable only through ``reveal()``."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray) -> None:
        self._data: bytearray | None = bytearray(data)

    def reveal(self) -> bytes:
        """The secret itself. Raises BrokenInvariant (``secret_wiped``) after ``wipe()``."""
        if self._data is None:
            raise BrokenInvariant("secret_wiped", "a secret was used after it was wiped")
        return bytes(self._data)

    def equals(self, other: "SecretBytes") -> bool:
        """Whether both hold the same bytes, in time that depends on the lengths alone."""
        return hmac.compare_digest(self.reveal(), other.reveal())

    def wipe(self) -> None:
        """Overwrite our own copy. Best effort: copies made by ``reveal()`` or by libraries may remain."""
        if self._data is not None:
            self._data[:] = bytes(len(self._data))
            self._data = None

    def __len__(self) -> int:
        return 0 if self._data is None else len(self._data)

    # Without this an empty or wiped secret would read as "no secret" in an ``if``.
    def __bool__(self) -> NoReturn:
        raise TypeError("SecretBytes has no truth value; test len() or compare with None")

    def __repr__(self) -> str:
        return "<secret wiped>" if self._data is None else f"<secret {len(self._data)} bytes>"
