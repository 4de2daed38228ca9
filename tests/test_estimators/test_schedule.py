"""Schedules against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest

from estimators.errors import RuleError
from estimators.schedule import Schedule, ScheduleKind


def rates(schedule: Schedule) -> list[float]:
    return [schedule.rate_at(t) for t in range(schedule.steps)]


def test_constant() -> None:
    assert rates(Schedule("constant", 3e-4, 5, final=0.5)) == [3e-4] * 5


def test_cosine_is_the_textbook_formula() -> None:
    expected = [1e-3 * (0.5 * (1 + math.cos(math.pi * t / 32))) for t in range(32)]
    assert rates(Schedule("cosine", 1e-3, 32)) == expected


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_decays_start_at_the_rate_and_would_end_at_the_final_fraction(final: float) -> None:
    halves: dict[ScheduleKind, float] = {"linear": 0.5, "cosine": 0.5}
    for kind, half in halves.items():
        got = rates(Schedule(kind, 2.0, 8, final=final))
        assert got[0] == 2.0
        assert got[4] == pytest.approx(2.0 * (final + (1 - final) * half), rel=1e-15)
        assert got == sorted(got, reverse=True)
        assert got[-1] >= 2.0 * final > -1
    linear = rates(Schedule("linear", 2.0, 8, final=final))
    assert linear == pytest.approx([2.0 + (2.0 * final - 2.0) * t / 8 for t in range(8)], rel=1e-15)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_warmup_ramps_to_the_rate_and_decays_over_the_rest(kind: ScheduleKind) -> None:
    got = rates(Schedule(kind, 1.0, 20, warmup=4, final=0.25))
    assert got[:4] == [0.25, 0.5, 0.75, 1.0]
    assert got[4:] == rates(Schedule(kind, 1.0, 16, final=0.25))
    assert rates(Schedule(kind, 1.0, 4, warmup=4)) == [0.25, 0.5, 0.75, 1.0]
    assert min(rates(Schedule(kind, 1.0, 20, warmup=4))) > 0


@pytest.mark.parametrize("step", [-1, 5, 100])
def test_a_step_outside_the_run_is_an_error(step: int) -> None:
    with pytest.raises(RuleError, match=f"expected a step from 0 to 4, got {step}; make"):
        Schedule("cosine", 1.0, 5).rate_at(step)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "poly"}, "`kind`: expected one of constant, linear, cosine, recorded, got 'poly'"),
        ({"rate": 0.0}, "`rate`: expected a number > 0, got 0.0"),
        ({"rate": math.inf}, "`rate`"),
        ({"rate": math.nan}, "`rate`"),
        ({"steps": 0}, "`steps`: expected an integer >= 1, got 0"),
        ({"steps": 2.5}, "`steps`"),
        ({"steps": True}, "`steps`"),
        ({"warmup": -1}, "`warmup`: expected an integer from 0 to steps = 10, got -1"),
        ({"warmup": 11}, "`warmup`"),
        ({"final": 1.5}, "`final`: expected a fraction of `rate` from 0 to 1, got 1.5"),
        ({"final": -0.1}, "`final`"),
    ],
)
def test_a_wrong_schedule_says_what_would_be_right(change: dict[str, Any], says: str) -> None:
    usual: dict[str, Any] = {"kind": "cosine", "rate": 1.0, "steps": 10}
    with pytest.raises(RuleError, match=says):
        Schedule(**usual | change)


def test_lists_of_rates_are_of_recorded_schedules_and_as_long_as_the_run() -> None:
    assert rates(Schedule("recorded", 1.0, 3, rates=(0.5, 0.0, 2.0))) == [0.5, 0.0, 2.0]
    wrong: list[tuple[ScheduleKind, tuple[float, ...], str]] = [
        ("recorded", (0.5, 0.1), r"^`rates`: expected a rate for each of 3 steps, got 2"),
        ("recorded", (0.5, -0.1, 1.0), r"^`rates\[1\]`: expected a rate >= 0, got -0\.1"),
        ("constant", (0.5, 0.1, 1.0), r"^`rates`: expected no list of rates with kind constant"),
    ]
    for kind, listed, said in wrong:
        with pytest.raises(RuleError, match=said):
            Schedule(kind, 1.0, 3, rates=listed)
