"""Everything a broker holds on its disk, and a broker fed plaintext on purpose.

Spec: docs/threat-model.md#broker. A broker's database is encrypted at rest with a key that lies beside it, so
its files alone prove nothing: here a copy is opened with that key, as the broker itself or a thief of the
whole directory would, and every value of every row is read. One rule: only copies are opened.
"""

import base64
import gzip
import secrets
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.config import load_config
from broker.daemon import CONFIG_NAME, DATABASE_NAME, identity_of
from broker.identity import read_passphrase
from demo.canary import Canary, Search, files_below
from demo.stage import DemoFailed
from keys.brokercard import parse_broker_address_untrusted
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from node.broker_link import BrokerClient
from protocol import limits
from protocol.custody import Custody
from protocol.requests import Create, Created, Put, get_capability_hash, put_capability_hash
from protocol.tokens import parse_token_untrusted
from runtime.env import Env
from runtime.sqlite import Snapshot, load_migrations, open_database


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSearch:
    """``files`` as they lie on the disk; ``rows`` as the broker's own key opens them."""

    files: Search
    rows: Search
    envelopes: int  # held at that moment


def copy_broker(directory: Path, to: Path) -> Path:
    """A copy of the directory of a broker that does not run at this moment."""
    shutil.copytree(directory, to, ignore=lambda _, names: [n for n in names if n.endswith(".sock")])
    return to


async def search_broker(env: Env, copy: Path, canary: Canary) -> BrokerSearch:
    """Look for the canary in everything that a copied broker directory holds."""
    files = canary.search_all(files_below(copy))  # first: opening folds the journal into the database
    config = load_config(env, copy / CONFIG_NAME)
    passphrase = read_passphrase(env, copy, None)
    identity = await env.run_blocking(lambda: identity_of(env, copy, config, passphrase))
    migrations = load_migrations("audit") + load_migrations("broker")
    database = await open_database(env, copy / DATABASE_NAME, identity.database_key, migrations, create=False)
    try:
        values = await database.read(lambda tx: list(_values(tx)))
    finally:
        await database.close()
    envelopes = sum(len(value) in limits.ENVELOPE_BUCKETS_BYTES for _, value in values)
    return BrokerSearch(files=files, rows=canary.search_all(values), envelopes=envelopes)


def _values(tx: Snapshot) -> Iterator[tuple[str, bytes]]:
    """Every text and blob of every table, with the table's name."""
    for (table,) in tx.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"):
        for row in tx.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - a name from the schema itself
            for value in row:
                if isinstance(value, str):
                    yield table, value.encode()
                elif isinstance(value, bytes):
                    yield table, value


# --- a broker fed plaintext on purpose ----------------------------------------------------------------------


def planted_forms(canary: Canary) -> tuple[tuple[str, bytes], ...]:
    """(form as a search names it, bytes that hold the canary in that form)."""
    text = f"White pickup, plate {canary.word}".encode()
    bare = zlib.compressobj(wbits=-15)
    return (
        ("plain", text),
        ("plain, lower case", text.lower()),
        ("hex", text.hex().encode()),
        ("hex, upper case", text.hex().upper().encode()),
        ("UTF-16LE", text.decode().encode("utf-16-le")),
        ("UTF-16BE", text.decode().encode("utf-16-be")),
        *(("base64", base64.b64encode(bytes(shift) + text)) for shift in range(3)),
        ("zlib of plain", zlib.compress(text)),
        ("gzip of plain", gzip.compress(text)),
        ("deflate of plain", bare.compress(text) + bare.flush()),
    )


async def feed_plaintext(env: Env, address: str, token: str, canary: Canary) -> int:
    """Put one item of envelope size per form into a broker, as a careless office would; how many."""
    client = BrokerClient(env, parse_broker_address_untrusted(address))
    put_secret, get_secret = secrets.token_bytes(32), secrets.token_bytes(32)
    key = Ed25519PrivateKey.from_seed(SecretBytes(secrets.token_bytes(32)))
    create = Create(
        token=parse_token_untrusted(token).reveal(),
        put_hash=put_capability_hash(put_secret),
        get_hash=get_capability_hash(get_secret),
        mailbox_public=key.public_bytes,
        kind="pair",
    )
    forms = planted_forms(canary)
    try:
        results = await client.exchange([create])
        results += await client.exchange(
            [Put(put_secret=put_secret, envelope=_envelope(inside), priority=False) for _, inside in forms]
        )
    finally:
        await client.close()
    if not isinstance(results[0], Created) or not all(isinstance(r, Custody) for r in results[1:]):
        raise DemoFailed("The broker to be fed plaintext did not take it.")
    return len(forms)


_SIZE_BYTES: Final = limits.ENVELOPE_BUCKETS_BYTES[0]


def _envelope(inside: bytes) -> bytes:
    """``inside`` at some place among random bytes, of the size and mark of an envelope."""
    before = secrets.randbelow(_SIZE_BYTES // 2)
    return (
        b"\x01"
        + secrets.token_bytes(before)
        + inside
        + secrets.token_bytes(_SIZE_BYTES - 1 - before - len(inside))
    )
