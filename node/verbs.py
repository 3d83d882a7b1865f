"""What each command does inside a node: from plain JSON parameters to a plain JSON result.

Spec: docs/operations.md#commands. The daemon runs verbs for its control socket; a command that finds no
daemon opens the node itself and runs the same verb. One rule: parameters are untrusted, even from our own
command.
"""

import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from keys.errors import MalformedInput, PolicyRefused
from keys.secret import SecretBytes
from node.control import Channel, Params
from node.resets import lost_after_restore
from node.views import Role, Session
from protocol import limits
from protocol.alert import Alert

if TYPE_CHECKING:
    from node.daemon import Node

ROLES: dict[str, Role] = {
    "officer": "officer",
    "supervisor": "supervisor",
    "auditor": "auditor",
    "operator": "operator",
}
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
    del channel
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
    async with _logged_in(node, params) as session:
        return plain(await node.desk.submit(session, alert, recipients))


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
    del channel
    async with _logged_in(node, params) as session:
        view = await node.desk.open_alert(
            session, _text(params, "alert_id"), purpose=str(params.get("purpose", ""))
        )
        return plain(view)


async def _pair_invite(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    peer = await node.ceremonies.invite(_text(params, "broker"), _text(params, "token"), channel)
    return {"peer": plain(peer)}


async def _pair_join(node: "Node", params: Params, channel: Channel) -> dict[str, Any]:
    peer = await node.ceremonies.join(_text(params, "invitation"), channel)
    return {"peer": plain(peer)}


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
    "pair.invite": _pair_invite,
    "pair.join": _pair_join,
    "publish": _publish,
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
