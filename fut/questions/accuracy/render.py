"""Accuracy tables and scatter plots of a verification."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fut.display import agreement
from fut.display.format import columns, number
from fut.display.notebook import draw_agreement
from fut.methods.registry import NAMES
from fut.questions.accuracy.result import Verification
from fut.questions.leave_out.score import Datamodel
from fut.readouts.readout import PROBE
from storage import replacing

COLUMNS = {column.brief: column.cell for column in agreement.COLUMNS}
"""The accuracy table in a terminal: head, and how a row's cell is made."""


def table(found: Verification) -> str:
    """The accuracy table, the baseline first."""
    names = in_order(found.estimators)
    rows = [[name, *(cell(found.estimators[name]) for cell in COLUMNS.values())] for name in names]
    spread = found.as_dict()["true_sd"]
    return (
        f"{len(found.orders)} random orders, really retrained ({found.retrain_seconds:.2g} s each): "
        f"{title(found)} {number(sum(found.true_losses) / len(found.orders), '.5f')} ± "
        f"{(number(spread, '.5f') + ' ' + found.unit).rstrip()}; reference order {found.reference_loss:.5f}\n"
        f"MAE in {found.unit or 'the unit of the read-out'}; skill = 1 − MAE / MAE of the baseline `reference`, "
        "and before calibration;\n"
        "coverage of 90 % intervals, which calibrated estimators have; gradients and store before the first order\n\n"
        + columns([["estimator", *COLUMNS], *rows])
    )


def datamodel(found: Datamodel) -> str:
    """The table of an LDS, the baseline first; the column Spearman is the score."""
    checked = found.verification
    names = in_order(checked.estimators)
    shown = {n: c for n, c in COLUMNS.items() if n not in ("uncalibrated", "coverage", "endpoint error")}
    rows = [[name, *(cell(checked.estimators[name]) for cell in shown.values())] for name in names]
    header = ["estimator", *("LDS" if c == "Spearman" else "s/subset" if c == "s/order" else c for c in shown)]
    spread = number(checked.as_dict()["true_sd"], ".2g")
    return (
        f"{len(found.subsets)} random subsets of {len(found.subsets[0])} items ({found.share:g} of all) left out in place, "
        f"really retrained ({checked.retrain_seconds:.2g} s each): {title(checked)} "
        f"{number(sum(checked.true_losses) / len(found.subsets), '.5f')} ± {f'{spread} {checked.unit}'.rstrip()}; "
        f"reference order {checked.reference_loss:.5f}\n"
        f"LDS: Spearman correlation over subsets; MAE in {checked.unit or 'the unit of the read-out'}\n\n"
        + columns([header, *rows])
    )


def title(found: Verification) -> str:
    """What was asked, in words."""
    return "probe loss" if found.readout == PROBE else f"read-out {found.readout}"


def in_order(names: Iterable[str]) -> list[str]:
    """Estimator names in their usual order, the baseline first; a JSON file has them in the alphabet's."""
    return sorted(names, key=lambda n: (NAMES.index(n.partition(":")[0]), n))


def scatter(found: Verification, path: Path) -> Path:
    """Estimated against retrained losses, a panel per estimator, written as PNG."""
    from matplotlib.figure import Figure

    names = [n for n in in_order(found.estimators) if n != "reference"]
    figure = Figure(figsize=(3.3 * max(len(names), 1), 3.9), dpi=130, layout="constrained")
    for axis, name in zip(figure.subplots(1, max(len(names), 1), squeeze=False)[0], names, strict=False):
        _panel(axis, found, name)
    figure.suptitle(
        f"{title(found)} of {len(found.orders)} random orders: estimated against really retrained",
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, format="png")
    return path


def _panel(axis: Any, found: Verification, name: str) -> None:
    points = found.agreement(name)
    draw_agreement(axis, {name: points}, points.scale)
    axis.set_title(f"{name}\n{agreement.summary(found.estimators[name])}", fontsize=9)
    axis.xaxis.label.set_size(8)
    axis.yaxis.label.set_size(8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=6.5, frameon=False)
