"""One alert to 1, 10 and 100 offices: each by itself, and all under one signature and around one blob.

Sealing costs processor time, and what goes up the line is what requests to one broker come to, padding
included. Both modes take turns over the same alert, recipients and keys.
"""

import os
from collections.abc import Sequence

from bench.measure import cost_us
from bench.report import cost_ratio, figure, line, progress
from bench.sample import NOW_MS, Office, an_opening, text_alert
from keys.primitives import XWingPrivateKey
from keys.secret import SecretBytes
from node.broker_link import SEND_BYTES_MAX, SEND_OPS_MAX
from protocol import limits
from protocol.message import LeafOpening, shared_leaves, sign_alert, sign_shared_alert
from protocol.release import ReleasedAlert, ReleasePolicy, prepare, release_prepared
from protocol.requests import Op, Put, bytes_behind, seal_request
from protocol.sealing import Recipient, seal

BENCH = "several"
OFFICES = (1, 10, 100)
_SENTENCE = (
    "White pickup with a false plate left the old bridge northbound, two men, tarpaulin over the load. "
)
_TEXT = (_SENTENCE * 16)[:1_500]


class Several:
    """One office, and so many partners as a sender knows them: an id and a receive key each."""

    def __init__(self, offices: int) -> None:
        self._sender = Office("Myitkyina BLO", "MM")
        self._audience = [os.urandom(limits.HASH_BYTES) for _ in range(offices)]
        self._keys = [
            XWingPrivateKey.from_seed(SecretBytes(os.urandom(32))).public_bytes for _ in range(offices)
        ]
        self._alert = text_alert(_TEXT)

    def separate(self) -> list[bytes]:
        """An envelope for each, signed and sealed by itself."""
        released = self._release()
        envelopes: list[bytes] = []
        for office_id, public in zip(self._audience, self._keys, strict=True):
            opening = an_opening(self._sender)
            message = sign_alert(
                released,
                msg_id=os.urandom(limits.MESSAGE_ID_BYTES),
                sender=self._sender.id,
                key_version=1,
                signer=self._sender.operational,
                instance=self._sender.instance,
                created_ms=NOW_MS,
                recipient=office_id,
                opening=opening,
            )
            to = self._recipient(office_id, public, opening)
            envelopes += seal(message, [to], sender=self._sender.id, random=os.urandom)
        return envelopes

    def shared(self) -> list[bytes]:
        """An envelope for each around one blob."""
        released = self._release()
        to: list[Recipient] = []
        taken: dict[int, bytes] = {}
        for office_id, public in zip(self._audience, self._keys, strict=True):
            blind, leaf_index = released.place_of(office_id)
            opening = an_opening(self._sender, blind=blind, leaf_index=leaf_index)
            taken[leaf_index] = opening.shared_leaf(office_id, self._sender.instance)
            to.append(self._recipient(office_id, public, opening))
        message = sign_shared_alert(
            released,
            msg_id=os.urandom(limits.MESSAGE_ID_BYTES),
            sender=self._sender.id,
            key_version=1,
            signer=self._sender.operational,
            created_ms=NOW_MS,
            leaves=shared_leaves(released, taken, os.urandom),
        )
        return list(seal(message, to, sender=self._sender.id, random=os.urandom))

    def _release(self) -> ReleasedAlert:
        prepared = prepare(
            self._alert, author=self._sender.signer, audience=self._audience, random=os.urandom
        )
        return release_prepared(prepared, policy=ReleasePolicy(), now_ms=NOW_MS)

    def _recipient(self, office_id: bytes, public: bytes, opening: LeafOpening) -> Recipient:
        return Recipient(
            office_id=office_id,
            instance=self._sender.instance,
            opening=opening,
            receive_key_id=os.urandom(limits.KEY_ID_BYTES),
            receive_key_public=public,
        )


def uploaded_bytes(envelopes: Sequence[bytes]) -> int:
    """What requests to one broker are with these in them, as many in each as a node puts there."""
    broker = XWingPrivateKey.from_seed(SecretBytes(os.urandom(32))).public_bytes
    total, ops, room, whole = 0, list[Op](), SEND_BYTES_MAX, 0
    for envelope in envelopes:
        put = Put(put_secret=os.urandom(limits.SECRET_BYTES), envelope=envelope)
        needed = bytes_behind(put, ops[-1] if ops else None)
        is_full = len(ops) == SEND_OPS_MAX or whole + len(envelope) > limits.PUT_BYTES_PER_REQUEST_MAX
        if is_full or needed > room:
            total += _request_bytes(broker, ops)
            ops, room, whole = [], SEND_BYTES_MAX, 0
            needed = bytes_behind(put, None)
        room, whole = room - needed, whole + len(envelope)
        ops.append(put)
    return total + _request_bytes(broker, ops)


def _request_bytes(broker: bytes, ops: Sequence[Op]) -> int:
    data, _ = seal_request(broker, ops=ops, date_ms=NOW_MS, random=os.urandom)
    return len(data)


def run(*, quick: bool) -> None:
    """Both modes by turns; one office is one message to one office, whatever was chosen."""
    for offices in OFFICES[:2] if quick else OFFICES:
        progress(f"{BENCH}: {offices}")
        several = Several(offices)
        if offices == 1:
            costs = cost_us({"separate": several.separate}, rounds=4 if quick else 30, each=10)
            figure(BENCH, "release, sign and seal to 1", costs["separate"], "us of one core")
            line(BENCH, "uploaded to 1", value=uploaded_bytes(several.separate()), unit="bytes")
            continue
        costs = cost_us(
            {"separate": several.separate, "shared": several.shared}, rounds=2 if quick else 5, each=1
        )
        against = f"the same to {offices}, each by itself"
        figure(
            BENCH,
            f"release, sign and seal to {offices}, shared",
            costs["shared"],
            "us of one core",
            **cost_ratio(costs["shared"], costs["separate"], against=against),
        )
        alone, together = several.separate(), several.shared()
        before, now = uploaded_bytes(alone), uploaded_bytes(together)
        line(
            BENCH,
            f"uploaded to {offices}, shared",
            value=now,
            unit="bytes",
            ratio=now / before,
            against=against,
            against_value=before,
            envelope_bytes=len(together[0]),
        )
