"""What must hold after every schedule, asked of what a person sees and of the files on the disks.

Nothing of the product is called here: screens are given as plain values, the published log is parsed, hashed
and verified anew. The names of the invariants stand beside each check; the list is docs/testing.md's.
"""

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey


class Broken(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
        self.what = what


@dataclass(slots=True)
class Sent:
    """One alert an officer pressed send on. ``kept``: the screen said so; else the press got no answer."""

    token: str
    sender: str
    receiver: str
    text: str
    kept: bool = False
    ticks: dict[str, None] = field(default_factory=dict)  # steps of the ladder the sender ever saw
    photos: list[bytes] = field(default_factory=list)  # as the receiver must see them
    is_fleeting: bool = False  # erased within minutes, wherever it is by then


@dataclass(frozen=True, slots=True)
class Seen:
    """What one office's officers had seen at some moment: tokens of its inbox, ladders of what it sent."""

    shown: dict[str, None]
    ticks: dict[str, dict[str, None]]


@dataclass(slots=True)
class Witness:
    """Everything that officers did and saw in one run."""

    sent: dict[str, Sent] = field(default_factory=dict)
    shown: dict[str, dict[str, None]] = field(default_factory=dict)  # office -> tokens ever in its inbox
    signed: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)  # office -> (size, root)
    overheard: Broken | None = None  # found inside a machine, where an exception might be taken
    used: dict[bytes, int] = field(default_factory=dict)  # hash of (key, nonce) -> how often sealed under
    put_back: dict[str, None] = field(default_factory=dict)  # offices restored from an older backup

    def seen_by(self, office: str) -> Seen:
        """What a backup made from now on must bring back."""
        mine = [sent for sent in self.sent.values() if sent.sender == office and sent.kept]
        return Seen(
            shown=dict(self.shown.get(office, {})), ticks={sent.token: dict(sent.ticks) for sent in mine}
        )

    def went_back(self, office: str, seen: Seen) -> None:
        """I15: the office holds what it held then; what its partner sent since must all come again."""
        self.put_back[office] = None
        self.shown[office] = dict(seen.shown)
        self.signed[office] = []  # the log goes on in another epoch, under another key
        for sent in self.sent.values():
            if sent.sender == office:
                # Written after the backup and with that disk lost: nobody can be asked for it any more.
                sent.kept &= sent.token in seen.ticks
                sent.ticks = dict(seen.ticks.get(sent.token, {}))

    def saw_inbox(self, office: str, rows: list[tuple[str, str]]) -> None:
        """``rows`` are (token, sender as shown). I2, I4, I7."""
        tokens = [token for token, _ in rows]
        if len(set(tokens)) != len(tokens):
            raise Broken("I2", f"{office} shows an alert twice")
        for token, sender in rows:
            sent = self.sent.get(token)
            if sent is None or sent.receiver != office or not sender.startswith(sent.sender):
                raise Broken("I4", f"{office} shows {token} from {sender}, which nobody sent so")
        before = self.shown.setdefault(office, {})
        for token in before:
            if token not in tokens and not self.sent[token].is_fleeting:
                raise Broken("I7", f"{office} showed {token} and has lost it")
        before.update(dict.fromkeys(tokens))
        for sent in self.sent.values():
            if (
                sent.receiver == office
                and office not in self.put_back
                and not sent.is_fleeting
                and {"delivered", "opened"} & sent.ticks.keys()
                and sent.token not in tokens
            ):
                raise Broken("I6", f"{sent.sender} saw {sent.token} ticked and {office} does not have it")

    def something_leaves(self, host: str, journals: list[list[tuple[int, bytes | None]]]) -> None:
        """I7: what is said or shown rests on no commit that a power cut would take back.

        ``journals``: of each of the host's databases, what was written to its journal since it was synced.
        """
        if self.overheard is None and any(_holds_commit(changes) for changes in journals):
            self.overheard = Broken("I7", f"{host} speaks while a commit is written and not synced")

    def nothing_overheard(self) -> None:
        """Raise what was found where nobody could raise it."""
        if self.overheard is not None:
            raise self.overheard

    def saw_opened(self, token: str, text: str) -> None:
        """What an officer read. I4."""
        if text != self.sent[token].text:
            raise Broken("I4", f"{token} reads otherwise than it was written")

    def saw_outbox(self, office: str, rows: list[tuple[str, list[str]]]) -> None:
        """``rows`` are (token, steps of its ladder). I1: nothing kept ever leaves the outbox; I6."""
        steps = dict(rows)
        if len(steps) != len(rows):
            raise Broken("I2", f"{office} has sent one press of the button twice")
        for sent in self.sent.values():
            if sent.sender == office and sent.kept and not sent.is_fleeting and sent.token not in steps:
                raise Broken("I1", f"{office} was told that {sent.token} is kept and has lost it")
        for token, ladder in rows:
            if "kept" not in ladder:
                raise Broken("I6", f"the ladder of {token} has no first rung")
            before = self.sent[token].ticks
            if not before.keys() <= set(ladder):
                raise Broken("I6", f"the ladder of {token} has lost a rung")
            before.update(dict.fromkeys(ladder))

    def sealed_with(self, key: bytes, nonce: bytes) -> None:
        """I10."""
        name = hashlib.sha256(struct.pack(">H", len(key)) + key + nonce).digest()
        if name in self.used and self.overheard is None:
            self.overheard = Broken("I10", "a key met a nonce twice")
        self.used[name] = 1

    def everything_arrived(self) -> None:
        """I1, at the end."""
        for sent in self.sent.values():
            if sent.is_fleeting:
                continue
            if sent.kept and sent.token not in self.shown.get(sent.receiver, {}):
                raise Broken("I1", f"{sent.token} never reached {sent.receiver}")
            if sent.kept and "delivered" not in sent.ticks:
                raise Broken("I12", f"{sent.sender} never learnt that {sent.token} arrived")

    def saw_log(self, office: str, files: dict[str, bytes], key: bytes) -> None:
        """The published log: canonical, numbered, and every root ever signed a prefix of it. I9."""
        log = {path.split("/log/", 1)[1]: data for path, data in files.items() if "/log/" in path}
        checkpoint = log.get("checkpoint")
        if checkpoint is None:
            return
        text, _, signature = checkpoint.partition(b"\n\n")
        _, size_text, root_text = text.split(b"\n")[:3]
        size, root = int(size_text), base64.b64decode(root_text)
        raw = base64.b64decode(signature.split(b" ")[2].split(b"\n")[0])
        try:
            VerifyKey(key).verify(text + b"\n", raw[4:])
        except BadSignatureError:
            raise Broken("I9", f"the checkpoint of {office} does not verify") from None
        leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in entries_of(log, size)]
        if _root(leaves) != root:
            raise Broken("I9", f"the log of {office} is not what its checkpoint signs")
        # A publication that lost its power before its last name was synced: one newer head stands archived.
        newer = [path for path in log if path.startswith("archive/") and _number(path) > size]
        for signed_size, signed_root in self.signed.setdefault(office, []):
            if signed_size > size and newer == [f"archive/{signed_size}"]:
                continue
            if signed_size > size or _root(leaves[:signed_size]) != signed_root:
                raise Broken(
                    "I9", f"the log of {office} went back behind {signed_size} entries it had signed"
                )
        if (size, root) not in self.signed[office]:
            self.signed[office].append((size, root))


