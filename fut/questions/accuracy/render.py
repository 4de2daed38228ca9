"""Accuracy tables and scatter plots of a verification."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fut.display import agreement
from fut.display.format import columns, number
from fut.display.notebook import draw_agreement
from fut.display.picture import save
from fut.methods.registry import METHODS, base_name, is_baseline
from fut.questions.accuracy.result import Verification
from fut.readouts.readout import PROBE

COLUMNS = {column.brief: column.cell for column in agreement.COLUMNS}
"""The accuracy table in a terminal: head, and how a row's cell is made."""


def table(result: Verification) -> str:
    """The accuracy table, the baseline first."""
    names = in_order(result.estimators)
    rows = [[name, *(cell(result.estimators[name]) for cell in COLUMNS.values())] for name in names]
    spread = result.as_dict()["true_sd"]
    return (
        f"{len(result.orders)} random orders, retrained ({result.retrain_seconds:.2g} s each): "
        f"{title(result)} {number(sum(result.true_losses) / len(result.orders), '.5f')} ± "
        f"{(number(spread, '.5f') + ' ' + result.unit).rstrip()}; reference order {result.reference_loss:.5f}\n"
        f"MAE in {result.unit or 'the unit of the read-out'}; skill = 1 − MAE / MAE of the baseline `reference`, "
        "and before calibration;\n"
        "coverage of 90 % intervals, which calibrated estimators have; gradients and store before the first order\n\n"
        + columns([["estimator", *COLUMNS], *rows])
        + "".join(f"\n\n{said}" for said in result.divergence())
    )


def title(result: Verification) -> str:
    """What was asked, in words."""
    return "probe loss" if result.readout == PROBE else f"read-out {result.readout}"


def in_order(names: Iterable[str]) -> list[str]:
    """Estimator names in their usual order, the baseline first; a JSON file has them in the alphabet's."""
    return sorted(names, key=lambda n: (METHODS.names.index(base_name(n)), n))


def scatter(result: Verification, path: Path) -> Path:
    """Estimated against retrained losses, a panel per estimator, written as PNG."""
    from matplotlib.figure import Figure

    names = [n for n in in_order(result.estimators) if not is_baseline(n)]
    figure = Figure(figsize=(3.3 * max(len(names), 1), 3.9), dpi=130, layout="constrained")
    for axis, name in zip(figure.subplots(1, max(len(names), 1), squeeze=False)[0], names, strict=False):
        _panel(axis, result, name)
    figure.suptitle(
        f"{title(result)} of {len(result.orders)} random orders: estimated against retrained",
        fontsize=11,
    )
    return save(figure, path)


def _panel(axis: Any, result: Verification, name: str) -> None:
    points = result.agreement(name)
    draw_agreement(axis, {name: points}, points.scale)
    axis.set_title(f"{name}\n{agreement.summary(result.estimators[name])}", fontsize=9)
    axis.xaxis.label.set_size(8)
    axis.yaxis.label.set_size(8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=6.5, frameon=False)
