"""A broker as a witness of our log, where the office wants that: off until somebody switches it on.

Spec: docs/spec/log.md#witnessing, docs/spec/broker.md#witness. It costs what no other part gives a broker: a
name that stays for years, the size of our log and when it grows. So nothing here leaves a node that has no
row in ``broker_witness``, and what leaves holds our own signature and no partner's line. How far a broker
cosigned is verified, kept and shown as a partner's cosignatures are, by ``witness``.
"""

import asyncio
from collections.abc import Callable
from hashlib import sha256

from audit.note import COSIGNATURES, VerifierKey, parse_note_untrusted, parse_vkey_untrusted, verify_note
from audit.store import AuditLog
from audit.witness import Status, parse_request_untrusted, witness_name
from keys.brokercard import (
    BrokerAddress,
    BrokerCard,
    encode_broker_card,
    parse_broker_address_untrusted,
    parse_broker_card_untrusted,
)
from keys.errors import MalformedInput, PolicyRefused, Unavailable, VerificationFailed
from keys.secret import SecretBytes
from node.addresses import keep_card
from node.broker_link import BrokerClient
from node.views import BrokerWitnessView
from node.witness import Witnessing
from protocol.items import WitnessAnswer
from protocol.requests import Cosign, OpRefused, Result, WitnessSays
from runtime.env import Env
from runtime.logs import get_logger
from runtime.sqlite import Database, Snapshot, Transaction

LOOK_S = 60.0

log = get_logger("broker_witness")


