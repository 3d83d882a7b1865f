"""Ninety days of forty pairs: what a thief of a node's keys could still open, and whether anything was lost.

Drives ``receivekeys``, ``onetime``, ``conversation`` and ``delivery`` themselves through the two ends of
``tests.protocol.pair``; a key id stands for the key, so that a message opens exactly when the rules say so.
An alert is *exposed* while it was read and the key of any envelope of it that a broker ever saw is still in
the keystore. ``make simulate-keys`` runs the whole and prints the table.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from random import Random

from protocol import limits
from tests.protocol.pair import End, Mailbox, Pair, Sealed

PAIRS = 40
DAYS = 90
ALERTS_PER_DAY = (0.5, 2.0, 6.0)
LOST_AT_BROKER = 0.01
LINK_UP = 0.95
WEEK_MS = 7 * limits.DAY_MS


@dataclass(frozen=True)
class Availability:
    """When an office has its link: so many hours without, then so many with."""

    name: str
    off_hours: int
    on_hours: int

    def is_on(self, hour: int, shift: int) -> bool:
        """Whether this hour is one with a link."""
        return (hour + shift) % (self.off_hours + self.on_hours) >= self.off_hours


AVAILABILITIES = (
    Availability("mostly online", 1, 23),
    Availability("off 1.5 d, on 0.5 d", 36, 12),
    Availability("off 3 d, on 4 h", 72, 4),
)
NAMES = ("rotating", "with one-time keys", "weekly prekeys", "one static key")


@dataclass
class Figures:
    """Of one availability and one kind of key."""

    exposed: list[int] = field(default_factory=list)
    undecryptable: int = 0
    alerts: int = 0
    read: int = 0
    seals: int = 0
    one_time_seals: int = 0
    offered_keys: int = 0
    offers_alone: int = 0  # in a control message, of two sizes of envelope at most

    def add(self, other: "Figures") -> None:
        """Those of another pair."""
        self.exposed += other.exposed
        self.undecryptable += other.undecryptable
        self.alerts += other.alerts
        self.read += other.read
        self.seals += other.seals
        self.one_time_seals += other.one_time_seals
        self.offered_keys += other.offered_keys
        self.offers_alone += other.offers_alone

    @property
    def median(self) -> float:
        """Over every hour of both offices of every pair."""
        return statistics.median(self.exposed)

    @property
    def p90(self) -> int:
        """Nine of ten hours are not above it."""
        return sorted(self.exposed)[len(self.exposed) * 9 // 10]


class Weekly:
    """The usual scheme: a new key each week, the old one deleted when the broker can hold nothing for it."""

    def __init__(self) -> None:
        self.figures = Figures()
        self._until_ms: list[int] = []

    def arrived(self, sealed_ms: int, now_ms: int) -> None:
        """An alert that was sealed then and would be read now."""
        until_ms = (sealed_ms // WEEK_MS + 1) * WEEK_MS + limits.OLD_RECEIVE_KEY_TTL_MS
        if until_ms <= now_ms:
            self.figures.undecryptable += 1
        else:
            self._until_ms.append(until_ms)

    def sample(self, now_ms: int) -> None:
        """One hour later."""
        self._until_ms = [until_ms for until_ms in self._until_ms if until_ms > now_ms]
        self.figures.exposed.append(len(self._until_ms))


class Life:
    """One pair through its days. Same seed, same traffic and same weather, with and without one-time keys."""

    def __init__(self, seed: int, availability: Availability, *, one_time: bool) -> None:
        self._chance = Random(f"{seed} {availability.name}")
        self._availability = availability
        self.pair = Pair()
        self._rates = [self._chance.choice(ALERTS_PER_DAY) for _ in range(2)]
        self._shifts = [self._chance.randrange(96) for _ in range(2)]
        self._put_ms: dict[int, int] = {}
        self._sealed_ms: dict[str, int] = {}
        self._duplicates: list[Sealed] = []
        self.figures = Figures()
        self.static = Figures()
        self.weekly = [Weekly(), Weekly()]
        for end in self.pair.ends:
            end.answers = True
            end.one_time = one_time

    def run(self, days: int) -> None:
        """Hour by hour; afterwards the channel heals and everything must be told."""
        for hour in range(days * 24):
            self._hour(hour)
        self.pair.settle()
        for end in self.pair.ends:
            self.figures.undecryptable += len(end.undecryptable)
            self.figures.read += len(end.shown)
            known = sum(1 for row in end.outbox.values() if row.signed.text is not None)
            self.figures.alerts += known
            self.figures.one_time_seals += end.sealed_to_one_time
            for row in end.outbox.values():
                made = row.signed.offer
                self.figures.seals += row.seals if row.signed.text is not None else 0
                self.figures.offered_keys += 0 if made is None else len(made.fresh)
                alone = made is not None and not row.signed.is_receipt
                self.figures.offers_alone += alone
            waiting = [row for row in end.open_rows.values() if not row.signed.service]
            assert not waiting, "every item ends with an acknowledgement"

    def _hour(self, hour: int) -> None:
        pair, chance = self.pair, self._chance
        pair.world.now_ms += limits.HOUR_MS
        self._forget_at_broker()
        for number, end in enumerate(pair.ends):
            if chance.random() < self._rates[number] / 24:
                for _ in range(chance.choice((1, 1, 1, 4))):
                    text = f"{end.name}{pair.world.number()}"
                    self._sealed_ms[text] = pair.world.now_ms
                    lives_ms = chance.choice((6 * limits.HOUR_MS, 2 * limits.DAY_MS, 30 * limits.DAY_MS))
                    end.send(text, lives_ms=lives_ms, room=chance.random() < 0.5)
            pair.world.link_up = self._availability.is_on(hour, self._shifts[number])
            pair.world.link_up &= chance.random() < LINK_UP
            if pair.world.link_up:
                # An office that is connected answers within the hour, not once in it.
                for _ in range(3):
                    self._talk(end, number)
                    pair.world.now_ms += limits.MINUTE_MS
            elif hour % 6 == 0:
                end.tick()  # expiry; the retries in between would change nothing
            if chance.random() < 1 / 48:
                end.store_and_load()
            end.forget_by_timer()
            self.figures.exposed.append(end.exposed_now())
            self.static.exposed.append(len(end.shown))
            self.weekly[number].sample(pair.world.now_ms)

    def _talk(self, end: End, number: int) -> None:
        chance = self._chance
        waiting = list(end.inbox.items)
        end.inbox.items.clear()
        if chance.random() < 0.2:
            chance.shuffle(waiting)
        for envelope in waiting:
            if chance.random() < LOST_AT_BROKER:
                continue  # the broker lost it: it never arrives, and is no longer held
            shown = len(end.shown)
            end.receive(envelope)
            for text in end.shown[shown:]:
                self.weekly[number].arrived(self._sealed_ms[text], self.pair.world.now_ms)
            if chance.random() < 0.05:
                self._duplicates.append(envelope)
        for envelope in self._duplicates:
            if envelope.signed.instance != end.instance and chance.random() < 0.3:
                end.receive(envelope)
        self._duplicates = [envelope for envelope in self._duplicates if chance.random() < 0.99]
        end.tick()

    def _forget_at_broker(self) -> None:
        """Whatever waited 14 days is gone."""
        now_ms = self.pair.world.now_ms
        waiting: set[int] = set()
        for box in (self.pair.to_a, self.pair.to_b):
            self._drop_old(box, now_ms)
            waiting |= {item.name for item in box.items}
        self._put_ms = {name: at_ms for name, at_ms in self._put_ms.items() if name in waiting}

    def _drop_old(self, box: Mailbox, now_ms: int) -> None:
        box.items[:] = [
            item
            for item in box.items
            if now_ms - self._put_ms.setdefault(item.name, now_ms) < limits.MAILBOX_TTL_MS
        ]


def simulate(availability: Availability, *, seeds: Sequence[int], days: int) -> dict[str, Figures]:
    """Every kind of key over the same pairs."""
    found = {name: Figures() for name in NAMES}
    for seed in seeds:
        rotating = Life(seed, availability, one_time=False)
        rotating.run(days)
        found["rotating"].add(rotating.figures)
        found["one static key"].add(rotating.static)
        for weekly in rotating.weekly:
            found["weekly prekeys"].add(weekly.figures)
        once = Life(seed, availability, one_time=True)
        once.run(days)
        found["with one-time keys"].add(once.figures)
    return found


def table(found: dict[str, dict[str, Figures]]) -> str:
    """One line for each availability and kind of key."""
    head = f"{'availability':<20} {'keys':<20} {'median':>7} {'p90':>5} {'max':>5} {'undecryptable':>14}"
    lines = [head, "-" * len(head)]
    for availability, by_name in found.items():
        for name, f in by_name.items():
            counts = f"{f.median:>7g} {f.p90:>5} {max(f.exposed):>5} {f.undecryptable:>14}"
            lines.append(f"{availability:<20} {name:<20} {counts}")
    return "\n".join(lines)


def cost(once: Figures) -> str:
    """What one-time keys cost, per alert."""
    key_bytes = once.offered_keys * (limits.KEY_ID_BYTES + limits.XWING_PUBLIC_BYTES) / once.alerts
    return (
        f"one-time keys: {once.one_time_seals / once.seals:.0%} of the seals of {once.alerts} alerts; "
        f"per alert {key_bytes:.0f} bytes of keys and {once.offers_alone / once.alerts:.2f} control messages"
    )


def all_together(found: dict[str, dict[str, Figures]]) -> dict[str, Figures]:
    """Over all availabilities."""
    whole = {name: Figures() for name in NAMES}
    for by_name in found.values():
        for name, figures in by_name.items():
            whole[name].add(figures)
    return whole


def _one_pair(task: tuple[Availability, int, int]) -> dict[str, Figures]:
    availability, seed, days = task
    return simulate(availability, seeds=(seed,), days=days)


def main() -> int:
    """The whole of it, and a non-zero exit when a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.pairs)
    found = {a.name: {name: Figures() for name in NAMES} for a in AVAILABILITIES}
    tasks = [(availability, seed, options.days) for seed in seeds for availability in AVAILABILITIES]
    with ProcessPoolExecutor() as pool:
        for (availability, _, _), by_name in zip(tasks, pool.map(_one_pair, tasks), strict=True):
            for name, figures in by_name.items():
                found[availability.name][name].add(figures)
    whole = all_together(found)
    found["all"] = whole
    title = f"{options.pairs} pairs, {options.days} days: read alerts whose key is still there, by the hour"
    sys.stdout.write(f"{title}\n{table(found)}\n{cost(whole['with one-time keys'])}\n")
    rotating, once = whole["rotating"], whole["with one-time keys"]
    kept = rotating.undecryptable == once.undecryptable == 0 and rotating.median <= 5 and once.median == 0
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
