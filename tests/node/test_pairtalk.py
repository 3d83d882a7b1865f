"""A ceremony at a terminal: each step prints what to look at, and asks for what is missing."""

import io
import json
from typing import Any

import pytest

from keys.brokercard import BrokerAddress
from keys.meetingcode import CODE_BYTES_MAX, HOST_CHARACTERS_MAX, InviterCode, code_text, encode_code
from keys.secret import SecretBytes
from node.pairtalk import answer_event, say_event
from node.qr import qr_terminal
from runtime.env import real_env

ENCODED = encode_code(
    InviterCode(
        office_id=bytes(range(32)),
        secret=SecretBytes(bytes(16)),
        token=SecretBytes(bytes(32)),
        broker_address=BrokerAddress(host="b" * HOST_CHARACTERS_MAX, port=7440, card_sha256=bytes(32)),
        expires_ms=1,
    )
)


def test_the_picture_of_the_longest_code_fits_a_terminal() -> None:
    """53 modules and a quiet zone: 61 columns of the 80 there are, and two modules a line."""
    assert len(ENCODED) == CODE_BYTES_MAX
    lines = [line for line in qr_terminal(ENCODED).splitlines() if line.strip()]
    assert len(lines) <= 31
    marks = (
        qr_terminal(ENCODED).count("▀") + qr_terminal(ENCODED).count("▄") + qr_terminal(ENCODED).count("█")
    )
    assert marks > 600
    assert qr_terminal(ENCODED) != qr_terminal(ENCODED[:-1] + b"x")


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"event": "meeting-code", "code": code_text(ENCODED)}, code_text(ENCODED)),
        ({"event": "recognise", "name": "Tengchong BLO", "country": "CN", "safety_number": "12345"}, "12345"),
        ({"event": "replace", "name": "Tengchong BLO"}, "already"),
        ({"event": "waiting"}, "Waiting"),
    ],
)
def test_each_step_is_said(event: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In words; and as one line of JSON for a program."""
    say_event(event, as_json=False)
    assert words in capsys.readouterr().out
    say_event(event, as_json=True)
    assert json.loads(capsys.readouterr().out) == event


@pytest.mark.parametrize(
    ("line", "said"),
    [('{"answer": "yes"}', "yes"), ('{"peer_code": "1"}', "1"), ("junk", ""), ("[]", ""), ('{"x": 1}', "")],
)
async def test_a_program_answers_with_one_line(line: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no answer counts as none."""
    monkeypatch.setattr("sys.stdin", io.StringIO(line + "\n"))
    assert await answer_event(real_env(), {"event": "recognise", "asks": True}, as_json=True) == said
