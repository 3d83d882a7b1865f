"""``init``: what a node's directory holds, and how it comes to be.

Spec: docs/operations.md#directory. The root key is made here, certifies the operational key, goes onto the
recovery sheet and is forgotten: it never stands in the keystore. One rule: a directory is complete or it is
not a node; ``node.toml`` is written last and its absence means ``init`` may be run again.
"""

from dataclasses import dataclass
from pathlib import Path, PurePath

from audit.note import NoteSigner
from audit.store import AuditLog
from keys import card
from keys.errors import PolicyRefused
from keys.keystore import Keystore
from keys.primitives import CompositePrivateKey, Ed25519PrivateKey
from keys.recovery_sheet import RecoverySheet, encode_recovery_sheet
from keys.secret import SecretBytes
from node.config import CONFIG_NAME, default_config_text
from node.layout import (
    DATABASE_NAME,
    HIGH_WATER_NAME,
    KEYSTORE_NAME,
    LOG_NAME,
    KdfProfile,
    SecretName,
    open_node_database,
)
from node.officers import Officers, check_pin
from node.secrets import Secrets
from node.views import Role
from runtime.env import Env

CERTIFICATE_LIFE_MS = 365 * 24 * 3600 * 1000
PASSPHRASE_BYTES_MIN = 8
NETWORK = "salween"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What ``init`` made."""

    office_id: bytes
    officer: int
    recovery_sheet: str


async def initialise(
    env: Env,
    directory: str,
    *,
    passphrase: SecretBytes,
    name: str,
    country: str,
    alias: str,
    role: Role,
    pin: str,
    recovery_sheet: str,
    web_port: int,
    health_port: int,
    kdf: KdfProfile | None = None,
    sheet: RecoverySheet | None = None,
    key_version: int = 1,
) -> Made:
    """Make a node in ``directory``; PolicyRefused when one is there or something asked for is not allowed.

    With ``sheet`` the office that lost everything else comes back: the same root and office id, under
    ``key_version``, which is above every one it ever had. No new sheet is written then.
    """
    kdf = kdf or KdfProfile()
    _check(env, directory, passphrase, name, country, pin)
    env.files.mkdir(directory, 0o700)
    base = Path(directory)
    now_ms = env.clock.now_ms()

    root_seed = SecretBytes(env.random(64)) if sheet is None else sheet.root_seed
    root = CompositePrivateKey.from_seed(root_seed)
    operational_seed = SecretBytes(env.random(64))
    operational = CompositePrivateKey.from_seed(operational_seed)
    certificate = card.issue_certificate(
        root,
        key_version=key_version,
        public=operational.public_bytes,
        # A day of grace: the peers' clocks may be behind ours.
        not_before_ms=max(0, now_ms - 24 * 3600 * 1000),
        not_after_ms=now_ms + CERTIFICATE_LIFE_MS,
        country=country,
        name=name,
    )
    office_id = card.office_id(root.public_bytes)

    log_seed, witness_seed = SecretBytes(env.random(32)), SecretBytes(env.random(32))
    database_key = SecretBytes(env.random(32))
    pseudonym = env.random(8).hex()
    secrets = {
        SecretName.operational(key_version): operational_seed,
        SecretName.LOG: log_seed,
        SecretName.WITNESS: witness_seed,
        SecretName.WITNESS_MLDSA44: SecretBytes(env.random(32)),
        SecretName.DATABASE: database_key,
        # Not secret; kept here because it must be known before the database is open.
        SecretName.ORIGIN: SecretBytes(f"{NETWORK}/{pseudonym}/log1".encode()),
    }
    keystore = await env.run_blocking(
        lambda: Keystore.create(
            env.files, str(base / KEYSTORE_NAME), passphrase, secrets, kdf=kdf.keystore, random=env.random
        )
    )
    database = await open_node_database(env, str(base / DATABASE_NAME), database_key, create=True)
    try:
        await database.transact(
            lambda tx: tx.execute(
                "INSERT INTO office (id, office_id, name, country, root_public, certificate, key_version,"
                " created_ms) VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
                (office_id, name, country, root.public_bytes, certificate, key_version, now_ms),
            )
        )
        log = await AuditLog.open(
            env=env,
            db=database,
            directory=base / LOG_NAME,
            high_water=base / HIGH_WATER_NAME,
            signer=NoteSigner(
                name=secrets[SecretName.ORIGIN].reveal().decode(), key=Ed25519PrivateKey.from_seed(log_seed)
            ),
        )
        officers = Officers(env, database, log, Secrets(env, keystore), idle_lock_ms=0, kdf=kdf.pin)
        number = await officers.add(
            operational,
            alias=alias,
            role=role,
            pin=pin,
            office_id=office_id,
            key_version=key_version,
            # Peers may know lists of this office that nobody here remembers.
            list_version_min=key_version,
        )
        await log.close()
    finally:
        await database.close()
    if sheet is None:
        env.files.write_atomic(
            recovery_sheet,
            encode_recovery_sheet(
                name=name, country=country, office_id=office_id, root_seed=root_seed
            ).encode(),
            mode=0o600,
        )
    root_seed.wipe()
    env.files.write_atomic(
        str(base / CONFIG_NAME),
        default_config_text(web_port=web_port, health_port=health_port).encode(),
        mode=0o600,
    )
    return Made(office_id=office_id, officer=number, recovery_sheet=recovery_sheet)


def _check(env: Env, directory: str, passphrase: SecretBytes, name: str, country: str, pin: str) -> None:
    base = PurePath(directory)
    if env.files.exists(str(base / CONFIG_NAME)):
        raise PolicyRefused("already_initialised", f"{directory} already holds a node. Nothing was changed.")
    if env.files.exists(str(base / KEYSTORE_NAME)):
        raise PolicyRefused(
            "init_interrupted",
            f"{directory} holds a node that was not finished and never used."
            " Remove the directory and run init again.",
        )
    card.check_name(name)
    if not (len(country) == 2 and country.isascii() and country.isalpha() and country.isupper()):
        raise PolicyRefused(
            "country_invalid", "A country is two capital letters, such as MM, CN, TH, LA, KH or VN."
        )
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise PolicyRefused(
            "passphrase_too_short",
            f"A passphrase has at least {PASSPHRASE_BYTES_MIN} bytes; four random words are a good one.",
        )
    check_pin(pin)