def check_cosigned(office: str, files: dict[str, bytes], partner: dict[str, bytes]) -> None:
    """I21: what the partner signed of this office's log, and says in its own log, is this log; and no less.

    ``files`` and ``partner``: of the two disks. Keys of witnesses come from the policy beside the log.
    """
    policy = next(data for path, data in files.items() if path.endswith("/policy") and "/log" not in path)
    listed = [line.split() for line in policy.decode().splitlines() if line.startswith("witness ")]
    known = [base64.b64decode(words[2].split("+", 2)[2]) for words in listed]
    keys = [VerifyKey(key[1:]) for key in known if key[0] == 4]
    log = {path.split("/log/", 1)[1]: data for path, data in files.items() if "/log/" in path}
    text = log["checkpoint"].partition(b"\n\n")[0]
    origin, size = text.split(b"\n")[0].decode(), int(text.split(b"\n")[1])
    leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in entries_of(log, size)]
    cosigned = 0
    for path, note in log.items():
        if path.startswith("archive/") and _number(path) > 0:
            head, _, lines = note.partition(b"\n\n")
            at, root = head.split(b"\n")[1:3]
            if base64.b64decode(root) != _root(leaves[: int(at)]):
                raise Broken("I9", f"an archived head of {office} is of another log")
            for line in lines.splitlines()[1:]:
                raw = base64.b64decode(line.split(b" ")[2])[4:]
                if len(raw) == 72 and any(_cosigns(key, head + b"\n", raw) for key in keys):
                    cosigned = max(cosigned, int(at))
    if not cosigned:
        raise Broken("I21", f"nobody cosigned the log of {office}")
    theirs = {path.split("/log/", 1)[1]: data for path, data in partner.items() if "/log/" in path}
    published = int(theirs["checkpoint"].split(b"\n")[1])
    for entry in map(json.loads, entries_of(theirs, published)):
        if entry["t"].startswith("wit.") and entry["origin"] == origin:
            if entry["t"] == "wit.refused":
                raise Broken("I21", f"the log of {office} was refused: {entry['code']}")
            if entry["size"] <= size and bytes.fromhex(entry["root"]) != _root(leaves[: entry["size"]]):
                raise Broken("I21", f"the partner of {office} accepted a head that is not of its log")


