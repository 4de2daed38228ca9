"""The board in a real browser applies calibrations as Python does: on random orders by a share, on single edits in full."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from small import ASKED, MakeRun

import fut
from estimators.orders.order import Order

ORDERS = {
    "reference": lambda steps: list(range(steps)),
    "neighbours": lambda steps: [1, 0, *range(2, steps)],
    "swap": lambda steps: [0, steps - 2, *range(2, steps - 2), 1, steps - 1],
    "move": lambda steps: [*range(1, 4), 0, *range(4, steps)],
    "two swaps": lambda steps: [1, 0, 3, 2, *range(4, steps)],
    "reverse": lambda steps: [*range(steps)][::-1],
    "random": lambda steps: np.random.default_rng(5).permutation(steps).tolist(),
}


@pytest.mark.parametrize(
    "data", [{"items": 9}, {"items": 12, "per_step": 2, "batch": 1}, {"items": 4, "epochs": 2}], ids=str
)
def test_the_board_grades_its_calibration_as_python_does(
    browser: Browser, make_run: MakeRun, tmp_path: Path, data: dict[str, Any]
) -> None:
    made = make_run(cached=False, data=data, schedule={"rate": 1.5e-3})
    run = fut.open(shutil.copytree(made.path, tmp_path / "run", ignore=ASKED), device="cpu")
    run.cache(["adjoint"])
    bases = [compare_orders(browser, run)]
    run.calibrate(4, estimator="positions", edit="move")
    bases.append(compare_orders(browser, run))
    run.calibrate(8, estimator="positions")
    bases.append(compare_orders(browser, run))
    run.calibrate(4, estimator="positions", edit="swap")
    bases.append(compare_orders(browser, run))
    run.calibrate(12, estimator="positions", chosen=True)
    bases.append(compare_orders(browser, run))
    assert {*bases[0].values()} == {""}
    assert [name for name, basis in bases[1].items() if "a single move" in basis] == ["neighbours", "move"]
    assert "of the calibration offset is applied" in bases[2]["two swaps"]
    assert "8 retrained random orders, with all" in bases[2]["reverse"]
    assert "a single swap" in bases[3]["neighbours"]
    assert "12 retrained chosen orders, with all" in bases[4]["reverse"]


def compare_orders(browser: Browser, run: fut.Run) -> dict[str, str]:
    """The board's value and both ends of its interval against Python's, order by order; what it is calibrated on."""
    found, cards = {}, run.reference.steps
    with browser.open(run.report(samples=0).path) as opened:
        for name, arranged in ORDERS.items():
            order = arranged(run.steps)
            opened.type(order)
            opened.shows(order)
            (expected,) = run.estimate([Order.of(cards[c] for c in order)], "positions", known=False)
            assert opened.number("predicted") == pytest.approx(expected.value, rel=1e-12)
            assert opened.number("delta") == pytest.approx(expected.delta, rel=1e-7, abs=1e-14), name
            ends = [opened.page.locator(f"#{end}").get_attribute("value") for end in ("low", "high")]
            shown = tuple(map(float, ends)) if all(ends) else None
            assert (shown is None) == (expected.interval is None), name
            if shown and expected.interval:
                centred = [end - expected.value for end in shown], [end - expected.value for end in expected.interval]
                assert centred[0] == pytest.approx(centred[1], rel=1e-6, abs=1e-14), name
            found[name] = opened.page.locator("#basis").inner_text()
    return found
