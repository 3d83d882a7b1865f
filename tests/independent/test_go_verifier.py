"""Our published logs, replayed by a program that shares nothing with us: Go, on Debian's golang.org/x/mod.

Both verifiers must accept every honest log and refuse every altered one; a fault that only one of them sees
would be a misreading of the formats by the other.
"""

import asyncio
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from audit.fsck import verify
from audit.note import NoteSigner
from audit.policy import Policy, parse_policy_untrusted
from audit.proof import parse_proof_untrusted, prove, verify_proof
from audit.reader import CHECKPOINT, PublishedLog
from audit.tree import ENTRIES, encode_bundle, leaf_hash, split_bundle_untrusted, tile_path
from keys.errors import MalformedInput, VerificationFailed
from tests.audit.logs import (
    ORIGIN,
    a_policy,
    a_signer,
    files_of,
    flip,
    forge,
    is_needed,
    publish_at,
    read_entries,
)
from tests.node.offices import Offices, an_alert, play
from tests.node.test_broker_witness import switch_on
from tests.node.test_witness import log_of, policy_for
from tests.support import tools

pytestmark = pytest.mark.independent

SIZES = (1, 2, 3, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537, 70000)
GOPATH = Path("/usr/share/gocode")
SOURCE = Path(__file__).parent / "tlogcheck"