def _number(path: str) -> int:
    name = path.rpartition("/")[2]
    return int(name) if name.isdigit() else -1


def _cosigns(key: VerifyKey, text: bytes, raw: bytes) -> bool:
    time_s = int.from_bytes(raw[:8], "big")
    try:
        key.verify(b"cosignature/v1\ntime %d\n" % time_s + text, raw[8:])
    except BadSignatureError:
        return False
    return True


WAL_FRAME_HEAD_BYTES = 24  # https://sqlite.org/fileformat2.html#walformat
WAL_PAGES_AFTER_AT = 4  # in a frame's head: 0, or in the last frame of a commit the pages of the database


def _holds_commit(changes: list[tuple[int, bytes | None]]) -> bool:
    """Whether these changes of a journal hold the last frame of a commit, its head and its whole page."""
    heads: dict[int, None] = {}  # where the page of a commit's last frame must follow
    for at, data in changes:
        if data is None:
            heads = {place: None for place in heads if place < at}
        elif len(data) == WAL_FRAME_HEAD_BYTES and struct.unpack_from(">I", data, WAL_PAGES_AFTER_AT)[0]:
            heads[at + WAL_FRAME_HEAD_BYTES] = None
    return any(data is not None and at in heads for at, data in changes)


def entries_of(log: dict[str, bytes], size: int) -> list[bytes]:
    """The entries of a published log, from its bundles. Broken when one is missing or not canonical."""
    entries: list[bytes] = []
    for number in range((size + 255) // 256):
        width = min(256, size - number * 256)
        name = f"tile/entries/{number:03d}"
        data = log.get(name) or log.get(f"{name}.p/{width}")
        if data is None:
            raise Broken("I9", f"bundle {number} of a published log is missing")
        at = 0
        for _ in range(width):
            (length,) = struct.unpack_from(">H", data, at)
            entry = data[at + 2 : at + 2 + length]
            at += 2 + length
            fields = json.loads(entry)
            if (
                json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
                != entry
            ):
                raise Broken("I9", "an entry is not canonical")
            if fields["seq"] != len(entries):
                raise Broken("I9", "an entry has another's number")
            entries.append(entry)
    return entries


def _root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _root(leaves[:split]) + _root(leaves[split:])).digest()


# --- the database, in SQL of its own ----------------------------------------------------------------------

# Each must return no row. I3, I9: what one transaction wrote is there together.
CONTRADICTIONS = {
    "an alert shown without its place in the conversation": (
        "SELECT 1 FROM alert a WHERE incoming = 1 AND NOT EXISTS"
        " (SELECT 1 FROM received r WHERE r.peer = a.peer AND r.hh = a.hh AND r.verdict = 'ok')"
    ),
    "an alert shown without its content": (
        "SELECT 1 FROM alert a WHERE erased_ms IS NULL AND NOT EXISTS"
        " (SELECT 1 FROM vault v WHERE v.alert_id = a.alert_id AND v.incoming = a.incoming)"
    ),
    "a place taken in that no entry tells of": (
        "SELECT 1 FROM received r WHERE verdict NOT IN ('service') AND NOT EXISTS"
        " (SELECT 1 FROM entry_text e WHERE e.text LIKE '%\"hh\":\"' || lower(hex(r.hh)) || '\"%'"
        ' AND e.text LIKE \'%"t":"msg.recv"%\')'
    ),
    "an item sealed that no entry tells of": (
        "SELECT 1 FROM delivery d WHERE service = 0 AND NOT EXISTS"
        " (SELECT 1 FROM entry_text e WHERE e.text LIKE '%\"hh\":\"' || lower(hex(d.hh)) || '\"%'"
        ' AND e.text LIKE \'%"t":"msg.seal"%\')'
    ),
    "an envelope that broke our own code": "SELECT 1 FROM quarantine WHERE verdict = 'poisoned'",
    "two deliveries in one place": (
        "SELECT 1 FROM delivery GROUP BY peer, instance, pair_seq HAVING count(*) > 1"
    ),
    "a number of ours skipped": (
        "SELECT 1 FROM delivery GROUP BY peer, instance"
        " HAVING max(pair_seq) <> count(*) OR min(pair_seq) <> 1"
    ),
}


def contradictions(execute: Any, *, log_began_anew: bool = False) -> list[str]:
    """The names of the contradictions a database holds; ``execute`` runs SQL and returns rows.

    ``log_began_anew``: entries of before stand in another log, so what has none here proves nothing.
    """
    columns = [row[1] for row in execute("PRAGMA table_info(leaf)")]
    body = "entry" if "entry" in columns else columns[-1]
    source = f"(SELECT CAST({body} AS TEXT) AS text FROM leaf)"
    return [
        what
        for what, sql in CONTRADICTIONS.items()
        if not (log_began_anew and "entry_text" in sql) and execute(sql.replace("entry_text", source))
    ]
