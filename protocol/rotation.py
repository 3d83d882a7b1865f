"""When our own mailboxes of one pair are made, announced, proven and given up: make before break.

Spec: docs/spec/broker.md#rotation. One rule: a mailbox is given up only after the peer acknowledged the
address of a later one and an item of the peer arrived there; until then every one of them is read, however
long the peer is silent. Values in, steps out: ``node/mailboxes.py`` asks the broker and keeps the secrets.

Clocks decide only how early something happens, never whether: one that stood ahead makes a rotation come
early, one that went back restarts a count that would otherwise last for years.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from protocol import limits


class Stage(StrEnum):
    """Where one of our mailboxes stands. PASSED: a later one is proven; it is only emptied."""

    ASKED = "asked"  # its secrets are durable; the broker may or may not have made it
    MADE = "made"  # the broker granted it; the peer has been or is being told
    PROVEN = "proven"  # the peer puts here
    PASSED = "passed"


class Announcement(StrEnum):
    """Where the message stands that tells the peer of it."""

    NONE = "none"  # not written yet, or ended without reaching the peer
    UNDER_WAY = "under_way"
    ACKNOWLEDGED = "acknowledged"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnMailbox:
    """One of our mailboxes for one peer.

    ``since_ms``: when it reached its stage. ``life_ms``: how long after that a successor is wanted.
    ``has_arrival``: an item that the peer signed came here. ``is_empty``: it listed nothing since it was
    passed and nothing waits to be deleted from it.
    """

    generation: int
    stage: Stage
    since_ms: int
    life_ms: int = limits.MAILBOX_ROTATION_MS
    announcement: Announcement = Announcement.NONE
    has_arrival: bool = False
    is_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Restamp:
    """Its stage began in our future: the clock went back. Count anew from now."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prove:
    """The peer uses it: it is proven, and every earlier one is passed."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Tell the peer of it."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeSuccessor:
    """Ask for another one, by the word of the newest proven one."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Nothing comes here any more: forget it and its secrets."""

    generation: int


Step = Restamp | Prove | Announce | MakeSuccessor | GiveUp


def life_ms(jitter: float) -> int:
    """How long a mailbox stays the newest: a week, up to a day less, so that not all rotate at once."""
    return limits.MAILBOX_ROTATION_MS - int(limits.MAILBOX_ROTATION_SPREAD_MS * jitter)


def plan(mailboxes: Sequence[OwnMailbox], now_ms: int) -> tuple[Step, ...]:
    """What is to be done now about the mailboxes of one pair. Carried out, it plans nothing again."""
    ahead = [m for m in mailboxes if m.since_ms > now_ms + limits.CLOCK_AHEAD_MS_MAX]
    if ahead:
        return tuple(Restamp(generation=m.generation) for m in ahead)
    ordered = sorted(mailboxes, key=lambda m: m.generation)
    proven = [m for m in ordered if m.stage is Stage.PROVEN or _is_proven_now(m)]
    steps: list[Step] = []
    if proven and (
        proven[-1].stage is Stage.MADE
        or any(m.generation < proven[-1].generation and m.stage is not Stage.PASSED for m in ordered)
    ):
        steps.append(Prove(generation=proven[-1].generation))
    steps += [GiveUp(generation=m.generation) for m in ordered if _is_over(m, now_ms)]
    pending = [m for m in ordered if not proven or m.generation > proven[-1].generation]
    pending = [m for m in pending if m.stage is not Stage.PASSED]
    if pending:
        newest = pending[-1]
        if newest.stage is Stage.MADE and newest.announcement is Announcement.NONE:
            steps.append(Announce(generation=newest.generation))
        elif _is_ignored(newest, now_ms) and proven and len(pending) < limits.UNPROVEN_SUCCESSORS_MAX:
            # The peer took note and still puts elsewhere: it knows a later one, which we lost with our disk.
            # How much later we cannot know, so each try goes twice as far.
            steps.append(MakeSuccessor(generation=_after(ordered[-1].generation, 2 ** len(pending))))
    elif proven and now_ms - proven[-1].since_ms >= proven[-1].life_ms and not _is_proven_now(proven[-1]):
        steps.append(MakeSuccessor(generation=_after(ordered[-1].generation, 1)))
    return tuple(step for step in steps if not isinstance(step, MakeSuccessor) or step.generation)


def _after(generation: int, by: int) -> int:
    """0 when there is none left: no rotation any more, and no harm."""
    return generation + by if generation + by <= limits.U32_MAX else 0


def _is_proven_now(mailbox: OwnMailbox) -> bool:
    """A broker can move an item of the peer into any of our mailboxes; an acknowledgement it cannot make."""
    return (
        mailbox.stage is Stage.MADE
        and mailbox.has_arrival
        and mailbox.announcement is Announcement.ACKNOWLEDGED
    )


def _is_ignored(mailbox: OwnMailbox, now_ms: int) -> bool:
    return (
        mailbox.stage is Stage.MADE
        and mailbox.announcement is Announcement.ACKNOWLEDGED
        and now_ms - mailbox.since_ms >= limits.ANNOUNCED_UNUSED_MS
    )


def _is_over(mailbox: OwnMailbox, now_ms: int) -> bool:
    if mailbox.stage is not Stage.PASSED:
        return False
    age_ms = now_ms - mailbox.since_ms
    # A broker that is gone for good never shows its mailbox empty; nothing in it can be alive by then.
    return age_ms >= limits.BACKUP_HORIZON_MS or (mailbox.is_empty and age_ms >= limits.MAILBOX_TTL_MS)
