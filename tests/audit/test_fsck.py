"""What an auditor is told: every way to alter a published log, and the verdict that names it."""

import json
import os
import random
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from audit import fsck
from audit.entry import decode_entry_untrusted
from audit.fsck import FINDINGS_MAX, Report, Verdict, verify
from audit.note import NoteSigner
from audit.policy import Policy, parse_policy_untrusted, single_log_policy
from audit.reader import PublishedLog
from audit.tree import ENTRIES, encode_bundle, leaf_hash, split_bundle_untrusted, tile_path
from keys.errors import MalformedInput
from tests.audit.logs import (
    a_policy,
    a_signer,
    files_of,
    flip,
    forge,
    is_needed,
    publish_at,
    put,
    read_entries,
)

SIZE = 600
HISTORY = (1, 250, 256, 257, 520, SIZE)
WITNESS = a_signer("test/b7/witness1", b"\x03")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 600 entries, published six times."""
    return publish_at(tmp_path_factory.mktemp("honest") / "office", HISTORY)


@pytest.fixture
def log(honest: Path, tmp_path: Path) -> Path:
    """A copy of the honest log, to be altered."""
    return Path(shutil.copytree(honest, tmp_path / "log"))


def checked(directory: Path, policy: Policy | None = None, **more: Any) -> Report:
    return verify(PublishedLog(str(directory)), policy or a_policy(), **more)


def rewritten(entry: bytes, **fields: object) -> bytes:
    """An entry with fields changed, in canonical form."""
    return json.dumps(json.loads(entry) | fields, sort_keys=True, separators=(",", ":")).encode()


def forged(tmp_path: Path, entries: Sequence[bytes], signer: NoteSigner | None = None) -> Path:
    """A signed log of these entries, consistent in itself."""
    return forge(tmp_path / "forged", list(entries), signer or a_signer())


def test_an_honest_log_is_verified_and_says_up_to_where(honest: Path) -> None:
    """Size, root, times, checkpoints, types; progress reaches the end."""
    seen: list[int] = []
    report = checked(honest, progress=seen.append)
    assert (report.verdicts, report.findings, report.notes) == (["VERIFIED"], [], [])
    assert (report.size, report.verified_size, report.witnessed_size) == (SIZE, SIZE, SIZE)
    assert report.checkpoints == len(HISTORY)
    assert report.types == {"log.start": 1, "bk.in": SIZE - 1}
    assert report.first_ts_us is not None
    assert report.last_ts_us is not None
    assert report.first_ts_us <= report.last_ts_us
    assert seen[-1] == SIZE


def entry_at(bundle: bytes, offset: int) -> int | None:
    """Which entry of a bundle holds this byte; None for a length."""
    begin = 0
    for number, entry in enumerate(split_bundle_untrusted(bundle)):
        begin += 2 + len(entry)
        if offset < begin:
            return number if offset >= begin - len(entry) else None
    raise AssertionError("beyond the bundle")


def test_one_flipped_bit_anywhere_is_found_at_its_place(honest: Path, log: Path) -> None:
    """Four bits of every file; for entries and leaf hashes the number is the entry's own."""
    pick = random.Random(7)
    for path in files_of(log):
        name = path.relative_to(log).as_posix()
        good = path.read_bytes()
        for bit in {0, len(good) * 8 - 1, pick.randrange(len(good) * 8), pick.randrange(len(good) * 8)}:
            flip(path, bit)
            report = checked(log)
            assert report.findings, f"bit {bit} of {name}"
            if name.startswith("tile/0/"):
                n = int(name.split("/")[2][:3])
                assert report.findings[0].label == f"CORRUPT({n * 256 + bit // 256})", name
            elif name.startswith("tile/entries/"):
                n, at = int(name.split("/")[2][:3]), entry_at(good, bit // 8)
                # A copy from an earlier checkpoint is compared as a whole, a length loses the whole bundle.
                exact = at is not None and name == tile_path(ENTRIES, n, min(256, SIZE - n * 256))
                expected = n * 256 + (at or 0) if exact else n * 256
                assert report.findings[0].label == f"CORRUPT({expected})", name
            path.write_bytes(good)
    assert checked(log).verdicts == ["VERIFIED"]
    assert [p.read_bytes() for p in files_of(log)] == [p.read_bytes() for p in files_of(honest)]


def test_an_altered_entry_is_named_and_does_not_look_like_a_fork(log: Path) -> None:
    """One entry of a full bundle changed:

    One finding with its index; the tiles say that the rest is sound.
    """
    bundle = log / tile_path(ENTRIES, 1)
    entries = split_bundle_untrusted(bundle.read_bytes())
    entries[3] = rewritten(entries[3], bucket=4096)
    bundle.write_bytes(encode_bundle(entries))
    report = checked(log)
    assert report.verdicts == ["CORRUPT(259)"]
    assert report.verified_size == SIZE


def test_a_missing_file_of_the_tail_is_truncation_and_of_the_middle_corruption(log: Path) -> None:
    """Cut at the end: TRUNCATED. A piece out of the middle: CORRUPT with the first missing entry."""
    for level in (0, ENTRIES):
        (log / tile_path(level, 2, SIZE - 512)).unlink()
    for stale in (log / "tile").rglob("002.p/*"):
        stale.unlink()
    report = checked(log)
    assert report.verdicts == ["TRUNCATED"]
    assert report.findings[0].number == 512
    assert report.verified_size == 257
    for level in (0, ENTRIES):
        (log / tile_path(level, 0)).unlink()
    assert checked(log).verdicts == ["CORRUPT(0)"]


def test_every_needed_file_is_needed(log: Path) -> None:
    """Removing any one of them, or its last byte, is found; or there is no checkpoint to begin with."""
    for path in [p for p in files_of(log) if is_needed(log, p, SIZE)]:
        good = path.read_bytes()
        path.write_bytes(good[:-1])
        assert checked(log).findings, path
        path.unlink()
        if path.name == "checkpoint":
            with pytest.raises(FileNotFoundError):
                checked(log)
        else:
            assert checked(log).findings, path
        path.write_bytes(good)


def test_a_rewritten_log_leaves_the_archive_behind(log: Path, tmp_path: Path) -> None:
    """Rewrite and sign again:

    FORKED at every checkpoint from the changed entry on, also without its archive.
    """
    entries = read_entries(log, SIZE)
    entries[300] = rewritten(entries[300], bucket=77)
    directory = forged(tmp_path, entries)
    shutil.copytree(log / "archive", directory / "archive")
    report = checked(directory)
    assert report.verdicts == ["FORKED"]
    assert [finding.number for finding in report.findings] == [600, 520]
    alone = checked(
        forge(tmp_path / "alone", entries, a_signer()), known=[(log / "archive/520").read_bytes()]
    )
    assert alone.verdicts == ["FORKED"]


def test_removing_renumbering_and_signing_again_is_a_fork(log: Path, tmp_path: Path) -> None:
    """The cleverest rewrite still cannot keep the roots that others hold."""
    entries = [e for n, e in enumerate(read_entries(log, SIZE)) if n != 100]
    directory = forged(tmp_path, [rewritten(entry, seq=n) for n, entry in enumerate(entries)])
    assert checked(directory).verdicts == ["VERIFIED"]
    known = [(log / "archive/257").read_bytes()]
    assert checked(directory, known=known).verdicts == ["FORKED"]


def test_a_known_longer_checkpoint_shows_a_cut(log: Path, tmp_path: Path) -> None:
    """An old genuine log put back is sound in itself; whoever holds a newer checkpoint sees the cut."""
    directory = forged(tmp_path, read_entries(log, SIZE)[:520])
    assert checked(directory).verdicts == ["VERIFIED"]
    report = checked(directory, known=[(log / "checkpoint").read_bytes()])
    assert report.verdicts == ["TRUNCATED"]
    assert checked(log, known=[(directory / "checkpoint").read_bytes()]).verdicts == ["VERIFIED"]


def test_known_checkpoints_must_be_this_logs(log: Path, tmp_path: Path) -> None:
    """What the auditor brings must itself be a checkpoint of this log, or the input is wrong."""
    other = a_signer("test/other/log1", b"\x09")
    foreign = forge(tmp_path / "other", [b"x"], other) / "checkpoint"
    both = Policy(logs=(a_signer().log_key, other.log_key), witnesses={}, groups={}, quorum="none")
    for known, policy in ((b"junk", None), (foreign.read_bytes(), None), (foreign.read_bytes(), both)):
        with pytest.raises(MalformedInput):
            checked(log, policy, known=[known])


def test_an_old_checkpoint_put_back_beside_a_newer_archive(log: Path) -> None:
    """One newer archived checkpoint is an interrupted publication; several are a rollback."""
    shutil.copy(log / "archive/520", log / "checkpoint")
    report = checked(log)
    assert (report.verdicts, report.size) == (["VERIFIED"], SIZE)
    assert "interrupted" in report.notes[0]
    shutil.copy(log / "archive/257", log / "checkpoint")
    assert checked(log).verdicts == ["ROLLED-BACK"]


def test_keys_come_from_the_policy_alone(log: Path) -> None:
    """No policy, another log's key, another key of the same name: UNKNOWN-KEY, and nothing else is said."""
    for policy in (
        Policy(logs=(), witnesses={}, groups={}, quorum="none"),
        single_log_policy(a_signer("test/other/log1", b"\x09").log_key),
        single_log_policy(a_signer(seed=b"\x09").log_key),
    ):
        report = checked(log, policy)
        assert (report.verdicts, report.size, report.origin) == (["UNKNOWN-KEY"], 0, "")


def test_a_checkpoint_signature_that_does_not_hold(log: Path) -> None:
    """The known key's line with an altered size: BAD-SIGNATURE; the archive still says what was signed."""
    checkpoint = log / "checkpoint"
    checkpoint.write_bytes(checkpoint.read_bytes().replace(b"\n600\n", b"\n601\n"))
    report = checked(log)
    assert report.verdicts == ["BAD-SIGNATURE"]
    assert (report.size, report.verified_size) == (SIZE, SIZE)
    checkpoint.write_bytes(b"nothing")
    assert checked(log).verdicts == ["CORRUPT"]
    shutil.rmtree(log / "archive")
    assert (checked(log).verdicts, checked(log).size) == (["CORRUPT"], 0)


def test_archived_files_are_what_their_names_say(log: Path, tmp_path: Path) -> None:
    """A checkpoint under another name, of another log, or no checkpoint at all in the archive."""
    shutil.copy(log / "archive/257", log / "archive/300")
    assert checked(log).verdicts == ["CORRUPT"]
    (log / "archive/300").write_bytes(b"nothing")
    assert checked(log).verdicts == ["CORRUPT"]
    other = a_signer("test/other/log1", b"\x09")
    shutil.copy(forge(tmp_path / "other", [b"x"], other) / "checkpoint", log / "archive/300")
    both = Policy(logs=(a_signer().log_key, other.log_key), witnesses={}, groups={}, quorum="none")
    assert checked(log, both).verdicts == ["CORRUPT"]


def test_two_roots_signed_for_one_size_are_a_fork(log: Path, tmp_path: Path) -> None:
    """Whatever the entries say, a key that signed two histories is caught by the pair of notes."""
    entries = read_entries(log, SIZE)
    other = forge(tmp_path / "other", [*entries[:-1], rewritten(entries[-1], bucket=1)], a_signer())
    assert checked(log, known=[(other / "checkpoint").read_bytes()]).verdicts == ["FORKED"]


# Entries that are in the tree but should not be


@pytest.mark.parametrize(
    ("index", "change", "verdict"),
    [
        (300, {"seq": 301}, "MALFORMED-ENTRY(300)"),
        (300, {"box": "a name"}, "MALFORMED-ENTRY(300)"),
        (300, {"free": "text"}, "MALFORMED-ENTRY(300)"),
        (300, {"t": "bk.out", "bucket": 1.5}, "MALFORMED-ENTRY(300)"),
        (0, {"origin": "test/other/log1"}, "MALFORMED-ENTRY(0)"),
        (300, {"ts": 5}, "CLOCK-SUSPECT"),
        (256, {"ts": 5}, "CLOCK-SUSPECT"),
        (100, {"ts": 2**52}, "CLOCK-SUSPECT"),
    ],
)
def test_a_signed_entry_that_breaks_a_rule_is_named(
    honest: Path, tmp_path: Path, index: int, change: dict[str, Any], verdict: str
) -> None:
    """The log's owner can sign anything; the rules of entries still hold it to its own account."""
    entries = read_entries(honest, SIZE)
    entries[index] = rewritten(entries[index], **change)
    report = checked(forged(tmp_path, entries))
    assert report.verdicts == [verdict]
    assert report.verified_size == SIZE


def test_swapped_and_repeated_entries_signed_again_are_named(honest: Path, tmp_path: Path) -> None:
    """An entry knows its own number, so neither order nor repetition can be signed away."""
    entries = read_entries(honest, SIZE)
    entries[10], entries[11] = entries[11], entries[10]
    entries[20] = entries[19]
    report = checked(forged(tmp_path, entries))
    assert {"MALFORMED-ENTRY(10)", "MALFORMED-ENTRY(11)", "MALFORMED-ENTRY(20)"} <= set(report.verdicts)


def test_a_log_begins_with_its_start_and_starts_once(honest: Path, tmp_path: Path) -> None:
    """Entry 0 is log.start, and no other is."""
    entries = read_entries(honest, SIZE)
    headless = [rewritten(entry, seq=n) for n, entry in enumerate(entries[1:])]
    assert checked(forged(tmp_path / "a", headless)).verdicts == ["MALFORMED-ENTRY(0)"]
    twice = [*entries, rewritten(entries[0], seq=SIZE, ts=json.loads(entries[-1])["ts"])]
    assert checked(forged(tmp_path / "b", twice)).verdicts == [f"MALFORMED-ENTRY({SIZE})"]


@pytest.mark.parametrize("index", [255, 256, 300, 8191, 8192])
def test_time_may_fall_only_right_after_a_declared_step(honest: Path, tmp_path: Path, index: int) -> None:
    """clk.step {from, to} carries the old time and lets the next entry be as early as ``to``, no earlier."""
    entries = read_entries(honest, SIZE)
    start = json.loads(entries[0])["ts"]
    made = [entries[0], *(rewritten(entries[1], seq=n, ts=start + n) for n in range(1, index + 3))]
    plain = decode_entry_untrusted(made[index])
    for key in ("env", "box", "bucket"):
        del plain[key]

    def with_step(back_to: int, lands_at: int, stamped: int = start + index) -> Report:
        step = plain | {"t": "clk.step", "from": start + index, "to": back_to, "ts": stamped}
        tail = [rewritten(entry, ts=lands_at) for entry in made[index + 1 :]]
        entries = [*made[:index], json.dumps(step, sort_keys=True, separators=(",", ":")).encode(), *tail]
        return checked(forge(tmp_path / f"{back_to}-{lands_at}-{stamped}", entries, a_signer()))

    assert with_step(100, 100).verdicts == ["VERIFIED"]
    assert with_step(100, start + 10**9).verdicts == ["VERIFIED"]
    assert with_step(100, 99).verdicts == ["CLOCK-SUSPECT"]
    assert with_step(100, 100, stamped=start + index + 1).verdicts == [f"MALFORMED-ENTRY({index})"]


def accesses(honest: Path, tmp_path: Path, chain: Sequence[tuple[str, int, int | None]]) -> Report:
    """A log whose entries 1.. are accesses (alert, k, prev)."""
    entries = read_entries(honest, SIZE)[:2]
    common = {key: json.loads(entries[1])[key] for key in ("v", "bt", "mo", "z", "ts")}
    made = [entries[0]]
    for index, (alert, count, previous) in enumerate(chain, start=1):
        entry = common | {"t": "acc.read", "seq": index, "alert": alert * 64, "actor": "ee" * 16}
        entry |= {"purpose": "duty", "k": count} | ({} if previous is None else {"prev": previous})
        made.append(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode())
    return checked(forged(tmp_path, made))


def test_accesses_to_an_alert_form_a_chain(honest: Path, tmp_path: Path) -> None:
    """Each names the one before and counts on by one, for every alert by itself."""
    good = [("a", 1, None), ("a", 2, 1), ("b", 1, None), ("a", 3, 2), ("b", 2, 3)]
    assert accesses(honest, tmp_path, good).verdicts == ["VERIFIED"]


@pytest.mark.parametrize(
    ("chain", "index"),
    [
        ([("a", 2, None)], 1),
        ([("a", 1, 0)], 1),
        ([("a", 1, None), ("a", 2, None)], 2),
        ([("a", 1, None), ("a", 3, 1)], 2),
        ([("a", 1, None), ("a", 2, 1), ("a", 3, 1)], 3),
        ([("a", 1, None), ("b", 2, 1)], 2),
    ],
)
def test_a_broken_access_chain_is_named(
    honest: Path, tmp_path: Path, chain: list[tuple[str, int, int | None]], index: int
) -> None:
    """A reading that was left out shows in the next one."""
    report = accesses(honest, tmp_path, chain)
    assert report.verdicts == ["ACCESS-UNEXPLAINED"]
    assert report.findings[0].number == index


# Witnesses and time


def cosign(log: Path, name: str, time_s: int) -> None:
    data = (log / name).read_bytes()
    text = data.partition(b"\n\n")[0].decode() + "\n"
    (log / name).write_bytes(data + WITNESS.cosign(text, time_s).encode().encode())


def test_what_no_witness_has_seen_is_counted(log: Path) -> None:
    """The tail behind the last cosigned checkpoint is a finding when the policy asks for a quorum."""
    witness = f"witness peer {WITNESS.witness_key.encode()}\nquorum peer"
    policy = parse_policy_untrusted(a_policy().encode().replace(b"quorum none", witness.encode()))
    assert checked(log, policy).verdicts == [f"UNWITNESSED-TAIL({SIZE})"]
    cosign(log, "archive/520", 1_800_000_000)
    report = checked(log, policy)
    assert (report.verdicts, report.witnessed_size) == ([f"UNWITNESSED-TAIL({SIZE - 520})"], 520)
    cosign(log, "checkpoint", 1_800_000_100)
    report = checked(log, policy)
    assert (report.verdicts, report.cosigners) == (["VERIFIED"], (("peer", 1_800_000_100),))


def test_a_log_that_fell_silent_is_stale_when_asked(log: Path) -> None:
    """Neither an entry nor a cosignature after the given time."""
    newest = checked(log).last_ts_us
    assert newest is not None
    assert checked(log, newest_after_us=newest).verdicts == ["VERIFIED"]
    assert checked(log, newest_after_us=newest + 1).verdicts == ["STALE"]


# Hostile directories


def test_odd_files_do_not_stop_the_check(log: Path) -> None:
    """Strays are mentioned, leftovers of a write are not, a tile beyond the checkpoint is nobody's claim."""
    put(log, "tile/0/.000.new", b"half a file")
    put(log, "archive/.700.new", b"half a file")
    put(log, tile_path(0, 2, 90), (log / tile_path(0, 2, 88)).read_bytes() + bytes(64))
    put(log, tile_path(ENTRIES, 9, 3), b"anything")
    assert checked(log).verdicts == ["VERIFIED"]
    put(log, "tile/0/readme\x1b[31m", b"?")
    report = checked(log)
    assert report.verdicts == ["VERIFIED"]
    assert "1 files under tile/" in report.notes[0]
    assert "\x1b" not in report.notes[0]


@pytest.mark.parametrize(
    "place",
    [
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_bytes(bytes(2_000_000)),
        os.mkfifo,
    ],
)
def test_what_is_not_a_small_file_is_a_finding(log: Path, place: Callable[[Path], object]) -> None:
    """A directory, a device, a FIFO or a huge file in a tile's place neither hangs nor fills the memory."""
    for level in (0, ENTRIES, 1):
        path = log / tile_path(level, 0, 2 if level == 1 else 256)
        good = path.read_bytes()
        path.unlink()
        place(path)
        assert "CORRUPT(0)" in checked(log).verdicts
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        path.write_bytes(good)


def test_a_nest_of_directories_is_refused(log: Path) -> None:
    """Depth is bounded; a log is four deep."""
    put(log, "tile/" + "a/" * 40 + "b", b"")
    with pytest.raises(MalformedInput, match="bad_file"):
        checked(log)


def test_a_thousand_faults_are_counted_not_listed(honest: Path, tmp_path: Path) -> None:
    """Findings are capped; the count goes on, and the verdict stands."""
    entries = read_entries(honest, SIZE)[:2]
    made = [entries[0], *(rewritten(entries[1], seq=0) for _ in range(1000))]
    report = checked(forged(tmp_path, made))
    assert len(report.findings) == FINDINGS_MAX
    assert report.findings_more > 0


def test_an_unknown_type_is_counted_and_not_condemned(honest: Path, tmp_path: Path) -> None:
    """A later version's entry does not make an old verifier cry wolf."""
    entries = read_entries(honest, SIZE)[:3]
    entries[2] = rewritten(entries[2], t="later.thing", extra={"deep": [1]})
    report = checked(forged(tmp_path, entries))
    assert (report.verdicts, report.unknown_types) == (["VERIFIED"], 1)


def test_chunks_may_be_checked_anywhere_in_any_number(honest: Path) -> None:
    """The pass is a map over chunks: its result does not depend on who runs it, nor on looking ahead."""

    def ahead(call: Any, tasks: Any) -> Any:
        waiting = deque(call(task) for task in tasks)
        return iter(waiting)

    assert checked(honest, run=ahead) == checked(honest)


def test_every_leaf_hash_is_of_the_entry_and_not_of_the_tile(log: Path) -> None:
    """Tile and entry changed together still do not lead to the signed root."""
    entries = split_bundle_untrusted((log / tile_path(ENTRIES, 0)).read_bytes())
    entries[4] = rewritten(entries[4], bucket=9)
    (log / tile_path(ENTRIES, 0)).write_bytes(encode_bundle(entries))
    (log / tile_path(0, 0)).write_bytes(b"".join(map(leaf_hash, entries)))
    report = checked(log)
    assert report.findings[-1].verdict is Verdict.CORRUPT
    assert report.verified_size == 1
    assert "entry 1 or later" in report.findings[-1].detail
    assert fsck.CHUNK_TILES >= 1
