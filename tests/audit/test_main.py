"""salween-audit as people and scripts meet it: real processes, every exit code provoked."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit.__main__ import Exit
from audit.entry import encode_entry
from audit.tree import ENTRIES, tile_path
from runtime import exits
from tests.audit.logs import ORIGIN, a_policy, a_signer, flip, forge, publish_at, read_entries
from tests.support.syntax_rules import ROOT

SIZE = 300
LARGE = 150_000
EIO_FILE = "/proc/self/mem"
"""A regular file whose first page cannot be read: the kernel answers EIO, as a dying disk does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """An auditor's desk: a copied log and a policy that came another way."""

    log: Path
    policy: Path

    def verify(self, *more: str) -> list[str]:
        return ["verify", str(self.log), "--policy", str(self.policy), *more]

    def replay(self, *more: str) -> list[str]:
        return ["replay", str(self.log), "--policy", str(self.policy), *more]


def audit(
    *arguments: str, env: dict[str, str] | None = None, **more: Any
) -> "subprocess.CompletedProcess[str]":
    """Run ``salween-audit`` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "audit", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | (env or {}),
        stdout=more.pop("stdout", subprocess.PIPE),
        stderr=more.pop("stderr", subprocess.PIPE),
        text=True,
        timeout=120,
        **more,
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_at(tmp_path_factory.mktemp("published") / "office", [5, SIZE])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, published: Path) -> Path:
    """A log that is checked in several processes."""
    start = read_entries(published, SIZE)[0]
    common = {key: json.loads(start)[key] for key in ("v", "bt", "z", "ts")}
    fields = {"t": "bk.out", "env": "ab" * 32, "box": "cd" * 16}
    entries = [encode_entry(common | fields | {"seq": n, "mo": n}) for n in range(1, LARGE)]
    return forge(tmp_path_factory.mktemp("large") / "log", [start, *entries], a_signer())


@pytest.fixture
def desk(published: Path, tmp_path: Path) -> Desk:
    return a_desk(published, tmp_path)


def a_desk(log: Path, home: Path) -> Desk:
    shutil.copytree(log, home / "log")
    (home / "policy").write_bytes(a_policy().encode())
    return Desk(log=home / "log", policy=home / "policy")


def test_the_exit_codes_are_the_projects() -> None:
    """The verifier stands alone, so it writes the codes down again; they must be the same ones."""
    assert (Exit.CLEAN, Exit.FINDING, Exit.UNREADABLE) == (exits.DONE, exits.REFUSED, exits.UNREADABLE)
    assert (Exit.USAGE, Exit.INTERNAL, Exit.DISK) == (exits.USAGE, exits.INTERNAL, exits.DISK)


def test_exit_0_a_clean_log(desk: Desk) -> None:
    """Clean: the output states log, size, root, time and cosigners, and the verdict last."""
    done = audit(*desk.verify())
    assert (done.returncode, done.stderr) == (0, "")
    assert ORIGIN in done.stdout
    assert f"{SIZE} of {SIZE} lead to a signed root" in done.stdout
    for word in ("root ", "time ", "cosigners ", "checkpoints  2"):
        assert word in done.stdout
    assert done.stdout.splitlines()[-1] == "VERIFIED"
    assert "\x1b" not in done.stdout


def test_exit_0_in_json(desk: Desk) -> None:
    """The same facts for a script, one object on one line."""
    done = audit(*desk.verify("--json"))
    told = json.loads(done.stdout)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert told["verdicts"] == ["VERIFIED"]
    assert (told["origin"], told["size"], told["verified_size"], told["findings"]) == (ORIGIN, SIZE, SIZE, [])
    assert len(told["root"]) == 64
    assert told["newest_entry_at"].endswith("Z")


def test_exit_0_for_help() -> None:
    """Help is not an error."""
    for arguments in (["--help"], ["verify", "-h"], ["replay", "--help"]):
        done = audit(*arguments)
        assert done.returncode == 0
        assert "Usage:" in done.stdout


def test_exit_1_a_finding(desk: Desk) -> None:
    """An altered log: the first bad index in words and in JSON, for verify and replay alike."""
    flip(desk.log / tile_path(ENTRIES, 0), 8 * 40)
    for arguments in (desk.verify(), desk.replay()):
        done = audit(*arguments)
        assert done.returncode == 1
        assert "CORRUPT(0)  the entry's hash differs from its tile's" in done.stdout
    told = json.loads(audit(*desk.verify("--json")).stdout)
    assert told["findings"][0] | {"detail": ""} == {"verdict": "CORRUPT(0)", "number": 0, "detail": ""}


def test_exit_1_without_the_logs_key(desk: Desk) -> None:
    """Keys never come from the directory: no policy, or another log's, is UNKNOWN-KEY."""
    assert audit("verify", str(desk.log)).stdout.splitlines()[-1] == "UNKNOWN-KEY"
    desk.policy.write_text(f"log {a_signer('test/other/log1', b'9').log_key.encode()}\nquorum none\n")
    for arguments in (["verify", str(desk.log)], desk.verify(), desk.replay(), desk.replay("--json")):
        done = audit(*arguments)
        assert done.returncode == 1
        assert "UNKNOWN-KEY" in done.stdout


