#!/usr/bin/env python3
"""Check a Salween dossier with this file alone: Python 3.11, ``cryptography``, ``PyNaCl``, no Salween.

    python3 verify_dossier.py DOSSIER --policy FILE [--key FILE [--show]]

Written from the specification (docs/spec/dossier.md, log.md, suite.md) and sharing no code with the program
that makes dossiers, so that a mistake in one of them shows in the other. It lies in every dossier, but a
folder cannot vouch for its own verifier: take this file from somewhere you trust.

Exit codes: 0 everything holds, 1 something does not, 2 this is no dossier or an input cannot be read.
"""

import argparse
import base64
import hashlib
import json
import re
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import nacl.exceptions
import nacl.signing
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

PROOF_LINES = ("manifest.json", "manifest.tlog-proof", "manifest.add-checkpoint")
PACKING = (
    b',"code":"due","parts":["content","bodies","envelopes","carried","photos"],"seq":,"t":"content.erased"'
    b'{"actor":\x03,"alert":\x03,"bt":\x01,"k":,"mo":,"prev":,"purpose":"duty","seq":,"t":"acc.read","ts":1'
    b'{"at":1,"bt":\x01,"mo":,"msg":\x02,"peer":\x01,"seq":,"step":"delivered","t":"msg.receipt","ts":1'
    b'{"alert":\x03,"bt":\x01,"com":[\x03,\x03],"erase":1,"exp":1,"kind":"person","mo":,"msg":\x02,"peer":\x01'
    b',"seq":,"t":"msg.submit","ts":1,"urgency":"immediate'
    b'{"alert":\x03,"bt":\x01,"com":[\x03,\x03],"env":\x03,"hh":\x03,"inst":\x01,"mo":,"msg":\x02,"peer":\x01'
    b',"ps":,"seq":,"t":"msg.recv","ts":1,"v":1,"verdict":"ok","via":"broker","z":\x02}'
)


PATH = "(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*"
SCOPE = {"purpose": str, "from_ms": int, "to_ms": int, "peer": str, "alerts": list}
READS = ("acc.read", "acc.print", "acc.export")
STEPS = {"delivered": "delivered", "opened": "read", "erased": "erased"}


class Bad(Exception):
    """Something that does not hold, in words."""


