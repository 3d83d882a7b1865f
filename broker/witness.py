"""This broker as a witness of offices' logs, for whoever its operator gave a token.

Spec: docs/spec/broker.md#witness, C2SP tlog-witness. One rule: what is held of a log grows, with its entry,
in the transaction that judges; a cosignature is made after that commit, of the head that is held. The keys
lie beside what they signed and are lost with it. Functions with a ``tx`` run in the writer's thread.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from audit.checkpoint import Checkpoint
from audit.entry import ORIGIN
from audit.note import TYPE_ED25519, NoteSigner, PostQuantumSigner, VerifierKey
from audit.store import AuditLog
from audit.witness import (
    NOTHING_HELD,
    REFUSALS_MAX,
    Held,
    Judgement,
    Status,
    judge_untrusted,
    parse_request_untrusted,
    witness_name,
)
from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import Ed25519PrivateKey, MlDsa44PrivateKey, check_ed25519_public
from keys.secret import SecretBytes
from protocol import limits
from protocol.requests import Cosign, OpRefused, Refusal, Result, WitnessSays
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

SEED_BYTES: Final = 32

_log = get_logger("witness")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedHead:
    """One head that is held against a log; both notes are as that log signed them."""

    code: str
    at_ms: int
    size: int
    offered: bytes
    held: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessedLog:
    """One office's log by its pseudonym, and how far it was cosigned."""

    origin: str
    size: int
    root: bytes
    at_ms: int
    refused: tuple[RefusedHead, ...]


