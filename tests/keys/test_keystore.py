"""The key file: what is in it survives, what is wrong with it is named, and no crash leaves it between."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys import keystore, labels, layout
from keys.errors import MalformedInput, PolicyRefused
from keys.keystore import DEFAULT_KDF, AnyPath, KdfParameters, Keystore, KeystoreFiles
from keys.primitives import labelled_hash
from keys.secret import SecretBytes
from runtime.env import RealFiles
from tests.keys.builders import drawn
from tests.keys.files import MemoryFiles, PowerLostError

CHEAP = KdfParameters(memory_kib=8, iterations=1, lanes=1)
PASSPHRASE = SecretBytes(b"correct horse battery staple")
PATH = "keystore"
FIRST = {"operational/1": SecretBytes(drawn("O", 64)), "log/1": SecretBytes(drawn("log", 32))}


def counter_random() -> Callable[[int], bytes]:
    """Randomness that never repeats."""
    numbers = itertools.count()
    return lambda size: drawn(f"draw {next(numbers)}", size)


def a_keystore(files: KeystoreFiles | None = None) -> tuple[Keystore, MemoryFiles]:
    memory = MemoryFiles() if files is None else files
    assert isinstance(memory, MemoryFiles)
    store = Keystore.create(memory, PATH, PASSPHRASE, FIRST, random=counter_random(), kdf=CHEAP)
    return store, memory


def reopen(files: MemoryFiles, passphrase: SecretBytes = PASSPHRASE) -> Keystore:
    return Keystore.open(files, PATH, passphrase, random=counter_random())


def content(store: Keystore) -> dict[str, bytes]:
    return {name: store.get(name).reveal() for name in store.names()}


REVEALED = {name: secret.reveal() for name, secret in FIRST.items()}


# --- what is in it ---


def test_secrets_survive_a_restart() -> None:
    """Created, opened, added to, removed from: each time what the last save held."""
    store, files = a_keystore()
    assert content(store) == content(reopen(files)) == REVEALED
    assert files.modes[PATH] == 0o600
    store.put("receive/0123456789abcdef", SecretBytes(b"r" * 32))
    store.remove("log/1")
    again = reopen(files)
    assert again.names() == ("operational/1", "receive/0123456789abcdef")
    assert again.names("receive/") == ("receive/0123456789abcdef",)
    with pytest.raises(PolicyRefused, match="key_missing"):
        again.get("log/1")


def test_several_changes_are_one_save() -> None:
    """All or none; removing what is not there writes nothing."""
    store, files = a_keystore()
    writes = files.writes
    store.put_many({f"receive/{n}": SecretBytes(bytes([n]) * 32) for n in range(5)})
    assert files.writes == writes + 1
    store.remove_many(["receive/0", "receive/1", "never/there"])
    assert files.writes == writes + 2
    store.remove_many(["never/there"])
    assert files.writes == writes + 2
    assert len(reopen(files).names("receive/")) == 3


NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}(/[a-z0-9][a-z0-9._-]{0,8}){0,2}", fullmatch=True)


@settings(max_examples=50)
@given(st.dictionaries(NAMES, st.binary(min_size=1, max_size=200), max_size=20))
def test_any_names_and_secrets_come_back(secrets: dict[str, bytes]) -> None:
    """Whatever the node calls them."""
    files = MemoryFiles()
    sealed = {name: SecretBytes(data) for name, data in secrets.items()}
    Keystore.create(files, PATH, PASSPHRASE, sealed, random=counter_random(), kdf=CHEAP)
    assert content(reopen(files)) == secrets


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "A", "a b", "a\n", "é", ".a", "a" * 121])
def test_a_name_that_no_reader_would_take_is_refused(name: str) -> None:
    """At the call that makes the mistake; the file is untouched."""
    store, files = a_keystore()
    before = files.content[PATH]
    with pytest.raises(PolicyRefused, match="key_name_invalid"):
        store.put(name, SecretBytes(b"x"))
    assert files.content[PATH] == before


@pytest.mark.parametrize("size", [0, 4097])
def test_a_secret_of_impossible_size_is_refused(size: int) -> None:
    """Empty secrets are mistakes; large ones are no keys."""
    store, _ = a_keystore()
    with pytest.raises(PolicyRefused, match="key_size_invalid"):
        store.put("a", SecretBytes(bytes(size)))


def test_a_full_keystore_says_so_and_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """By count and by size."""
    store, files = a_keystore()
    for limit, value in (("ENTRIES_MAX", 2), ("FILE_BYTES_MAX", 200)):
        with monkeypatch.context() as patch:
            patch.setattr(keystore, limit, value)
            with pytest.raises(PolicyRefused, match="keystore_full"):
                store.put("receive/1", SecretBytes(b"x" * 32))
    assert content(store) == content(reopen(files)) == REVEALED


def test_every_save_uses_a_fresh_nonce() -> None:
    """The same content saved twice gives different bytes."""
    store, files = a_keystore()
    seen = set()
    for _ in range(5):
        store.put("log/1", FIRST["log/1"])
        seen.add(files.content[PATH])
    assert len(seen) == 5


def test_nothing_in_the_file_is_in_clear() -> None:
    """Neither secrets nor the names that tell how many peers there are."""
    _, files = a_keystore()
    for name, secret in REVEALED.items():
        assert secret not in files.content[PATH]
        assert name.encode() not in files.content[PATH]


def test_two_threads_lose_no_key() -> None:
    """Each save rewrites the file; one must not write the other's new key away."""

    class SlowFiles(MemoryFiles):
        def write_atomic(self, path: AnyPath, data: bytes, mode: int = 0o600) -> None:
            time.sleep(0.001)  # an fsync: the other threads run
            super().write_atomic(path, data, mode)

    store, files = a_keystore(SlowFiles())

    def put_all(thread: int) -> None:
        for number in range(5):
            store.put(f"receive/{thread}-{number}", SecretBytes(b"x" * 32))

    threads = [threading.Thread(target=put_all, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reopen(files).names("receive/")) == 20


# --- what can be wrong with it ---


def test_a_missing_keystore_is_named() -> None:
    """And says what to do."""
    with pytest.raises(PolicyRefused, match="keystore_missing"):
        reopen(MemoryFiles())


def test_a_keystore_is_never_overwritten() -> None:
    """A second init cannot destroy keys."""
    _, files = a_keystore()
    before = files.content[PATH]
    with pytest.raises(PolicyRefused, match="keystore_exists"):
        a_keystore(files)
    assert files.content[PATH] == before


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700, 0o777, 0o4600])
def test_a_keystore_that_others_could_read_is_refused(mode: int) -> None:
    """Before the passphrase is used on it."""
    _, files = a_keystore()
    files.modes[PATH] = mode
    with pytest.raises(PolicyRefused, match="keystore_too_open"):
        reopen(files)
    files.modes[PATH] = 0o400
    reopen(files)


