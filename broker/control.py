"""The operator's door: a Unix socket of mode 0600, spoken over by ``salween-broker tokens`` and ``stats``.

Spec: docs/operations.md#control-socket. One rule: who may open the socket may do everything here, so it never
listens anywhere else. It is never reached by an office.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import PurePath
from typing import Any, Final

import aiohttp
from aiohttp import web

from broker.store.base import StandingKind, Store
from keys.errors import MalformedInput, PolicyRefused, Unavailable
from keys.secret import SecretBytes
from protocol import limits
from protocol.requests import creation_token_hash, forwarding_token_hash, witness_token_hash
from protocol.tokens import FORWARDING_PREFIX, WITNESS_PREFIX, encode_token, parse_token_untrusted
from runtime.env import AnyPath, Env

SOCKET_NAME: Final = "control.sock"
TOKEN_USES: Final = 4  # two rendezvous mailboxes of one pairing, and one mailbox for each side
TOKENS_MAX: Final = 1000
_BODY_BYTES_MAX: Final = 4096
_STANDING: Final[Mapping[StandingKind, tuple[str, Callable[[bytes], bytes]]]] = {
    "forwarding": (FORWARDING_PREFIX, forwarding_token_hash),
    "witness": (WITNESS_PREFIX, witness_token_hash),
}


async def make_tokens(env: Env, store: Store, count: int) -> tuple[str, ...]:
    """Draw ``count`` tokens and let each make TOKEN_USES mailboxes; the store keeps hashes alone."""
    tokens = _draw(env, count)
    await store.load_tokens([creation_token_hash(token.reveal()) for token in tokens], TOKEN_USES)
    return tuple(encode_token(token) for token in tokens)


async def make_standing_tokens(env: Env, store: Store, kind: StandingKind, count: int) -> tuple[str, ...]:
    """Draw ``count`` tokens that are good until they are withdrawn."""
    prefix, hashed = _STANDING[kind]
    tokens = _draw(env, count)
    await store.load_standing_tokens(kind, [hashed(token.reveal()) for token in tokens])
    return tuple(encode_token(token, prefix) for token in tokens)


async def withdraw_standing_token(store: Store, text: str) -> bool:
    """Take one back by what stands on it; whether it was one of ours. MalformedInput for anything else."""
    kind: StandingKind = "witness" if text.lstrip().lower().startswith(WITNESS_PREFIX) else "forwarding"
    prefix, hashed = _STANDING[kind]
    token = parse_token_untrusted(text, prefix)
    return await store.withdraw_standing_token(kind, hashed(token.reveal()))


def _draw(env: Env, count: int) -> list[SecretBytes]:
    if not 1 <= count <= TOKENS_MAX:
        raise PolicyRefused("bad_count", f"between 1 and {TOKENS_MAX} tokens can be made at once")
    return [SecretBytes(env.random(limits.SECRET_BYTES)) for _ in range(count)]


async def list_witnessed(store: Store) -> list[dict[str, Any]]:
    """The logs that this broker cosigns, as JSON values; notes as their text."""
    return [
        {
            "origin": each.origin,
            "size": each.size,
            "root": each.root.hex(),
            "at_ms": each.at_ms,
            "refused": [
                {
                    "code": head.code,
                    "at_ms": head.at_ms,
                    "size": head.size,
                    "offered": head.offered.decode(),
                    "held": head.held.decode(),
                }
                for head in each.refused
            ],
        }
        for each in await store.witnessed()
    ]


async def collect_stats(store: Store) -> dict[str, int]:
    """What the store holds, by name."""
    totals = store.totals()
    return {
        "mailboxes": totals.mailboxes,
        "items": totals.items,
        "size_bytes": totals.size_bytes,
        "tombstones": totals.tombstones,
        "token_uses_left": totals.token_uses_left,
        "retired": totals.retired,
        "remade": totals.remade,
        "attachments": totals.attachments,
        "attachment_bytes": totals.attachment_bytes,
    }


def control_app(env: Env, store: Store, facts: Mapping[str, str | int]) -> web.Application:
    """What the socket serves; ``facts`` (address, pid) go into every answer to ``/stats``."""

    async def answered(work: Awaitable[dict[str, Any]]) -> web.Response:
        try:
            return web.json_response(await work)
        except (PolicyRefused, MalformedInput) as error:
            return web.json_response({"code": error.code, "detail": error.detail}, status=400)

    async def asked(request: web.Request) -> dict[str, Any]:
        try:
            fields = json.loads(await request.read())
        except ValueError:
            return {}
        return fields if isinstance(fields, dict) else {}

    async def tokens(request: web.Request) -> web.Response:
        fields = await asked(request)
        count = fields.get("count")
        kind: Any = fields.get("kind")
        wanted = count if type(count) is int else 0

        async def work() -> dict[str, Any]:
            if kind not in _STANDING:
                return {"tokens": await make_tokens(env, store, wanted)}
            return {"tokens": await make_standing_tokens(env, store, kind, wanted)}

        return await answered(work())

    async def withdraw(request: web.Request) -> web.Response:
        text = (await asked(request)).get("token")

        async def work() -> dict[str, Any]:
            return {"withdrawn": await withdraw_standing_token(store, text if isinstance(text, str) else "")}

        return await answered(work())

    async def stats(_: web.Request) -> web.Response:
        return web.json_response({**facts, **await collect_stats(store)})

    async def witnessed(_: web.Request) -> web.Response:
        return web.json_response({"keys": store.witness_keys, "logs": await list_witnessed(store)})

    app = web.Application(client_max_size=_BODY_BYTES_MAX)
    app.router.add_post("/tokens", tokens)
    app.router.add_post("/withdraw", withdraw)
    app.router.add_get("/stats", stats)
    app.router.add_get("/witnessed", witnessed)
    return app


async def ask_running(
    env: Env, directory: AnyPath, method: str, path: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Ask the broker that runs in ``directory``; None when none answers there.

    PolicyRefused with the running broker's own code; Unavailable ``control_failed``.
    """
    socket = PurePath(directory, SOCKET_NAME)
    if not env.files.exists(socket):
        return None
    session = env.network.client_session(unix_path=socket)
    try:
        async with env.timeout(30), session.request(method, f"http://broker{path}", json=body) as response:
            answer = json.loads(await response.read())
            status = response.status
    except aiohttp.ClientConnectorError:
        return None  # what a killed broker left behind
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unavailable(
            "control_failed", f"the broker behind {socket} did not answer; look at its log"
        ) from error
    finally:
        await session.close()
    if status != 200 or not isinstance(answer, dict):
        code, detail = answer.get("code", "control_failed"), answer.get("detail", "")
        raise PolicyRefused(str(code), str(detail))
    return answer
