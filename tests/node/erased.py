"""What of an alert must be gone once it is erased; pages, journal and files looked through for it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from node.layout import DATABASE_NAME, SecretName
from node.vault import SealedContent
from protocol.disclosures import decode_core_untrusted
from runtime.sqlite import Snapshot
from tests.node.offices import database_of, node_of, read
from tests.simulation.daemons import OfficeHost
from tests.support.raw_database import raw_pages

BETWEEN_PLACES = bytes(64)  # no needle is made of what stands at the end of one and the beginning of another


async def needles_of(office: OfficeHost, alert_id: str, *, incoming: bool) -> dict[str, bytes]:
    """What must be nowhere once the alert is erased, as it stands at this office; nothing when it is."""
    named = bytes.fromhex(alert_id)

    def look(tx: Snapshot) -> dict[str, bytes]:
        row = tx.one(
            "SELECT kek, wrapped_key, ciphertext FROM vault WHERE alert_id = ? AND incoming = ?",
            (named, int(incoming)),
        )
        if row is None:
            return {}
        kek, wrapped, ciphertext = row
        found = {"wrapped key": wrapped, "sealed content": ciphertext[100:164]}
        found["headline"] = tx.value(
            "SELECT headline FROM alert WHERE alert_id = ? AND incoming = ?", (named, int(incoming))
        ).encode()
        for number, sealed, blob in tx.execute(
            "SELECT number, sealed, blob FROM photo WHERE alert_id = ? AND incoming = ?",
            (named, int(incoming)),
        ):
            found[f"keys of picture {number}"] = sealed[:64]
            for (part,) in tx.execute("SELECT bytes FROM photo_part WHERE blob = ? AND at = 0", (blob,)):
                found[f"picture {number}"] = part[1000:1064]
        if not incoming:
            sealed_row = SealedContent(kek=kek, wrapped_key=wrapped, ciphertext=ciphertext)
            core, _ = node_of(office).alerts._vault.open_content(sealed_row, named)
            found["salt"] = decode_core_untrusted(core).salt
        for table in ("delivery", "carried"):
            for (envelope,) in tx.execute(
                f"SELECT t.envelope FROM {table} t JOIN delivery d ON d.hh = t.hh"
                " WHERE d.alert_id = ? AND t.envelope IS NOT NULL",
                (named,),
            ):
                found[f"envelope in {table}"] = envelope[2000:2064]
        return found

    return await read(office, look)


def found_in(office: OfficeHost, needles: Mapping[str, bytes]) -> dict[str, str]:
    """Needles that stand anywhere at an office, with the first place of each."""
    key = node_of(office)._secrets.get(SecretName.DATABASE).reveal()
    disk = office.host.simulated_disk
    if disk is None:
        beside = database_of(office).parent
        files = {str(path): path.read_bytes() for path in beside.rglob("*") if path.is_file()}
    else:
        files = disk.content()
    with tempfile.TemporaryDirectory() as aside:
        copy = Path(aside) / DATABASE_NAME
        for path, data in files.items():
            if Path(path).name in (DATABASE_NAME, f"{DATABASE_NAME}-wal"):
                (copy.parent / Path(path).name).write_bytes(data)
        places = [*raw_pages(copy, key), *files.items()]
    whole = BETWEEN_PLACES.join(data for _, data in places)  # one search costs a hundredth of one per page
    found: dict[str, str] = {}
    for name, needle in needles.items():
        if needle in whole:
            found.update((name, place) for place, data in reversed(places) if needle in data)
    return found