def sha256(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def labelled(label: str, *parts: bytes) -> bytes:
    """H(label, parts): every length before what it counts."""
    name = b"salween/v1/" + label.encode()
    body = bytes([len(name)]) + name + b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return sha256(body)


def unbase64(text: str) -> bytes:
    """Base64 in its one spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Bad("not base64") from error
    if base64.b64encode(data).decode() != text:
        raise Bad("base64 in a second spelling")
    return data


def _no_number(text: str) -> Any:
    raise Bad("a number that is none of a log")


def canonical(data: bytes) -> Any:
    """JSON in the one encoding that the log and the manifest use."""
    try:
        value = json.loads(data, parse_float=_no_number, parse_constant=_no_number)
        again = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    except (ValueError, RecursionError) as error:
        raise Bad("not JSON") from error
    if again != data:
        raise Bad("JSON in another form than it is written in")
    return value


# --- keys and signatures


class Key:
    """One line of a policy: a name, a type (1 log, 4 and 6 witness), a public key."""

    def __init__(self, text: str) -> None:
        name, number, material = text.split("+", 2)
        raw = unbase64(material)
        self.name, self.type, self.public = name, raw[0], raw[1:]
        self.id = sha256(name.encode() + b"\n" + raw)[:4]
        if self.id.hex() != number or self.type not in (1, 4, 6):
            raise Bad(f"the key of {name} is mistyped")

    def verify(self, text: bytes, blob: bytes) -> int | None:
        """When a witness says it signed (POSIX seconds), None for a log; Bad where it does not hold."""
        stamp = None if self.type == 1 else int.from_bytes(blob[:8], "big")
        signature = blob if self.type == 1 else blob[8:]
        try:
            if self.type == 6:
                MLDSA44PublicKey.from_public_bytes(self.public).verify(
                    signature, self._long_message(text, stamp or 0)
                )
            else:
                said = text if stamp is None else b"cosignature/v1\ntime %d\n" % stamp + text
                nacl.signing.VerifyKey(self.public).verify(said, signature)
        except (InvalidSignature, nacl.exceptions.CryptoError, ValueError, TypeError) as error:
            raise Bad(f"the signature of {self.name} does not hold") from error
        return stamp

    def _long_message(self, text: bytes, stamp: int) -> bytes:
        origin, size, root, _ = text.split(b"\n")
        name = self.name.encode()
        who = bytes([len(name)]) + name + struct.pack(">Q", stamp) + bytes([len(origin)]) + origin
        return b"subtree/v1\n\x00" + who + bytes(8) + struct.pack(">Q", int(size)) + unbase64(root.decode())


class Policy:
    """The auditor's file: keys of logs and witnesses, and how many witnesses it takes."""

    def __init__(self, text: str) -> None:
        self.logs: list[Key] = []
        self.witnesses: dict[str, Key] = {}
        self.groups: dict[str, tuple[int, list[str]]] = {}
        self.quorum: str | None = None
        for line in text.splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] == "log" and len(words) in (2, 3):
                self.logs.append(Key(words[1]))
            elif words[0] == "witness" and len(words) in (3, 4):
                self.witnesses[words[1]] = Key(words[2])
            elif words[0] == "group" and len(words) > 3:
                most = len(words) - 3
                needed = {"any": 1, "all": most}.get(words[2]) or int(words[2])
                if not 0 < needed <= most:
                    raise Bad(f"no such threshold: {line}")
                self.groups[words[1]] = (needed, words[3:])
            elif words[0] == "quorum" and len(words) == 2 and self.quorum is None:
                self.quorum = words[1]
            else:
                raise Bad(f"not a line of a policy: {line}")
        if self.quorum is None:
            raise Bad("a policy without a quorum")

    def suffices(self, names: set[str]) -> bool:
        """Whether cosignatures of these witnesses are enough."""
        reached = set(names)
        for name, (needed, members) in self.groups.items():
            if len(reached & set(members)) >= needed:
                reached.add(name)
        return self.quorum == "none" or self.quorum in reached


class Head:
    """A signed checkpoint whose log is in the policy, and which witnesses of it countersigned."""

    def __init__(self, note: bytes, policy: Policy) -> None:
        text, gap, tail = note.rpartition(b"\n\n")
        lines = text.split(b"\n")
        if not gap or len(lines) != 3 or not tail.endswith(b"\n"):
            raise Bad("not a signed checkpoint")
        self.text = text + b"\n"
        self.origin, self.size, self.root = lines[0].decode(), int(lines[1]), unbase64(lines[2].decode())
        if b"%d" % self.size != lines[1] or len(self.root) != 32:
            raise Bad("not a signed checkpoint")
        self.witnesses: dict[str, int] = {}
        is_signed = False
        for line in tail.decode().splitlines():
            mark, name, encoded = line.split(" ")
            raw = unbase64(encoded)
            if mark != "\u2014":
                raise Bad("a signature line of another form")
            for said, key in [("", key) for key in policy.logs] + list(policy.witnesses.items()):
                if (key.name, key.id) == (name, raw[:4]):
                    stamp = key.verify(self.text, raw[4:])
                    if stamp is None:
                        is_signed = is_signed or name == self.origin
                    else:
                        self.witnesses[said] = stamp
        if not is_signed:
            raise Bad(f"no key of the policy signed for {self.origin}")
        self.suffices = policy.suffices(set(self.witnesses))


# --- the tree


def leaf(entry: bytes) -> bytes:
    """RFC 6962 hash of an entry."""
    return sha256(b"\x00" + entry)


