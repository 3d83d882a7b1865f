"""The memory of answered requests: bounded, and never wrong in the direction that answers twice."""

from hypothesis import given
from hypothesis import strategies as st

from broker.replay import GENERATION_MS, ReplayMemory
from protocol import limits

BOOT_MS = 1_000_000_000


def test_what_is_remembered_is_known_and_nothing_else() -> None:
    """An encapsulation is known from the moment it is remembered, under its own date."""
    memory = ReplayMemory(boot_ms=BOOT_MS)
    memory.remember(b"a", BOOT_MS, BOOT_MS)
    assert memory.knows(b"a", BOOT_MS)
    assert not memory.knows(b"b", BOOT_MS)


def test_what_showed_no_capability_is_forgotten() -> None:
    """Strangers leave nothing in memory."""
    memory = ReplayMemory(boot_ms=BOOT_MS)
    memory.remember(b"a", BOOT_MS, BOOT_MS)
    memory.forget(b"a", BOOT_MS)
    assert memory.count == 0
    assert not memory.knows(b"a", BOOT_MS)


def test_when_full_it_refuses_dates_rather_than_forget() -> None:
    """The floor rises over whatever had to be dropped."""
    memory = ReplayMemory(boot_ms=BOOT_MS, remembered_max=3)
    dates = [BOOT_MS + n * GENERATION_MS for n in range(4)]
    for number, date_ms in enumerate(dates):
        memory.remember(bytes([number]), date_ms, BOOT_MS)
    assert memory.count == 3
    assert not memory.knows(b"\0", dates[0])
    assert memory.floor_ms > dates[0]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 7),  # which encapsulation
            st.integers(-limits.DATE_SKEW_MS_MAX, limits.DATE_SKEW_MS_MAX),  # its sender's clock
            st.integers(0, 3 * GENERATION_MS),  # time that passes before
        ),
        max_size=60,
    )
)
def test_nothing_is_answered_twice(requests: list[tuple[int, int, int]]) -> None:
    """Whatever order and whatever clocks: a date still taken is never of a request already forgotten."""
    memory = ReplayMemory(boot_ms=BOOT_MS, remembered_max=4)
    now_ms = BOOT_MS
    dates: dict[int, int] = {}
    answered: list[int] = []
    for which, skew_ms, passed_ms in requests:
        now_ms += passed_ms
        date_ms = dates.setdefault(which, now_ms + skew_ms)  # the date is inside: it cannot change
        taken = date_ms >= memory.floor_ms and abs(date_ms - now_ms) <= limits.DATE_SKEW_MS_MAX
        digest = bytes([which])
        if taken and not memory.knows(digest, date_ms):
            memory.remember(digest, date_ms, now_ms)
            assert which not in answered
            answered.append(which)
        assert memory.count <= 5
