"""Dossiers: what this office hands to an auditor about some of its alerts, as a folder that proves itself.

Spec: docs/spec/dossier.md. Two rules: no content is unwrapped before the entry that says for whom and why is
committed, and it leaves sealed to the auditor's key alone; the manifest's hash is an entry before the folder
is whole. What was broken off midway has no seal, and no verifier takes it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from audit.checkpoint import Checkpoint
from audit.dossier import (
    BRIDGE,
    CUSTODY,
    EVIDENCE,
    LOG,
    MANIFEST,
    POLICY,
    PURPOSE,
    PURPOSE_BEGUN,
    RECEIPTS,
    REPORT_FACTS,
    REPORT_PAGE,
    SEAL,
    VERIFIER,
    Beginning,
    Listed,
    Manifest,
    ScopedAlert,
    Way,
    beginnings,
    is_in_scope,
    parse_auditor_public_untrusted,
    read_verifier,
    report_on,
    scope_digest,
    seal_opening,
)
from audit.proof import prove
from audit.receipt import for_paper, receipt_name
from audit.store import AuditLog
from keys.errors import PolicyRefused, Unavailable
from keys.primitives import sha256
from node.alerts import PURPOSE_DUTY, REASON_CODES, Alerts
from node.erasure import Erasure
from node.evidence import check_may_take_out, notes_file
from node.handover import Found, Handover
from node.officers import Officers
from node.peers import load_peer
from node.vault import Vault
from node.views import DossierView, Session
from node.witness import Witnessing
from protocol import limits
from protocol.disclosures import decode_core_untrusted
from runtime.env import Env
from runtime.exits import DiskFailed
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

ALERTS_MAX: Final = 10_000
LOOK_MS: Final = 5_000  # how often it is looked whether a partner has countersigned
FILE_MODE: Final = 0o644

log = get_logger("dossier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which alerts: kept in [from_ms, to_ms), with this partner, or these; None asks for nothing."""

    purpose: str
    from_ms: int | None = None
    to_ms: int | None = None
    peer_id: bytes | None = None
    alerts: tuple[bytes, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Folder:
    """The folder while it is written; every file but the seal is listed."""

    path: Path
    env: Env
    files: dict[str, Listed] = field(default_factory=dict)

    def write(self, name: str, data: bytes) -> None:
        """One file of the dossier, durable. Unavailable ``dossier_unwritable``: not this node's own disk."""
        target = self.path / name
        try:
            self.env.files.mkdir(target.parent, 0o755)
            self.env.files.write_atomic(target, data, FILE_MODE)
        except (OSError, DiskFailed) as failed:
            log.warning("dossier_broken_off", code=getattr(failed, "code", "os_error"))
            raise Unavailable(
                "dossier_unwritable",
                f"{self.path} cannot be written. What is there is no dossier; remove it and try again.",
            ) from failed
        self.files[name] = Listed(path=name, size_bytes=len(data), sha256=sha256(data).hex())


class Dossiers:
    """Makes them for one office."""

    def __init__(
        self,
        env: Env,
        directory: Path,
        db: Database,
        audit_log: AuditLog,
        officers: Officers,
        alerts: Alerts,
        vault: Vault,
        erasure: Erasure,
        witnessing: Witnessing,
        handover: Handover,
    ) -> None:
        self._env = env
        self._directory = directory
        self._db = db
        self._log = audit_log
        self._officers = officers
        self._alerts = alerts
        self._vault = vault
        self._erasure = erasure
        self._witnessing = witnessing
        self._handover = handover
        self._one_at_a_time = asyncio.Lock()

    async def make(
        self, session: Session, path: str, auditor: str, scope: Scope, *, wait_ms: int
    ) -> DossierView:
        """Write the dossier into the folder ``path``, which is empty or not there.

        ``wait_ms``: how long to wait, twice, for a partner to countersign. PolicyRefused ``evidence_role``,
        ``reason_unknown``, ``dossier_place``, ``dossier_too_large``; MalformedInput ``bad_auditor_key``;
        VerificationFailed ``public_key_invalid``; Unavailable ``dossier_unwritable``.
        """
        check_may_take_out(session)
        if scope.purpose not in REASON_CODES or scope.purpose == PURPOSE_DUTY:
            raise PolicyRefused("reason_unknown", f"A reason is one of: {', '.join(REASON_CODES[1:])}.")
        public = parse_auditor_public_untrusted(auditor)
        async with self._one_at_a_time:
            await self._env.run_blocking(self._check_place, path)
            await self._erasure.erase_due()
            folder = _Folder(path=Path(path), env=self._env)
            return await self._make(session, folder, public, scope, wait_ms)

    def _check_place(self, path: str) -> None:
        files = self._env.files
        if files.is_within(path, self._directory):
            raise PolicyRefused("dossier_place", f"{path} is among the files of this node.")
        if files.exists(path) and (not files.is_dir(path) or files.listdir(path)):
            raise PolicyRefused("dossier_place", f"{path} is no empty folder. Nothing was written.")

    async def _make(
        self, session: Session, folder: _Folder, public: bytes, scope: Scope, wait_ms: int
    ) -> DossierView:
        told = await self._db.read(partial(self._told, scope=scope))
        choose = partial(self._choose, scope=scope, told=told)
        await self._db.read(choose)  # what is refused leaves no entry
        begun = partial(self._record, session=session, digest=scope_digest(told), purpose=PURPOSE_BEGUN)
        await self._db.transact(begun)
        chosen = await self._db.read(choose)  # all that came or went before that entry
        alerts = []
        ids = {alert_id for alert_id, _, _ in chosen}
        events = await self._db.read(partial(self._handover.find_all, alert_ids=ids))
        for alert_id, incoming, is_erased in chosen:
            found = events[alert_id]
            way: Way = "received" if incoming else "sent"
            state = _state_of(found, way, is_erased)
            alert = ScopedAlert(alert_id=alert_id.hex(), way=way, state=state)
            if state == "opened":
                sealed = await self._open(session, alert_id, incoming, public, scope.purpose)
                if sealed is None:
                    await self._erasure.erase_due()  # the log says so before it is copied
                    alert = ScopedAlert(alert_id=alert_id.hex(), way=way, state="erased")
                else:
                    await self._env.run_blocking(folder.write, alert.opening, sealed)
            alerts.append(alert)
            await self._write_receipts(folder, alert_id, found)
        await self._write_evidence(folder, [alert_id for alert_id, _, _ in chosen], scope.peer_id)
        head = await self._witnessed(wait_ms)
        policy = await self._db.read(self._witnessing.policy)
        await self._env.run_blocking(folder.write, POLICY, policy.encode())
        await self._env.run_blocking(folder.write, VERIFIER, read_verifier())
        await self._log.copy_published(head, lambda name, data: folder.write(f"{LOG}/{name}", data))
        now_us = self._env.clock.now_us()
        native = self._env.files.native_path(folder.path / LOG)
        page, facts = await self._env.run_blocking(report_on, native, policy, now_us)
        for name, data in ((REPORT_PAGE, page), (REPORT_FACTS, facts)):
            await self._env.run_blocking(folder.write, name, data)
        manifest = Manifest(
            origin=head.origin,
            size=head.size,
            root=head.root.hex(),
            made_us=now_us,
            auditor=sha256(public).hex(),
            scope=told,
            alerts=alerts,
            files=[folder.files[name] for name in sorted(folder.files)],
        ).encode()
        cosigners = await self._seal(session, folder, manifest, head.size, wait_ms)
        return DossierView(
            path=str(folder.path),
            opened=sum(alert.state == "opened" for alert in alerts),
            erased=sum(alert.state == "erased" for alert in alerts),
            ended=sum(alert.state == "ended" for alert in alerts),
            files=len(folder.files),
            size_bytes=sum(each.size_bytes for each in folder.files.values()),
            log=head.origin,
            entries=head.size,
            digest=sha256(manifest).hex(),
            cosigners=cosigners,
        )

    def _record(self, tx: Transaction, *, session: Session, digest: str, purpose: str) -> int:
        actor = self._officers.pseudonym(tx, session.officer)
        return self._log.append(tx, "audit.export", {"digest": digest, "actor": actor, "purpose": purpose})

    def _choose(self, tx: Snapshot, *, scope: Scope, told: dict[str, Any]) -> list[tuple[bytes, bool, bool]]:
        """(alert id, came in, erased) of what is in scope, oldest first.

        By the log, as a verifier judges it; what began in a log that ended, by our own rows. PolicyRefused
        ``dossier_too_large``, ``alert_unknown``.
        """
        began = beginnings(self._handover.beginnings(tx))
        chosen = []
        for alert_id, incoming, stored_ms, erased, is_with_peer in tx.execute(
            "SELECT alert_id, incoming, stored_ms, erased_ms IS NOT NULL, peer IS ?1"
            " OR EXISTS (SELECT 1 FROM delivery d WHERE d.alert_id = a.alert_id AND d.peer = ?1)"
            " FROM alert a ORDER BY stored_ms, rowid",
            (scope.peer_id,),
        ):
            peers = {told.get("peer", "")} if is_with_peer else set()
            ours = Beginning(index=0, at_ms=stored_ms, peers=peers)
            named: tuple[str, Way] = (alert_id.hex(), "received" if incoming else "sent")
            if is_in_scope(told, alert_id.hex(), began.get(named, ours)):
                chosen.append((alert_id, bool(incoming), bool(erased)))
        missing = set(scope.alerts) - {alert_id for alert_id, _, _ in chosen}
        if missing:
            raise PolicyRefused("alert_unknown", f"No alert in scope is called {min(missing).hex()}.")
        if len(chosen) > ALERTS_MAX:
            raise PolicyRefused(
                "dossier_too_large",
                f"{len(chosen)} alerts are in scope, more than {ALERTS_MAX}. Choose fewer.",
            )
        return chosen

    def _told(self, tx: Snapshot, *, scope: Scope) -> dict[str, Any]:
        """The scope as the manifest says it, without a name."""
        told: dict[str, Any] = {"purpose": scope.purpose}
        if scope.from_ms is not None:
            told["from_ms"] = scope.from_ms
        if scope.to_ms is not None:
            told["to_ms"] = scope.to_ms
        if scope.peer_id is not None:
            told["peer"] = load_peer(tx, scope.peer_id).pseudonym
        if scope.alerts:
            told["alerts"] = sorted(alert_id.hex() for alert_id in scope.alerts)
        return told

    async def _open(
        self, session: Session, alert_id: bytes, incoming: bool, public: bytes, purpose: str
    ) -> bytes | None:
        """The content sealed to the auditor; None when it was erased meanwhile. The entry comes first."""
        sealed = await self._db.transact(
            partial(
                self._alerts.record_export,
                session=session,
                alert_id=alert_id,
                incoming=incoming,
                purpose=purpose,
            )
        )
        if sealed is None:
            return None
        core, disclosures = self._vault.open_content(sealed, alert_id)
        return seal_opening(public, alert_id, decode_core_untrusted(core).salt, core, disclosures)

    async def _write_receipts(self, folder: _Folder, alert_id: bytes, found: Sequence[Found]) -> None:
        for each in found:
            receipt = await self._handover.prove(each.index, each.raw)
            name = f"{RECEIPTS}/{receipt_name(alert_id.hex(), each.event, each.index)}"
            await self._env.run_blocking(folder.write, name, receipt)

    async def _write_evidence(self, folder: _Folder, alerts: Sequence[bytes], peer_id: bytes | None) -> None:
        """What others signed about these alerts and partners: custody notes, contradictions, refusals."""
        notes = await self._db.read(partial(_evidence, alerts=alerts, peer_id=peer_id))
        for name, data in notes.items():
            await self._env.run_blocking(folder.write, f"{EVIDENCE}/{name}", data)

    async def _witnessed(self, wait_ms: int) -> Checkpoint:
        """The newest head that a partner countersigned, once one is over all there is now.

        When the time is over, the newest of all.
        """
        until_ms = self._env.clock.monotonic_ms() + wait_ms
        needed = (await self._log.publish()).size
        while self._env.clock.monotonic_ms() < until_ms:
            covered = await self._db.read(lambda tx: self._witnessing.coverage(tx)[1])
            head = await self._db.read(partial(self._log.head_at, size=covered))
            note = self._log.read_archived(covered)
            if covered >= needed and head is not None and note is not None and for_paper(note)[1]:
                return head
            await self._env.sleep(LOOK_MS / 1000)
        return self._log.published

    async def _seal(self, session: Session, folder: _Folder, manifest: bytes, size: int, wait_ms: int) -> int:
        """The manifest's hash into the log, and the proof of it beside; how many countersigned that."""
        digest = sha256(manifest).hex()
        index = await self._db.transact(
            partial(self._record, session=session, digest=digest, purpose=PURPOSE)
        )
        head = await self._witnessed(wait_ms)
        raw = await self._db.read(lambda tx: dict(self._log.find(tx, [digest.encode()]))[index])
        note, count = for_paper(self._log.read_archived(head.size) or self._log.signed(head))

        def join(tx: Snapshot) -> tuple[bytes, bytes]:
            proof = prove(index, note, self._log.read_tile(tx))
            return proof.with_extra(raw).encode(), self._log.request(tx, size, head).encode()

        seal, bridge = await self._db.read(join)
        for name, data in ((BRIDGE, bridge), (MANIFEST, manifest), (SEAL, seal)):
            await self._env.run_blocking(folder.write, name, data)
        return count


def _state_of(found: Sequence[Found], way: Way, is_erased: bool) -> str:
    """What the present log can show of an alert: content it committed to, an erasure, or nothing."""
    types = {each.entry["t"] for each in found}
    if is_erased:
        return "erased" if "content.erased" in types else "ended"
    return "opened" if ("msg.submit" if way == "sent" else "msg.recv") in types else "ended"


def _evidence(tx: Snapshot, *, alerts: Sequence[bytes], peer_id: bytes | None) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    notes: list[bytes] = []
    peers = set() if peer_id is None else {peer_id}
    for alert_id in alerts:
        notes += [
            note
            for (note,) in tx.execute(
                "SELECT c.note FROM custody c JOIN delivery d ON d.hh = c.hh WHERE d.alert_id = ?"
                " ORDER BY c.rowid",
                (alert_id,),
            )
        ]
        peers |= {
            peer
            for (peer,) in tx.execute(
                "SELECT peer FROM alert WHERE alert_id = ?1 AND peer IS NOT NULL"
                " UNION SELECT peer FROM delivery WHERE alert_id = ?1",
                (alert_id,),
            )
        }
    if notes:
        found[CUSTODY] = notes_file(tx, notes).encode()
    for peer in sorted(peers):
        for number, code, proof in tx.execute(
            "SELECT number, code, proof FROM evidence WHERE peer = ?", (peer,)
        ):
            found[f"contradiction-{number}-{code}.proof"] = proof
        for number, code, offered, held in tx.execute(
            "SELECT number, code, offered, held FROM witness_refusal WHERE peer = ?", (peer,)
        ):
            found |= {
                f"refused-{number}-{code}-{side}.note": note
                for side, note in (("offered", offered), ("held", held))
                if note
            }
    return found


def parse_scope_untrusted(params: dict[str, Any], peer_id: bytes | None) -> Scope:
    """A scope as a command gives it; PolicyRefused ``dossier_scope``."""
    times: dict[str, int | None] = {}
    for name in ("from_ms", "to_ms"):
        value = params.get(name)
        if value is not None and (type(value) is not int or not 0 <= value <= limits.TIME_MS_MAX):
            raise PolicyRefused("dossier_scope", "A time is milliseconds since 1970.")
        times[name] = value
    named = params.get("alerts") or []
    try:
        alerts = tuple(bytes.fromhex(text) for text in named)
    except (TypeError, ValueError) as error:
        raise PolicyRefused("dossier_scope", "An alert is named by its 64 hex digits.") from error
    return Scope(
        purpose=str(params.get("purpose", "")),
        from_ms=times["from_ms"],
        to_ms=times["to_ms"],
        peer_id=peer_id,
        alerts=alerts,
    )
