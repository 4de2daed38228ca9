"""Accuracy tables and scatter plots of a verification."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fut.display.format import columns, interval, nbytes, number
from fut.display.picture import save
from fut.methods.registry import NAMES
from fut.questions.accuracy.result import Verification
from fut.readouts.readout import PROBE

COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Spearman": lambda row: number(row["spearman"]),
    "[90 % interval]": lambda row: interval(row["spearman_interval"]),
    "Pearson": lambda row: number(row["pearson"]),
    "MAE": lambda row: number(row["mae"], ".5f"),
    "skill": lambda row: number(row["skill"], "+.2f"),
    "uncalibrated": lambda row: number(row.get("skill_uncalibrated"), "+.2f"),
    "coverage": lambda row: number(row["coverage"], ".2f"),
    "endpoint error": lambda row: number(row["endpoint_error"], ".2f"),
    "s/order": lambda row: number(row["seconds_per_order"], ".2g"),
    "gradients": lambda row: f"{row['precompute_gradients']:,}",
    "store": lambda row: nbytes(row["store_bytes"]),
}
"""The accuracy table: header, and how a row's cell is made."""


def table(result: Verification) -> str:
    """The accuracy table, the baseline first."""
    names = in_order(result.estimators)
    rows = [[name, *(cell(result.estimators[name]) for cell in COLUMNS.values())] for name in names]
    spread = result.as_dict()["true_sd"]
    return (
        f"{len(result.orders)} random orders, really retrained ({result.retrain_seconds:.2g} s each): "
        f"{title(result)} {number(sum(result.true_losses) / len(result.orders), '.5f')} ± "
        f"{(number(spread, '.5f') + ' ' + result.unit).rstrip()}; reference order {result.reference_loss:.5f}\n"
        f"MAE in {result.unit or 'the unit of the read-out'}; skill = 1 − MAE / MAE of the baseline `reference`, "
        "and before calibration;\n"
        "coverage of 90 % intervals, which calibrated estimators have; gradients and store before the first order\n\n"
        + columns([["estimator", *COLUMNS], *rows])
    )


def title(result: Verification) -> str:
    """What was asked, in words."""
    return "probe loss" if result.readout == PROBE else f"read-out {result.readout}"


def in_order(names: Iterable[str]) -> list[str]:
    """Estimator names in their usual order, the baseline first; a JSON file has them in the alphabet's."""
    return sorted(names, key=lambda n: (NAMES.index(n.partition(":")[0]), n))


def scatter(result: Verification, path: Path) -> Path:
    """Estimated against retrained losses, a panel per estimator, written as PNG."""
    from matplotlib.figure import Figure

    names = [n for n in in_order(result.estimators) if n != "reference"]
    figure = Figure(figsize=(3.3 * max(len(names), 1), 3.9), dpi=130, layout="constrained")
    for axis, name in zip(figure.subplots(1, max(len(names), 1), squeeze=False)[0], names, strict=False):
        _panel(axis, result, name)
    figure.suptitle(
        f"{title(result)} of {len(result.orders)} random orders: estimated against really retrained",
        fontsize=11,
    )
    return save(figure, path)


def _panel(axis: Any, result: Verification, name: str) -> None:
    reference, row = result.reference_loss, result.estimators[name]
    unit = f"\n[10⁻³ {result.unit}]" if result.unit else "\n[10⁻³]"
    true = [1e3 * (v - reference) for v in result.true_losses]
    guess = [
        1e3 * (v - reference) if v is not None and math.isfinite(v) else math.nan for v in result.estimated_losses[name]
    ]
    ends = [min(*true, 0), max(*true, 0)]
    axis.plot(ends, ends, color="#888888", linewidth=1, label="exact")
    axis.axhline(0, color="#D55E00", linewidth=1, linestyle="--", label="baseline")
    axis.scatter(true, guess, s=16, color="#0072B2", alpha=0.8, linewidths=0)
    axis.set_title(
        f"{name}\nSpearman {number(row['spearman'], '.3f')}, skill {number(row['skill'], '+.2f')}", fontsize=9
    )
    axis.set_xlabel(f"retrained − reference{unit}", fontsize=8)
    axis.set_ylabel("estimated − reference" + unit.replace("\n", " "), fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=6.5, frameon=False)
