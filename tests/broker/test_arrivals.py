"""Waking polls: nothing is missed between looking and waiting, and nobody is woken for another."""

from broker.arrivals import Arrivals
from protocol import limits
from protocol.requests import ListedItem


def an_item(cursor: int) -> ListedItem:
    return ListedItem(cursor=cursor, envelope_hash=bytes(32), size_bytes=8192, envelope=bytes(8192))


def test_what_arrives_after_registering_is_there() -> None:
    """An arrival before the poll begins to wait is as good as one while it waits."""
    arrivals = Arrivals()
    with arrivals.listening([b"a", b"b"]) as poll, arrivals.listening([b"c"]) as other:
        arrivals.announce(b"b", an_item(7))
        assert poll.changed.is_set()
        assert poll.items == {b"b": [an_item(7)]}
        assert not other.changed.is_set()


def test_a_poll_that_ended_is_forgotten() -> None:
    """Listening leaves nothing behind, named once or twice."""
    arrivals = Arrivals()
    with arrivals.listening([b"a", b"a"]) as poll:
        pass
    arrivals.announce(b"a", an_item(1))
    assert not poll.changed.is_set()


def test_a_burst_larger_than_an_answer_says_that_there_is_more() -> None:
    """Memory of one poll is bounded by what its answer can list."""
    arrivals = Arrivals()
    with arrivals.listening([b"a"]) as poll:
        for cursor in range(limits.LISTED_PER_ANSWER_MAX + 1):
            arrivals.announce(b"a", an_item(cursor))
        assert len(poll.items[b"a"]) == limits.LISTED_PER_ANSWER_MAX
        assert poll.overflowed


def test_after_the_end_nobody_waits() -> None:
    """Polls under way are woken by the stop, and one that comes late does not wait at all."""
    arrivals = Arrivals()
    with arrivals.listening([b"a"]) as poll:
        arrivals.close()
        assert poll.changed.is_set()
    with arrivals.listening([b"a"]) as late:
        assert late.changed.is_set()