class Witness:
    """Judges heads of logs and cosigns them."""

    def __init__(self, env: Env, log: AuditLog, signer: NoteSigner, post_quantum: PostQuantumSigner) -> None:
        """Use ``open``."""
        self._env = env
        self._log = log
        self._signer = signer
        self._post_quantum = post_quantum
        self.keys = (signer.witness_key.encode(), post_quantum.witness_key.encode())

    @classmethod
    async def open(cls, env: Env, db: Database, log: AuditLog) -> "Witness":
        """The witness of a database, with keys drawn when it has none."""
        find = "SELECT ed25519, mldsa44 FROM witness_key"
        seeds = await db.read(lambda tx: tx.one(find))
        if seeds is None:
            seeds = (env.random(SEED_BYTES), env.random(SEED_BYTES))
            drawn = seeds
            await db.transact(
                lambda tx: tx.execute(
                    "INSERT INTO witness_key (one, ed25519, mldsa44) VALUES (1, ?, ?)", drawn
                )
            )
        name = witness_name(log.origin)
        return cls(
            env,
            log,
            NoteSigner(name=name, key=Ed25519PrivateKey.from_seed(SecretBytes(seeds[0]))),
            PostQuantumSigner(name=name, key=MlDsa44PrivateKey.from_seed(SecretBytes(seeds[1]))),
        )

    def judge(self, tx: Transaction, op: Cosign, token_hash: bytes) -> Result:
        """What is answered, without the lines of a 200, which ``cosigned`` makes once this is committed."""
        token = tx.one("SELECT origin, hour_ms, asked FROM witness_tokens WHERE hash = ?", (token_hash,))
        if token is None:
            return WitnessSays(status=int(Status.FORBIDDEN))
        now_ms = self._env.clock.now_ms()
        bound, hour_ms, asked = token
        if not 0 <= now_ms - hour_ms < limits.HOUR_MS:
            hour_ms, asked = now_ms, 0
        if asked >= limits.WITNESSED_PER_HOUR_MAX:
            return OpRefused(code=Refusal.BUSY)
        tx.execute(
            "UPDATE witness_tokens SET hour_ms = ?, asked = ? WHERE hash = ?",
            (hour_ms, asked + 1, token_hash),
        )
        try:
            _, offered, _ = parse_request_untrusted(op.body)
        except MalformedInput:
            return self._says(Status.MALFORMED)
        origin = offered.origin
        row = tx.one("SELECT public, size, root, note FROM witnessed_logs WHERE origin = ?", (origin,))
        if (origin != bound if bound is not None else not self._may_bind(tx, origin)) or (
            row is not None and row[0] != op.log_public
        ):
            return self._says(Status.NOT_FOUND)
        try:
            check_ed25519_public(op.log_public)
        except VerificationFailed:
            return self._says(Status.FORBIDDEN)
        held = NOTHING_HELD if row is None else Held(size=row[1], root=row[2], note=row[3])
        key = VerifierKey(name=origin, type_byte=TYPE_ED25519, public=op.log_public)
        judged = judge_untrusted(op.body, key, held)
        if judged.status is Status.COSIGNED:
            if bound is None:
                tx.execute("UPDATE witness_tokens SET origin = ? WHERE hash = ?", (origin, token_hash))
            if row is None or judged.held.size > held.size:
                self._accept(tx, origin, op.log_public, judged.held, now_ms)
        elif bound is not None:
            self._refuse(tx, judged, held, now_ms)
        if judged.status is Status.CONFLICT:
            return replace(self._says(Status.CONFLICT), body=b"%d\n" % held.size, note=held.note)
        return self._says(judged.status)

    def cosigned(self, op: Cosign, result: Result) -> Result:
        """A committed result with its lines, if it is a yes."""
        if not isinstance(result, WitnessSays) or result.status != Status.COSIGNED:
            return result
        text = parse_request_untrusted(op.body)[1].text
        now_s = self._env.clock.now_ms() // 1000
        lines = (self._signer.cosign(text, now_s), self._post_quantum.cosign(text, now_s))
        return replace(result, body="".join(line.encode() for line in lines).encode())

    def _says(self, status: Status) -> WitnessSays:
        return WitnessSays(status=int(status), keys=self.keys)

    def _may_bind(self, tx: Snapshot, origin: str) -> bool:
        """Whether a token may be used for this log first: an office's, and nobody else's by another token.

        Of our own log or another's under a false key a cosignature would speak as well: it covers the name.
        """
        return (
            ORIGIN.holds(origin)
            and origin != self._log.origin
            and not tx.execute("SELECT 1 FROM witness_tokens WHERE origin = ?", (origin,))
        )

    def _accept(self, tx: Transaction, origin: str, public: bytes, held: Held, now_ms: int) -> None:
        tx.execute(
            "INSERT INTO witnessed_logs (origin, public, size, root, note, at_ms) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root,"
            " note = excluded.note, at_ms = excluded.at_ms",
            (origin, public, held.size, held.root, held.note, now_ms),
        )
        self._enter(tx, "wit.cosigned", Checkpoint(origin=origin, size=held.size, root=held.root))

    def _refuse(self, tx: Transaction, judged: Judgement, held: Held, now_ms: int) -> None:
        """Keep both notes, once for each head that is held against its log."""
        offered, code = judged.offered, judged.refusal
        if offered is None:
            return
        if code is None and judged.status is Status.CONFLICT and offered.size < held.size:
            # An office asks again after ten minutes, and a request of eight minutes ago is not carried out.
            code = "went_back"
        if code is None:
            return
        tx.execute(
            "INSERT OR IGNORE INTO witness_refusals (origin, code, at_ms, size, root, offered, held)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (offered.origin, code, now_ms, offered.size, offered.root, judged.note, held.note),
        )
        if not tx.changes():
            return
        tx.execute(
            "DELETE FROM witness_refusals WHERE origin = ?1 AND number NOT IN"
            " (SELECT number FROM witness_refusals WHERE origin = ?1 ORDER BY number DESC LIMIT ?2)",
            (offered.origin, REFUSALS_MAX),
        )
        self._enter(tx, "wit.refused", offered, code=code)
        _log.error("log_refused", code=code)

    def _enter(self, tx: Transaction, kind: str, head: Checkpoint, **more: str) -> None:
        self._log.append(
            tx, kind, {"origin": head.origin, "size": head.size, "root": head.root.hex(), **more}
        )


def witnessed_logs(tx: Snapshot) -> tuple[WitnessedLog, ...]:
    """Every log that was ever cosigned here, and what is held against it, oldest first."""
    rows: list[Any] = tx.execute("SELECT origin, size, root, at_ms FROM witnessed_logs ORDER BY origin")
    refused = "SELECT code, at_ms, size, offered, held FROM witness_refusals WHERE origin = ? ORDER BY number"
    return tuple(
        WitnessedLog(
            origin=origin,
            size=size,
            root=root,
            at_ms=at_ms,
            refused=tuple(
                RefusedHead(code=code, at_ms=refused_ms, size=offered_size, offered=offered, held=held)
                for code, refused_ms, offered_size, offered, held in tx.execute(refused, (origin,))
            ),
        )
        for origin, size, root, at_ms in rows
    )
