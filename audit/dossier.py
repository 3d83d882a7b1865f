"""A dossier: what an office hands to an auditor about some of its alerts, and the check that it is whole.

Spec: docs/spec/dossier.md. A folder: manifest, seal, published log, policy, receipts, evidence, and openings
of the alerts in scope alone, each sealed to the auditor's key. Its signature is the log's: the manifest's
hash stands in an entry of that log, and the seal proves that entry under a signed, cosigned checkpoint.

One rule: keys come from the auditor's policy and key file; the policy in the folder is for people. What is in
scope is judged by the log and not by whoever made the dossier. Does not: read what an opened alert says;
audit/standalone/verify_dossier.py shows that.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.resources import files
from typing import Any, Final, Literal

from audit.entry import INT_LIMIT, decode_entry_untrusted
from audit.fsck import Report, verify
from audit.policy import Policy, open_checkpoint_untrusted
from audit.proof import PROOF_BYTES_MAX, parse_proof_untrusted, verify_proof
from audit.reader import PublishedLog
from audit.receipt import TYPES, event_of, events_of, open_receipt_untrusted, receipt_name
from audit.reconcile import authenticate, reconcile
from audit.report import gather
from audit.report_page import render
from audit.tree import ENTRIES, TILE_WIDTH, split_bundle_untrusted, verify_consistency
from audit.witness import REQUEST_BYTES_MAX, parse_request_untrusted
from keys import labels
from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import XWING_PUBLIC_BYTES, XWING_SEED_BYTES, XWingPrivateKey, labelled_hash, wrap
from keys.secret import SecretBytes

MANIFEST: Final = "manifest.json"
SEAL: Final = "manifest.tlog-proof"
BRIDGE: Final = "manifest.add-checkpoint"
LOG: Final = "log"
POLICY: Final = "policy"
VERIFIER: Final = "verify_dossier.py"
RECEIPTS: Final = "receipts"
OPENINGS: Final = "openings"
EVIDENCE: Final = "evidence"
CUSTODY: Final = "custody.json"
REPORT_PAGE: Final = "report.html"
REPORT_FACTS: Final = "report.json"
UNLISTED: Final = frozenset({MANIFEST, SEAL, BRIDGE})
"""What the manifest cannot hold the hash of: itself, and what proves it."""

PURPOSE: Final = "dossier"
PURPOSE_BEGUN: Final = "dossier-begun"
WHAT: Final = "salween-dossier"
MANIFEST_BYTES_MAX: Final = 256 * 2**20
FILE_BYTES_MAX: Final = 64 * 2**20
OPENING_BYTES_MAX: Final = 256 * 1024
SALT_BYTES: Final = 32
_OPENING_VERSION: Final = 1
_PUBLIC_WORD: Final = "salween-auditor-public-v1"
_SECRET_WORD: Final = "salween-auditor-secret-v1"  # noqa: S105 - the word before it
KEY_FILE_BYTES_MAX: Final = 4096

Way = Literal["sent", "received"]
_WAY_OF: Final[Mapping[str, Way]] = {"msg.submit": "sent", "msg.recv": "received"}
_STATES: Final = frozenset({"opened", "erased", "ended"})
_SCOPE: Final = {"purpose": str, "from_ms": int, "to_ms": int, "peer": str, "alerts": list}
_PATH: Final = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_ORIGIN: Final = re.compile(r"[!-~]+")


def read_verifier() -> bytes:
    """The single-file verifier, as it goes into every dossier."""
    return (files("audit") / "standalone" / VERIFIER).read_bytes()


def report_on(directory: str, policy: Policy, now_us: int) -> tuple[bytes, bytes]:
    """The office's own report on the log in ``directory``: a page, and its facts as JSON.

    It names no place on the office's disk, and nobody has to believe it: an auditor makes another one.
    """
    facts = gather(reconcile([authenticate(directory, [policy])]), [policy], now_us=now_us)
    for log in facts["logs"]:
        log["directory"] = LOG
    return render(facts), json.dumps(facts).encode() + b"\n"


# The auditor's key


def encode_auditor_public(public: bytes) -> str:
    """One line for the office: a word and the X-Wing public key in base64."""
    return f"{_PUBLIC_WORD} {base64.b64encode(public).decode()}\n"


def encode_auditor_secret(seed: SecretBytes) -> str:
    """One line that the auditor keeps."""
    return f"{_SECRET_WORD} {base64.b64encode(seed.reveal()).decode()}\n"


def parse_auditor_public_untrusted(text: str) -> bytes:
    """1,216 bytes; MalformedInput ``bad_auditor_key``. Whether it can be used shows when it is used."""
    return _key_line(text, _PUBLIC_WORD, XWING_PUBLIC_BYTES)


def parse_auditor_secret_untrusted(text: str) -> XWingPrivateKey:
    """The auditor's key out of its file; MalformedInput ``bad_auditor_key``."""
    return XWingPrivateKey.from_seed(SecretBytes(_key_line(text, _SECRET_WORD, XWING_SEED_BYTES)))


