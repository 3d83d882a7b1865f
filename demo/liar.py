"""What a party publishes that does not play by the rules: any entries, signed with its real key.

Spec: docs/operations.md#demo. One rule: only copies are opened and changed. Tests forge logs with it too.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.entry import encode_entry
from audit.note import NoteSigner
from audit.tree import (
    ENTRIES,
    HASH_BYTES,
    TILE_WIDTH,
    encode_bundle,
    leaf_hash,
    root_from_edge,
    subtree_root,
    tile_path,
)
from broker.config import load_config
from broker.daemon import CONFIG_NAME, identity_of
from broker.identity import read_passphrase
from demo.published import entries_of
from keys.secret import SecretBytes
from node.daemon import Node
from runtime.env import Env

REFERENCES: Final = frozenset({"prev", "first", "in"})
"""Fields that name another entry of the same log."""
Entry = dict[str, Any]
Change = Callable[[list[Entry]], list[Entry]]


@dataclass(frozen=True, slots=True)
class Party:
    """A published log and the key its owner signs with."""

    directory: Path
    signer: NoteSigner

    def entries(self) -> list[Entry]:
        """Every entry, in order; changing them changes nothing here."""
        return [dict(entry) for entry in entries_of(self.directory)]

    def rewritten(self, directory: Path, change: Change) -> "Party":
        """What its cheating owner publishes instead: changed, numbered anew, signed with the real key."""
        changed = change(self.entries())
        moved = {entry["seq"]: seq for seq, entry in enumerate(changed)}
        told: list[Entry] = [
            {key: moved.get(value, value) if key in REFERENCES else value for key, value in entry.items()}
            | {"seq": seq}
            for seq, entry in enumerate(changed)
        ]
        encoded = [encode_entry(entry) for entry in told]
        return Party(forge(directory, encoded, self.signer), self.signer)


def without(*drop: Callable[[Entry], bool]) -> Change:
    """A change that leaves out what any of these is true of."""
    return lambda entries: [entry for entry in entries if not any(each(entry) for each in drop)]


def claim(msg: str, env: str) -> Change:
    """A change that adds a sending that never was: a message of this id, sealed in this envelope."""

    def change(entries: list[Entry]) -> list[Entry]:
        at = max(entry["seq"] for entry in entries if entry["t"] == "msg.submit")
        made = [
            entry | {"msg": msg, "z": "33" * 16} | ({"env": env} if "env" in entry else {})
            for entry in entries[at : at + 2]
        ]
        return [*entries[: at + 2], *made, *entries[at + 2 :]]

    return change


async def signer_of_office(env: Env, directory: Path, copy: Path, passphrase: SecretBytes) -> NoteSigner:
    """The key of an office's log, out of a copy of its stopped node: the lie of whoever holds the office."""
    shutil.copytree(directory, copy, ignore=lambda _, names: [n for n in names if n.endswith(".sock")])
    node = await Node.open(env, str(copy), passphrase)
    try:
        signer: NoteSigner = vars(node.log)["_signer"]  # no honest program asks a log for its key
        return signer
    finally:
        await node.stop()


async def signer_of_broker(env: Env, directory: Path) -> NoteSigner:
    """The key of a broker's log; only its keystore is opened."""
    config, passphrase = load_config(env, directory / CONFIG_NAME), read_passphrase(env, directory, None)
    identity = await env.run_blocking(lambda: identity_of(env, directory, config, passphrase))
    return identity.log_signer


def forge(directory: Path, entries: Sequence[bytes], signer: NoteSigner | None = None) -> Path:
    """Publish ``entries`` as a log owner who does not play by the rules would;

    Signed if there is a signer.
    """
    size, hashes = len(entries), [b"".join(map(leaf_hash, entries))]
    while len(hashes[-1]) >= TILE_WIDTH * HASH_BYTES:
        full = len(hashes[-1]) // (TILE_WIDTH * HASH_BYTES)
        tiles = [hashes[-1][n * 8192 : (n + 1) * 8192] for n in range(full)]
        hashes.append(b"".join(map(subtree_root, tiles)))
    for level, run in enumerate(hashes):
        for at in range(0, len(run), 8192):
            put(directory, tile_path(level, at // 8192, len(run[at : at + 8192]) // 32), run[at : at + 8192])
    for n in range(0, size, TILE_WIDTH):
        part = entries[n : n + TILE_WIDTH]
        put(directory, tile_path(ENTRIES, n // TILE_WIDTH, len(part)), encode_bundle(part))
    if signer is not None:
        root = root_from_edge(
            size, lambda level, n, width: (directory / tile_path(level, n, width)).read_bytes()
        )
        put(
            directory,
            "checkpoint",
            sign_checkpoint(Checkpoint(origin=signer.name, size=size, root=root), signer),
        )
    return directory


def put(directory: Path, name: str, data: bytes) -> None:
    """Write one file of a log, with its folders."""
    target = directory / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
