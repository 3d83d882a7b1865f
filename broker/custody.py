"""Custody notes and grants of one answer: signed after the commit that made them true.

Spec: docs/spec/broker.md#custody; the format is ``protocol.custody``'s. One rule: ``sign_results`` is given
results that a store has already made durable, and nothing else ever signs with the custody key.
"""

from collections.abc import Sequence

from keys.primitives import Ed25519PrivateKey
from protocol.custody import Custody, sign_custody
from protocol.requests import AskGrant, Granted, Op, Result, get_capability_hash, sign_grant


def sign_results(ops: Sequence[Op], results: Sequence[Result], key: Ed25519PrivateKey) -> tuple[Result, ...]:
    """The results with each grant among them signed, and every custody note as one batch."""
    results = [_sign_grant(op, result, key) for op, result in zip(ops, results, strict=True)]
    notes = [result for result in results if isinstance(result, Custody)]
    if not notes:
        return tuple(results)
    signed = iter(sign_custody(notes, key))
    return tuple(next(signed) if isinstance(result, Custody) else result for result in results)


def _sign_grant(op: Op, result: Result, key: Ed25519PrivateKey) -> Result:
    if not isinstance(op, AskGrant) or not isinstance(result, Granted):
        return result
    grant = sign_grant(
        key,
        put_hash=op.put_hash,
        get_hash=get_capability_hash(op.get_secret),
        public=op.mailbox_public,
    )
    return Granted(grant=grant)
