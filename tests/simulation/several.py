"""Schedules with five offices: alerts to some of them, each by itself or shared, while everything breaks.

Two of the offices know all others, the rest know these two alone. The faults, the healing and what must hold
are those of ``schedule``; an alert has arrived when each office that was chosen shows it once, and no other
does. ``python -m tests.simulation.several 1 2 3`` plays seeds, ``--mistake`` with one office's word counted
for all.
"""

import argparse
import contextlib
import functools
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import node.outbox
from node.views import OutboxRow, Submitted
from protocol.release import Mode
from tests.simulation.checkers import Broken, Sent, Witness
from tests.simulation.daemons import OfficeHost
from tests.simulation.malice import TRICKS
from tests.simulation.schedule import (
    FAULTS,
    IDLE_MESSAGES_MAX,
    IDLE_WRITES_MAX,
    Outcome,
    Paired,
    Schedule,
    alert_of,
    pair_offices,
)

NAMES: Final = (
    ("Myitkyina", "MM"),
    ("Tengchong", "CN"),
    ("Boten", "LA"),
    ("Maesai", "TH"),
    ("Laocai", "VN"),
)
HUBS: Final = 2
PAIRS: Final = tuple((one, other) for one in range(HUBS) for other in range(one + 1, len(NAMES)))
MINUTES: Final = 8


@functools.cache
def five() -> Paired:
    """The five offices, paired; made once per process."""
    return pair_offices(NAMES, PAIRS)


@dataclass(slots=True)
class SentToSeveral(Sent):
    """``receiver`` is not used: whom the officer chose, and the steps that were seen of each."""

    receivers: dict[str, dict[str, None]] = field(default_factory=dict)
    mode: Mode = "separate"


class SeveralWitness(Witness):
    """What officers did and saw, with more than one office at the other end."""

    def saw_inbox(self, office: str, rows: list[tuple[str, str]]) -> None:
        """I2, I4, I6, I7; shown to whom it was not addressed is I4 too."""
        tokens = [token for token, _ in rows]
        if len(set(tokens)) != len(tokens):
            raise Broken("I2", f"{office} shows an alert twice")
        for token, sender in rows:
            sent = self.to_several.get(token)
            if sent is None or office not in sent.receivers or not sender.startswith(sent.sender):
                raise Broken("I4", f"{office} shows {token} from {sender}, which nobody sent it so")
        before = self.shown.setdefault(office, {})
        if lost := [token for token in before if token not in tokens]:
            raise Broken("I7", f"{office} showed {lost[0]} and has lost it")
        before.update(dict.fromkeys(tokens))
        for sent in self.to_several.values():
            ticks = sent.receivers.get(office, {})
            if {"delivered", "opened"} & ticks.keys() and sent.token not in tokens:
                raise Broken("I6", f"{sent.sender} saw {sent.token} ticked and {office} does not have it")

    @property
    def to_several(self) -> Mapping[str, SentToSeveral]:
        """What was sent, by its token."""
        return {token: sent for token, sent in self.sent.items() if isinstance(sent, SentToSeveral)}

    def saw_ladders(self, office: str, rows: list[tuple[str, dict[str, list[str]]]]) -> None:
        """``rows`` are (token, steps for each recipient). I1, I2, I6."""
        shown = dict(rows)
        if len(shown) != len(rows):
            raise Broken("I2", f"{office} has sent one press of the button twice")
        for sent in self.to_several.values():
            if sent.sender == office and sent.kept and sent.token not in shown:
                raise Broken("I1", f"{office} was told that {sent.token} is kept and has lost it")
        for token, ladders in rows:
            sent = self.to_several[token]
            if ladders.keys() != sent.receivers.keys():
                raise Broken("I4", f"{token} goes to {sorted(ladders)}, not to {sorted(sent.receivers)}")
            for name, steps in ladders.items():
                before = sent.receivers[name]
                if "kept" not in steps or not before.keys() <= set(steps):
                    raise Broken("I6", f"the ladder of {token} to {name} has lost a rung")
                before.update(dict.fromkeys(steps))

    def everything_arrived(self) -> None:
        """I1, I12, for each office that was chosen."""
        for sent in self.to_several.values():
            for name, steps in sent.receivers.items():
                if sent.kept and sent.token not in self.shown.get(name, {}):
                    raise Broken("I1", f"{sent.token} ({sent.mode}) never reached {name}")
                if sent.kept and "delivered" not in steps:
                    raise Broken("I12", f"{sent.sender} never learnt that {sent.token} reached {name}")


