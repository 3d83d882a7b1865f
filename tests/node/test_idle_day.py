"""A day on which nobody writes, played once and looked at by what each part promised of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from node.views import PeerView
from protocol import limits
from protocol.requests import Op, Result
from tests.node.offices import Offices, alter_answers, an_alert, count, entries, node_of, play, settled
from tests.node.test_one_time import offered
from tests.node.test_watch import is_again, peer_of
from tests.node.test_witness import cosigned_ms
from tests.simulation.daemons import OfficeHost

HOURS = 24
TABLES = (
    "delivery",
    "received",
    "custody",
    "leaf",
    "cp",
    "quarantine",
    "receipt_due",
    "broker_delete",
    "ladder",
)


@dataclass(frozen=True, kw_only=True)
class Day:
    """What one of the two offices did in that day."""

    grown: dict[str, int]  # rows, by table
    log_entries: int
    commits: int
    requests: int
    said: int  # messages that are no service
    beats: int  # messages of service
    cosigned_later_ms: int  # how much newer the last cosignature of its log became
    open_items: int
    is_anything_again: bool
    peer: PeerView


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> list[Day]:
    """Of both offices, after an alert each way and three hours to settle."""
    found: list[Day] = []

    async def script(offices: Offices) -> None:
        pair = (offices.here, offices.there)
        for office in pair:
            await office.send(an_alert("KA-1"))
        await asyncio.sleep(3 * 3600)
        await settled(offices)
        for office in pair:
            assert len((await offered(office)).keys) == limits.ONE_TIME_OFFERED_MAX
        requests = {office.name: 0 for office in pair}
        for office in pair:

            def counts(
                ops: Sequence[Op], results: tuple[Result, ...], name: str = office.name
            ) -> Sequence[Result]:
                requests[name] += 1
                return results

            alter_answers(office, counts)
        before = [await _state(office) for office in pair]
        await asyncio.sleep(HOURS * 3600)
        for office, was in zip(pair, before, strict=True):
            now = await _state(office)
            grown = {key: now[key] - was[key] for key in now}
            found.append(
                Day(
                    grown={table: grown[table] for table in TABLES},
                    log_entries=grown["log"],
                    commits=grown["commits"],
                    requests=requests[office.name],
                    said=grown["said"],
                    beats=grown["beats"],
                    cosigned_later_ms=grown["cosigned"],
                    open_items=await count(office, "delivery", "phase <> 'acknowledged'"),
                    is_anything_again=any(
                        is_again(entry) for entry in await entries(office, "msg.seal", "msg.recv")
                    ),
                    peer=await peer_of(office),
                )
            )

    play(tmp_path_factory.mktemp("idle"), script)
    return found


async def _state(office: OfficeHost) -> dict[str, int]:
    node = node_of(office)
    state = {table: await count(office, table) for table in TABLES}
    return state | {
        "log": node.log.size,
        "commits": node.database.stats.commits,
        "said": await count(office, "delivery", "service = 0"),
        "beats": await count(office, "delivery", "service = 1"),
        "cosigned": await cosigned_ms(office),
    }


def test_an_idle_pair_says_once_an_hour_that_it_is_there_and_nothing_else(days: list[Day]) -> None:
    """About 24 items each way, none of them answered, no entry in a log."""
    for day in days:
        assert HOURS - 1 <= day.beats <= HOURS + 1
        assert day.log_entries == 0
        assert day.peer.no_proof_since_ms is None
        # Each heartbeat acknowledges the other's: what was sent is settled and will be forgotten.
        assert day.open_items <= 2
        # An acknowledgement that travels alone leaves in time: nothing was asked after and sealed again.
        assert not day.is_anything_again


def test_an_idle_day_asks_little_and_writes_nothing(days: list[Day]) -> None:
    """Only long polls, a bounded number, and no table grows but by heartbeats."""
    beats = {"delivery": 25, "received": 25}
    for day in days:
        assert day.requests < HOURS * 3600 / 45
        assert all(rows <= 12 + beats.get(table, 0) for table, rows in day.grown.items()), day.grown
        # Kept, taken by the broker, received, its deletion heard of: four commits to a heartbeat.
        assert day.commits <= 60 + 5 * 24


def test_rule_8_an_idle_pair_stays_silent(days: list[Day]) -> None:
    """When the supply of one-time keys is full nothing more is said about it; heartbeats carry none."""
    for day in days:
        assert day.said == 0
        assert HOURS - 1 <= day.beats <= HOURS + 1


def test_two_idle_offices_ask_with_their_heartbeats_and_write_nothing(days: list[Day]) -> None:
    """No ping-pong of witnesses: no entry, no checkpoint and no message but the heartbeats."""
    for day in days:
        assert (day.grown["leaf"], day.grown["cp"]) == (0, 0)
        assert day.grown["delivery"] <= HOURS + 1
        # And still each says every hour that the other's log is where it was.
        assert day.cosigned_later_ms > (HOURS - 2) * limits.HOUR_MS
