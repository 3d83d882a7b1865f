"""A revocation made from paper alone, on any machine: no node, no directory, no network unless asked for.

Spec: docs/operations.md#when-a-node-is-stolen. One rule: the root key is opened for this one signature and
wiped; nothing of it is written anywhere. What is written is public and may go by any channel.
"""

from dataclasses import dataclass

from keys.brokercard import parse_broker_address_untrusted
from keys.card import issue_revocation, parse_revocation_untrusted
from keys.errors import PolicyRefused, Unavailable
from keys.notice import Notice, RevocationReason, encode_notice, notice_text
from keys.primitives import CompositePrivateKey
from keys.recovery_sheet import SHEET_BYTES_MAX, RecoverySheet, parse_recovery_sheet_untrusted
from node.broker_link import BrokerClient
from protocol import limits
from protocol.requests import OpRefused, Publish, Published
from runtime.env import Env

PUBLISH_TRIES = 6
PUBLISH_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeNotice:
    """A notice and whom it is about; ``name`` is empty when the sheet was typed without it."""

    office_id: bytes
    name: str
    revoked_below: int
    data: bytes
    text: str


def read_sheet(env: Env, path: str) -> RecoverySheet:
    """The sheet in a file, as it was printed or typed."""
    try:
        data = env.files.read(path)
    except OSError as fault:
        raise PolicyRefused(
            "recovery_sheet_unreadable", f"{path} cannot be read. Type the sheet into a file, lines and all."
        ) from fault
    return parse_recovery_sheet_untrusted(data[: SHEET_BYTES_MAX + 1].decode("utf-8", "replace"))


def make_notice(
    sheet: RecoverySheet, *, revoked_below: int, reason: RevocationReason, now_ms: int
) -> MadeNotice:
    """Sign the revocation of every key version below ``revoked_below``."""
    if not 2 <= revoked_below <= limits.U32_MAX:
        raise PolicyRefused(
            "revoked_below_invalid",
            "Key versions begin at 1, so the smallest number is 2: it revokes the first key. A stolen node"
            " with key version N is revoked by N + 1.",
        )
    root = CompositePrivateKey.from_seed(sheet.root_seed)
    signed = issue_revocation(root, revoked_below=revoked_below, since_ms=now_ms, reason=reason.value)
    notice = Notice(root_public=root.public_bytes, revocation=parse_revocation_untrusted(signed))
    data = encode_notice(notice)
    return MadeNotice(
        office_id=sheet.office_id,
        name=sheet.name,
        revoked_below=revoked_below,
        data=data,
        text=notice_text(data),
    )


async def publish_notice(env: Env, address: str, data: bytes) -> None:
    """Have a broker show it to everybody; Unavailable says why not, and what else to do."""
    client = BrokerClient(env, parse_broker_address_untrusted(address))
    try:
        for attempt in range(PUBLISH_TRIES):
            if attempt:
                await env.sleep(PUBLISH_PAUSE_S)
            (result,) = await client.exchange([Publish(notice=data)])
            if isinstance(result, Published):
                return
            if not (isinstance(result, OpRefused) and result.code == "busy"):
                break
    finally:
        await client.close()
    raise Unavailable(
        "notice_not_shown",
        "This broker does not show the revocation now. Send the text to one partner by any means and have it"
        " applied there: that office tells the broker and all others.",
    )
