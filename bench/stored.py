"""The database of an office whose daemon is stopped, opened as the daemon opens it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from audit.note import NoteSigner
from audit.store import AuditLog
from demo.office import Office
from keys.keystore import Keystore
from keys.primitives import Ed25519PrivateKey
from keys.secret import SecretBytes
from node.layout import (
    DATABASE_NAME,
    HIGH_WATER_NAME,
    KEYSTORE_NAME,
    LOG_NAME,
    SecretName,
    open_node_database,
)
from runtime.env import Env, real_env
from runtime.sqlite import Database


def _keystore(env: Env, office: Office) -> Keystore:
    passphrase = SecretBytes(office.passphrase_file.read_bytes().strip())
    return Keystore.open(env.files, str(office.directory / KEYSTORE_NAME), passphrase, random=env.random)


@asynccontextmanager
async def database_of(office: Office) -> AsyncIterator[Database]:
    """Its database; the caller is its only user."""
    env = real_env()
    keystore = _keystore(env, office)
    key = keystore.get(SecretName.DATABASE)
    db = await open_node_database(env, str(office.directory / DATABASE_NAME), key)
    try:
        yield db
    finally:
        await db.close()


@asynccontextmanager
async def database_and_log_of(office: Office) -> AsyncIterator[tuple[Database, AuditLog]]:
    """Its database and its audit log, published in the end."""
    env = real_env()
    keystore = _keystore(env, office)
    key = keystore.get(SecretName.DATABASE)
    db = await open_node_database(env, str(office.directory / DATABASE_NAME), key)
    try:
        log = await AuditLog.open(
            env=env,
            db=db,
            directory=office.directory / LOG_NAME,
            high_water=office.directory / HIGH_WATER_NAME,
            signer=NoteSigner(
                name=keystore.get(SecretName.ORIGIN).reveal().decode(),
                key=Ed25519PrivateKey.from_seed(keystore.get(SecretName.LOG)),
            ),
        )
        yield db, log
        await log.close()
    finally:
        await db.close()