def _key_line(text: str, word: str, size: int) -> bytes:
    found, _, encoded = text.strip().partition(" ")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedInput("bad_auditor_key", "the key is not base64") from error
    if found != word or len(key) != size:
        raise MalformedInput("bad_auditor_key", f"not a line '{word} KEY' with a key of {size} bytes")
    return key


# Openings


def _info(public: bytes, alert_id: bytes) -> bytes:
    return labelled_hash(labels.AUDIT_OPENING, public, alert_id)


def seal_opening(public: bytes, alert_id: bytes, salt: bytes, core: bytes, disclosures: bytes) -> bytes:
    """One alert's content for the auditor: HPKE over u8 1 | salt 32 | u32 size of core | core | disclosures.

    VerificationFailed ``public_key_invalid`` for a key that cannot be used.
    """
    plain = bytes([_OPENING_VERSION]) + salt + len(core).to_bytes(4, "big") + core + disclosures
    return wrap(public, plain, _info(public, alert_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What an opening holds: the salt of the commitments, and what they commit to."""

    salt: bytes = field(repr=False)
    core: bytes = field(repr=False)
    disclosures: bytes = field(repr=False)

    @property
    def commitments(self) -> list[str]:
        """As ``com`` of msg.submit and msg.recv holds them."""
        parts = ((b"core", self.core), (b"disclosures", self.disclosures))
        return [labelled_hash(labels.LOG_COMMITMENT, self.salt, name, part).hex() for name, part in parts]


def open_opening_untrusted(key: XWingPrivateKey, alert_id: bytes, data: bytes) -> Opening:
    """Open and take apart. VerificationFailed ``unwrap_failed``; MalformedInput ``bad_opening``, also where
    the core is not that of this alert."""
    plain = key.unwrap(data, _info(key.public_bytes, alert_id))
    head = 1 + SALT_BYTES + 4
    size = int.from_bytes(plain[head - 4 : head], "big")
    if len(plain) < head + size or plain[0] != _OPENING_VERSION:
        raise MalformedInput("bad_opening", "an opening of another form")
    opening = Opening(
        salt=plain[1 : 1 + SALT_BYTES], core=plain[head : head + size], disclosures=plain[head + size :]
    )
    if labelled_hash(labels.CORE, opening.core) != alert_id:
        raise MalformedInput("bad_opening", "the content of another alert")
    return opening


# The scope


@dataclass(slots=True, kw_only=True)
class Beginning:
    """What the log says of one alert that came or went: since when, with whom, under which commitments."""

    index: int
    at_ms: int
    peers: set[str] = field(default_factory=set)
    commitments: set[tuple[str, ...]] = field(default_factory=set)


def beginnings(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[str, Way], Beginning]:
    """By alert id and way, in the order in which they began; ``entries`` in the log's order."""
    found: dict[tuple[str, Way], Beginning] = {}
    for entry in entries:
        if (way := _WAY_OF.get(entry["t"])) is None or event_of(entry) is None or "alert" not in entry:
            continue
        first = Beginning(index=entry["seq"], at_ms=entry["ts"] // 1000)
        began = found.setdefault((entry["alert"], way), first)
        began.peers.add(entry.get("peer", ""))
        began.commitments.add(tuple(entry.get("com", ())))
    return found


def is_in_scope(scope: Mapping[str, Any], alert_id: str, began: Beginning) -> bool:
    """Whether a scope, as the manifest says it, asks for this alert."""
    return (
        scope.get("from_ms", 0) <= began.at_ms < scope.get("to_ms", INT_LIMIT)
        and scope.get("peer", "") in {"", *began.peers}
        and ("alerts" not in scope or alert_id in scope["alerts"])
    )


def scope_digest(scope: Mapping[str, Any]) -> str:
    """What the log says of a dossier before anything is opened for it."""
    return sha256(_dumps(scope)).hexdigest()


# The manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopedAlert:
    """One alert of a dossier. ``state``: opened (its opening is here), erased, or ended: told by a log that
    ended with a restore, in whose entries its commitments are."""

    alert_id: str  # hex
    way: Way
    state: str

    @property
    def opening(self) -> str:
        """Path of its opening."""
        return f"{OPENINGS}/{self.alert_id}-{self.way}.sealed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One file of a dossier."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """All that a dossier is said to hold. ``size`` and ``root`` of the log in it; ``scope`` as asked for."""

    origin: str
    size: int
    root: str
    made_us: int
    auditor: str  # SHA-256 of the auditor's public key
    scope: Mapping[str, Any]
    alerts: Sequence[ScopedAlert]
    files: Sequence[Listed]

    def encode(self) -> bytes:
        """Canonical JSON, as entries are."""
        return _dumps(
            {
                "v": 1,
                "what": WHAT,
                "origin": self.origin,
                "size": self.size,
                "root": self.root,
                "made_us": self.made_us,
                "auditor": self.auditor,
                "scope": self.scope,
                "alerts": [{"alert": a.alert_id, "way": a.way, "state": a.state} for a in self.alerts],
                "files": [{"path": f.path, "bytes": f.size_bytes, "sha256": f.sha256} for f in self.files],
            }
        )


def _dumps(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def parse_manifest_untrusted(data: bytes) -> Manifest:
    """Read a manifest; MalformedInput ``bad_manifest``. Its files are in ascending order, each once, and no
    path leads out of the folder."""
    try:
        value = json.loads(data)
        manifest = Manifest(
            origin=_of(str, value["origin"]),
            size=_of(int, value["size"]),
            root=_of(str, value["root"]),
            made_us=_of(int, value["made_us"]),
            auditor=_of(str, value["auditor"]),
            scope=_of(dict, value["scope"]),
            alerts=tuple(
                ScopedAlert(alert_id=_of(str, a["alert"]), way=a["way"], state=_of(str, a["state"]))
                for a in value["alerts"]
            ),
            files=tuple(
                Listed(
                    path=_of(str, each["path"]),
                    size_bytes=_of(int, each["bytes"]),
                    sha256=_of(str, each["sha256"]),
                )
                for each in value["files"]
            ),
        )
        is_canonical = manifest.encode() == data
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise MalformedInput("bad_manifest", "not the manifest of a dossier") from error
    paths = [each.path for each in manifest.files]
    numbers = (manifest.size, manifest.made_us)
    is_printable = _ORIGIN.fullmatch(manifest.origin) and _HASH.fullmatch(manifest.root)
    is_in_form = is_canonical and is_printable and paths == sorted(set(paths))
    if not is_in_form or not all(0 <= each < INT_LIMIT for each in numbers):
        raise MalformedInput("bad_manifest", "a manifest in another form than it is written in")
    if not all(map(_PATH.fullmatch, paths)):
        raise MalformedInput("bad_manifest", "a path that is none of a dossier")
    named = [(a.alert_id, a.way) for a in manifest.alerts]
    ids = [*manifest.scope.get("alerts", ()), *(alert_id for alert_id, _ in named)]
    if (
        len(named) != len(set(named))
        or not all(isinstance(each, str) and _HASH.fullmatch(each) for each in ids)
        or not {way for _, way in named} <= {*_WAY_OF.values()}
        or not {a.state for a in manifest.alerts} <= _STATES
        or any(type(value) is not _SCOPE.get(key) for key, value in manifest.scope.items())
        or "purpose" not in manifest.scope
    ):
        raise MalformedInput("bad_manifest", "an alert or a scope in another form than it is written in")
    return manifest


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


# The check


@dataclass(slots=True, kw_only=True)
class Checked:
    """What was found in a dossier. ``log`` is the report on its log, None where nothing came that far.

    ``complete_us``: when it was begun by the log, which is up to when nothing in scope may be missing.
    """

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    manifest: Manifest | None = None
    log: Report | None = None
    complete_us: int | None = None
    cosigners: Sequence[str] = ()
    openings: int = 0
    receipts: int = 0


def check_dossier(directory: str, policy: Policy, key: XWingPrivateKey | None) -> Checked:
    """Check a dossier under a policy; without ``key`` openings are counted and not opened.

    FileNotFoundError without a manifest; MalformedInput ``bad_manifest`` for one that cannot be read.
    """
    folder, checked = PublishedLog(directory), Checked()
    data = folder.read(MANIFEST, MANIFEST_BYTES_MAX)
    manifest = parse_manifest_untrusted(data)
    checked.manifest = manifest
    _check_files(folder, manifest, checked)
    _check_seal(folder, manifest, sha256(data).hexdigest(), policy, checked)
    try:
        report = verify(PublishedLog(f"{directory}/{LOG}"), policy)
    except FileNotFoundError:
        checked.findings.append("the log is missing")
        return checked
    checked.log = report
    checked.findings += [f"log: {finding.label}, {finding.detail}" for finding in report.findings]
    if (report.origin, report.size, report.root.hex()) != (manifest.origin, manifest.size, manifest.root):
        checked.findings.append("the log is not the one that the manifest names")
    _check_receipts(folder, manifest, policy, checked)
    _check_alerts(folder, manifest, key, checked)
    return checked


def _check_files(folder: PublishedLog, manifest: Manifest, checked: Checked) -> None:
    listed = {each.path: each for each in manifest.files}
    found = set(folder.walk()) - UNLISTED
    checked.findings += [f"{path!a} is missing" for path in sorted(set(listed) - found)]
    checked.findings += [f"{path!a} is not in the manifest" for path in sorted(found - set(listed))]
    for path in sorted(found & set(listed)):
        try:
            data = folder.read(path, FILE_BYTES_MAX)
        except MalformedInput as error:
            checked.findings.append(f"{path!a}: {error.detail}")
            continue
        if (len(data), sha256(data).hexdigest()) != (listed[path].size_bytes, listed[path].sha256):
            checked.findings.append(f"{path!a} was altered")


def _check_seal(
    folder: PublishedLog, manifest: Manifest, digest: str, policy: Policy, checked: Checked
) -> None:
    """The entry that names the manifest, under a head that goes on from the log here."""
    try:
        proof = parse_proof_untrusted(folder.read(SEAL, PROOF_BYTES_MAX))
        raw = proof.extra or b""
        head = verify_proof(proof, raw, policy)
        entry = decode_entry_untrusted(raw)
        if (entry["t"], entry.get("digest"), entry.get("purpose")) != ("audit.export", digest, PURPOSE):
            raise VerificationFailed("seal_of_another", "it is sealed under another manifest")
        checkpoint = head.checkpoint
        if checkpoint.origin != manifest.origin or not manifest.size <= proof.index == entry["seq"]:
            raise VerificationFailed("seal_of_another", "it is sealed in another log, or before it was made")
        request, offered, _ = parse_request_untrusted(folder.read(BRIDGE, REQUEST_BYTES_MAX))
        open_checkpoint_untrusted(request.note, policy)
        if (request.old_size, offered) != (manifest.size, checkpoint):
            raise VerificationFailed("seal_of_another", "seal and log are joined by another proof")
        root = bytes.fromhex(manifest.root)
        verify_consistency(manifest.size, root, checkpoint.size, checkpoint.root, request.proof)
    except (FileNotFoundError, ValueError) as error:
        checked.findings.append(f"seal: {type(error).__name__}")
    except (MalformedInput, VerificationFailed) as error:
        checked.findings.append(f"seal: {error.detail} ({error.code})")
    else:
        checked.cosigners = tuple(cosigner.name for cosigner in head.cosigners)


def _check_receipts(folder: PublishedLog, manifest: Manifest, policy: Policy, checked: Checked) -> None:
    for each in manifest.files:
        if not each.path.startswith(f"{RECEIPTS}/"):
            continue
        try:
            receipt = open_receipt_untrusted(folder.read(each.path, PROOF_BYTES_MAX), policy)
        except FileNotFoundError:
            continue  # said already
        except (MalformedInput, VerificationFailed) as error:
            checked.findings.append(f"{each.path!a}: {error.detail} ({error.code})")
            continue
        # Which alert it is about says the log: _check_alerts looks for this name there.
        place = f"{receipt.event.value}-{receipt.entry['seq']}.tlog-proof"
        if each.path.endswith(f"-{place}") and receipt.head.checkpoint.origin == manifest.origin:
            checked.receipts += 1
        else:
            checked.findings.append(f"{each.path!a}: the receipt of another entry")


@dataclass(slots=True, kw_only=True)
class _Told:
    """What the log of a dossier says of its alerts."""

    began: dict[tuple[str, Way], Beginning]
    erased: set[str]
    exported: dict[str, int]
    """Index of the last access of each alert that took it out for this purpose."""
    receipts: dict[str, int]
    """Index by name of the file, of every receipt that can be made of alerts in the manifest."""
    announced: Mapping[str, Any] | None
    """The entry that says that this dossier was begun."""


def _read_log(folder: PublishedLog, manifest: Manifest) -> _Told:
    kept, erased, exported = [], set(), {}
    announced, begun = None, (scope_digest(manifest.scope), PURPOSE_BEGUN)
    for entry in _entries(folder, manifest.size):
        if event_of(entry) is not None:
            kept.append(entry)
        if entry["t"] == "content.erased":
            erased.add(entry["alert"])
        elif entry["t"] == "acc.export" and entry["purpose"] == manifest.scope["purpose"]:
            exported[entry["alert"]] = entry["seq"]
        elif entry["t"] == "audit.export" and entry.get("purpose") in (PURPOSE, PURPOSE_BEGUN):
            # One for each dossier: one that was begun long ago says nothing of what came since.
            announced = entry if (entry["digest"], entry["purpose"]) == begun else None
    named = {alert.alert_id for alert in manifest.alerts}
    return _Told(
        began=beginnings(kept),
        erased=erased,
        exported=exported,
        receipts={
            f"{RECEIPTS}/{receipt_name(alert_id, event, entry['seq'])}": entry["seq"]
            for alert_id, event, entry in events_of(kept)
            if alert_id in named
        },
        announced=announced,
    )


def _check_alerts(
    folder: PublishedLog, manifest: Manifest, key: XWingPrivateKey | None, checked: Checked
) -> None:
    """Each alert in scope as the log knows it: its commitments, its erasure, its opening, its receipts."""
    find = checked.findings.append
    told = _read_log(folder, manifest)
    if told.announced is None:
        find("the log does not say that a dossier of this scope was begun")
        return
    begun, checked.complete_us = told.announced["seq"], told.announced["ts"]
    listed = {each.path for each in manifest.files}
    openings = {path for path in listed if path.startswith(f"{OPENINGS}/")}
    expected = {alert.opening for alert in manifest.alerts if alert.state == "opened"}
    receipts = {path for path in listed if path.startswith(f"{RECEIPTS}/")}
    due = {path for path, index in told.receipts.items() if index < begun}
    for path in sorted(openings - expected | receipts - set(told.receipts)):
        find(f"{path!a} belongs to no alert in scope")
    for path in sorted(expected - openings | due - receipts):
        find(f"{path!a} is missing")
    scoped = {(alert.alert_id, alert.way) for alert in manifest.alerts}
    for (alert_id, way), began in told.began.items():
        is_due = began.index < begun and is_in_scope(manifest.scope, alert_id, began)
        if is_due and (alert_id, way) not in scoped:
            find(f"alert {alert_id[:16]} ({way}): in scope, and not in the dossier")
    if key is not None and sha256(key.public_bytes).hexdigest() != manifest.auditor:
        find("the openings are sealed to another key than yours")
        key = None
    for alert in manifest.alerts:
        said = f"alert {alert.alert_id[:16]} ({alert.way})"
        maybe = told.began.get((alert.alert_id, alert.way))
        if maybe is not None and not is_in_scope(manifest.scope, alert.alert_id, maybe):
            find(f"{said}: not in scope")
        if alert.state == "erased" and alert.alert_id not in told.erased:
            find(f"{said}: called erased, and the log has no erasure of it")
        if alert.state == "ended" and maybe is not None:
            find(f"{said}: called one of a log that ended, and it is in this one")
        elif alert.state == "ended":
            checked.notes.append(f"{said}: in a log that ended with a restore; not in this dossier")
        if alert.state == "opened" and maybe is None:
            find(f"{said}: opened, and the log knows no such alert")
        elif alert.state == "opened" and told.exported.get(alert.alert_id, -1) < begun:
            find(f"{said}: opened, and the log does not say so")
        if alert.state == "opened" and key is not None and alert.opening in openings:
            _check_opening(folder, alert, key, set() if maybe is None else maybe.commitments, checked)


def _check_opening(
    folder: PublishedLog,
    alert: ScopedAlert,
    key: XWingPrivateKey,
    commitments: set[tuple[str, ...]],
    checked: Checked,
) -> None:
    try:
        data = folder.read(alert.opening, OPENING_BYTES_MAX)
        opening = open_opening_untrusted(key, bytes.fromhex(alert.alert_id), data)
    except FileNotFoundError:
        return  # said already
    except (MalformedInput, VerificationFailed, ValueError) as error:
        checked.findings.append(f"{alert.opening}: does not open ({getattr(error, 'code', 'bad_opening')})")
        return
    if tuple(opening.commitments) in commitments:
        checked.openings += 1
    else:
        checked.findings.append(f"{alert.opening}: not what the log committed to")


_READ: Final = frozenset({*TYPES, "audit.export"})


def _entries(folder: PublishedLog, size: int) -> Iterator[dict[str, Any]]:
    """Entries of the log that this check is about. Files that cannot be read were found by fsck."""
    log = PublishedLog(f"{folder.root}/{LOG}")
    for n in range(-(-size // TILE_WIDTH)):
        try:
            found = split_bundle_untrusted(log.read_tile(ENTRIES, n, min(TILE_WIDTH, size - n * TILE_WIDTH)))
            entries = [decode_entry_untrusted(raw) for raw in found]
        except (FileNotFoundError, MalformedInput):
            continue
        yield from (entry for entry in entries if entry["t"] in _READ)