@pytest.mark.parametrize(
    "wrong", [b"", b"correct horse battery stapl", b"correct horse battery staple ", b"x" * 2000]
)
def test_a_wrong_passphrase_is_told_from_damage(wrong: bytes) -> None:
    """The officer types again instead of looking for a backup."""
    _, files = a_keystore()
    with pytest.raises(PolicyRefused, match="keystore_wrong_passphrase"):
        reopen(files, SecretBytes(wrong))


def test_a_short_passphrase_is_refused_at_creation() -> None:
    """As is one of absurd length."""
    for passphrase, code in ((b"1234567", "passphrase_too_short"), (b"x" * 1025, "passphrase_too_long")):
        with pytest.raises(PolicyRefused, match=code):
            Keystore.create(
                MemoryFiles(), PATH, SecretBytes(passphrase), {}, random=counter_random(), kdf=CHEAP
            )


def test_every_truncation_is_damage() -> None:
    """Cut anywhere, the empty file included."""
    _, files = a_keystore()
    good = files.content[PATH]
    for size in range(len(good)):
        files.content[PATH] = good[:size]
        with pytest.raises(MalformedInput, match="keystore_damaged"):
            reopen(files)


def test_every_flipped_bit_is_damage() -> None:
    """Header, check value, nonce or body: never taken for a wrong passphrase or a newer version."""
    _, files = a_keystore()
    good = files.content[PATH]
    for at in range(len(good)):
        files.content[PATH] = good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :]
        with pytest.raises(MalformedInput, match="keystore_damaged"):
            reopen(files)


