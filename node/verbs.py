"""What each command does inside a node: from plain JSON parameters to a plain JSON result.

Spec: docs/operations.md#commands. The daemon runs verbs for its control socket; a command that finds no
daemon opens the node itself and runs the same verb. One rule: parameters are untrusted, even from our own
command.
"""

import base64
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from keys.errors import MalformedInput, PolicyRefused
from keys.notice import parse_notice_text_untrusted
from keys.secret import SecretBytes
from node.broker_witness import broker_witnesses
from node.control import Channel, Params
from node.dossiers import parse_scope_untrusted
from node.halfpairs import evidence_of
from node.resets import lost_after_restore
from node.views import Role, Session
from protocol import limits
from protocol.alert import Alert
from protocol.tokens import FORWARDING_PREFIX, WITNESS_PREFIX, parse_token_untrusted

if TYPE_CHECKING:
    from node.daemon import Node

ROLES: dict[str, Role] = {
    "officer": "officer",
    "supervisor": "supervisor",
    "auditor": "auditor",
    "operator": "operator",
}
PHOTO_PIECE_BYTES = 256 * 1024
Verb = Callable[["Node", Params, Channel], Awaitable[dict[str, Any]]]


def _text(params: Params, name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise MalformedInput("parameter_missing", f"'{name}' is missing. See: salween-node --help")
    return value


def _number(params: Params, name: str) -> int:
    value = params.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limits.U32_MAX:
        raise MalformedInput("parameter_missing", f"'{name}' must be a number. See: salween-node --help")
    return value


def plain(view: Any) -> dict[str, Any]:
    """A view as JSON values; secrets of a session are never part of a result."""
    return dict(json.loads(json.dumps(dataclasses.asdict(view))))


@asynccontextmanager
async def _logged_in(node: "Node", params: Params) -> AsyncIterator[Session]:
    """The officer of the parameters, logged in for this one verb."""
    session = await node.desk.login(_number(params, "officer"), _text(params, "pin"))
    try:
        yield session
    finally:
        await node.desk.logout(session)


async def _status(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del params, channel
    return {**plain(await node.desk.status()), "running": node.is_running}


async def _officers_list(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del params, channel
    return {"officers": [plain(officer) for officer in await node.officers.list_all()]}


async def _officers_add(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    role = _text(params, "role")
    if role not in ROLES:
        raise MalformedInput("role_unknown", "A role is officer, supervisor, auditor or operator.")
    number = await node.add_officer(alias=_text(params, "alias"), role=ROLES[role], pin=_text(params, "pin"))
    return {"officer": number}


async def _officers_retire(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    await node.retire_officer(_number(params, "officer"))
    return {"retired": _number(params, "officer")}


async def _officers_reset_pin(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    await node.reset_pin(_number(params, "officer"), _text(params, "pin"))
    return {"officer": _number(params, "officer")}


async def _send(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    fields = params.get("alert")
    if not isinstance(fields, dict):
        raise MalformedInput("parameter_missing", "'alert' must be an object. See: salween-node send --help")
    try:
        alert = Alert.model_validate_json(json.dumps(node.desk.with_times(fields)))
    except ValidationError as faults:
        named = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults.errors())
        raise PolicyRefused("alert_invalid", f"The alert was not kept. {named}") from faults
    names = params.get("to")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedInput(
            "parameter_missing", "'to' must be a list of offices. See: salween-node send --help"
        )
    recipients = [await node.desk.find_peer(name) for name in names]
    mode = params.get("mode")
    if mode not in (None, "separate", "shared"):
        raise MalformedInput("parameter_wrong", "'mode' is separate or shared. See: salween-node send --help")
    count = params.get("photos", 0)
    if not isinstance(count, int) or not 0 <= count <= limits.PHOTOS_PER_ALERT_MAX:
        raise PolicyRefused("photos_too_many", "An alert has at most four photos.")
    async with _logged_in(node, params) as session:
        photos = []
        for number in range(count):
            photos.append(await node.desk.stage_photo(session, await _asked_photo(channel, number)))
        return plain(await node.desk.submit(session, alert, recipients, photos, mode))


async def _asked_photo(channel: Channel, number: int) -> bytes:
    """A photo from whoever runs the command, piece by piece: a frame of the socket has a limit."""
    picture = bytearray()
    while True:
        event = {"event": "photo-wanted", "asks": True, "number": number, "offset": len(picture)}
        try:
            piece = base64.b64decode(await channel.ask(event), validate=True)
        except ValueError as fault:
            raise MalformedInput("parameter_missing", "A photo came in no base64.") from fault
        if not piece:
            return bytes(picture)
        picture += piece
        if len(picture) > limits.PHOTO_BYTES_MAX:
            raise PolicyRefused("photo_too_large", "A photo has at most 25 MiB.")


async def _pending(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    async with _logged_in(node, params) as session:
        draft = params.get("release")
        if draft is not None:
            return plain(await node.desk.release(session, str(draft)))
        return {"pending": [plain(row) for row in await node.desk.pending(session)]}


async def _inbox(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    async with _logged_in(node, params) as session:
        return {"inbox": [plain(row) for row in await node.desk.inbox(session)]}


async def _outbox(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    async with _logged_in(node, params) as session:
        return {"outbox": [plain(row) for row in await node.desk.outbox(session)]}


async def _show(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    async with _logged_in(node, params) as session:
        is_export = params.get("photos") is True
        view = await node.desk.open_alert(
            session,
            _text(params, "alert_id"),
            purpose=str(params.get("purpose", "")),
            access="export" if is_export else "read",
        )
        if is_export:
            for photo in view.photos:
                if photo.state in ("whole", "kept"):
                    await _hand_over(node, session, view.alert_id, photo.number, channel)
        return plain(view)


async def _hand_over(node: "Node", session: Session, alert_id: str, number: int, channel: Channel) -> None:
    """One photo to whoever runs the command, piece by piece; it is whole and verified before the first."""
    kind, picture = await node.desk.photo(session, alert_id, number)
    for offset in range(0, len(picture), PHOTO_PIECE_BYTES):
        piece = base64.b64encode(picture[offset : offset + PHOTO_PIECE_BYTES]).decode()
        is_last = offset + PHOTO_PIECE_BYTES >= len(picture)
        event = {"event": "photo-piece", "number": number, "type": kind, "data": piece, "last": is_last}
        await channel.emit(event)


async def _answer(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    async with _logged_in(node, params) as session:
        step, code = _text(params, "step"), str(params.get("code", ""))
        await node.desk.answer(session, _text(params, "alert_id"), step, code)
    return {"alert_id": _text(params, "alert_id"), "step": step, "code": code}


async def _erase(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    alert_id = _text(params, "alert_id")
    async with _logged_in(node, params) as session:
        await node.desk.erase(session, alert_id, _text(params, "reason"), _text(params, "pin"))
        return plain(await node.desk.fate(session, alert_id))


async def _hold(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    alert_id = _text(params, "alert_id")
    async with _logged_in(node, params) as session:
        reason, days = str(params.get("reason", "")), _number(params, "days")
        await node.desk.hold(session, alert_id, reason, days, _text(params, "pin"))
        return plain(await node.desk.fate(session, alert_id))


async def _unfreeze(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    peer = await node.desk.find_peer(_text(params, "office"))
    async with _logged_in(node, params) as session:
        await node.desk.unfreeze(session, peer)
    return {"office": peer}


async def _evidence(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    peer = await node.desk.find_peer(_text(params, "office"))
    async with _logged_in(node, params) as session:
        return {"evidence": [plain(proof) for proof in await node.desk.evidence(session, peer)]}


async def _receipt(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    peer = None if params.get("office") is None else await node.desk.find_peer(_text(params, "office"))
    async with _logged_in(node, params) as session:
        alert_id, event = _text(params, "alert_id"), _text(params, "event")
        return plain(await node.desk.receipt(session, alert_id, event, peer))


async def _audit_export(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    named = params.get("office")
    peer = None if named is None else bytes.fromhex(await node.desk.find_peer(_text(params, "office")))
    scope = parse_scope_untrusted(params, peer)
    async with _logged_in(node, params) as session:
        made = await node.dossiers.make(
            session,
            _text(params, "folder"),
            _text(params, "auditor"),
            scope,
            wait_ms=_number(params, "wait_ms"),
        )
    return plain(made)


async def _custody(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    async with _logged_in(node, params) as session:
        return {"notes": await node.desk.custody_notes(session, _text(params, "messages").split())}


async def _pair_invite(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    peer = await node.ceremonies.invite(_text(params, "broker"), _text(params, "token"), channel)
    return {"peer": plain(peer)}


async def _pair_join(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    peer = await node.ceremonies.join(_text(params, "invitation"), channel)
    return {"peer": plain(peer)}


async def _revoke_apply(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    data = parse_notice_text_untrusted(_text(params, "notice"))
    return plain(await node.revocations.take_notice(data, "paper"))


async def _suspend(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    peer = await node.desk.find_peer(_text(params, "peer"))
    async with _logged_in(node, params) as session:
        await node.desk.suspend(session, peer)
    return {"suspended": peer}


async def _resume(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    peer = await node.desk.find_peer(_text(params, "peer"))
    async with _logged_in(node, params) as session:
        await node.desk.resume(session, peer)
    return {"resumed": peer}


async def _retire(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    peer = await node.desk.find_peer(_text(params, "peer"))
    successor = params.get("succeeded_by")
    succeeded_by = None if successor is None else await node.desk.find_peer(_text(params, "succeeded_by"))
    async with _logged_in(node, params) as session:
        await node.desk.retire(session, peer, succeeded_by)
    return {"retired": peer, "succeeded_by": succeeded_by}


async def _move(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    names = params.get("to", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MalformedInput("parameter_missing", "'to' must be a list of offices. See: salween-node --help")
    chosen = [bytes.fromhex(await node.desk.find_peer(name)) for name in names]
    tokens = [parse_token_untrusted(line) for line in _text(params, "token").split()]
    moved = await node.mailboxes.move(_text(params, "broker"), tokens, chosen)
    return {"moved": [{"peer": m.peer.hex(), "name": m.name, "file": m.envelope.hex()} for m in moved]}


async def _routes_list(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del params, channel
    return {"routes": [plain(route) for route in node.routes.views()]}


async def _routes_add(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    to = _text(params, "to")
    if params.get("through") is None:
        await node.routes.allow(to)
    else:
        token = parse_token_untrusted(_text(params, "token"), FORWARDING_PREFIX)
        await node.routes.add(to, _text(params, "through"), _text(params, "name"), token)
    return {"routes": [plain(route) for route in node.routes.views()]}


async def _routes_remove(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    await node.routes.remove(_text(params, "to"))
    return {"routes": [plain(route) for route in node.routes.views()]}


async def _witness_list(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del params, channel
    views = await node.database.read(lambda tx: broker_witnesses(tx, node.witnessing))
    return {"brokers": [plain(view) for view in views]}


async def _witness_add(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    token = parse_token_untrusted(_text(params, "token"), WITNESS_PREFIX)
    await node.broker_witnesses.add(_text(params, "broker"), token)
    return await _witness_list(node, {}, channel)


async def _witness_remove(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    await node.broker_witnesses.remove(_text(params, "broker"))
    return await _witness_list(node, {}, channel)


async def _tokens_list(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del params, channel
    return {"tokens": [plain(view) for view in await node.integrations.list_all()]}


async def _tokens_add(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    scopes = params.get("scopes")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise MalformedInput(
            "parameter_missing", "'scopes' must be a list. See: salween-node tokens add --help"
        )
    async with _logged_in(node, params) as session:
        made = await node.integrations.make(
            session,
            _text(params, "pin"),
            name=_text(params, "name"),
            scopes=scopes,
            days=_number(params, "days"),
        )
    return plain(made)


async def _tokens_revoke(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    await node.integrations.revoke(_number(params, "number"))
    return {"revoked": _number(params, "number")}


async def _import_address(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    try:
        envelope = bytes.fromhex(_text(params, "file"))
    except ValueError as fault:
        raise MalformedInput("parameter_missing", "'file' must be hex. See: salween-node --help") from fault
    return {"peer": await node.import_address(envelope)}


async def _export(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    peer = bytes.fromhex(await node.desk.find_peer(_text(params, "to")))
    async with _logged_in(node, params) as session:
        return plain(
            await node.sticks.export(session, peer, _text(params, "file"), force=params.get("force") is True)
        )


async def _import(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    async with _logged_in(node, params) as session:
        report = await node.sticks.take_file(session, _text(params, "file"))
    return {**plain(report), "is_outdated": report.is_outdated}


async def _pair_begin(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    peer = await node.meetings.begin(_text(params, "broker"), _text(params, "token"), channel)
    return {"peer": plain(peer)}


async def _pair_answer(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del params
    return {"peer": plain(await node.meetings.answer(channel))}


async def _pair_evidence(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    peer_id = bytes.fromhex(await node.desk.find_peer(_text(params, "peer")))
    return {"evidence": await node.database.read(lambda tx: evidence_of(tx, peer_id))}


async def _peers(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del params, channel
    return {"peers": [plain(peer) for peer in (await node.desk.status()).peers]}


async def _publish(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del params, channel
    checkpoint = await node.log.publish()
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


async def _doctor(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del params, channel
    return {"checks": await node.doctor()}


async def _backup(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del channel
    secret = SecretBytes(_text(params, "backup_passphrase").encode())
    path = _text(params, "file")
    made = await node.backup(path, secret, with_operational=params.get("operational") is True)
    return {"office": made.name, "made_ms": made.made_ms, "entries": made.size, "file": path}


async def _lost(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    del params, channel
    return {"resets": await node.database.read(lost_after_restore)}


VERBS: dict[str, Verb] = {
    "status": _status,
    "officers.list": _officers_list,
    "officers.add": _officers_add,
    "officers.retire": _officers_retire,
    "officers.reset-pin": _officers_reset_pin,
    "send": _send,
    "pending": _pending,
    "inbox": _inbox,
    "outbox": _outbox,
    "show": _show,
    "answer": _answer,
    "erase": _erase,
    "hold": _hold,
    "unfreeze": _unfreeze,
    "evidence": _evidence,
    "receipt": _receipt,
    "audit-export": _audit_export,
    "custody": _custody,
    "pair.invite": _pair_invite,
    "pair.join": _pair_join,
    "revoke.apply": _revoke_apply,
    "suspend": _suspend,
    "resume": _resume,
    "retire": _retire,
    "pair.begin": _pair_begin,
    "pair.answer": _pair_answer,
    "pair.evidence": _pair_evidence,
    "peers": _peers,
    "publish": _publish,
    "move": _move,
    "routes.list": _routes_list,
    "routes.add": _routes_add,
    "routes.remove": _routes_remove,
    "witness.list": _witness_list,
    "witness.add": _witness_add,
    "witness.remove": _witness_remove,
    "tokens.list": _tokens_list,
    "tokens.add": _tokens_add,
    "tokens.revoke": _tokens_revoke,
    "import-address": _import_address,
    "export": _export,
    "import": _import,
    "doctor": _doctor,
    "backup": _backup,
    "lost": _lost,
}


async def run_verb(node: "Node", verb: str, params: Params, channel: Channel) -> dict[str, Any]:
    """Run one verb; MalformedInput ``verb_unknown`` for any other word."""
    if verb not in VERBS:
        raise MalformedInput(
            "verb_unknown", f"This node does not know '{verb[:40]}'; it may be an older version."
        )
    return await VERBS[verb](node, params, channel)
