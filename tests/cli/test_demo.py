"""`jouled demo`: the main job end to end, and the file that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    pass

POLICY_KEYS = [
    "policy", "budget_watts", "window_seconds", "requests", "answered", "rejected", "accuracy", "devices",
    "dynamic_joules_per_request", "total_joules_per_request", "device_joules", "p50_seconds", "p99_seconds",
    "worst_window_fraction", "provisional_joules", "final_joules", "final_static_share", "not_final",
]  # fmt: skip


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Run the demonstration, each policy for one window; give what it printed and what it wrote."""
    out = tmp_path_factory.mktemp("demo") / "demo.json"
    command = [sys.executable, "-m", "daemon.cli.main", "demo", "--rate", "36", "--out", str(out)]
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"}
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    found: dict[str, Any] = json.loads(out.read_text())
    return ended.stdout, found


def test_file_has_exactly_the_promised_keys(demonstrated: tuple[str, dict[str, Any]]) -> None:
    """Programs rely on the keys of the file."""
    _, found = demonstrated
    assert list(found) == ["policies", "reply_nanojoules", "journal_nanojoules", "seconds"]
    assert [list(policy) for policy in found["policies"]] == [POLICY_KEYS] * 3


def test_every_request_has_an_end(demonstrated: tuple[str, dict[str, Any]]) -> None:
    """Each policy was sent each held-out image once, and each was answered or rejected."""
    for policy in demonstrated[1]["policies"]:
        assert policy["requests"] == 360
        assert policy["answered"] + policy["rejected"] == 360
        assert sum(policy["devices"].values()) == pytest.approx(1)


def test_journal_agrees_to_the_nanojoule(demonstrated: tuple[str, dict[str, Any]]) -> None:
    """The sum of the replies is the sum of the journal."""
    _, found = demonstrated
    assert found["reply_nanojoules"] == found["journal_nanojoules"] > 0
    total = sum(policy["total_joules_per_request"] * policy["answered"] for policy in found["policies"])
    assert total * 1e9 == pytest.approx(found["reply_nanojoules"], rel=1e-9)


def test_figures_become_final(demonstrated: tuple[str, dict[str, Any]]) -> None:
    """Every answer has its final figure in the end; where a model counts, it is that of the reply but for rounding."""
    generous, balanced, tight = demonstrated[1]["policies"]
    for policy in (generous, balanced, tight):
        assert policy["not_final"] == 0
        assert policy["final_joules"] == pytest.approx(policy["provisional_joules"], rel=0.02)
    assert generous["final_static_share"] < tight["final_static_share"] < 1


def test_budgets_hold(demonstrated: tuple[str, dict[str, Any]]) -> None:
    """No window of any policy exceeds its budget, switches included."""
    fractions = {policy["policy"]: policy["worst_window_fraction"] for policy in demonstrated[1]["policies"]}
    assert list(fractions) == ["generous", "balanced", "tight"]
    assert all(0 < fraction <= 1.0 for fraction in fractions.values()), fractions


def test_generous_policy_is_accurate(demonstrated: tuple[str, dict[str, Any]]) -> None:
    """With energy to spare the answers are right."""
    generous = demonstrated[1]["policies"][0]
    assert generous["answered"] == 360
    assert generous["accuracy"] >= 0.97


def test_tight_policy_saves(demonstrated: tuple[str, dict[str, Any]]) -> None:
    """The tight policy answers nearly everything nearly as well, for a fraction of the energy."""
    generous, _, tight = demonstrated[1]["policies"]
    assert tight["answered"] >= 0.95 * 360
    assert tight["accuracy"] >= 0.95
    assert tight["dynamic_joules_per_request"] <= generous["dynamic_joules_per_request"] / 3


def test_idle_devices_are_powered_down(demonstrated: tuple[str, dict[str, Any]]) -> None:
    """Only the tight policy lets the stick be powered down: all devices draw far less under it, idle included."""
    generous, balanced, tight = demonstrated[1]["policies"]
    assert all(policy["device_joules"] > 0.55 * 10 for policy in (generous, balanced))
    assert 0.1 * 10 < tight["device_joules"] < balanced["device_joules"] / 2


def test_people_read_the_same(demonstrated: tuple[str, dict[str, Any]]) -> None:
    """The table has a column for each policy, and says that nothing of it is measured."""
    printed, found = demonstrated
    (accuracies,) = [line for line in printed.splitlines() if "accuracy" in line]
    assert all(f"{policy['accuracy']:.2%}" in accuracies for policy in found["policies"])
    assert "nothing here is measured" in printed
    assert str(found["reply_nanojoules"]) in printed