Check = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tlogcheck(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """The Go program, built once: ``tlogcheck(directory, *more arguments)``."""
    go = tools.require_tool("go")
    if not (GOPATH / "src/golang.org/x/mod").is_dir():
        reason = "golang-golang-x-mod-dev is not installed (Debian: apt-get install golang-golang-x-mod-dev)"
        if tools.must_have_every_tool():
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    place = tmp_path_factory.mktemp("tlogcheck")
    binary = place / "tlogcheck"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "GO111MODULE": "off",
        "GOPATH": str(GOPATH),
        "GOCACHE": str(place / "cache"),
        "CGO_ENABLED": "0",
    }
    built = subprocess.run(
        [go, "build", "-o", binary, "."], cwd=SOURCE, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr

    def run(directory: Path, *arguments: str, key: str = "") -> "subprocess.CompletedProcess[str]":
        key = key or a_signer().log_key.encode()
        return subprocess.run(
            [binary, *arguments, directory, key], capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One log, grown through every size; a copy of its directory as it was at each: ``published / "257"``."""
    place = tmp_path_factory.mktemp("published")
    copies = place / "copies"
    publish_at(place / "office", SIZES, copies)
    return copies


def accepts(tlogcheck: Check, directory: Path) -> list[bool]:
    """[ours, Go's]."""
    return [
        not verify(PublishedLog(str(directory)), a_policy()).findings,
        tlogcheck(directory).returncode == 0,
    ]


@pytest.mark.parametrize("size", SIZES)
def test_both_accept_an_honest_log_with_its_history(tlogcheck: Check, published: Path, size: int) -> None:
    """Around powers of 256, with a signed checkpoint at each smaller size, both verifiers agree."""
    directory = published / str(size)
    report = verify(PublishedLog(str(directory)), a_policy())
    assert (report.verdicts, report.verified_size) == (["VERIFIED"], size)
    assert report.checkpoints == SIZES.index(size) + 1
    checked = tlogcheck(directory)
    assert checked.stdout.startswith(f"{ORIGIN}: {size} entries, {SIZES.index(size) + 1} archived"), (
        checked.stderr
    )


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 513])
def test_both_accept_a_log_published_once(tlogcheck: Check, tmp_path: Path, size: int) -> None:
    """A log whose first checkpoint is already this large has the same form."""
    assert accepts(tlogcheck, publish_at(tmp_path / "office", [size])) == [True, True]


@pytest.mark.parametrize("size", [2, 257, 513])
def test_both_refuse_one_flipped_bit_in_any_file(
    tlogcheck: Check, published: Path, tmp_path: Path, size: int
) -> None:
    """One bit turned in any tile, bundle or checkpoint, earlier partial ones included, is seen by both."""
    pick = random.Random(size)
    for number, original in enumerate(files_of(published / str(size))):
        name = original.relative_to(published / str(size))
        # The last character of a signature line has two unused bits, which Go's base64 reads over.
        bits = len(original.read_bytes().rstrip(b"=\n")) * 8 - 8
        for bit in {0, bits - 1, *(pick.randrange(bits) for _ in range(4))}:
            altered = tmp_path / f"{number}-{bit}"
            shutil.copytree(published / str(size), altered)
            flip(altered / name, bit)
            assert accepts(tlogcheck, altered) == [False, False], f"bit {bit} of {name}"
            shutil.rmtree(altered)


@pytest.mark.parametrize("size", [3, 256, 513])
def test_both_refuse_a_missing_or_shortened_file(
    tlogcheck: Check, published: Path, tmp_path: Path, size: int
) -> None:
    """Every file that the signed size needs must be there, to its last byte."""
    originals = [p for p in files_of(published / str(size)) if is_needed(published / str(size), p, size)]
    assert len(originals) >= 3
    for number, original in enumerate(originals):
        name = original.relative_to(published / str(size))
        for cut in (None, 1, 40):
            altered = tmp_path / f"{number}-{cut}"
            shutil.copytree(published / str(size), altered)
            if cut is None:
                (altered / name).unlink()
            else:
                (altered / name).write_bytes(original.read_bytes()[:-cut])
            assert ours_refuses(altered), f"{name} cut by {cut}"
            assert tlogcheck(altered).returncode == 1, f"{name} cut by {cut}"
            shutil.rmtree(altered)


def ours_refuses(directory: Path) -> bool:
    """A finding, or no checkpoint to begin with."""
    try:
        return bool(verify(PublishedLog(str(directory)), a_policy()).findings)
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("also_tile", [False, True])
def test_both_refuse_two_swapped_entries(
    tlogcheck: Check, published: Path, tmp_path: Path, also_tile: bool
) -> None:
    """Swapping two entries is seen, whether or not their hashes are swapped in the tile as well."""
    directory = tmp_path / "log"
    shutil.copytree(published / "257", directory)
    bundle = directory / tile_path(ENTRIES, 0)
    entries = split_bundle_untrusted(bundle.read_bytes())
    entries[7], entries[9] = entries[9], entries[7]
    bundle.write_bytes(encode_bundle(entries))
    if also_tile:
        (directory / tile_path(0, 0)).write_bytes(b"".join(map(leaf_hash, entries)))
    assert accepts(tlogcheck, directory) == [False, False]


def test_both_refuse_a_rewritten_log_that_was_not_signed_again(
    tlogcheck: Check, published: Path, tmp_path: Path
) -> None:
    """A consistent tree over other entries does not lead to the signed root."""
    directory = tmp_path / "log"
    shutil.copytree(published / "257", directory)
    entries = read_entries(directory, 257)
    forge(directory, [*entries[:100], *entries[101:], entries[100]])
    assert accepts(tlogcheck, directory) == [False, False]


def test_both_refuse_a_rewritten_log_signed_again_beside_its_archive(
    tlogcheck: Check, published: Path, tmp_path: Path
) -> None:
    """The owner's own key cannot rewrite what an earlier checkpoint covers: that checkpoint is no prefix."""
    directory = tmp_path / "log"
    shutil.copytree(published / "257", directory)
    entries = read_entries(directory, 257)
    shutil.rmtree(directory / "tile")
    rewritten = entries[2].replace(b'"env":"ab', b'"env":"ac')
    assert rewritten != entries[2]
    forge(directory, [*entries[:2], rewritten, *entries[3:]], a_signer())
    assert accepts(tlogcheck, directory) == [False, False]


def test_both_refuse_a_checkpoint_of_another_key(tlogcheck: Check, published: Path, tmp_path: Path) -> None:
    """The right name with the wrong key is an unknown key."""
    directory = tmp_path / "log"
    shutil.copytree(published / "3", directory)
    entries = read_entries(directory, 3)
    forge(directory, entries, NoteSigner(name=ORIGIN, key=a_signer(seed=b"\x02").key))
    assert accepts(tlogcheck, directory) == [False, False]


def test_both_verify_a_cosignature(tlogcheck: Check, published: Path, tmp_path: Path) -> None:
    """A witness's timestamped cosignature by our code holds in Go's hands, and an altered one does not."""
    directory, witness = tmp_path / "log", a_signer("test/b7/witness1", b"\x03")
    shutil.copytree(published / "3", directory)
    checkpoint = directory / "checkpoint"
    text = checkpoint.read_text().partition("\n\n")[0] + "\n"
    checkpoint.write_text(checkpoint.read_text() + witness.cosign(text, 1_800_000_000).encode())
    wanted = ("-witness", witness.witness_key.encode())
    assert tlogcheck(directory, *wanted).returncode == 0
    policy = Policy(logs=a_policy().logs, witnesses={"peer": witness.witness_key}, groups={}, quorum="peer")
    report = verify(PublishedLog(str(directory)), policy)
    assert (report.verdicts, report.cosigners) == (["VERIFIED"], (("peer", 1_800_000_000),))
    flip(checkpoint, (checkpoint.stat().st_size - 20) * 8)
    assert tlogcheck(directory, *wanted).returncode == 1
    assert verify(PublishedLog(str(directory)), policy).findings


def test_both_verify_receipts(tlogcheck: Check, published: Path, tmp_path: Path) -> None:
    """An inclusion proof under a cosigned checkpoint, for its own entry and in none of its parts altered."""
    log, witness = PublishedLog(str(published / "513")), a_signer("test/b7/witness1", b"\x03")
    note = log.read(CHECKPOINT)
    text = note.decode().partition("\n\n")[0] + "\n"
    note += witness.cosign(text, 1_800_000_000).encode().encode()
    policy = Policy(logs=a_policy().logs, witnesses={"peer": witness.witness_key}, groups={}, quorum="peer")
    entries, file = read_entries(published / "513", 513), tmp_path / "receipts"

    def accepted(entry: bytes, receipt: bytes) -> list[bool]:
        file.write_bytes(encode_bundle([entry, receipt]))
        checked = tlogcheck(file, "-receipts", "-witness", witness.witness_key.encode())
        try:
            verify_proof(parse_proof_untrusted(receipt), entry, policy)
        except (MalformedInput, VerificationFailed):
            return [False, checked.returncode == 0]
        return [True, checked.returncode == 0]

    for index in (0, 255, 256, 512):
        proof = prove(index, note, log.read_tile)
        assert accepted(entries[index], proof.encode()) == [True, True]
        assert accepted(entries[index - 1], proof.encode()) == [False, False]
    assert accepted(entries[512], replace(proof, index=511).encode()) == [False, False]
    assert accepted(entries[512], replace(proof, path=(*proof.path, bytes(32))).encode()) == [False, False]
    assert accepted(entries[512], replace(proof, path=proof.path[:-1]).encode()) == [False, False]
    assert accepted(entries[512], replace(proof, checkpoint=log.read(CHECKPOINT)).encode()) == [False, False]
    other = text.replace("513", "512").encode() + note.removeprefix(text.encode())
    assert accepted(entries[512], replace(proof, checkpoint=other).encode()) == [False, False]
    said_more = replace(proof, extra=b"what it is about")
    assert accepted(entries[512], said_more.encode()) == [True, True]


def test_go_verifies_what_two_offices_cosigned(tlogcheck: Check, tmp_path: Path) -> None:
    """Real nodes, their own logs and keys: each log holds in Go's hands, cosigned by the other office, one by
    a broker as well."""

    async def script(offices: Offices) -> None:
        here, there = offices.here, offices.there
        await switch_on(here, offices.broker)
        await here.send(an_alert("KA-1"))
        await asyncio.sleep(13 * 60)
        for owner, witness in ((here, there), (there, here)):
            policy = await policy_for(owner, witness)
            wanted = ("-witness", policy.witnesses["partner"].encode())
            checked = tlogcheck(log_of(owner), *wanted, key=policy.logs[0].encode())
            assert checked.returncode == 0, checked.stderr
            assert tlogcheck(log_of(owner), *wanted, *wanted, key=policy.logs[0].encode()).returncode == 1
        beside = parse_policy_untrusted((log_of(here).parent / "policy").read_bytes())
        broker = beside.witnesses[beside.groups["brokers"].members[0]].encode()
        assert tlogcheck(log_of(here), "-witness", broker, key=beside.logs[0].encode()).returncode == 0

    play(tmp_path, script)


def test_a_log_key_is_not_taken_for_a_witness(tlogcheck: Check, published: Path) -> None:
    """A wanted cosignature that is missing refuses the checkpoint."""
    witness = a_signer("test/b7/witness1", b"\x03").witness_key.encode()
    assert tlogcheck(published / "3", "-witness", witness).returncode == 1
