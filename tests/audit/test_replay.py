"""What a log means: the story of every message, at the end or at a moment, and what cannot have happened."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from audit.entry import TYPES, encode_entry
from audit.reader import PublishedLog
from audit.replay import HELD, SENT, WORDS, Held, Sent, Story, Until, read_entries, replay
from audit.tree import ENTRIES, tile_path
from tests.audit.logs import forge

START = 1_800_000_000_000_000
MSG, ALERT, PEER = "1a" * 16, "2b" * 32, "3c" * 16
ENV, ENV2, HH = "4d" * 32, "5e" * 32, "6f" * 32

Fields = tuple[str, Mapping[str, Any]]


def submit(msg: str = MSG) -> Fields:
    return "msg.submit", {"msg": msg, "peer": PEER, "com": ["7a" * 32], "exp": 1, "alert": ALERT}


def seal(attempt: int = 1, env: str = ENV, msg: str = MSG) -> Fields:
    return "msg.seal", {
        "msg": msg,
        "hh": HH,
        "inst": "8b" * 8,
        "ps": 1,
        "att": attempt,
        "env": env,
        "via": "broker",
    }


def custody(env: str = ENV, msg: str = MSG) -> Fields:
    return "msg.custody", {"msg": msg, "env": env, "origin": "test/broker/b/log1", "idx": 3, "at": 5}


def receipt(step: str, msg: str = MSG) -> Fields:
    return "msg.receipt", {"msg": msg, "step": step, "at": 9}


def received(verdict: str = "ok", env: str = ENV, ps: int = 1, **more: Any) -> Fields:
    whole = {"msg": MSG, "peer": PEER, "hh": HH, "inst": "8b" * 8, "ps": ps, "alert": ALERT}
    return "msg.recv", {"env": env, "verdict": verdict} | (whole if verdict == "ok" else {}) | more


def access(count: int) -> Fields:
    return "acc.read", {"alert": ALERT, "actor": "9c" * 16, "purpose": "duty", "k": count}


def at_broker(name: str, **more: Any) -> Fields:
    return name, {"env": ENV, "box": "ad" * 16} | more


IN, OUT = at_broker("bk.in", bucket=8192), at_broker("bk.out")
ACK, EXPIRE = at_broker("bk.ack", by="mailbox-key"), at_broker("bk.expire")


def written(home: Path, told: Sequence[Fields], *, prior: str | None = None) -> PublishedLog:
    """A published log of these entries, a second apart."""
    entries = []
    start = {"origin": "test/a/log1", "key": HH} | ({} if prior is None else {"prior": prior})
    for index, (name, fields) in enumerate([("log.start", start), *told]):
        common: dict[str, Any] = {"v": 1, "t": name, "seq": index, "ts": START + index * 1_000_000}
        entries.append(encode_entry(common | {"bt": "00" * 8, "mo": index, "z": "00" * 16, **fields}))
    return PublishedLog(str(forge(home, entries)))


def told(home: Path, *entries: Fields, until: Until | None = None) -> Story:
    return replay(written(home, entries), len(entries) + 1, until=until, steps_kept=100)


def test_a_message_is_followed_through_every_step(tmp_path: Path) -> None:
    """Recorded, sealed, held, delivered, opened, assigned, answered: one story with its times."""
    steps = [receipt(step) for step in ("delivered", "opened", "assigned", "outcome")]
    story = told(tmp_path, submit(), seal(), custody(), *steps)
    (message,) = story.messages.values()
    assert (message.state, message.direction, message.peer, message.alert) == (
        "answered",
        "sent",
        PEER,
        ALERT,
    )
    assert (message.attempts, message.envelopes, len(message.steps)) == (1, {ENV}, 7)
    assert message.steps[2].words == "broker holds envelope 4d4d4d4d… of message 1a1a1a1a…"
    assert message.steps[2].ts_us == START + 3_000_000
    assert story.oddities == []


@pytest.mark.parametrize(
    ("until", "state", "entries"),
    [
        (Until(index=1), "recorded", 2),
        (Until(index=2), "sealed", 3),
        (Until(ts_us=START + 3_000_000), "held by the broker", 4),
        (Until(ts_us=START + 3_999_999), "held by the broker", 4),
        (Until(index=99), "delivered", 5),
        (None, "delivered", 5),
    ],
)
def test_the_story_stops_where_the_auditor_asks(
    tmp_path: Path, until: Until | None, state: str, entries: int
) -> None:
    """What the office knew then is what stood in its log by then."""
    story = told(tmp_path, submit(), seal(), custody(), receipt("delivered"), until=until)
    assert (story.messages[MSG].state, story.entries, len(story.last_steps)) == (state, entries, entries)
    assert story.last_ts_us == START + (entries - 1) * 1_000_000


def test_before_the_first_message_nothing_is_known(tmp_path: Path) -> None:
    """A moment before everything is an empty story, not an error."""
    story = told(tmp_path, submit(), until=Until(ts_us=0))
    assert (story.entries, story.messages, story.last_ts_us) == (0, {}, None)


def test_the_table_of_sent_messages_is_walked_whole() -> None:
    """Every (state, event), listed or not:

    Nothing comes back for what never left, a ladder is only climbed.
    """
    events = {"msg.seal", "msg.custody", "msg.expired", "msg.cancel"}
    # That nobody answered in time says nothing about where the message stands.
    assert all(SENT[state, "msg.overdue"] is state for state in Sent)
    events |= {"delivered", "stale", "opened", "assigned", "outcome", "refused", "erased"}
    assert {event for _, event in SENT} == events | {"msg.overdue"}
    ladder = [Sent.DELIVERED, Sent.OPENED, Sent.ASSIGNED, Sent.ANSWERED]
    for state in Sent:
        for event in events:
            reached = SENT.get((state, event))
            if state is Sent.RECORDED:
                assert (reached is None) == (event not in ("msg.seal", "msg.expired", "msg.cancel")), event
                continue
            assert reached is not None
            assert reached is not Sent.RECORDED
            if state in ladder and reached in ladder:
                assert ladder.index(reached) >= ladder.index(state)
            if state in ladder and event.startswith("msg."):
                assert reached is state


def test_the_table_of_held_envelopes_is_walked_whole() -> None:
    """An envelope that is gone is neither expired nor deleted again;

    A late note of its fetching is no fault.
    """
    missing = {(s, n) for s in Held for n in ("bk.in", "bk.out", "bk.ack", "bk.expire", "bk.drop")} - set(
        HELD
    )
    assert {(state.name, name) for state, name in missing} == {
        ("DELETED", "bk.ack"),
        ("DELETED", "bk.expire"),
        *((gone, name) for gone in ("EXPIRED", "DROPPED") for name in ("bk.out", "bk.ack", "bk.expire")),
    }


IMPOSSIBLE: list[tuple[str, list[Fields], int]] = [
    ("custody of an unknown message", [custody()], 1),
    ("receipt of an unknown message", [receipt("delivered")], 1),
    ("expiry of an unknown message", [("msg.expired", {"msg": MSG})], 1),
    ("recorded twice", [submit(), submit()], 2),
    ("receipt before it left", [submit(), receipt("delivered")], 2),
    ("custody before it left", [submit(), custody()], 2),
    ("custody of another envelope", [submit(), seal(), custody(ENV2)], 3),
    ("attempt counted twice", [submit(), seal(), seal(1, ENV2)], 3),
    ("attempt counted back", [submit(), seal(2), seal(1, ENV2)], 3),
    ("fetched what never came", [OUT], 1),
    ("deleted what never came", [ACK], 1),
    ("deleted twice", [IN, ACK, ACK], 3),
    ("expired after deletion", [IN, OUT, ACK, EXPIRE], 4),
    ("fetched after expiry", [IN, EXPIRE, OUT], 3),
]


@pytest.mark.parametrize(
    ("entries", "index"), [(e, i) for _, e, i in IMPOSSIBLE], ids=[n for n, _, _ in IMPOSSIBLE]
)
def test_what_cannot_have_happened_is_named(tmp_path: Path, entries: list[Fields], index: int) -> None:
    """A transition that the table does not allow is a finding at its entry, never an exception."""
    assert [oddity.label for oddity in told(tmp_path, *entries).oddities] == [f"IMPOSSIBLE-STEP({index})"]


POSSIBLE: dict[str, list[Fields]] = {
    "resent": [submit(), seal(), custody(), seal(2, ENV2), custody(ENV2), receipt("delivered")],
    "by stick": [submit(), seal(), receipt("delivered")],
    "receipts overtake": [submit(), seal(), receipt("opened"), receipt("delivered")],
    "late custody": [submit(), seal(), receipt("delivered"), custody()],
    "late receipt": [submit(), seal(), ("msg.expired", {"msg": MSG}), receipt("delivered")],
    "cancelled": [submit(), seal(), ("msg.cancel", {"msg": MSG}), receipt("delivered")],
    "service message": [seal(), custody()],
    "sealed and recorded in one transaction": [seal(), submit(), custody(), receipt("delivered")],
    "resent from the start": [submit(), seal(3), seal(7, ENV2)],
    "received twice, shown once": [received(), received("dup")],
    "junk, then good": [received("badsig", ENV2), received()],
    "pending, then good": [received("pending"), received()],
    "broker": [IN, OUT, ACK],
    "broker notes late": [IN, ACK, OUT],
    "broker takes a late copy": [IN, EXPIRE, IN, OUT, ACK],
    "broker refuses at the door": [at_broker("bk.drop", code="quota")],
    "read, erased": [received(), access(1), ("content.erased", {"alert": ALERT, "parts": ["content"]})],
}


@pytest.mark.parametrize("entries", POSSIBLE.values(), ids=POSSIBLE.keys())
def test_honest_stories_have_no_findings(tmp_path: Path, entries: list[Fields]) -> None:
    """Resends, late and overtaking notes, service messages: untidy, and nothing to accuse anybody of."""
    assert told(tmp_path, *entries).oddities == []


def test_the_ladder_keeps_its_highest_rung(tmp_path: Path) -> None:
    """An opened receipt that overtook the delivered one is not taken back by it."""
    assert told(tmp_path, *POSSIBLE["receipts overtake"]).messages[MSG].state == "opened"
    assert told(tmp_path / "2", *POSSIBLE["late receipt"]).messages[MSG].state == "delivered"


@pytest.mark.parametrize(
    "second", [received(env=ENV2), received(env=ENV2, ps=2), received(env=ENV2, hh="00" * 32)]
)
def test_one_delivery_is_accepted_once(tmp_path: Path, second: Fields) -> None:
    """The same place in the sequence, or the same header, accepted again is DUPLICATE-ACCEPTED."""
    assert [oddity.label for oddity in told(tmp_path, received(), second).oddities] == [
        "DUPLICATE-ACCEPTED(2)"
    ]


def test_a_second_delivery_is_another_one(tmp_path: Path) -> None:
    """Another header at another place is another message."""
    story = told(tmp_path, received(), received(env=ENV2, ps=2, hh="00" * 32, msg="00" * 16))
    assert (story.oddities, len(story.messages)) == ([], 2)


def test_a_copy_belongs_to_the_message_it_copies(tmp_path: Path) -> None:
    """A duplicate names only its envelope; the story still finds its message, which stays accepted."""
    (message,) = told(tmp_path, received(), received("dup")).messages.values()
    assert (message.state, message.id, len(message.steps)) == ("ok", MSG, 2)


def after_restore(home: Path, *entries: Fields, before: Story | None = None) -> Story:
    """Of an epoch that follows another; ``before`` is what that one told."""
    log = written(home, entries, prior="test/a/log0")
    return replay(log, len(entries) + 1, before=before)


def test_what_began_before_a_restore_may_go_on_after_it(tmp_path: Path) -> None:
    """Alone the new log is believed; beside the ended one it must follow from there, and does."""
    ended = told(tmp_path / "ended", submit(), seal(), custody())
    begun = (receipt("delivered"), seal(2, ENV2), custody(ENV2), receipt("opened"))
    alone = after_restore(tmp_path / "a", *begun)
    beside = after_restore(tmp_path / "b", *begun, before=ended)
    assert not alone.oddities
    assert not beside.oddities
    assert alone.prior == beside.prior == "test/a/log0"
    assert beside.messages[MSG].state == "opened"
    assert beside.messages[MSG].submitted


def test_a_border_hides_no_lie_from_who_has_both_logs(tmp_path: Path) -> None:
    """A receipt for what never was, an attempt that was there, custody of nothing, erased content read."""
    erased: Fields = ("content.erased", {"alert": ALERT, "parts": ["due"]})
    ended = told(tmp_path / "ended", submit(), seal(2), erased)
    lies = (receipt("delivered", "ff" * 16), seal(2, ENV2), custody(ENV2), access(1), submit())
    for number, lie in enumerate(lies):
        assert len(after_restore(tmp_path / str(number), lie, before=ended).oddities) == 1, lie
    # What needs no other log is found without it: a message recorded twice, or in an epoch that follows none.
    assert after_restore(tmp_path / "twice", submit(), submit()).oddities
    assert told(tmp_path / "first", receipt("delivered")).oddities


def test_nobody_reads_what_was_erased(tmp_path: Path) -> None:
    """An access after content.erased is unexplained; a denied one is not."""
    erased: Fields = ("content.erased", {"alert": ALERT, "parts": ["content"]})
    denied: Fields = ("acc.deny", {"alert": ALERT, "actor": "9c" * 16, "code": "erased"})
    story = told(tmp_path, access(1), erased, denied, access(2))
    assert [oddity.label for oddity in story.oddities] == ["ACCESS-UNEXPLAINED(4)"]
    assert story.erased == {ALERT: 2}


def test_every_type_has_a_sentence(tmp_path: Path) -> None:
    """The timeline speaks of every entry type, and shortens every id."""
    assert set(WORDS) == set(TYPES)
    for name, known in TYPES.items():
        assert set(re.findall(r"%\((\w+)\)", WORDS[name])) <= set(known.required)
    story = told(
        tmp_path, submit(), IN, access(1), ("wit.cosigned", {"origin": "test/b/log1", "size": 4, "root": HH})
    )
    for step in story.last_steps:
        assert "%" not in step.words
        assert len(step.words) < 100
        assert not any(len(word) > 40 for word in step.words.split())


def test_only_the_last_steps_are_kept_in_words(tmp_path: Path) -> None:
    """A long log's timeline is cut in front, its messages are whole."""
    log = written(tmp_path, [submit(), seal(), custody()])
    story = replay(log, 4, steps_kept=2)
    assert [step.index for step in story.last_steps] == [2, 3]
    assert len(story.messages[MSG].steps) == 3
    assert not replay(log, 4).last_steps


