"""The policy file: whose keys count, and how many cosigners are enough."""

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.note import NoteSigner
from audit.policy import (
    Policy,
    open_checkpoint_untrusted,
    parse_policy_untrusted,
    single_log_policy,
)
from keys.errors import MalformedInput, VerificationFailed
from tests.audit.logs import ORIGIN, a_signer

WITNESSES = {name: a_signer(f"test/{name}/witness1", bytes([40 + n])) for n, name in enumerate("ABCDE")}
LOG_LINE = f"log {a_signer().log_key.encode()}\n"
WITNESS_LINES = "".join(f"witness {name} {key.witness_key.encode()}\n" for name, key in WITNESSES.items())


def read(text: str) -> Policy:
    return parse_policy_untrusted(text.encode())


def test_a_policy_file_reads_as_it_is_written() -> None:
    """Logs, witnesses, groups and the quorum; URLs, comments, tabs and empty lines are allowed."""
    policy = read(
        "# Myitkyina BLO\n\n"
        f"  {LOG_LINE.strip()} https://office.example/log \n"
        + WITNESS_LINES
        + "\tgroup peers any A B\ngroup others 2 C D E\ngroup both all peers others\nquorum both\n"
    )
    assert policy.logs == (a_signer().log_key,)
    assert list(policy.witnesses) == list("ABCDE")
    assert [group.threshold for group in policy.groups.values()] == [1, 2, 2]
    assert read(policy.encode().decode()) == policy


@pytest.mark.parametrize(
    ("quorum", "enough", "not_enough"),
    [
        ("quorum none\n", ["", "A"], []),
        ("quorum A\n", ["A", "AB"], ["", "B"]),
        ("group g any A B\nquorum g\n", ["A", "B", "AB"], ["", "C"]),
        ("group g all A B\nquorum g\n", ["AB", "ABC"], ["", "A", "B"]),
        ("group g 2 A B C\nquorum g\n", ["AB", "BC", "ABC"], ["", "A", "DE"]),
        ("group g any A B\ngroup h 1 C D\ngroup q all g h\nquorum q\n", ["AC", "BD", "ABCD"], ["AB", "CD"]),
    ],
)
def test_a_quorum_is_what_the_groups_add_up_to(
    quorum: str, enough: Sequence[str], not_enough: Sequence[str]
) -> None:
    """any, all, k of n, and groups of groups."""
    policy = read(LOG_LINE + WITNESS_LINES + quorum)
    assert [policy.reaches_quorum(list(names)) for names in enough] == [True] * len(enough)
    assert [policy.reaches_quorum(list(names)) for names in not_enough] == [False] * len(not_enough)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "quorum none",
        LOG_LINE,
        "quorum none\nquorum none\n",
        "quorum A\n",
        "quorum\n",
        "log\nquorum none\n",
        "log x y z w\nquorum none\n",
        "keys none\nquorum none\n",
        LOG_LINE + LOG_LINE + "quorum none\n",
        WITNESS_LINES + WITNESS_LINES + "quorum none\n",
        LOG_LINE.replace("log ", "witness A ") + "quorum none\n",
        WITNESS_LINES.replace("witness A ", "log ") + "quorum none\n",
        WITNESS_LINES.replace("witness B ", "witness A ") + "quorum none\n",
        WITNESS_LINES.replace("witness B ", "witness none ") + "quorum none\n",
        WITNESS_LINES + "group g any\nquorum g\n",
        WITNESS_LINES + "group g 0 A B\nquorum g\n",
        WITNESS_LINES + "group g 3 A B\nquorum g\n",
        WITNESS_LINES + "group g 01 A B\nquorum g\n",
        WITNESS_LINES + "group g most A B\nquorum g\n",
        WITNESS_LINES + "group g any A A\nquorum g\n",
        WITNESS_LINES + "group g any A X\nquorum g\n",
        WITNESS_LINES + "group g any A none\nquorum g\n",
        WITNESS_LINES + "group A any B\nquorum A\n",
        WITNESS_LINES + "group g any A B\ngroup h all A C\nquorum h\n",
        WITNESS_LINES + "quorum g\ngroup g any A B\n",
        LOG_LINE.replace("+", "-") + "quorum none\n",
        "quorum none\r\n",
        "#" * 70_000 + "\nquorum none\n",
        "\n" * 2000 + "quorum none\n",
    ],
)
def test_a_policy_with_one_fault_is_refused(text: str) -> None:
    """Duplicate keys and names, wrong key types, undefined or doubled members, no or two quorums."""
    with pytest.raises(MalformedInput, match="bad_policy"):
        read(text)