def node(left: bytes, right: bytes) -> bytes:
    """RFC 6962 hash of two."""
    return sha256(b"\x01" + left + right)


class Tree:
    """Every complete subtree over a list of leaves, level by level."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.levels = [leaves]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels.append([node(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])

    def root(self, size: int) -> bytes:
        """The root over the first ``size`` leaves."""
        if size == 0:
            return sha256(b"")
        peaks, begin = [], 0
        for level in reversed(range(size.bit_length())):
            if size >> level & 1:
                peaks.append(self.levels[level][begin >> level])
                begin += 1 << level
        found = peaks.pop()
        while peaks:
            found = node(peaks.pop(), found)
        return found


def root_of_path(hashed: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Where an audit path leads (RFC 9162, 2.1.3.2)."""
    at, last = index, size - 1
    if index >= size:
        raise Bad("an entry beyond its tree")
    for other in path:
        if last == 0:
            raise Bad("a path that is too long")
        if at % 2 or at == last:
            hashed = node(other, hashed)
            while at and not at % 2:
                at, last = at // 2, last // 2
        else:
            hashed = node(hashed, other)
        at, last = at // 2, last // 2
    if last:
        raise Bad("a path that is too short")
    return hashed


def check_goes_on(old: int, old_root: bytes, new: int, new_root: bytes, path: list[bytes]) -> None:
    """The tree of ``old`` is the beginning of that of ``new`` (RFC 9162, 2.1.4.2)."""
    wrong = Bad("the seal's log does not go on from the log in the dossier")
    if old == new:
        if path or old_root != new_root:
            raise wrong
        return
    rest = path if old & (old - 1) else [old_root, *path]
    if not rest or not 0 < old < new:
        raise wrong
    at, last = old - 1, new - 1
    while at % 2:
        at, last = at // 2, last // 2
    mine = theirs = rest[0]
    for other in rest[1:]:
        if last == 0:
            raise wrong
        if at % 2 or at == last:
            mine, theirs = node(other, mine), node(other, theirs)
            while at and not at % 2:
                at, last = at // 2, last // 2
        else:
            theirs = node(theirs, other)
        at, last = at // 2, last // 2
    if last or mine != old_root or theirs != new_root:
        raise wrong


class Proof:
    """A C2SP tlog-proof, and the head it leads to once ``entry`` is known."""

    def __init__(self, data: bytes) -> None:
        top, gap, self.note = data.partition(b"\n\n")
        lines = top.decode("ascii").split("\n")
        if not gap or len(lines) < 3 or lines[0] != "c2sp.org/tlog-proof@v1" or lines[1][:6] != "extra ":
            raise Bad("not a proof with an entry")
        self.extra = unbase64(lines[1][6:])
        if re.fullmatch("index (0|[1-9][0-9]{0,15})", lines[2]) is None:
            raise Bad("not a proof with an entry")
        self.index = int(lines[2][6:])
        self.path = [unbase64(line) for line in lines[3:]]
        if any(len(part) != 32 for part in self.path):
            raise Bad("a path of something else than hashes")

    def head(self, entry: bytes, policy: Policy) -> Head:
        """The witnessed head that ``entry`` is under."""
        head = Head(self.note, policy)
        if root_of_path(leaf(entry), self.index, head.size, self.path) != head.root:
            raise Bad("the entry is not where it says")
        if not head.suffices:
            raise Bad("too few countersignatures for the policy")
        return head


def unpack(data: bytes) -> bytes:
    """The entry in the line ``extra`` of a receipt."""
    engine = zlib.decompressobj(-15, PACKING)
    try:
        text = engine.decompress(data, 4097)
    except zlib.error as error:
        raise Bad("a receipt whose entry cannot be unpacked") from error
    rest, entry = engine.unused_data, b""
    for piece in re.split(b"([\x01\x02\x03])", text):
        if len(piece) == 1 and piece[0] in (1, 2, 3):
            size = 4 << piece[0]
            entry, rest, short = (
                entry + b'"' + rest[:size].hex().encode() + b'"',
                rest[size:],
                len(rest) < size,
            )
            if short:
                raise Bad("a receipt whose entry cannot be unpacked")
        else:
            entry += piece
    if rest or not engine.eof:
        raise Bad("a receipt whose entry cannot be unpacked")
    return entry


