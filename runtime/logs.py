"""Operations log: one JSON object a line, for the operator; no personal data by construction.

Spec: docs/operations.md#log. One rule: only allow-listed fields get in. An unlisted field, a value that is
not a short text or number, or an event that is not a past-tense word raises while testing (``strict``); in
production the field is dropped and the event stays, because a lost event can cost more than a lost detail.

The settings live in a context variable, not in the module: tasks inherit them, so several daemons in one
process (the simulator) each have their own log. This is not the audit log (audit/) and not the metrics
(service).
"""

import datetime
import logging
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog
from structlog.typing import FilteringBoundLogger

from keys.errors import SalweenError
from runtime.env import Clock

TEXT_CHARS_MAX: Final = 300
COMMON_FIELDS: Final = frozenset(
    {
        "address",
        "attempt",
        "boot_id",
        "code",
        "count",
        "delay_ms",
        "detail",
        "duration_ms",
        "error_type",
        "exit_code",
        "family",
        "host",
        "library",
        "path",
        "pid",
        "port",
        "size_bytes",
        "state",
        "status",
        "task",
        "version",
        "where",
    }
)
_RESERVED: Final = frozenset({"at", "level", "component", "event", "dropped"})
_EVENT_NAME: Final = re.compile(r"[a-z][a-z0-9_]{2,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    clock: Clock
    write: Callable[[str], None]
    strict: bool


_settings: ContextVar[_Settings | None] = ContextVar("salween_log_settings", default=None)


class UnlistedFieldError(AssertionError):
    """A log call used a field or value that the allow-list does not know. Only raised when strict."""


def configure(clock: Clock, write: Callable[[str], None], *, strict: bool) -> None:
    """Send the events of this context and the tasks it starts to ``write``, one line each without its end."""
    _settings.set(_Settings(clock=clock, write=write, strict=strict))


def get_logger(component: str, fields: Iterable[str] = ()) -> FilteringBoundLogger:
    """A logger of one component; ``fields`` it may use besides COMMON_FIELDS. Fit for module level.

    Without ``configure`` in the context it writes nothing, and is strict.
    """
    allowed = COMMON_FIELDS | frozenset(fields)
    assert not allowed & _RESERVED, f"{component}: reserved log field"
    return cast(
        FilteringBoundLogger,
        structlog.wrap_logger(
            _Sink(),
            processors=[_Shape(component, allowed), structlog.processors.JSONRenderer()],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            cache_logger_on_first_use=False,
        ),
    )


def error_fields(error: BaseException) -> dict[str, str]:
    """What may be logged of an error: family, code and detail of ours; type and place of any other.

    The message of a foreign exception stays out: it may quote what it stumbled over.
    """
    if isinstance(error, SalweenError):
        return {"family": error.family, "code": error.code, "detail": error.detail}
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in frames[:-6:-1])
    return {"error_type": type(error).__name__, "where": where}


class _Shape:
    """Checks the fields against the allow-list and puts time, level and component in front."""

    def __init__(self, component: str, allowed: frozenset[str]) -> None:
        self._component = component
        self._allowed = allowed

    def __call__(self, _: object, method: str, event_dict: MutableMapping[str, Any]) -> Mapping[str, Any]:
        settings = _settings.get()
        strict = settings is None or settings.strict
        event = event_dict.pop("event", "")
        dropped = 0
        kept: dict[str, Any] = {}
        for name, value in event_dict.items():
            fault = self._fault(name, value)
            if fault is None:
                kept[name] = value if not isinstance(value, str) else value[:TEXT_CHARS_MAX]
            elif strict:
                raise UnlistedFieldError(f"{event}: {fault}")
            else:
                dropped += 1
        if not isinstance(event, str) or _EVENT_NAME.fullmatch(event) is None:
            if strict:
                raise UnlistedFieldError("an event is a lower_snake_case fact")
            event = "event_unnamed"
        if dropped:
            kept["dropped"] = dropped
        head: dict[str, Any] = {
            "at": _iso(settings.clock.now_ms()) if settings is not None else "",
            "level": method,
            "component": self._component,
            "event": event,
        }
        return head | kept

    def _fault(self, name: str, value: object) -> str | None:
        if name not in self._allowed:
            return f"field {name} is not on the allow-list"
        if value is not None and type(value) not in (str, int, float, bool):
            return f"field {name} holds {type(value).__name__}, not a text or a number"
        return None


class _Sink:
    """Where rendered lines go: the writer of the current context, or nowhere."""

    def _write(self, line: str) -> None:
        settings = _settings.get()
        if settings is not None:
            settings.write(line)

    debug = info = warning = error = critical = _write


def _iso(now_ms: int) -> str:
    """UTC with milliseconds; the number itself outside the years that have such a form."""
    try:
        moment = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(milliseconds=now_ms)
    except OverflowError:
        return str(now_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class LibraryHandler(logging.Handler):
    """Turns what libraries say through the standard logging module into events, without their words."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._log = get_logger("library")

    def emit(self, record: logging.LogRecord) -> None:
        """One event for one record; its message stays out, it may quote bytes from the network."""
        error = record.exc_info[1] if record.exc_info else None
        fields = error_fields(error) if error is not None else {"where": f"{record.module}:{record.lineno}"}
        self._log.warning("library_warned", library=record.name, **fields)


def capture_library_logs() -> None:
    """Send the standard logging module's records to the operations log instead of raw to stderr."""
    root = logging.getLogger()
    root.handlers = [LibraryHandler()]
    root.setLevel(logging.WARNING)