def test_the_fault_is_named_by_its_line() -> None:
    """An operator finds the mistyped key without a debugger."""
    mistyped = WITNESS_LINES.replace(WITNESSES["A"].witness_key.key_id.hex(), "00000000")
    with pytest.raises(MalformedInput, match="line 2: the key id of test/A/witness1 does not match"):
        read(LOG_LINE + mistyped + "quorum none\n")


@given(
    st.binary(max_size=200) | st.text(alphabet="logwitnesgrupqm anyl123 \t\n#", max_size=80).map(str.encode)
)
def test_any_bytes_are_a_policy_or_malformed(data: bytes) -> None:
    """What parses encodes to something that parses to the same policy; names may be any octets."""
    for candidate in (data, data + b"\nquorum none\n", WITNESS_LINES.encode() + data + b"\nquorum A\n"):
        with contextlib.suppress(MalformedInput):
            policy = parse_policy_untrusted(candidate)
            assert parse_policy_untrusted(policy.encode()) == policy


def test_a_witness_name_is_octets() -> None:
    """A name in any script, or in none, is kept as it stands."""
    line = (
        WITNESS_LINES.split("\n", maxsplit=1)[0].encode().replace(b"witness A", b"witness \xe1\x80\x99\xff")
    )
    policy = parse_policy_untrusted(line + b"\nquorum \xe1\x80\x99\xff\n")
    assert policy.encode().endswith(b"quorum \xe1\x80\x99\xff\n")


def test_a_checkpoint_is_judged_by_the_policy() -> None:
    """Signed by a listed log under its origin's name; cosigners by their names in the policy."""
    policy = read(LOG_LINE + WITNESS_LINES + "group g 2 A B C\nquorum g\n")
    checkpoint = Checkpoint(origin=ORIGIN, size=3, root=b"\x05" * 32)
    data = sign_checkpoint(checkpoint, a_signer())
    assert not open_checkpoint_untrusted(data, policy).quorum
    data += WITNESSES["A"].cosign(checkpoint.text, 100).encode().encode()
    data += a_signer("stranger/w1", b"\x50").cosign(checkpoint.text, 200).encode().encode()
    assert not open_checkpoint_untrusted(data, policy).quorum
    data += WITNESSES["C"].cosign(checkpoint.text, 300).encode().encode()
    data += WITNESSES["C"].cosign(checkpoint.text, 400).encode().encode()
    head = open_checkpoint_untrusted(data, policy)
    assert head.quorum
    assert [(cosigner.name, cosigner.time_s) for cosigner in head.cosigners] == [("A", 100), ("C", 300)]


def test_keys_that_are_not_the_logs_do_not_count() -> None:
    """A witness's signature, another log's, or a right key under another name is UNKNOWN-KEY."""
    checkpoint = Checkpoint(origin=ORIGIN, size=3, root=b"\x05" * 32)
    data = sign_checkpoint(checkpoint, a_signer())
    witness_only = (
        data.split(b"\n\n")[0] + b"\n\n" + WITNESSES["A"].cosign(checkpoint.text, 1).encode().encode()
    )
    other_name = NoteSigner(name="test/other/log1", key=a_signer().key)
    signed_by_other = data.split(b"\n\n")[0] + b"\n\n" + other_name.sign(checkpoint.text).encode().encode()
    policy = read(LOG_LINE + WITNESS_LINES + "quorum none\n")
    namesake = a_signer(ORIGIN, b"\x51")
    by_namesake = data.split(b"\n\n")[0] + b"\n\n" + namesake.cosign(checkpoint.text, 1).encode().encode()
    with_namesake = read(LOG_LINE + f"witness N {namesake.witness_key.encode()}\nquorum N\n")
    for note, trusted in (
        (by_namesake, with_namesake),
        (data, Policy(logs=(), witnesses={}, groups={}, quorum="none")),
        (data, single_log_policy(a_signer("test/other/log1", b"\x09").log_key)),
        (witness_only, policy),
        (signed_by_other, single_log_policy(other_name.log_key)),
    ):
        with pytest.raises(VerificationFailed, match="unknown_key"):
            open_checkpoint_untrusted(note, trusted)