class BrokerWitnesses:
    """The brokers that this office asked to witness its log."""

    def __init__(
        self,
        env: Env,
        db: Database,
        audit_log: AuditLog,
        witnessing: Witnessing,
        *,
        client: Callable[[BrokerAddress, BrokerCard | None], BrokerClient],
        changed: Callable[[], None],
    ) -> None:
        """``client`` makes one of its own for each question, by whatever way leads to that broker."""
        self._env = env
        self._db = db
        self._log = audit_log
        self._witnessing = witnessing
        self._client = client
        self._changed = changed
        self._wanted = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Sleeps while no broker is asked for."""
        if await self._db.read(_addresses):
            self._wanted.set()
        while True:
            await self._wanted.wait()
            for address in await self._db.read(_addresses):
                await self._ask(address)
            await self._env.sleep(LOOK_S)

    async def add(self, to: str, token: SecretBytes) -> None:
        """Have this broker cosign our log from now on, if it does so now.

        MalformedInput for an address or an answer; VerificationFailed for a yes that is not signed;
        PolicyRefused ``witness_token_refused`` or ``witness_refused``; Unavailable with the cause.
        """
        address = parse_broker_address_untrusted(to)
        await self._log.publish()
        client = self._client(address, None)
        try:
            card = await client.card()
            op = await self._db.read(
                lambda tx: Cosign(
                    token=token.reveal(),
                    log_public=self._log.key.public,
                    body=self._log.request(tx, 0).encode(),
                )
            )
            (result,) = await client.exchange([op])
        finally:
            await client.close()
        keys = _keys_of(op, result, card)
        await self._db.transact(lambda tx: self._switch_on(tx, str(address), token, card, keys, op, result))
        self._wanted.set()
        await self._ask(str(address))

    async def remove(self, to: str) -> None:
        """Ask this broker no more. What it cosigned stays. PolicyRefused ``witness_unknown``."""
        address = str(parse_broker_address_untrusted(to))

        def forget(tx: Transaction) -> None:
            if not tx.execute("DELETE FROM broker_witness WHERE address = ? RETURNING 1", (address,)):
                raise PolicyRefused(
                    "witness_unknown", "This broker is no witness of ours. See: salween-node witness list"
                )
            tx.execute("DELETE FROM cosigner WHERE peer = ?", (_cosigner_of(address),))
            self._enter(tx, "witness-off", address)

        await self._db.transact(forget)
        self._changed()

    # --- one question ---------------------------------------------------------------------------------------

    async def _ask(self, address: str) -> None:
        """Until nothing is due: an answer may say from where to ask again."""
        op = await self._db.transact(lambda tx: self._next(tx, address))
        if op is None:
            return
        card = await self._db.read(
            lambda tx: tx.value("SELECT card FROM broker WHERE address = ?", (address,))
        )
        client = self._client(parse_broker_address_untrusted(address), parse_broker_card_untrusted(card))
        try:
            while op is not None:
                asked = op
                (result,) = await client.exchange([asked])
                await self._db.transact(
                    lambda tx, asked=asked, result=result: self._settle(tx, address, asked, result)  # type: ignore[misc]
                )
                op = await self._db.transact(lambda tx: self._next(tx, address))
        except (Unavailable, PolicyRefused, VerificationFailed, MalformedInput) as fault:
            code = fault.code
            log.warning("broker_witness_waits", code=code)
            await self._db.transact(lambda tx: self._note_trouble(tx, address, code))
        finally:
            await client.close()

    def _next(self, tx: Transaction, address: str) -> Cosign | None:
        token = tx.value("SELECT token FROM broker_witness WHERE address = ?", (address,))
        cosigner = _cosigner_of(address)
        now_ms = self._env.clock.now_ms()
        if token is None or not self._witnessing.is_broker_due(tx, cosigner, now_ms):
            return None
        body = self._witnessing.request(tx, cosigner, now_ms)
        return Cosign(token=token, log_public=self._log.key.public, body=body)

    def _settle(self, tx: Transaction, address: str, op: Cosign, result: Result) -> None:
        if not tx.execute("SELECT 1 FROM broker_witness WHERE address = ?", (address,)):
            return  # switched off meanwhile
        keys = [
            VerifierKey(name=name, type_byte=kind, public=public)
            for name, kind, public in tx.execute(
                "SELECT name, type, public FROM broker_witness_key WHERE address = ?", (address,)
            )
        ]
        if not isinstance(result, WitnessSays):
            self._note_trouble(tx, address, result.code if isinstance(result, OpRefused) else "result_wrong")
            return
        try:
            self._witnessing.settle(tx, _cosigner_of(address), keys, _answer(op, result))
        except (MalformedInput, VerificationFailed) as fault:
            log.error("broker_witness_unusable", code=fault.code)
            self._note_trouble(tx, address, fault.code)
            return
        self._note_trouble(tx, address, None)

    def _note_trouble(self, tx: Transaction, address: str, code: str | None) -> None:
        tx.execute(
            "UPDATE broker_witness SET trouble = ?2, trouble_ms = ?3 WHERE address = ?1",
            (address, code, None if code is None else self._env.clock.now_ms()),
        )
        tx.on_commit(self._changed)

    def _switch_on(
        self,
        tx: Transaction,
        address: str,
        token: SecretBytes,
        card: BrokerCard,
        keys: tuple[VerifierKey, ...],
        op: Cosign,
        result: Result,
    ) -> None:
        keep_card(tx, address, encode_broker_card(card))
        tx.execute(
            "INSERT INTO broker_witness (address, cosigner, token, since_ms) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (address) DO UPDATE SET token = excluded.token",
            (address, _cosigner_of(address), token.reveal(), self._env.clock.now_ms()),
        )
        for key in keys:
            tx.execute(
                "INSERT OR IGNORE INTO broker_witness_key (address, name, type, public) VALUES (?, ?, ?, ?)",
                (address, key.name, key.type_byte, key.public),
            )
        self._enter(tx, "witness-on", address)
        self._settle(tx, address, op, result)
        self._witnessing.note_keys()

    def _enter(self, tx: Transaction, what: str, address: str) -> None:
        digest = sha256(address.encode()).hexdigest()
        self._log.append(tx, "cfg.change", {"what": what, "digest": digest})


def broker_witnesses(tx: Snapshot, witnessing: Witnessing) -> tuple[BrokerWitnessView, ...]:
    """Each broker that is asked, as commands and pages show it."""
    return tuple(
        BrokerWitnessView(
            address=address,
            since_ms=since_ms,
            cosigned_size=size or 0,
            cosigned_ms=cosigned_ms,
            refused=refused,
            trouble=trouble,
            state=witnessing.lateness(tx, size or 0)[0],
        )
        for address, since_ms, trouble, size, cosigned_ms, refused in tx.execute(
            "SELECT w.address, w.since_ms, w.trouble, c.size, c.cosigned_ms, c.refused"
            " FROM broker_witness w LEFT JOIN cosigner c ON c.peer = w.cosigner ORDER BY w.address"
        )
    )


def failing_witnesses(tx: Snapshot) -> list[tuple[str, str]]:
    """Address and cause of each broker that was asked and last did not cosign."""
    rows = tx.execute(
        "SELECT w.address, c.refused, w.trouble FROM broker_witness w LEFT JOIN cosigner c"
        " ON c.peer = w.cosigner WHERE c.refused IS NOT NULL OR w.trouble IS NOT NULL ORDER BY w.address"
    )
    return [
        (address, f"status {refused}" if trouble is None else trouble) for address, refused, trouble in rows
    ]


def _addresses(tx: Snapshot) -> list[str]:
    return [address for (address,) in tx.execute("SELECT address FROM broker_witness ORDER BY address")]


def _cosigner_of(address: str) -> bytes:
    return sha256(address.encode()).digest()


def _keys_of(op: Cosign, result: Result, card: BrokerCard) -> tuple[VerifierKey, ...]:
    """The keys a broker shows with its first answer, through a channel its address pins, and uses."""
    if isinstance(result, OpRefused):
        raise Unavailable("broker_busy", f"The broker does not witness now ({result.code}). Try again later.")
    if not isinstance(result, WitnessSays):
        raise MalformedInput("result_wrong", "The broker's answer is of another kind.")
    if result.status == Status.FORBIDDEN and not result.keys:
        raise PolicyRefused(
            "witness_token_refused",
            "The broker does not know this token. Ask its operator for: salween-broker tokens --witness",
        )
    if result.status not in (Status.COSIGNED, Status.CONFLICT):
        raise PolicyRefused(
            "witness_refused",
            f"The broker refuses to witness our log ({result.status}). With 404 the token is in use for"
            " another log, or this log under another token: ask its operator for a fresh one, and to withdraw"
            " the old one.",
        )
    keys = tuple(map(parse_vkey_untrusted, result.keys))
    name = witness_name(card.log_origin)
    if not keys or any(key.name != name or key.type_byte not in COSIGNATURES for key in keys):
        raise MalformedInput("witness_keys", f"The broker shows no witness key named {name}.")
    if result.status == Status.COSIGNED:
        text = _text_of(op)
        if not verify_note(parse_note_untrusted(text.encode() + b"\n" + result.body), keys):
            raise VerificationFailed("cosignature_missing", "The broker says yes and signs nothing.")
    return keys


def _text_of(op: Cosign) -> str:
    return parse_request_untrusted(op.body)[1].text


def _answer(op: Cosign, result: WitnessSays) -> WitnessAnswer:
    """A C2SP response in the form in which partners answer. MalformedInput ``bad_note``, ``result_wrong``."""
    size = parse_request_untrusted(op.body)[1].size
    lines: tuple[tuple[str, bytes], ...] = ()
    held_size = 0
    if result.status == Status.COSIGNED:
        whole = _text_of(op).encode() + b"\n" + result.body
        lines = tuple((line.name, line.key_id + line.blob) for line in parse_note_untrusted(whole).signatures)
    elif result.status == Status.CONFLICT:
        digits = result.body.removesuffix(b"\n")
        if not digits.isdigit() or len(digits) > 16:
            raise MalformedInput("result_wrong", "a conflict names the size that is held")
        held_size = int(digits)
    return WitnessAnswer(
        status=result.status, size=size, held_size=held_size, cosignatures=lines, note=result.note
    )