def test_reading_ends_where_the_files_end(tmp_path: Path) -> None:
    """A missing or damaged bundle ends the story; an entry that is none is skipped and counted."""
    log = written(tmp_path, [submit()] * 300)
    assert len(list(read_entries(log, 301))) == 301
    assert len(list(read_entries(log, 290))) == 256
    bundle = Path(log.root) / tile_path(ENTRIES, 1, 45)
    bundle.write_bytes(b"\x00")
    assert len(list(read_entries(log, 301))) == 256
    first = Path(log.root) / tile_path(ENTRIES, 0)
    assert len(list(read_entries(log, 100))) == 100
    first.write_bytes(first.read_bytes().replace(b'"seq":7,', b'"seq":?,'))
    story = replay(log, 301)
    assert (story.skipped, story.types.total()) == (1, 255)


def test_findings_of_a_story_are_capped(tmp_path: Path) -> None:
    """A thousand impossible steps are counted, two hundred listed."""
    story = told(tmp_path, *[custody()] * 1000)
    assert (len(story.oddities), story.oddities_more) == (200, 800)


def test_an_unknown_type_is_no_step_of_any_message(tmp_path: Path) -> None:
    """A later version's entries, whatever they are called and carry, are told and change nothing."""
    later = [{"t": f"{family}.later", "seq": 1 + at} for at, family in enumerate(("msg", "bk", "acc"))]
    common: dict[str, Any] = {"v": 1, "ts": START, "bt": "00" * 8, "mo": 1, "z": "00" * 16}
    start = encode_entry(common | {"t": "log.start", "seq": 0, "origin": "test/a/log1", "key": HH})
    data = [json.dumps(common | each, sort_keys=True, separators=(",", ":")).encode() for each in later]
    story = replay(PublishedLog(str(forge(tmp_path, [start, *data]))), 4, steps_kept=4)
    assert (story.oddities, story.messages, story.skipped) == ([], {}, 0)
    assert story.last_steps[-1].words == "acc.later (unknown type)"