# --- the dossier


class Dossier:
    """One folder under check. ``findings`` is empty when everything holds."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self.folder, self.policy = folder, policy
        self.findings: list[str] = []
        self.entries: list[dict[str, Any]] = []
        self.commitments: dict[str, list[Any]] = {}
        self.complete_us: int | None = None
        self.receipts = self.openings = 0
        raw = (folder / "manifest.json").read_bytes()
        self.digest = sha256(raw).hex()
        self.manifest = canonical(raw)
        if self.manifest.get("what") != "salween-dossier" or self.manifest.get("v") != 1:
            raise Bad("not the manifest of a dossier of this version")
        self._check_form()
        self.files = {each["path"]: each for each in self.manifest["files"]}
        self.seal: Head | None = None

    def _check_form(self) -> None:
        """Everything that is printed, or followed, as a manifest says it."""
        made = self.manifest
        paths = [each["path"] for each in made["files"]]
        named = [(alert["alert"], alert["way"]) for alert in made["alerts"]]
        hashes = [made["root"], *made["scope"].get("alerts", []), *(alert for alert, _ in named)]
        if (
            paths != sorted(set(paths))
            or not all(re.fullmatch(PATH, path) for path in paths)
            or not all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes)
            or not all(type(made[name]) is int and 0 <= made[name] < 2**53 for name in ("size", "made_us"))
            or re.fullmatch("[!-~]+", made["origin"]) is None
            or len(named) != len(set(named))
            or any(alert["way"] not in ("sent", "received") for alert in made["alerts"])
            or any(alert["state"] not in ("opened", "erased", "ended") for alert in made["alerts"])
            or any(type(value) is not SCOPE.get(name) for name, value in made["scope"].items())
            or "purpose" not in made["scope"]
        ):
            raise Bad("a manifest in another form than it is written in")

    def find(self, words: str) -> None:
        """Something does not hold."""
        self.findings.append(words)

    def check(self) -> None:
        """Everything but the openings."""
        for step in (self._files, self._seal, self._log, self._receipts, self._alerts):
            try:
                step()
            except (Bad, OSError, ValueError, LookupError, TypeError, struct.error) as error:
                self.find(f"{step.__name__[1:]}: {error}")

    def _files(self) -> None:
        there = {
            path.relative_to(self.folder).as_posix(): path
            for path in self.folder.rglob("*")
            if path.is_symlink() or not path.is_dir()
        }
        for name in PROOF_LINES:
            there.pop(name, None)
        for name in sorted(set(there) ^ set(self.files)):
            self.find(f"{name!a} is {'missing' if name in self.files else 'not in the manifest'}")
        for name in sorted(set(there) & set(self.files)):
            said = self.files[name]
            data = there[name].read_bytes() if there[name].is_file() else b""
            if (len(data), sha256(data).hex()) != (said["bytes"], said["sha256"]):
                self.find(f"{name!a} was altered")

    def _seal(self) -> None:
        proof = Proof((self.folder / "manifest.tlog-proof").read_bytes())
        head = proof.head(proof.extra, self.policy)
        entry = canonical(proof.extra)
        said = (entry["t"], entry["digest"], entry["purpose"], entry["seq"])
        if said != ("audit.export", self.digest, "dossier", proof.index):
            raise Bad("it is the seal of another manifest")
        size, root = self.manifest["size"], bytes.fromhex(self.manifest["root"])
        if head.origin != self.manifest["origin"] or proof.index < size:
            raise Bad("it is the seal of another log")
        top, _, note = (self.folder / "manifest.add-checkpoint").read_bytes().partition(b"\n\n")
        first, *lines = top.decode("ascii").split("\n")
        offered = Head(note, self.policy)
        if first != f"old {size}" or offered.text != head.text:
            raise Bad("seal and log are joined by another proof")
        check_goes_on(size, root, head.size, head.root, [unbase64(line) for line in lines])
        self.seal = head

    def _log(self) -> None:
        log = self.folder / "log"
        head = Head((log / "checkpoint").read_bytes(), self.policy)
        said = (self.manifest["origin"], self.manifest["size"], self.manifest["root"])
        if (head.origin, head.size, head.root.hex()) != said:
            raise Bad("the log is not the one that the manifest names")
        if not head.suffices:
            self.find("log: too few countersignatures under its newest checkpoint")
        raw = self._read_entries(log, head.size)
        tree = Tree([leaf(entry) for entry in raw])
        if tree.root(head.size) != head.root:
            raise Bad("the entries do not lead to the signed root")
        for path in sorted((log / "archive").glob("*")):
            old = Head(path.read_bytes(), self.policy)
            if old.origin != head.origin or str(old.size) != path.name:
                self.find(f"log: archive/{path.name} is another checkpoint")
            elif old.size <= head.size and tree.root(old.size) != old.root:
                self.find(f"log: the checkpoint of {old.size} entries was another tree")
        self._tiles(log, tree, head.size)
        last_us, may_fall_to = 0, 0
        for index, entry in enumerate(map(canonical, raw)):
            if entry["seq"] != index or entry["v"] != 1:
                self.find(f"log: entry {index} names another place")
            if entry["ts"] < last_us and not (may_fall_to and entry["ts"] >= may_fall_to):
                self.find(f"log: entry {index} goes back in time")
            last_us, may_fall_to = entry["ts"], entry["to"] if entry["t"] == "clk.step" else 0
            self.entries.append(entry)

    def _read_entries(self, log: Path, size: int) -> list[bytes]:
        found: list[bytes] = []
        for n in range(-(-size // 256)):
            width = min(256, size - 256 * n)
            exact = log / tile_name("entries", n, width)
            whole = log / tile_name("entries", n, 256)
            data = (exact if exact.exists() else whole).read_bytes()
            entries = []
            while data:
                length = int.from_bytes(data[:2], "big")
                if len(data) < 2 + length:
                    raise Bad(f"entry bundle {n} is cut short")
                entries.append(data[2 : 2 + length])
                data = data[2 + length :]
            if len(entries) < width:
                raise Bad(f"entry bundle {n} is cut short")
            found += entries[:width]
        return found

    def _tiles(self, log: Path, tree: Tree, size: int) -> None:
        """Every tile that the tree needs, and every other one that lies there."""
        for level in range(8):
            hashes = tree.levels[8 * level] if 8 * level < len(tree.levels) else []
            hashes = hashes[: size >> (8 * level)]
            for n in range(-(-len(hashes) // 256)):
                row = hashes[256 * n : 256 * (n + 1)]
                names = {tile_name(str(level), n, width): width for width in {len(row), 256}}
                kept = [(name, width) for name, width in names.items() if (log / name).exists()]
                if not kept:
                    self.find(f"log: tile {level}/{n} is missing")
                for name, width in kept:
                    data = (log / name).read_bytes()
                    if len(data) != 32 * width or data[: 32 * len(row)] != b"".join(row):
                        self.find(f"log: {name} is not of this tree")

    def _receipts(self) -> None:
        for name in sorted(self.files):
            if not name.startswith("receipts/"):
                continue
            try:
                proof = Proof((self.folder / name).read_bytes())
                raw = unpack(proof.extra)
                head = proof.head(raw, self.policy)
                entry = canonical(raw)
                if entry["seq"] != proof.index or head.origin != self.manifest["origin"]:
                    raise Bad("its entry names another place")
                if not name.endswith(f"-{event_of(entry)}-{proof.index}.tlog-proof"):
                    raise Bad("it is of another entry than its name says")
                self.receipts += 1
            except (Bad, OSError, ValueError, LookupError) as error:
                self.find(f"{name}: {error}")

    def _alerts(self) -> None:
        """Each alert against the log: in scope or not, opened, erased, and the receipts of it."""
        scope, made = self.manifest["scope"], self.manifest["alerts"]
        begins, receipts = self._events({alert["alert"] for alert in made})
        self.commitments = {
            opening_name(alert): [each.get("com") for each in begins.get((alert["alert"], alert["way"]), [])]
            for alert in made
        }
        erased = {entry["alert"] for entry in self.entries if entry["t"] == "content.erased"}
        taken = {
            entry["alert"]: entry["seq"]
            for entry in self.entries
            if entry["t"] == "acc.export" and entry["purpose"] == scope["purpose"]
        }
        digest = sha256(json.dumps(scope, sort_keys=True, separators=(",", ":")).encode()).hex()
        said = [
            (entry["purpose"], entry["digest"], entry["seq"], entry["ts"])
            for entry in self.entries
            if entry["t"] == "audit.export" and entry.get("purpose") in ("dossier", "dossier-begun")
        ]
        if not said or said[-1][:2] != ("dossier-begun", digest):
            raise Bad("the log does not say that a dossier of this scope was begun")
        begun, self.complete_us = said[-1][2:]
        listed = {(alert["alert"], alert["way"]) for alert in made}
        for (name, way), entries in begins.items():
            if entries[0]["seq"] < begun and in_scope(scope, entries) and (name, way) not in listed:
                self.find(f"alert {name[:16]} ({way}): in scope, and not in the dossier")
        for alert in made:
            words = f"alert {alert['alert'][:16]} ({alert['way']})"
            entries = begins.get((alert["alert"], alert["way"]), [])
            if entries and not in_scope(scope, entries):
                self.find(f"{words}: not in scope")
            if entries and alert["state"] == "ended":
                self.find(f"{words}: called one of a log that ended, and it is in this one")
            if alert["state"] == "erased" and alert["alert"] not in erased:
                self.find(f"{words}: called erased, and the log has no erasure of it")
            if alert["state"] == "opened" and not entries:
                self.find(f"{words}: opened, and the log knows no such alert")
            elif alert["state"] == "opened" and taken.get(alert["alert"], -1) < begun:
                self.find(f"{words}: opened, and the log does not say so")
        openings = {opening_name(alert) for alert in made if alert["state"] == "opened"}
        due = openings | {name for name, index in receipts.items() if index < begun}
        there = {name for name in self.files if name.startswith(("openings/", "receipts/"))}
        for name in sorted(due - there):
            self.find(f"{name} is missing")
        for name in sorted(there - openings - set(receipts)):
            self.find(f"{name} is of no alert in scope")

    def _events(self, named: set[str]) -> tuple[dict[Any, list[dict[str, Any]]], dict[str, int]]:
        """Entries that an alert begins with, by id and way; receipts of ``named`` by file, with the index."""
        begins: dict[Any, list[dict[str, Any]]] = {}
        receipts: dict[str, int] = {}
        alert_of: dict[tuple[str, str], str] = {}
        for entry in self.entries:
            event, message = event_of(entry), (entry.get("msg", ""), entry.get("peer", ""))
            alert = entry.get("alert", alert_of.get(message))
            if event is None or alert is None:
                continue
            if entry["t"] in ("msg.submit", "msg.recv"):
                way = "sent" if entry["t"] == "msg.submit" else "received"
                begins.setdefault((alert, way), []).append(entry)
                alert_of.setdefault(message, alert)
            if alert in named:
                receipts[f"receipts/{alert}-{event}-{entry['seq']}.tlog-proof"] = entry["seq"]
        return begins, receipts

    def open(self, seed: bytes) -> list[tuple[dict[str, Any], Any, Any]]:
        """Each opening with the auditor's key: the alert, its core and its disclosures."""
        expanded = hashlib.shake_256(seed).digest(96)
        kem, curve = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), expanded[64:]
        dh = X25519PrivateKey.from_private_bytes(curve)
        public = kem.public_key().public_bytes_raw() + dh.public_key().public_bytes_raw()
        suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
        secret = hpke.MLKEM768X25519PrivateKey(kem, dh)
        if sha256(public).hex() != self.manifest["auditor"]:
            self.find("the openings are sealed to another key than yours")
            return []
        opened = []
        for alert in self.manifest["alerts"]:
            if alert["state"] != "opened" or opening_name(alert) not in self.files:
                continue
            try:
                name = bytes.fromhex(alert["alert"])
                info = labelled("audit-opening", public, name)
                sealed = (self.folder / opening_name(alert)).read_bytes()
                try:
                    plain = suite.decrypt(sealed, secret, info)
                except (InvalidTag, ValueError) as error:
                    raise Bad("it does not open") from error
                salt, size = plain[1:33], int.from_bytes(plain[33:37], "big")
                core, disclosures = plain[37 : 37 + size], plain[37 + size :]
                pair = [
                    labelled("log-commitment", salt, part, data).hex()
                    for part, data in ((b"core", core), (b"disclosures", disclosures))
                ]
                if plain[:1] != b"\x01" or labelled("core", core) != name:
                    raise Bad("it holds another alert")
                if pair not in self.commitments.get(opening_name(alert), []):
                    raise Bad("it is not what the log committed to")
                opened.append((alert, MessagePack(core).read(), MessagePack(disclosures).read()))
                self.openings += 1
            except (Bad, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
                self.find(f"{opening_name(alert)}: {error}")
        return opened


def event_of(entry: dict[str, Any]) -> str | None:
    """What an entry says happened to an alert."""
    kind = entry["t"]
    if kind == "msg.receipt":
        return STEPS.get(entry["step"])
    if kind == "msg.recv":
        return "delivered" if entry["verdict"] == "ok" and "alert" in entry else None
    if kind == "msg.submit":
        return "submitted"
    return "read" if kind in READS else "erased" if kind == "content.erased" else None


def in_scope(scope: dict[str, Any], entries: list[dict[str, Any]]) -> bool:
    """Whether a scope asks for the alert that begins with these entries."""
    at_ms = entries[0]["ts"] // 1000
    return (
        scope.get("from_ms", 0) <= at_ms < scope.get("to_ms", 2**53)
        and ("peer" not in scope or scope["peer"] in [entry.get("peer") for entry in entries])
        and ("alerts" not in scope or entries[0]["alert"] in scope["alerts"])
    )


def when(seconds: int) -> str:
    """UTC, or the number where it is no time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def opening_name(alert: dict[str, Any]) -> str:
    """Where the opening of an alert is."""
    return f"openings/{alert['alert']}-{alert['way']}.sealed"


def tile_name(level: str, n: int, width: int) -> str:
    """Where C2SP tlog-tiles puts a tile."""
    digits = f"{n % 1000:03d}"
    while n >= 1000:
        n //= 1000
        digits = f"x{n % 1000:03d}/{digits}"
    return f"tile/{level}/{digits}" + (f".p/{width}" if width < 256 else "")


class MessagePack:
    """Reads the msgpack that alerts are written in: nil, booleans, integers, text, bytes, lists, maps."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def _take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) < count:
            raise Bad("content that is cut short")
        self.at += count
        return piece

    def _count(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def read(self) -> Any:
        """The next value."""
        tag = self._take(1)[0]
        simple = {0xC0: None, 0xC2: False, 0xC3: True}
        if tag in simple:
            return simple[tag]
        if tag < 0x80:
            return tag
        if tag >= 0xE0:
            return tag - 256
        if 0xCC <= tag <= 0xCF:
            return self._count(1 << tag - 0xCC)
        if 0xD0 <= tag <= 0xD3:
            size = 1 << tag - 0xD0
            return int.from_bytes(self._take(size), "big", signed=True)
        if tag < 0x90 or tag in (0xDE, 0xDF):
            count = tag - 0x80 if tag < 0x90 else self._count(2 << tag - 0xDE)
            return {self.read(): self.read() for _ in range(count)}
        if tag < 0xA0 or tag in (0xDC, 0xDD):
            count = tag - 0x90 if tag < 0xA0 else self._count(2 << tag - 0xDC)
            return [self.read() for _ in range(count)]
        if tag < 0xC0 or 0xD9 <= tag <= 0xDB:
            return self._take(tag - 0xA0 if tag < 0xC0 else self._count(1 << tag - 0xD9)).decode()
        if 0xC4 <= tag <= 0xC6:
            return self._take(self._count(1 << tag - 0xC4))
        raise Bad("content of another form")


def readable(value: Any) -> Any:
    """Bytes as hex, so that JSON can show them."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): readable(item) for key, item in value.items()}
    return [readable(item) for item in value] if isinstance(value, list) else value


def read_seed(path: str) -> bytes:
    """The auditor's key file."""
    word, _, encoded = Path(path).read_text().strip().partition(" ")
    seed = unbase64(encoded)
    if word != "salween-auditor-secret-v1" or len(seed) != 32:
        raise Bad("not an auditor's key file")
    return seed


def main() -> int:
    """Check what the command line names, and say it."""
    parser = argparse.ArgumentParser(description="Check a Salween dossier.")
    parser.add_argument("dossier", type=Path)
    parser.add_argument("--policy", required=True, help="tlog-policy file with the keys that you trust")
    parser.add_argument("--key", help="your key file, to check the openings")
    parser.add_argument("--show", action="store_true", help="print what the openings say, as JSON lines")
    given = parser.parse_args()
    try:
        policy = Policy(Path(given.policy).read_text())
        seed = None if given.key is None else read_seed(given.key)
        dossier = Dossier(given.dossier, policy)
    except (Bad, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        sys.stderr.write(f"cannot read the input: {error}\n")
        return 2
    dossier.check()
    opened = [] if seed is None else dossier.open(seed)
    manifest = dossier.manifest
    say = sys.stdout.write
    if given.show:
        for alert, core, disclosures in opened:
            say(json.dumps(readable({**alert, "core": core, "disclosures": disclosures})) + "\n")
    states = [alert["state"] for alert in manifest["alerts"]]
    say(f"dossier of   {manifest['origin']}, made {when(manifest['made_us'] // 1_000_000)}\n")
    say(f"manifest     {dossier.digest}\n")
    until = "no known time" if dossier.complete_us is None else when(dossier.complete_us // 1_000_000)
    say(f"scope        {json.dumps(manifest['scope'])}, complete up to {until}\n")
    say(f"alerts       {states.count('opened')} opened, {states.count('erased')} erased, ")
    say(f"{states.count('ended')} in a log that ended\n")
    say(f"log          {manifest['size']} entries, root {manifest['root']}\n")
    say(f"files        {len(dossier.files)}; receipts that hold {dossier.receipts}\n")
    say(f"openings     {f'{dossier.openings} hold' if seed is not None else 'not opened: no --key'}\n")
    for name, stamp in sorted(dossier.seal.witnesses.items()) if dossier.seal else ():
        say(f"witness      {name}, {when(stamp)}\n")
    if dossier.seal is not None and not dossier.seal.witnesses:
        say("witness      none of the policy: the seal is the office's own signature alone\n")
    for finding in dossier.findings:
        say(f"FINDING      {finding}\n")
    say("DOES NOT HOLD\n" if dossier.findings else "HOLDS\n")
    return 1 if dossier.findings else 0


if __name__ == "__main__":
    sys.exit(main())
