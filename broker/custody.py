"""Custody notes of one answer: signed together, after the commit that made them true.

Spec: docs/spec/broker.md#custody; the format is ``protocol.custody``'s. One rule: ``sign_results`` is given
results that a store has already made durable, and nothing else ever signs with the custody key.
"""

from collections.abc import Sequence

from keys.primitives import Ed25519PrivateKey
from protocol.custody import Custody, sign_custody
from protocol.requests import Result


def sign_results(results: Sequence[Result], key: Ed25519PrivateKey) -> tuple[Result, ...]:
    """The results with every custody note among them signed as one batch."""
    notes = [result for result in results if isinstance(result, Custody)]
    if not notes:
        return tuple(results)
    signed = iter(sign_custody(notes, key))
    return tuple(next(signed) if isinstance(result, Custody) else result for result in results)
