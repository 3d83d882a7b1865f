"""Schedules of honest parties: their published logs, held against each other, give no finding.

The broker neither goes back nor lies here: that would be a finding. ``make reconcile-schedules``
plays a thousand.
"""

import os
from pathlib import Path
from typing import Any, cast

import pytest

from audit.policy import Policy, parse_policy_untrusted, single_log_policy
from audit.reconcile import Reconciled, authenticate, reconcile
from tests.simulation.schedule import FAULTS, Schedule, disk_of, paired

HONEST = tuple(fault for fault in FAULTS if fault not in ("trick", "rollback", "erase"))
RESTORED = 20  # a seed in which an office comes back from a backup
LEAPS = 3149  # a seed in which a broker's clock leaps by an hour to and fro within seconds
FIRST = int(os.environ.get("SALWEEN_RECONCILE_FIRST", "4"))
COUNT = int(os.environ.get("SALWEEN_RECONCILE_COUNT", "1"))


class Published(Schedule):
    """A schedule that keeps what its hosts had published at the end."""

    def __init__(self, seed: int, turns: tuple[str, ...]) -> None:
        super().__init__(seed, faults=HONEST, lies=(), turns=turns)
        self.files: dict[str, bytes] = {}
        self.policies: list[Policy] = []

    async def _check_idle(self) -> None:
        await super()._check_idle()
        for host in (self.broker.host, *(office.host for office in self.offices)):
            for path, data in disk_of(host).content().items():
                self.files[f"{host.name}/{path}"] = data
        log = cast(Any, self.broker.broker)._log
        self.policies.append(single_log_policy(log._signer.log_key))

    def put_down(self, home: Path) -> list[str]:
        """Write every log, ended ones too; their directories."""
        directories = []
        for name, data in self.files.items():
            if name.endswith("/policy"):
                self.policies.append(parse_policy_untrusted(data))
            if "/log/" not in name and "/log-ended-" not in name:
                continue
            path = home / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            if path.name == "checkpoint":
                directories.append(str(path.parent))
        return directories


def reconciled(seed: int, home: Path, turns: tuple[str, ...]) -> Reconciled:
    paired()
    schedule = Published(seed, turns)
    assert schedule.run().broken is None
    sources = [authenticate(directory, schedule.policies) for directory in schedule.put_down(home)]
    # What a host that was restored elsewhere left behind is under a key that nobody kept.
    return reconcile([source for source in sources if source.report.origin])


@pytest.mark.parametrize("seed", [*range(FIRST, FIRST + COUNT), LEAPS])
def test_honest_schedules_give_no_finding(seed: int, tmp_path: Path) -> None:
    """Kills, lost power, lost lines, clocks set anew, sticks: all explain themselves."""
    answer = reconciled(seed, tmp_path, ())
    assert answer.is_clean, [each for each in answer.judgements if each.is_finding]
    assert answer.fates["CONSISTENT"] > 3


def test_a_restore_gives_no_finding(tmp_path: Path) -> None:
    """An office that lost what was after its backup declares it, and is not accused of it."""
    answer = reconciled(RESTORED, tmp_path, ("restored",))
    assert answer.is_clean, [each for each in answer.judgements if each.is_finding]
    assert answer.fates["DECLARED-LOSS"]
    (declared,) = [source for source in answer.sources if source.lost is not None]
    assert declared.verdicts == ["VERIFIED", f"DECLARED-LOSS({declared.lost})"]
    assert declared.lost, "a partner had seen more of the ended log than the backup held"
