"""The real environment: files old or new, sockets private from birth, TLS to one certificate."""

import asyncio
import hashlib
import os
import signal
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from keys.errors import MalformedInput, PolicyRefused, Unavailable
from keys.secret import SecretBytes
from keys.tls import self_signed
from runtime.env import (
    AlreadyLocked,
    AnyCertificate,
    Env,
    RealFiles,
    TlsIdentity,
    TlsPin,
    packaged_files,
    real_env,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def env() -> Env:
    return real_env()


# --- clock, randomness, tasks, threads ----------------------------------------------------------------------


def test_clocks_and_randomness_have_their_shapes(env: Env) -> None:
    """Two units of one clock, a monotonic one, bytes of the length asked, jitter in [0, 1)."""
    assert abs(env.clock.now_us() // 1000 - env.clock.now_ms()) < 1000
    assert env.clock.monotonic_ms() <= env.clock.monotonic_ms()
    assert len(env.random(33)) == 33
    assert env.random(16) != env.random(16)
    assert all(0 <= env.jitter() < 1 for _ in range(100))
    assert len(bytes.fromhex(env.boot_id)) == 8
    assert real_env().boot_id != env.boot_id


async def test_a_spawned_task_is_kept_alive_and_a_blocking_call_leaves_the_loop(env: Env) -> None:
    """spawn holds its task; run_blocking uses another thread; a worker has one thread of its own."""
    assert await env.spawn(asyncio.sleep(0, 5), name="five") == 5
    assert await env.run_blocking(threading.get_ident) != threading.get_ident()
    worker = env.threads.worker("w")
    threads = {await worker.run(threading.get_ident) for _ in range(5)}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}
    await worker.close()
    with pytest.raises(TimeoutError):
        async with env.timeout(0.01):
            await env.sleep(5)


# --- files --------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_with_its_mode(env: Env, tmp_path: Path) -> None:
    """Content and mode are as asked, and nothing else is left in the directory."""
    path = tmp_path / "keystore"
    env.files.write_atomic(path, b"one")
    env.files.write_atomic(path, b"two")
    assert env.files.read(path) == b"two"
    assert env.files.mode(path) == 0o600
    assert env.files.size(path) == 3
    assert env.files.listdir(tmp_path) == ["keystore"]
    env.files.write_atomic(path, b"public", mode=0o644)
    assert env.files.mode(path) == 0o644 & ~os.umask(os.umask(0o022))


def test_a_planted_link_does_not_lead_a_write_astray(env: Env, tmp_path: Path) -> None:
    """The temporary name may have become a link meanwhile; its target stays untouched."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / ".file.new").symlink_to(victim)
    env.files.write_atomic(tmp_path / "file", b"data")
    assert victim.read_bytes() == b"mine"
    assert (tmp_path / "file").read_bytes() == b"data"
    assert not (tmp_path / "file").is_symlink()


def test_killed_at_any_system_call_a_file_is_old_or_new(env: Env, tmp_path: Path) -> None:
    """kill -9 at random moments of write_atomic leaves one of the two contents, never a part."""
    path = tmp_path / "file"
    old, new = b"o" * 300_000, b"n" * 300_000
    program = (
        "import sys, pathlib; from runtime.env import real_env; files = real_env().files\n"
        "print('go', flush=True)\n"
        "while True: [files.write_atomic(sys.argv[1], letter * 300_000) for letter in (b'n', b'o')]"
    )
    env.files.write_atomic(path, old)
    seen = set()
    for round_number in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        threading.Event().wait(0.004 * round_number)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        content = env.files.read(path)
        assert content in (old, new)
        seen.add(content[:1])
    env.files.write_atomic(path, b"last")
    assert env.files.listdir(tmp_path) == ["file"]


def test_appending_making_and_removing(env: Env, tmp_path: Path) -> None:
    """append_fsync appends, mkdir makes parents 0700, remove removes, a missing file is FileNotFoundError."""
    directory = tmp_path / "a" / "b"
    env.files.mkdir(directory)
    env.files.mkdir(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    env.files.append_fsync(directory / "log", b"one")
    env.files.append_fsync(directory / "log", b"two")
    assert env.files.read(directory / "log") == b"onetwo"
    assert env.files.read_range(directory / "log", 2, 2) == b"et"
    assert env.files.read_range(directory / "log", 5, 9) == b"o"
    env.files.rename(directory / "log", tmp_path / "log")
    assert env.files.exists(tmp_path / "log")
    assert env.files.is_regular(tmp_path / "log")
    assert not env.files.is_regular(directory)
    assert env.files.is_dir(directory)
    env.files.remove(tmp_path / "log")
    with pytest.raises(FileNotFoundError):
        env.files.read(tmp_path / "log")
    assert env.files.free_bytes(tmp_path / "not" / "there") > 0


def test_a_tree_is_removed_and_what_it_links_to_is_not(env: Env, tmp_path: Path) -> None:
    """Files, folders, a link to a folder; a link given as the path is the link alone."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"kept")
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "file").write_bytes(b"gone")
    (tmp_path / "tree" / "link").symlink_to(outside)
    (tmp_path / "link").symlink_to(outside)
    for name in ("tree", "link"):
        env.files.remove_tree(tmp_path / name)
    assert env.files.listdir(tmp_path) == ["outside"]
    env.files.remove_tree(outside / "file")
    assert env.files.listdir(outside) == []


