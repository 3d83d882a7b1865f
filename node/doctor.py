"""``doctor``: looks at everything an office can mend by itself and prints the exact fix.

One rule: a check says what was measured, not what it hopes; a check that could not run is a fault too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audit.store import AuditLog
from keys.errors import SalweenError
from node.broker_heads import refused_heads
from node.broker_link import BrokerClient
from node.broker_witness import failing_witnesses
from node.clock_doubt import CLOCK_DOUBT_MS
from node.cover import cover_cost
from node.identity import Identity
from node.layout import KEYSTORE_NAME
from node.losses import lost_addresses, own_lost
from node.peers import load_peers
from protocol import limits
from runtime.env import Env
from runtime.sqlite import Database, Snapshot

DISK_LOW_BYTES = 512 * 1024 * 1024
YEAR_2026_MS = 1_767_225_600_000


def _check(what: str, ok: bool, detail: str, fix: str) -> dict[str, Any]:
    return {"what": what, "ok": ok, "detail": detail, "fix": "" if ok else fix}


async def check_node(
    env: Env,
    directory: Path,
    identity: Identity,
    log: AuditLog,
    db: Database,
    clients: Sequence[BrokerClient],
    *,
    cover_mean_s: int,
) -> list[dict[str, Any]]:
    """Clock, disk, permissions, certificate, log, database, own keys, brokers, mailboxes; as they matter.

    Last what cover costs on the line, which is no fault.
    """
    now_ms = env.clock.now_ms()
    checks = [
        _check(
            "clock",
            now_ms > YEAR_2026_MS,
            f"{now_ms // 1000} s since 1970",
            "Set the clock: timedatectl set-time 'YYYY-MM-DD hh:mm:ss'",
        )
    ]
    free = await env.run_blocking(env.files.free_bytes, str(directory))
    checks.append(
        _check(
            "disk",
            free > DISK_LOW_BYTES,
            f"{free // 2**20} MiB free",
            "Free space on this disk: below 512 MiB new alerts may be refused.",
        )
    )
    for name, allowed in ((KEYSTORE_NAME, 0o600), ("", 0o700)):
        path = directory / name if name else directory
        what = f"permissions of {path.name}"
        try:
            mode = await env.run_blocking(env.files.mode, str(path))
        except FileNotFoundError:
            checks.append(_check(what, False, "missing", f"Put {path} back from the last backup."))
            continue
        checks.append(_check(what, not mode & ~allowed, f"{mode:04o}", f"chmod {allowed:o} {path}"))
    certificate = identity.certificate
    days = (certificate.not_after_ms - now_ms) // limits.DAY_MS
    checks.append(
        _check(
            "certificate",
            days > 30,
            f"{days} days left",
            "Renew the operational key with the recovery sheet.",
        )
    )
    refusal = log.refusal
    checks.append(
        _check(
            "audit log",
            refusal is None,
            f"{log.size} entries" if refusal is None else refusal.code,
            "" if refusal is None else refusal.detail,
        )
    )
    failure = db.failure
    checks.append(
        _check(
            "database",
            failure is None,
            "open" if failure is None else failure.code,
            "Stop and start the node.",
        )
    )
    below = await db.read(
        lambda tx: tx.one("SELECT revoked_below FROM revocation WHERE office_id = ?", (identity.office_id,))
    )
    is_void = below is not None and identity.key_version < below[0]
    checks.append(
        _check(
            "own keys",
            not is_void,
            "revoked from our own recovery sheet"
            if is_void
            else f"version {identity.key_version}, not revoked",
            "Partners drop what this node sends. See 'When a node is stolen' in docs/operations.md.",
        )
    )
    for client in clients:
        checks.append(await _check_broker(client))
    if failure is None:
        checks += await db.read(lambda tx: _check_addresses(tx, now_ms))
        checks += [
            _check(
                f"log of the broker {address.split('#')[0]}",
                False,
                f"{code}: not the log it showed before, for {_minutes(now_ms - at_ms)}",
                "Ask its operator whether its disk was lost or put back. Our log keeps what it showed.",
            )
            for address, code, at_ms in await db.read(refused_heads)
        ]
        checks += [
            _check(
                f"witness {address.split('#')[0]}",
                False,
                f"it does not cosign our log: {cause}",
                "Ask its operator about the token and what its broker holds of our log"
                " (salween-broker witnessed), or switch it off: salween-node witness remove BROKER",
            )
            for address, cause in await db.read(failing_witnesses)
        ]
    partners = await db.read(lambda tx: sum(peer.is_talking for peer in load_peers(tx)))
    checks.append(_check("cover", True, cover_cost(cover_mean_s, partners), ""))
    return checks


def _check_addresses(tx: Snapshot, now_ms: int) -> list[dict[str, Any]]:
    """One line for each mailbox that is not there, ours or a peer's; one line when all are."""
    found = [
        _check(
            f"address of {name}",
            False,
            f"its broker knows no such mailbox, for {_minutes(now_ms - lost_ms)}; alerts for it are kept",
            "Wait for an hour: what can be mended mends itself. Then call that office; there:"
            " salween-node move --broker ADDRESS --token-file FILE --out DIR, and here:"
            " salween-node import-address FILE",
        )
        for name, lost_ms in lost_addresses(tx)
    ]
    found += [
        _check(
            f"our mailbox for {name}",
            False,
            f"the broker at {broker} does not know it, for {_minutes(now_ms - lost_ms)}, and cannot make it"
            " again",
            "Get a token from the operator of this or another broker, then:"
            " salween-node move --broker ADDRESS --token-file FILE --out DIR",
        )
        for name, broker, lost_ms in own_lost(tx)
    ]
    return found or [_check("mailboxes", True, "none is lost", "")]


def _minutes(duration_ms: int) -> str:
    return f"{max(0, duration_ms) // limits.MINUTE_MS} minutes"


async def _check_broker(client: BrokerClient) -> dict[str, Any]:
    what = f"broker {client.address.host}:{client.address.port}"
    try:
        await client.exchange([])
    except SalweenError as error:
        return _check(what, False, error.code, error.detail)
    offset_ms = client.clock_offset_ms
    return _check(
        what,
        abs(offset_ms) <= CLOCK_DOUBT_MS,
        f"reached, clocks {offset_ms // 1000} s apart",
        "Set the clock of this machine; alerts cross all the same.",
    )
