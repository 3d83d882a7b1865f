"""Times as two offices of one border read them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.web.languages import LANGUAGES, words
from node.web.show import Show, zone_of
from protocol.limits import TIME_MS_MAX
from tests.web.fake_desk import NOW_MS


def text(markup: str) -> str:
    return re.sub("<[^>]+>", "", markup)


@pytest.mark.parametrize(
    ("country", "shown"),
    [
        ("MM", "18:43 UTC+06:30"),
        ("CN", "20:13 UTC+08:00"),
        ("TH", "19:13 UTC+07:00"),
        ("ZZ", "12:13 UTC+00:00"),
    ],
)
def test_every_time_says_its_distance_from_utc(country: str, shown: str) -> None:
    """The clock on the wall of the office, never a bare hour."""
    assert text(Show(words("en"), zone_of(country)).when(NOW_MS)) == f"23 Nov 2025 {shown}"


def test_the_sender_s_clock_can_be_shown_beside_the_reader_s() -> None:
    """One instant, two walls."""
    show = Show(words("en"), zone_of("MM"))
    assert text(show.when(NOW_MS, "CN")) == "23 Nov 2025 20:13 UTC+08:00"


def test_thai_readers_see_the_buddhist_year_beside_iso() -> None:
    """Always both."""
    assert (
        text(Show(words("th"), zone_of("TH")).when(NOW_MS))
        == "23 พ.ย. พ.ศ. 2568 (2025-11-23) 19:13 UTC+07:00"
    )


@given(
    st.integers(min_value=-(2**70), max_value=2**70) | st.sampled_from([0, TIME_MS_MAX, TIME_MS_MAX + 1, -1])
)
def test_any_number_of_milliseconds_can_be_shown(at_ms: int) -> None:
    """B95: also 1970, year 9999 and what no calendar holds, in every language."""
    for language in LANGUAGES:
        show = Show(words(language.tag), zone_of("CN"))
        shown = show.when(at_ms)
        assert "<time" in shown or "ms</bdi>" in shown


def test_sizes_and_lengths_are_words() -> None:
    """Of the reader's language."""
    show = Show(words("en"), zone_of("MM"))
    assert show.ago(NOW_MS + 95_000, NOW_MS) == "in 2 minutes"
    assert show.lasting(72 * 3_600_000) == "3 days"
    assert show.lasting(6 * 3_600_000) == "6 hours"
    assert show.disk_size(100 * 2**20) == "100 MiB"
    assert show.disk_size(41 * 2**30) == "41 GiB"
