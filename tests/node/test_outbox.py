"""What leaves and when: sealed to the newest key, and never whole again and again to a mailbox that is full."""

import asyncio
from pathlib import Path

from keys.primitives import XWingPrivateKey
from keys.secret import SecretBytes
from node.inbox import _Outcome
from node.peers import load_peers
from protocol import limits
from protocol.envelope import parse_envelope_untrusted
from protocol.items import Acknowledgement, KeyAnnouncement, ReceivedRange
from runtime.sqlite import Transaction
from tests.node.offices import Offices, an_alert, node_of, play, write

NEW_KEY_ID = b"newest.."


def test_what_an_acknowledgement_passes_is_sealed_to_the_key_beside_it(tmp_path: Path) -> None:
    """One message acknowledges a later alert and announces a key: the key it replaces may be gone already."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        there.host.kill()
        await here.send(an_alert("KA-1"))
        await here.send(an_alert("KA-2"))
        await asyncio.sleep(2 * limits.RESEAL_SPACING_MS / 1000)

        def told(tx: Transaction) -> bytes:
            (peer,) = load_peers(tx)
            out, known = peer.pair.outbound, peer.peer_key.announcement
            first, second = (
                row[0]
                for row in tx.execute(
                    "SELECT pair_seq FROM delivery WHERE alert_id IS NOT NULL ORDER BY pair_seq"
                )
            )
            got = ReceivedRange(instance=out.instance, contiguous_to=first - 1, bitmap=1 << (second - first))
            acknowledged = Acknowledgement(
                key_version=known.key_version, instance=peer.pair.inbound.instance, ranges=(got,)
            )
            announced = KeyAnnouncement(
                key_version=known.key_version,
                rk_gen=known.rk_gen + 1,
                key_id=NEW_KEY_ID,
                public=XWingPrivateKey.from_seed(SecretBytes(bytes(32))).public_bytes,
            )
            node_of(here)._inbox._apply_items(tx, peer, (acknowledged, announced), _Outcome())
            sealed: bytes = tx.value("SELECT envelope FROM delivery WHERE pair_seq = ?", (first,))
            return sealed

        assert parse_envelope_untrusted(await write(here, told)).key_id == NEW_KEY_ID

    play(tmp_path, script)
