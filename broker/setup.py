"""Making a new broker: keys, database, first log entry, and last the configuration.

Spec: docs/operations.md#broker-init. One rule: ``broker.toml`` is written last; while it is missing there
is no broker, so an ``init`` that was cut off is told from one that finished. Nothing that exists is
overwritten.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.config import load_config, parse_config, render_config
from broker.daemon import (
    CONFIG_NAME,
    DATABASE_NAME,
    HIGH_WATER_NAME,
    LOG_NAME,
    create_database,
    identity_of,
)
from broker.identity import create_identity, make_unlock_file, open_identity, read_passphrase
from keys.brokercard import broker_card_fingerprint, fingerprint_text
from keys.errors import PolicyRefused
from keys.keystore import DEFAULT_KDF, KdfParameters
from keys.primitives import self_test
from runtime.env import AnyPath, Env


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeBroker:
    """What ``init`` shows."""

    fingerprint: str  # 52 letters: what stands behind # in the broker's address
    log_key: str  # C2SP verifier key of the broker's log


async def initialise(
    env: Env,
    directory: AnyPath,
    values: Mapping[str, Any],
    passphrase_file: AnyPath | None = None,
    *,
    kdf: KdfParameters = DEFAULT_KDF,
) -> MadeBroker:
    """Make a broker in ``directory``, which must be empty or missing.

    ``values`` are configuration keys; without a ``name`` one is drawn. Without ``passphrase_file`` a random
    passphrase is kept in ``unlock``. PolicyRefused ``already_initialised``, ``directory_not_empty``,
    ``config_invalid``.
    """
    named = {**values, "name": values.get("name") or _pseudonym(env)}
    config = parse_config(named, "", "the options given")
    config.check_listening()
    self_test()
    root = Path(directory)
    if env.files.exists(root / CONFIG_NAME):
        raise PolicyRefused("already_initialised", f"there is a broker in {directory} already; run it")
    given = "" if passphrase_file is None else Path(passphrase_file).name
    if env.files.is_dir(root) and [name for name in env.files.listdir(root) if name != given]:
        raise PolicyRefused(
            "directory_not_empty",
            f"{directory} is not empty and holds no finished broker; empty it or choose another directory",
        )
    env.files.mkdir(root, 0o700)
    if passphrase_file is None:
        passphrase = make_unlock_file(env, root)
    else:
        passphrase = read_passphrase(env, root, passphrase_file)
    await env.run_blocking(lambda: create_identity(env, root, passphrase, with_tls=config.tls, kdf=kdf))
    identity = await env.run_blocking(
        lambda: open_identity(
            env, root, passphrase, name=config.name, log_origin=config.log_origin, tls=config.tls
        )
    )
    await create_database(env, root, identity)
    env.files.write_atomic(root / CONFIG_NAME, render_config(config).encode(), 0o600)
    return MadeBroker(
        fingerprint=fingerprint_text(broker_card_fingerprint(identity.card)),
        log_key=identity.log_signer.log_key.encode(),
    )


async def begin_again(env: Env, directory: AnyPath, passphrase_file: AnyPath | None = None) -> None:
    """An empty database for a broker whose disk was lost and whose keystore and configuration were kept.

    What was published of the lost log is set aside as ``lost-...``, for auditors. PolicyRefused
    ``database_present`` when there is a database: nothing that may still be used is put aside.
    """
    root = Path(directory)
    config = load_config(env, root / CONFIG_NAME)
    if env.files.exists(root / DATABASE_NAME):
        raise PolicyRefused(
            "database_present",
            f"{root / DATABASE_NAME} is there, so nothing was lost. Move it away only if it cannot be opened",
        )
    passphrase = read_passphrase(env, root, passphrase_file)
    identity = await env.run_blocking(lambda: identity_of(env, root, config, passphrase))
    for name in (LOG_NAME, HIGH_WATER_NAME):
        if env.files.exists(root / name):
            env.files.rename(root / name, root / f"lost-{env.clock.now_ms()}-{name}")
    await create_database(env, root, identity)


def _pseudonym(env: Env) -> str:
    return "b-" + base64.b32encode(env.random(5)).decode("ascii").lower()
