"""The benches run and print what they promise. No time is ever asserted: machines differ, and so do days."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.scenario
def test_every_bench_runs_and_prints_only_json_lines() -> None:
    """Each line names bench, case, value and unit, and each comparison what it is compared with."""
    ran = subprocess.run(
        [sys.executable, "-m", "bench", "--quick"], cwd=ROOT, capture_output=True, text=True, timeout=420
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert all({"bench", "case", "value", "unit"} <= line.keys() for line in lines)
    assert all("against" in line for line in lines if "ratio" in line)
    assert [line["bench"] for line in lines[:2]] == ["machine", "machine"]
    measured: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        measured.setdefault(line["bench"], []).append(line)
    assert all(line["sealed_bytes"] > 0 and line["resumed_up"] >= 0 for line in measured["photo"])
    assert len(measured["idle"]) == 5
    for name in ("seal_open", "several", "log", "audit", "end_to_end", "forward", "catch_up", "restart"):
        assert any("ratio" in line for line in measured[name]), name
        assert all("reached" in line for line in measured[name] if {"goal_min", "goal_max"} & line.keys())
        # A median with its spread, never a single reading.
        assert all(line["min"] <= line["value"] <= line["max"] for line in measured[name] if "runs" in line)
        assert all(line["runs"] >= 3 for line in measured[name] if "runs" in line)