class SeveralSchedule(Schedule):
    """See the head of this file."""

    NAMES = NAMES
    idle_writes_max = IDLE_WRITES_MAX * len(NAMES) // 2
    idle_messages_max = IDLE_MESSAGES_MAX * (len(NAMES) - 1)  # a sign of life and a key for each partner

    def __init__(
        self,
        seed: int,
        *,
        minutes: int = MINUTES,
        faults: tuple[str, ...] = FAULTS,
        tricks: tuple[str, ...] = TRICKS,
    ) -> None:
        super().__init__(seed, minutes=minutes, faults=faults, tricks=tricks, lies=(), turns=())
        self.witness: SeveralWitness = SeveralWitness()
        self._carry_chance = 0.0  # a stick is for one partner
        self._photos.is_at_work = False  # they are told apart by one recipient
        self._choosing = random.Random(f"several/{seed}")

    async def _check_witnessed(self) -> None:
        """I21 is of two offices; here only the one in the middle has all the others for witnesses."""

    @classmethod
    def start(cls) -> Paired:
        return five()

    async def _fill_in(
        self, office: OfficeHost, token: str
    ) -> tuple[Sent, Callable[[], Coroutine[Any, Any, Submitted]]]:
        at = [name for name, _ in NAMES].index(office.name)
        known = [NAMES[other][0] for pair in PAIRS if at in pair for other in pair if other != at]
        chosen = self._choosing.sample(known, self._choosing.randint(2, len(known)))
        mode: Mode = self._choosing.choice(("separate", "shared", "shared"))
        text = f"seen at {self._numbers}, {'x' * self._choosing.choice((10, 1500, 4000))}"
        sent = SentToSeveral(
            token=token,
            sender=office.name,
            receiver="",
            text=text,
            receivers={name: {} for name in chosen},
            mode=mode,
        )
        return sent, lambda: office.send_to(alert_of(token, text, office.now_ms()), chosen, mode)

    def _saw_outbox(self, office: OfficeHost, outbox: Sequence[OutboxRow]) -> None:
        self.witness.saw_ladders(
            office.name,
            [
                (
                    row.headline.split()[1],
                    {
                        recipient.peer_name.removesuffix(" BLO"): [rung.step for rung in recipient.ladder]
                        for recipient in row.recipients
                    },
                )
                for row in outbox
            ],
        )

    def modes(self) -> Counter[Mode]:
        """How many alerts were kept in each mode."""
        return Counter(sent.mode for sent in self.witness.to_several.values() if sent.kept)


@contextlib.contextmanager
def one_stands_for_all() -> Iterator[None]:
    """The planted mistake: what one recipient acknowledged is taken for acknowledged by everybody."""
    outbox = node.outbox.Outbox
    real = outbox.acknowledged

    def generous(self: Any, tx: Any, peer: Any, numbers: Sequence[int]) -> None:
        real(self, tx, peer, numbers)
        for number in numbers:
            row = self._load_by_seq(tx, peer, number)
            if row is not None and row.alert_id is not None:
                others = tx.execute("SELECT hh FROM delivery WHERE alert_id = ?", (row.alert_id,))
                for (hh,) in others:
                    self.end(tx, hh)

    outbox.acknowledged = generous  # type: ignore[method-assign]
    try:
        yield
    finally:
        outbox.acknowledged = real  # type: ignore[method-assign]


def play(seed: int, *, minutes: int = MINUTES) -> tuple[Outcome, Counter[Mode]]:
    """One schedule, and how many alerts were kept in each mode."""
    five()  # by the code as it is, whatever is planted meanwhile
    schedule = SeveralSchedule(seed, minutes=minutes)
    return schedule.run(), schedule.modes()


def main() -> int:
    """0 when every schedule held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", nargs="+", type=int, help="schedules to play")
    parser.add_argument("--mistake", action="store_true", help="with the mistake planted")
    given = parser.parse_args()
    five()
    failed = 0
    with one_stands_for_all() if given.mistake else contextlib.nullcontext():
        for seed in given.seeds:
            outcome, modes = play(seed)
            failed += outcome.broken is not None
            words = (seed, outcome.trace, dict(modes), outcome.faults, outcome.broken or "holds")
            sys.stdout.write(" ".join(map(str, words)) + "\n")
            if outcome.broken is not None:
                sys.stdout.write("  " + "\n  ".join(outcome.last[-30:]) + "\n")
            sys.stdout.flush()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