@given(st.binary(min_size=1, max_size=100))
def test_trailing_data_is_damage(extra: bytes) -> None:
    """Nothing rides behind the body."""
    _, files = a_keystore()
    files.content[PATH] += extra
    with pytest.raises(MalformedInput, match="keystore_damaged"):
        reopen(files)


@settings(max_examples=200)
@given(st.binary(max_size=300).map(lambda data: b"SLWS" + data) | st.binary(max_size=300))
def test_any_other_file_is_damage(data: bytes) -> None:
    """Whatever stands in the keystore's place."""
    files = MemoryFiles()
    files.write_atomic(PATH, data, 0o600)
    with pytest.raises(MalformedInput, match="keystore_damaged"):
        reopen(files)


def with_header(files: MemoryFiles, change: Callable[[bytes], bytes]) -> None:
    """Change the header and make its closing hash right again, as an attacker could."""
    data = files.content[PATH]
    size = int.from_bytes(data[5:7], "big")
    head = change(data[: size - 32])
    files.content[PATH] = head + labelled_hash(labels.KEYSTORE_HEADER, head) + data[size:]


def test_a_newer_format_is_told_from_damage() -> None:
    """Magic, version, length and closing hash are promised for all versions, even with a longer header."""
    _, files = a_keystore()
    with_header(files, lambda head: head[:4] + b"\x02" + head[5:])
    with pytest.raises(PolicyRefused, match="keystore_newer_version"):
        reopen(files)
    _, files = a_keystore()
    with_header(
        files, lambda head: head[:4] + b"\x02" + layout.u16(len(head) + 32 + 9) + head[7:] + b"123456789"
    )
    with pytest.raises(PolicyRefused, match="keystore_newer_version"):
        reopen(files)
    for version in (b"\x00", b"\x01"):
        _, files = a_keystore()
        with_header(
            files,
            lambda head, version=version: head[:4] + version + layout.u16(len(head) + 33) + head[7:] + b"x",  # type: ignore[misc]
        )
        with pytest.raises(MalformedInput, match="keystore_damaged"):
            reopen(files)


BAD_KDF = [
    KdfParameters(memory_kib=4 * 1024 * 1024, iterations=1, lanes=1),
    KdfParameters(memory_kib=2**32 - 1, iterations=2**32 - 1, lanes=255),
    KdfParameters(memory_kib=8, iterations=17, lanes=1),
    KdfParameters(memory_kib=8, iterations=0, lanes=1),
    KdfParameters(memory_kib=7, iterations=1, lanes=1),
    KdfParameters(memory_kib=15, iterations=1, lanes=2),
    KdfParameters(memory_kib=72, iterations=1, lanes=9),
    KdfParameters(memory_kib=8, iterations=1, lanes=0),
]


