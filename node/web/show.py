"""Times, sizes and numbers as a reader of one language in one zone sees them.

One rule: no time is shown without its distance from UTC, because two offices of one border read it. Zones are
fixed offsets by country: none of these countries keeps summer time, and a node must not depend on a zone
database being installed. Stored and signed times stay UTC milliseconds.
"""

from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from babel.dates import format_date, format_timedelta
from babel.numbers import format_decimal
from markupsafe import Markup

from node.web.languages import Words
from protocol.limits import TIME_MS_MAX

_MINUTES_OF_COUNTRY: Final = {
    "MM": 390, "CN": 480, "TH": 420, "LA": 420, "KH": 420, "VN": 420, "IN": 330, "BD": 360, "MY": 480,
    "SG": 480, "PH": 480, "ID": 420, "HK": 480, "MO": 480,
}  # fmt: skip
_BUDDHIST_YEARS_AHEAD: Final = 543
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def zone_of(country: str) -> timezone:
    """The clock on the wall of an office in ``country`` (ISO 3166, two letters); UTC when not known here."""
    return timezone(timedelta(minutes=_MINUTES_OF_COUNTRY.get(country.upper(), 0)))


class Show:
    """Formatting for one reader."""

    def __init__(self, words: Words, zone: timezone) -> None:
        self._words = words
        self._zone = zone

    def when(self, at_ms: int, country: str | None = None) -> Markup:
        """``<time>`` with date, minute and UTC offset, in the reader's zone or in that of ``country``."""
        if not 0 <= at_ms <= TIME_MS_MAX:
            return Markup("<bdi>{} ms</bdi>").format(at_ms)
        instant = _EPOCH + timedelta(milliseconds=at_ms)
        try:
            local = instant.astimezone(zone_of(country) if country is not None else self._zone)
        except OverflowError:  # the last hours of year 9999 have no local date
            local = instant
        iso = instant.strftime("%Y-%m-%dT%H:%M:%SZ")
        # Parts that a line may break between, and not within.
        parts = (*self._day(local), f"{local:%H:%M} {_offset(local)}")
        spans = Markup(" ").join(Markup("<span>{}</span>").format(part) for part in parts)
        return Markup('<time datetime="{}" title="{}">{}</time>').format(iso, iso, spans)

    def _day(self, local: datetime) -> tuple[str, ...]:
        locale = self._words.locale
        if locale.language == "th":
            year = local.year + _BUDDHIST_YEARS_AHEAD
            return f"{format_date(local, 'd MMM', locale=locale)} พ.ศ. {year}", f"({local:%Y-%m-%d})"
        return (format_date(local, "medium", locale=locale),)

    def ago(self, at_ms: int, now_ms: int) -> str:
        """Roughly how long before or after now, in words."""
        return format_timedelta(
            timedelta(milliseconds=at_ms - now_ms), add_direction=True, locale=self._words.locale
        )

    def lasting(self, duration_ms: int) -> str:
        """A length of time in words."""
        return format_timedelta(timedelta(milliseconds=duration_ms), threshold=1.5, locale=self._words.locale)

    def number(self, value: int) -> str:
        """Digits grouped as the language does."""
        return format_decimal(value, locale=self._words.locale)

    def disk_size(self, size_bytes: int) -> str:
        """A disk size in MiB, or in GiB from ten of them on."""
        if size_bytes < 10 * 2**30:
            return f"{self.number(size_bytes // 2**20)} MiB"
        return f"{self.number(size_bytes // 2**30)} GiB"


def _offset(local: datetime) -> str:
    minutes = round((local.utcoffset() or timedelta()).total_seconds() / 60)
    sign = "-" if minutes < 0 else "+"
    return f"UTC{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
