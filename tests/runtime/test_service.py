"""A daemon's life: one per directory, gracefully ended, and a code that says why."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

ROOT = Path(__file__).parents[2]


class Running:
    """A daemon process and what it said."""

    def __init__(self, directory: Path, how: str = "serve", *python: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *python, "-m", "tests.runtime.small_daemon", str(directory), how],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ready: dict[str, Any] = {}

    def wait_ready(self) -> "Running":
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        assert self.ready["event"] == "ready"
        return self

    def get(self, path: str, *, port: str = "port", host: str = "") -> tuple[int, str]:
        request = Request(f"http://127.0.0.1:{self.ready[port]}{path}")
        if host:
            request.add_header("Host", host)
        try:
            with urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def end(self) -> tuple[int, str, list[dict[str, Any]], str]:
        """Exit code, standard output, log events, and the words for people."""
        out, err = self.process.communicate(timeout=30)
        lines = err.splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return self.process.returncode, out, events, "\n".join(x for x in lines if not x.startswith("{"))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    daemon = Running(tmp_path).wait_ready()
    yield daemon
    daemon.process.kill()
    daemon.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_end_it_gracefully_also_twice(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM is as safe as SIGINT, and a second one does not cut the first short."""
    daemon = Running(tmp_path, "slow").wait_ready()
    assert daemon.process.stdout is not None
    daemon.process.send_signal(number)
    assert daemon.process.stdout.readline() == "stopping\n"
    daemon.process.send_signal(number)
    code, out, events, words = daemon.end()
    assert (code, out, words) == (0, "stopped\n", "")
    assert events[-1]["event"] == "daemon_stopped"


def test_a_second_run_ends_with_75_and_names_the_first(running: Running, tmp_path: Path) -> None:
    """One daemon per directory; killed, it leaves no lock behind."""
    code, out, _, words = Running(tmp_path).end()
    assert code == 75
    assert out == ""
    assert str(running.process.pid) in words
    assert "already_running" in words
    running.process.kill()
    running.process.wait()
    again = Running(tmp_path).wait_ready()
    again.process.send_signal(signal.SIGTERM)
    assert again.end()[0] == 0


@pytest.mark.parametrize(("how", "code"), [("refuse", 1), ("bug", 70), ("task", 70)])
def test_the_exit_code_says_why(tmp_path: Path, how: str, code: int) -> None:
    """Refused is 1; a bug is 70, in a background task too, and its message, which may quote, is nowhere."""
    returned, _, events, words = Running(tmp_path, how).end()
    assert returned == code
    assert events[-1]["event"] == "daemon_failed"
    assert events[-1]["exit_code"] == code
    assert "YGN" not in json.dumps(events) + words
    assert ("do that" in words) == (how == "refuse")


def test_a_failing_disk_met_in_a_handler_ends_the_daemon_with_74(running: Running) -> None:
    """aiohttp would answer 500 and carry on; the daemon must not."""
    assert running.get("/disk")[0] == 503
    code, _, events, _ = running.end()
    assert code == 74
    assert events[-1]["code"] == "disk_full"


def test_a_bug_in_a_handler_is_answered_without_its_words(running: Running) -> None:
    """500 in two words, one event with the place, and the daemon lives."""
    assert running.get("/bug") == (500, "internal error\n")
    assert running.get("/other") == (200, "served")
    running.process.send_signal(signal.SIGTERM)
    code, _, events, _ = running.end()
    assert code == 0
    (event,) = [event for event in events if event["event"] == "request_failed"]
    assert event["error_type"] == "ValueError"
    assert "YGN" not in json.dumps(events)


def test_health_is_told_on_loopback_by_its_own_name_only(running: Running) -> None:
    """/healthz, /readyz and /metrics answer; a page that rebinds its name to 127.0.0.1 gets 421."""
    assert running.get("/healthz", port="health_port") == (200, "ok\n")
    status, body = running.get("/readyz", port="health_port")
    assert (status, json.loads(body)) == (200, {"ready": True, "reasons": {}})
    assert running.get("/metrics", port="health_port")[0] == 200
    assert running.get("/metrics", port="health_port", host="evil.example")[0] == 421
    assert running.get("/metrics", port="health_port", host="localhost:1")[0] == 200


def test_it_starts_only_with_assertions_and_a_directory(tmp_path: Path) -> None:
    """python -O strips the checks of our own mistakes; a missing directory names who makes it."""
    code, _, _, words = Running(tmp_path, "serve", "-O").end()
    assert code == 1
    assert "python_optimized" in words
    code, _, _, words = Running(tmp_path / "none").end()
    assert code == 1
    assert "small init" in words


def test_the_supervisor_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sd_notify: READY=1 when it serves, STOPPING=1 when it ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon = Running(tmp_path).wait_ready()
        assert supervisor.recv(100) == b"READY=1"
        daemon.process.send_signal(signal.SIGTERM)
        assert supervisor.recv(100) == b"STOPPING=1"
        assert daemon.end()[0] == 0