@pytest.mark.parametrize("kdf", BAD_KDF, ids=lambda kdf: f"{kdf.memory_kib}-{kdf.iterations}-{kdf.lanes}")
def test_a_planted_file_cannot_make_us_spend_memory(
    kdf: KdfParameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters out of range are refused before the derivation runs."""
    _, files = a_keystore()
    with_header(files, lambda head: head[:7] + kdf.encode() + head[16:])
    monkeypatch.setattr(keystore, "argon2id", lambda *_, **__: pytest.fail("the derivation ran"))
    with pytest.raises(MalformedInput, match="keystore_damaged"):
        reopen(files)


def test_the_real_cost_is_the_one_of_the_design() -> None:
    """256 MiB, three iterations, two lanes; and it works."""
    assert (DEFAULT_KDF.memory_kib, DEFAULT_KDF.iterations, DEFAULT_KDF.lanes) == (262_144, 3, 2)
    assert DEFAULT_KDF.fault() is None
    files = MemoryFiles()
    Keystore.create(files, PATH, PASSPHRASE, FIRST, random=counter_random())
    assert content(reopen(files)) == REVEALED


def test_a_changed_salt_or_cost_reads_as_a_wrong_passphrase() -> None:
    """With a right closing hash nobody can tell: an attacker who edits the file gains a refusal."""
    for at in (16, 20):
        _, files = a_keystore()
        with_header(files, lambda head, at=at: head[:at] + bytes([head[at] ^ 1]) + head[at + 1 :])  # type: ignore[misc]
        with pytest.raises(PolicyRefused, match="keystore_wrong_passphrase"):
            reopen(files)


def test_the_body_is_bound_to_its_header() -> None:
    """The body of one file does not open behind the header of another, even under one passphrase."""
    _, files_a = a_keystore()
    files_b = MemoryFiles()
    Keystore.create(files_b, PATH, PASSPHRASE, FIRST, random=lambda size: drawn("other", size), kdf=CHEAP)
    a, b = files_a.content[PATH], files_b.content[PATH]
    size = int.from_bytes(a[5:7], "big")
    files_a.content[PATH] = a[:size] + b[size:]
    with pytest.raises(MalformedInput, match="keystore_damaged"):
        reopen(files_a)


def test_damage_says_where_to_go_from_here() -> None:
    """The sentence is for the person in front of the machine."""
    _, files = a_keystore()
    files.content[PATH] = b""
    with pytest.raises(MalformedInput) as caught:
        reopen(files)
    assert "last backup" in caught.value.detail


def test_the_real_file_system_holds_it_as_promised(tmp_path: Path) -> None:
    """Mode 0600 from the first byte, whatever the umask; opened again; refused when someone loosened it."""
    files, path = RealFiles(), tmp_path / "keystore"
    umask = os.umask(0)
    try:
        Keystore.create(files, path, PASSPHRASE, FIRST, random=counter_random(), kdf=CHEAP)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["keystore"]
    assert content(Keystore.open(files, path, PASSPHRASE, random=counter_random())) == REVEALED
    path.chmod(0o644)
    with pytest.raises(PolicyRefused, match="keystore_too_open"):
        Keystore.open(files, path, PASSPHRASE, random=counter_random())


# --- when the power goes ---


def crashes(change: Callable[[Keystore], None]) -> Iterator[tuple[dict[str, bytes], dict[str, bytes]]]:
    """(content on disk, content in memory) after a power cut at each step of ``change``'s save."""
    for step in itertools.count():
        store, files = a_keystore()
        files.steps_left = step
        try:
            change(store)
        except PowerLostError:
            files.steps_left = None
            yield content(reopen(files)), content(store)
        else:
            assert step > 3
            return


def test_a_crash_leaves_the_old_or_the_new_file() -> None:
    """At every step of a save; memory never runs ahead of the disk."""
    new = {**REVEALED, "receive/1": b"r" * 32}
    seen = []
    for on_disk, in_memory in crashes(lambda store: store.put("receive/1", SecretBytes(b"r" * 32))):
        assert on_disk in (REVEALED, new)
        assert in_memory == REVEALED
        seen.append(on_disk == new)
    assert seen == [False, False, False, True]


def test_a_crash_while_removing_leaves_the_old_or_the_new_file() -> None:
    """A removal can be repeated after the restart."""
    new = {name: data for name, data in REVEALED.items() if name != "log/1"}
    for on_disk, in_memory in crashes(lambda store: store.remove("log/1")):
        assert on_disk in (REVEALED, new)
        assert in_memory == REVEALED


def test_a_crash_while_creating_leaves_no_file_or_a_whole_one() -> None:
    """Init can be repeated, or goes on."""
    for step in range(4):
        files = MemoryFiles()
        files.steps_left = step
        with pytest.raises(PowerLostError):
            a_keystore(files)
        files.steps_left = None
        if files.exists(PATH):
            assert content(reopen(files)) == REVEALED
        else:
            a_keystore(files)
