"""The operations log: only listed fields, whatever somebody tries to put in."""

import json
import logging
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest

from keys.errors import PolicyRefused
from keys.secret import SecretBytes
from runtime import logs

log = logs.get_logger("test", fields=("mailbox",))


class FixedClock:
    def __init__(self, now_ms: int = 1_800_000_000_123) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def now_us(self) -> int:
        return self._now_ms * 1000

    def monotonic_ms(self) -> int:
        return 0


def written(act: Callable[[], object], *, strict: bool = True, now_ms: int = 1_800_000_000_123) -> list[Any]:
    """The events of ``act``, in a context of its own."""
    lines: list[str] = []

    def run() -> None:
        logs.configure(FixedClock(now_ms), lines.append, strict=strict)
        act()

    copy_context().run(run)
    return [json.loads(line) for line in lines]


def test_an_event_is_one_json_line_with_its_head() -> None:
    """Time, level, component, event, then the fields."""
    assert written(lambda: log.info("envelope_stored", mailbox="m1", size_bytes=7)) == [
        {
            "at": "2027-01-15T08:00:00.123Z",
            "level": "info",
            "component": "test",
            "event": "envelope_stored",
            "mailbox": "m1",
            "size_bytes": 7,
        }
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"plate": "YGN 1A-1234"},
        {"detail": b"bytes"},
        {"detail": SecretBytes(b"k")},
        {"detail": ["a", "list"]},
    ],
)
def test_an_unlisted_field_raises_in_tests_and_is_dropped_in_production(fields: dict[str, Any]) -> None:
    """The event stays and says that something was dropped; the value is nowhere."""
    with pytest.raises(logs.UnlistedFieldError):
        written(lambda: log.info("alert_shown", count=1, **fields))
    (event,) = written(lambda: log.info("alert_shown", count=1, **fields), strict=False)
    assert event["event"] == "alert_shown"
    assert event["count"] == 1
    assert event["dropped"] == 1
    assert not set(fields) & set(event)


def test_an_event_is_a_fact_and_not_a_sentence() -> None:
    """A sentence could carry a name; in production only its place is kept."""
    with pytest.raises(logs.UnlistedFieldError):
        written(lambda: log.warning("Could not open alert of U Somebody"))
    (event,) = written(lambda: log.warning("Could not open alert of U Somebody"), strict=False)
    assert event["event"] == "event_unnamed"


def test_long_and_hostile_text_stays_one_line() -> None:
    """Line ends and terminal escapes are escaped, length is bounded."""
    (event,) = written(lambda: log.info("peer_refused", detail="a\r\n{}\x1b[31m" + "x" * 5000))
    assert len(event["detail"]) == logs.TEXT_CHARS_MAX
    lines: list[str] = []
    context = copy_context()
    context.run(logs.configure, FixedClock(), lines.append, strict=True)
    context.run(log.info, "peer_refused", detail="a\r\n\x1b[31m\u202e")
    assert lines[0].isascii()
    assert "\n" not in lines[0]
    assert "\x1b" not in lines[0]


def test_a_clock_that_is_absurd_still_logs() -> None:
    """1970, before it, and a year that no calendar has."""
    for now_ms in (0, -5_000_000_000_000, 2**63):
        (event,) = written(lambda: log.info("clock_seen"), now_ms=now_ms)
        assert event["at"]


def test_errors_say_their_code_and_never_a_foreign_message() -> None:
    """Our errors give family, code, detail; a foreign one type and place: its message may quote content."""
    assert logs.error_fields(PolicyRefused("too_late", "the alert expired")) == {
        "family": "policy",
        "code": "too_late",
        "detail": "the alert expired",
    }
    try:
        raise ValueError("plate YGN 1A-1234")
    except ValueError as error:
        fields = logs.error_fields(error)
    assert fields["error_type"] == "ValueError"
    assert "test_logs.py" in fields["where"]
    assert "YGN" not in str(fields)


def test_libraries_speak_through_the_log_without_their_words() -> None:
    """A record of the logging module becomes an event with its place; what it says stays out."""

    def act() -> None:
        logger = logging.getLogger("aiohttp.server")
        handler = logs.LibraryHandler()
        logger.addHandler(handler)
        try:
            raise RuntimeError("body: secret")
        except RuntimeError:
            logger.exception("Error handling request %s", "GET /secret")
        finally:
            logger.removeHandler(handler)

    (event,) = written(act)
    assert event["event"] == "library_warned"
    assert event["library"] == "aiohttp.server"
    assert event["error_type"] == "RuntimeError"
    assert "secret" not in json.dumps(event)


def test_each_context_has_its_own_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Two daemons in one process do not write into each other's log; without settings nothing is written."""
    events = written(lambda: [*written(lambda: log.info("inner_made")), log.info("outer_made")])
    assert [event["event"] for event in events] == ["outer_made"]
    copy_context().run(log.info, "mailbox_made", mailbox="nowhere")
    assert capsys.readouterr() == ("", "")
