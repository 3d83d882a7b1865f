"""``salween-broker doctor``: what would stop or endanger this broker, and how to mend it.

One rule: it only looks. It opens the keystore, because a passphrase that does not fit is best met here, and
leaves the database to ``run``, which checks every page of it.
"""

from dataclasses import dataclass
from pathlib import Path

from broker.config import BrokerConfig
from broker.control import ask_running
from broker.daemon import DATABASE_NAME, config_of, identity_of
from broker.identity import KEYSTORE_NAME, UNLOCK_NAME, read_passphrase
from keys.errors import SalweenError
from runtime.env import AnyPath, Env

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at; ``detail`` says what is so, or what to do."""

    subject: str
    is_ok: bool
    detail: str


async def examine(env: Env, directory: AnyPath, passphrase_file: AnyPath | None) -> list[Finding]:
    """Look at everything a start depends on; stops at a configuration that cannot be read."""
    try:
        config = config_of(env, directory)
        config.check_listening()
    except SalweenError as error:
        return [Finding(subject="configuration", is_ok=False, detail=error.detail)]
    findings = [Finding(subject="configuration", is_ok=True, detail=f"log {config.log_origin}")]
    findings += _modes(env, Path(directory))
    try:
        passphrase = read_passphrase(env, directory, passphrase_file)
        await env.run_blocking(lambda: identity_of(env, directory, config, passphrase))
        findings.append(Finding(subject="keys", is_ok=True, detail="the passphrase opens the keystore"))
    except SalweenError as error:
        findings.append(Finding(subject="keys", is_ok=False, detail=error.detail))
    findings.append(_disk(env, Path(directory), config))
    findings.append(await _running(env, directory))
    return findings


def _modes(env: Env, directory: Path) -> list[Finding]:
    findings = []
    for name in (KEYSTORE_NAME, UNLOCK_NAME, DATABASE_NAME):
        path = directory / name
        if not env.files.exists(path):
            if name != UNLOCK_NAME:
                findings.append(
                    Finding(
                        subject=name, is_ok=False, detail=f"{path} is missing; restore it from the backup"
                    )
                )
            continue
        mode = env.files.mode(path)
        is_ok = not mode & 0o077
        findings.append(
            Finding(
                subject=name, is_ok=is_ok, detail=f"mode {mode:04o}" if is_ok else f"run: chmod 600 {path}"
            )
        )
    return findings


def _disk(env: Env, directory: Path, config: BrokerConfig) -> Finding:
    free = env.files.free_bytes(directory)
    needed = config.disk_reserve_bytes
    if free >= needed:
        return Finding(subject="disk", is_ok=True, detail=f"{free // _MIB} MiB free")
    return Finding(
        subject="disk",
        is_ok=False,
        detail=f"{free // _MIB} MiB free, {needed // _MIB} needed; new items are refused until then",
    )


async def _running(env: Env, directory: AnyPath) -> Finding:
    try:
        answer = await ask_running(env, directory, "GET", "/stats")
    except SalweenError as error:
        return Finding(subject="broker", is_ok=False, detail=error.detail)
    if answer is None:
        detail = f"not running; start it: salween-broker run --dir {directory}"
        return Finding(subject="broker", is_ok=True, detail=detail)
    return Finding(subject="broker", is_ok=True, detail=f"process {answer['pid']} serves {answer['address']}")