def test_exit_1_when_the_log_is_older_than_asked_or_shorter_than_known(desk: Desk, tmp_path: Path) -> None:
    """--known brings somebody else's checkpoint; --max-age asks for freshness."""
    assert audit(*desk.verify("--max-age", "1")).returncode == 0
    newer = tmp_path / "newer"
    entries = read_entries(desk.log, SIZE)
    forge(tmp_path / "forged", [*entries, *entries], a_signer())
    shutil.copy(tmp_path / "forged/checkpoint", newer)
    done = audit(*desk.verify("--known", str(newer)))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "TRUNCATED")
    old = forge(tmp_path / "old", [encode_entry(json.loads(entries[0]) | {"ts": 5})], a_signer())
    done = audit("verify", str(old), "--policy", str(desk.policy), "--max-age", "24")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "STALE")


@pytest.mark.parametrize("missing", ["directory", "checkpoint", "policy", "known"])
def test_exit_2_what_is_not_there(desk: Desk, missing: str) -> None:
    """A missing input is named, and is no finding about the log."""
    match missing:
        case "directory":
            shutil.rmtree(desk.log)
        case "checkpoint":
            (desk.log / "checkpoint").unlink()
        case "policy":
            desk.policy.unlink()
    done = audit(*desk.verify(*(["--known", "nowhere/checkpoint"] if missing == "known" else [])))
    assert done.returncode == 2
    assert "No such file or directory" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "policy", [b"", b"quorum none", b"log x\nquorum none\n", b"\x00", b"quorum none\n" * 2, b"#" * 70_000]
)
def test_exit_2_a_policy_that_is_none(desk: Desk, policy: bytes) -> None:
    """The line at fault is named."""
    desk.policy.write_bytes(policy)
    done = audit(*desk.verify())
    assert done.returncode == 2
    assert "cannot read the input" in done.stderr


