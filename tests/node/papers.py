"""Recovery sheets of simulated offices, and what is done with them: revoking, coming back."""

from keys.card import issue_certificate, parse_officer_list_untrusted, sign_officer_list
from keys.notice import RevocationReason
from keys.primitives import CompositePrivateKey
from keys.recovery_sheet import RecoverySheet
from keys.secret import SecretBytes
from node.layout import SecretName
from node.paper import MadeNotice, make_notice, read_sheet
from runtime.sqlite import Transaction
from tests.node.offices import node_of
from tests.simulation.daemons import OfficeHost


async def sheet_of(office: OfficeHost) -> RecoverySheet:
    """The sheet this office printed when it was made."""

    async def read(env: object) -> RecoverySheet:
        return read_sheet(env, "sheet")  # type: ignore[arg-type]

    return await office.host.run(read)


def a_revocation(
    sheet: RecoverySheet, below: int = 2, *, reason: RevocationReason = RevocationReason.NODE_STOLEN
) -> MadeNotice:
    """What ``salween-node revoke`` makes of a sheet."""
    return make_notice(sheet, revoked_below=below, reason=reason, now_ms=1_700_000_000_000)


async def become(office: OfficeHost, sheet: RecoverySheet, key_version: int) -> None:
    """A new machine takes up the identity on a sheet, under a key version that revokes the lower ones."""
    node = node_of(office)
    root = CompositePrivateKey.from_seed(sheet.root_seed)
    seed = SecretBytes(bytes([key_version]) * 64)
    operational = CompositePrivateKey.from_seed(seed)
    certificate = issue_certificate(
        root,
        key_version=key_version,
        public=operational.public_bytes,
        not_before_ms=max(0, office.now_ms() - 24 * 3600 * 1000),
        not_after_ms=office.now_ms() + 365 * 24 * 3600 * 1000,
        country="CN",
        name="Tengchong BLO",
        revoked_below=key_version,
    )

    def record(tx: Transaction) -> None:
        tx.execute(
            "UPDATE office SET office_id = ?, root_public = ?, certificate = ?, key_version = ?",
            (sheet.office_id, root.public_bytes, certificate, key_version),
        )
        listed = parse_officer_list_untrusted(tx.value("SELECT bytes FROM officer_list"))
        signed = sign_officer_list(
            operational,
            office=sheet.office_id,
            key_version=key_version,
            # Above every list of the lost node.
            list_version=100,
            issued_ms=listed.issued_ms,
            officers=listed.officers,
        )
        tx.execute("UPDATE officer_list SET version = 100, bytes = ?", (signed,))

    async def change(env: object) -> None:
        await node._secrets.put({SecretName.operational(key_version): seed})
        await node.database.transact(record)

    await office.host.run(change)
    office.host.kill()
    await office.restart()
