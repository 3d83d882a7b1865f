"""Names within a node's directory and its keystore, and how its database is opened.

Spec: docs/operations.md#directory. One rule: these names are an on-disk format; they never change meaning.
"""

from collections.abc import Callable
from dataclasses import dataclass

from keys.errors import SalweenError
from keys.keystore import DEFAULT_KDF, KdfParameters
from keys.pin import PIN_KDF
from keys.secret import SecretBytes
from runtime.env import Env
from runtime.sqlite import Database, load_migrations, open_database

KEYSTORE_NAME = "keystore"
DATABASE_NAME = "node.db"
LOG_NAME = "log"
HIGH_WATER_NAME = "high-water"
POLICY_NAME = "policy"


class SecretName:
    """Names in the keystore. ``LOG`` and ``WITNESS...`` are of the present epoch; keys of an ended one go."""

    LOG = "log/1"
    WITNESS = "witness/1"
    WITNESS_MLDSA44 = "witness/ml-dsa-44"
    DATABASE = "database"
    ORIGIN = "log-origin"

    @staticmethod
    def operational(version: int) -> str:
        """Seed of the operational key of one version."""
        return f"operational/{version}"

    @staticmethod
    def receive(peer: bytes, key_id: bytes) -> str:
        """Seed of one receive key."""
        return f"receive/{peer.hex()}/{key_id.hex()}"

    @staticmethod
    def mailbox(peer: bytes, number: int) -> str:
        """Our mailbox for one peer: get secret 32, put secret 32, Ed25519 seed 32."""
        return f"mailbox/{peer.hex()}/{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KdfProfile:
    """Cost of guessing. The default is what every real node uses; only tests pass a cheaper one."""

    keystore: KdfParameters = DEFAULT_KDF
    pin: KdfParameters = PIN_KDF


async def open_node_database(
    env: Env,
    path: str,
    key: SecretBytes,
    *,
    create: bool = False,
    on_failure: Callable[[SalweenError], None] | None = None,
) -> Database:
    """The node's encrypted database with the log's tables and its own, migrated.

    ``create`` is for ``init`` alone: later a missing database is a loss to be told, not to be papered over.
    """
    migrations = (*load_migrations("audit"), *load_migrations("node"))
    return await open_database(env, path, key, migrations, create=create, on_failure=on_failure)