def test_exit_2_a_directory_for_a_file(desk: Desk) -> None:
    """A directory given as the policy, a file given as the directory."""
    done = audit("verify", str(desk.log), "--policy", str(desk.log))
    assert (done.returncode, "not a regular file" in done.stderr) == (2, True)
    done = audit("verify", str(desk.policy), "--policy", str(desk.policy))
    assert (done.returncode, "Not a directory" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify"],
        ["verify", "--no-such-option", "x"],
        ["verify", "a", "b"],
        ["replay", "x", "--at", "yesterday"],
        ["replay", "x", "--steps", "-1"],
        ["verify", "x", "--max-age", "soon"],
        ["explain", "x"],
    ],
)
def test_exit_64_wrong_usage(arguments: Sequence[str]) -> None:
    """A mistyped command says how it is written, on standard error."""
    done = audit(*arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert "Usage: salween-audit" in done.stderr


def with_a_bug(home: Path, function: str) -> dict[str, str]:
    """An environment in which ``function`` of audit.fsck has a bug, in every process."""
    (home / "sitecustomize.py").write_text(
        "import audit.fsck\n"
        "def broken(*arguments, **more):\n"
        "    raise ZeroDivisionError('a bug of ours')\n"
        f"audit.fsck.{function} = broken\n"
    )
    return {"PYTHONPATH": f"{home}:{ROOT}"}


@pytest.mark.parametrize(
    "function", ["subtree_root", "glance_untrusted", "open_checkpoint_untrusted", "Frontier"]
)
def test_exit_70_a_bug_of_ours_is_never_a_finding(desk: Desk, tmp_path: Path, function: str) -> None:
    """An exception nobody foresaw, wherever inside verify, is 70 and says that the log is not judged."""
    for arguments in (desk.verify(), desk.verify("--json"), desk.replay()):
        done = audit(*arguments, env=with_a_bug(tmp_path, function))
        assert (done.returncode, done.stdout) == (70, "")
        assert "ZeroDivisionError: a bug of ours" in done.stderr
        assert "says nothing about the log" in done.stderr


def test_exit_70_a_bug_in_another_process_of_ours(large: Path, desk: Desk, tmp_path: Path) -> None:
    """A large log is checked by several processes; a bug in one of them is as loud."""
    bug = with_a_bug(tmp_path, "_check_entries")
    text = (tmp_path / "sitecustomize.py").read_text()
    (tmp_path / "sitecustomize.py").write_text(
        text.replace("def broken", "honest = audit.fsck._check_entries\ndef broken").replace(
            "    raise", "    if arguments[1] < 100_000:\n        return honest(*arguments)\n    raise"
        )
    )
    done = audit("verify", str(large), "--policy", str(desk.policy), env=bug)
    assert (done.returncode, done.stdout) == (70, "")
    assert "ZeroDivisionError: a bug of ours" in done.stderr


@pytest.mark.parametrize("place", ["policy", "checkpoint", tile_path(ENTRIES, 0), tile_path(1, 0, 1)])
def test_exit_74_a_failing_disk(desk: Desk, place: str) -> None:
    """EIO while reading anything is the disk's fault, and neither a finding nor a bug."""
    path = desk.policy if place == "policy" else desk.log / place
    path.unlink()
    path.symlink_to(EIO_FILE)
    for arguments in (desk.verify(), desk.replay("--json")):
        done = audit(*arguments)
        assert done.returncode == 74
        assert "the disk failed: Input/output error" in done.stderr
        assert done.stdout == ""


def test_exit_74_when_the_answer_cannot_be_written(desk: Desk) -> None:
    """A verdict that did not reach the file it was meant for is not a success."""
    with open("/dev/full", "w") as full:
        for arguments in (desk.verify(), desk.verify("--json"), desk.replay()):
            done = audit(*arguments, stdout=full)
            assert (done.returncode, "No space left on device" in done.stderr) == (74, True)
    for arguments in (desk.verify(), desk.verify("--json"), desk.replay()):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as closed:
            done = audit(*arguments, stdout=closed)
        assert (done.returncode, "Broken pipe" in done.stderr) == (74, True)


def test_replay_tells_a_timeline_that_a_person_can_read(desk: Desk) -> None:
    """Steps with time, index and words; the messages; and as of when."""
    done = audit(*desk.replay("--steps", "3"))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"({SIZE - 3} earlier steps not shown; --steps 0 shows all)"
    assert lines[1].endswith(f"{SIZE - 3}  envelope abababab… taken into mailbox cdcdcdcd…")
    assert f"as of entry {SIZE - 1}, " in done.stdout
    assert lines[-1] == "VERIFIED"
    assert audit(*desk.replay("--steps", "0")).stdout.count("taken into mailbox") == SIZE - 1


def test_replay_stops_at_an_entry_or_a_time(desk: Desk) -> None:
    """--at takes a leaf index or an ISO time; without a zone it means UTC."""
    told = json.loads(audit(*desk.replay("--at", "4", "--json")).stdout)
    assert told["at"]["entries"] == 5
    assert told["messages"][0]["steps"][-1]["index"] == 4
    before = json.loads(audit(*desk.replay("--at", "2001-01-01", "--json")).stdout)
    assert before["at"] == {"entries": 0, "time": "never"}
    after = json.loads(audit(*desk.replay("--at", "2250-01-01T00:00+07:00", "--json")).stdout)
    assert after["at"]["entries"] == SIZE


@pytest.mark.parametrize("verb", ["verify", "replay"])
def test_a_bar_on_a_terminal_and_nowhere_else(desk: Desk, verb: str) -> None:
    """Long work shows how far it is to whoever looks; the answer is the same, and a script sees nothing."""
    ours, theirs = pty.openpty()
    asked = getattr(desk, verb)()
    shown = audit(*asked, env={"TERM": "xterm", "COLUMNS": "100"}, stderr=theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        said = terminal.read(4096).decode()
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in said
    assert f"{SIZE} entries, " in said
    quiet = audit(*asked)
    assert (quiet.stdout, quiet.stderr) == (shown.stdout, "")


def test_a_large_log_is_checked_in_several_processes_with_the_same_verdict(
    large: Path, tmp_path: Path
) -> None:
    """Nothing changes with the size: verified whole, and one bit in the last bundle is found."""
    desk = a_desk(large, tmp_path)
    told = json.loads(audit(*desk.verify("--json")).stdout)
    assert (told["verdicts"], told["verified_size"]) == (["VERIFIED"], LARGE)
    last = LARGE // 256
    flip(desk.log / tile_path(ENTRIES, last, LARGE % 256), 8 * 40)
    done = audit(*desk.verify("--json"))
    assert done.returncode == 1
    assert json.loads(done.stdout)["verdicts"] == [f"CORRUPT({last * 256})"]


def test_memory_does_not_grow_with_the_log(large: Path, desk: Desk) -> None:
    """The peak of one process is the same for 300 and for 150,000 entries, but for a few megabytes."""
    script = (
        "import os, resource, sys\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from audit.__main__ import _run\n"
        "code = _run(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    peaks_kib = []
    for log in (desk.log, large):
        done = subprocess.run(
            [sys.executable, "-c", script, "verify", str(log), "--policy", str(desk.policy)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        peaks_kib.append(int(done.stderr.split()[-1]))
    assert peaks_kib[1] - peaks_kib[0] < 16 * 1024


def test_a_witness_name_cannot_write_to_the_terminal(desk: Desk) -> None:
    """Names in a policy are any octets; what is shown is text."""
    witness = a_signer("test/b7/witness1", b"\x03")
    data = (desk.log / "checkpoint").read_bytes()
    text = data.partition(b"\n\n")[0].decode() + "\n"
    (desk.log / "checkpoint").write_bytes(data + witness.cosign(text, 1_800_000_000).encode().encode())
    name = b"peer\xff[red]\xe1\x80\x99"
    line = b"witness " + name + b" " + witness.witness_key.encode().encode() + b"\nquorum " + name
    desk.policy.write_bytes(a_policy().encode().replace(b"quorum none", line))
    for encoding in ("utf-8", "ascii", "latin-1"):
        done = audit(*desk.verify(), env={"PYTHONIOENCODING": encoding})
        assert (done.returncode, done.stderr) == (0, "")
        assert "\\udcff[red]" in done.stdout
    assert "2027-01-15T08:00:00.000Z" in done.stdout


def test_a_witness_that_says_an_impossible_time_stops_no_auditor(desk: Desk) -> None:
    """Its line is valid and its time beyond every calendar: it is shown so."""
    witness = a_signer("test/b7/witness1", b"\x03")
    data = (desk.log / "checkpoint").read_bytes()
    text = data.decode().partition("\n\n")[0] + "\n"
    (desk.log / "checkpoint").write_bytes(data + witness.cosign(text, 2**62).encode().encode())
    line = f"witness late {witness.witness_key.encode()}\nquorum none"
    desk.policy.write_bytes(desk.policy.read_bytes().replace(b"quorum none", line.encode()))
    done = audit(*desk.verify())
    assert (done.returncode, done.stderr) == (0, "")
    assert "after the year 9999" in done.stdout
