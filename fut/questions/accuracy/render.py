"""Accuracy tables and scatter plots of a verification."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fut.display import agreement
from fut.display.format import columns, number
from fut.display.notebook import draw_agreement
from fut.display.picture import save
from fut.display.scale import Scale, shown_unit
from fut.methods.registry import METHODS, base_name, is_baseline
from fut.questions.accuracy.result import Verification
from fut.readouts.readout import PROBE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        f"{(number(spread, '.5f') + ' ' + shown_unit(result.unit)).rstrip()}; reference order {result.reference_loss:.5f}\n"
        f"MAE in {result.unit or 'the unit of the read-out'}; skill = 1 − MAE / MAE of the baseline `reference`, "
        "and before calibration;\n"
        "coverage of 90 % intervals, which calibrated estimators have; gradients and store before the first order\n\n"
        + columns([["estimator", *COLUMNS], *rows])
        + remarks(result)
    )


def remarks(result: Verification) -> str:
    """What has to be said beneath the table; empty for nothing."""
    return "".join(f"\n{remark}" for remark in result.remarks)


def title(result: Verification) -> str:
    """What was asked, in words."""
    return "probe loss" if result.readout == PROBE else f"read-out {result.readout}"


def in_order(names: Iterable[str]) -> list[str]:
    """Estimator names in their usual order, the baseline first; a JSON file has them in the alphabet's."""
    return sorted(names, key=lambda n: (METHODS.names.index(base_name(n)), n))


ACROSS, WIDE, HIGH = 3, 2.8, 2.7
"""Panels in a row of the picture, and inches of each: on a page of 830 pixels no text is below 11 pixels."""
TEXT = 9
"""Points of all text but titles."""


def scatter(result: Verification, path: Path) -> Path:
    """Estimated against retrained losses, a panel per estimator, written as PNG."""
    return save(picture(result), path)


def picture(result: Verification) -> Figure:
    """The same as a figure; the panels have common labels, and one of them the key."""
    from matplotlib.figure import Figure

    names = [n for n in in_order(result.estimators) if not is_baseline(n)]
    across = max(1, min(ACROSS, len(names)))
    down = max(1, -(-len(names) // across))
    figure = Figure(figsize=(WIDE * across, HIGH * down + 0.6), dpi=200, layout="constrained")
    scale = Scale.of((v for name in names for v in result.agreement(name).true), result.unit)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis, name in zip(axes, names, strict=False):
        draw_agreement(axis, {name: result.agreement(name)}, scale)
        axis.set_title(f"{name}\n{agreement.summary(result.estimators[name])}", fontsize=TEXT)
        axis.set(xlabel="", ylabel="")
        axis.tick_params(labelsize=TEXT)
        axis.get_legend().remove()
    for axis in axes[len(names) :]:
        axis.remove()
    if names:
        lines, labels = axes[0].get_legend_handles_labels()
        axes[0].legend(lines[:2], labels[:2], fontsize=TEXT, frameon=False, loc="upper left")
    below, beside = agreement.axis_labels(scale.label)
    figure.supxlabel(below, fontsize=TEXT + 1)
    figure.supylabel(beside, fontsize=TEXT + 1)
    figure.suptitle(
        f"{title(result)} of {len(result.orders)} random orders: estimated against retrained", fontsize=TEXT + 2
    )
    return figure