def test_what_is_no_file_or_too_large_is_refused_at_once(env: Env, tmp_path: Path) -> None:
    """A FIFO in a file's place does not hang the reader, and a huge file is not read into memory."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(1001))
    with pytest.raises(MalformedInput, match="not_a_file"):
        env.files.read(tmp_path / "fifo")
    with pytest.raises(MalformedInput, match="not_a_file"):
        env.files.read("/dev/zero")
    with pytest.raises(MalformedInput, match="file_too_large"):
        env.files.read(tmp_path / "large", bytes_max=1000)
    assert len(env.files.read(tmp_path / "large", bytes_max=1001)) == 1001


def test_a_full_disk_is_a_disk_failure(env: Env) -> None:
    """Every write that meets ENOSPC says disk_full."""
    program = (
        "import resource, signal, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from runtime.env import real_env; from runtime.exits import DiskFailed; files = real_env().files\n"
        "for write in (files.write_atomic, files.append_fsync):\n"
        "    try: write(sys.argv[1], bytes(5000))\n"
        "    except DiskFailed as error: print(error.code)\n"
    )
    place = f"/dev/shm/full-{os.getpid()}"
    done = subprocess.run(
        [sys.executable, "-c", program, place], cwd=ROOT, capture_output=True, text=True, check=True
    )
    os.unlink(place)
    assert done.stdout.split() == ["disk_full", "disk_full"]


def test_a_lock_is_held_once_and_names_its_holder(env: Env, tmp_path: Path) -> None:
    """A second taker, also in the same process, hears who holds it; released, it is free."""
    lock = env.files.lock_exclusive(tmp_path / "pid", note=b"123\n")
    with pytest.raises(AlreadyLocked) as caught:
        RealFiles().lock_exclusive(tmp_path / "pid", note=b"456\n")
    assert caught.value.note == b"123\n"
    lock.release()
    env.files.lock_exclusive(tmp_path / "pid").release()


def test_packaged_files_are_listed_in_order() -> None:
    """Files of the program, by name."""
    names = [name for name, _ in packaged_files("runtime", ".")]
    assert names == sorted(names)
    assert "env.py" in names


# --- network ------------------------------------------------------------------------------------------------


def small_app() -> web.Application:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    return app


async def test_a_port_in_use_is_named(env: Env) -> None:
    """The second server on a port hears which, and what to do."""
    listener = await env.network.serve_tcp(small_app(), host="127.0.0.1", port=0)
    with pytest.raises(Unavailable, match="port_in_use") as caught:
        await env.network.serve_tcp(small_app(), host="127.0.0.1", port=listener.port)
    assert str(listener.port) in caught.value.detail
    with pytest.raises(Unavailable, match="address_unusable"):
        await env.network.serve_tcp(small_app(), host="203.0.113.1", port=0)
    await listener.close()


async def test_a_unix_socket_is_private_and_replaces_a_dead_one(env: Env, tmp_path: Path) -> None:
    """0600 whatever the umask, reachable by path, gone after close; a stale file does not block."""
    path = tmp_path / "control.sock"
    path.write_bytes(b"stale")
    before = os.umask(0)
    try:
        listener = await env.network.serve_unix(small_app(), path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with env.network.client_session(unix_path=path) as session, session.get("http://x/") as answer:
        assert await answer.text() == "hello"
    await listener.close()
    assert not path.exists()
    with pytest.raises(PolicyRefused, match="path_too_long"):
        await env.network.serve_unix(small_app(), tmp_path / ("d" * 120))


async def test_tls_speaks_to_the_pinned_certificate_alone(env: Env) -> None:
    """TLS 1.3 to the certificate whose hash is pinned, whatever its dates; any other ends the handshake."""
    made = self_signed(seed=SecretBytes(bytes(32)), serial=bytes(16), common_name="broker", now_ms=0)
    identity = TlsIdentity(certificate_pem=made.certificate_pem, private_key_pem=made.private_key_pem)
    listener = await env.network.serve_tcp(small_app(), host="127.0.0.1", port=0, tls=identity)
    url = f"https://127.0.0.1:{listener.port}/"
    der = ssl.PEM_cert_to_DER_cert(made.certificate_pem.decode())
    for pin in (TlsPin(certificate_sha256=hashlib.sha256(der).digest()), AnyCertificate()):
        async with env.network.client_session(tls_pin=pin) as session, session.get(url) as answer:
            assert await answer.text() == "hello"
            assert answer.connection is None or answer.connection.transport is not None
    wrong = TlsPin(certificate_sha256=bytes(32))
    async with env.network.client_session(tls_pin=wrong) as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(url)
    async with env.network.client_session() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(url)
    await listener.close()


async def test_tls_below_1_3_is_refused(env: Env) -> None:
    """An old client gets no connection, and an old server none from us."""
    made = self_signed(seed=SecretBytes(bytes(32)), serial=bytes(16), common_name="broker", now_ms=0)
    identity = TlsIdentity(certificate_pem=made.certificate_pem, private_key_pem=made.private_key_pem)
    listener = await env.network.serve_tcp(small_app(), host="127.0.0.1", port=0, tls=identity)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.open_connection("127.0.0.1", listener.port, ssl=old)
    await listener.close()


def test_a_pin_is_32_bytes() -> None:
    """A short pin is refused before it is used."""
    with pytest.raises(MalformedInput, match="bad_tls_pin"):
        TlsPin(certificate_sha256=b"short")
