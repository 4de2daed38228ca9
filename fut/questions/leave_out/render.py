"""Scores of leave-out estimates as text."""

from __future__ import annotations

from fut.display.format import columns, number
from fut.questions.accuracy.render import COLUMNS, in_order, title
from fut.questions.leave_out.score import Datamodel


def datamodel(result: Datamodel) -> str:
    """The table of an LDS, the baseline first; the column Spearman is the score."""
    checked = result.verification
    names = in_order(checked.estimators)
    shown = {n: c for n, c in COLUMNS.items() if n not in ("uncalibrated", "coverage", "endpoint error")}
    rows = [[name, *(cell(checked.estimators[name]) for cell in shown.values())] for name in names]
    header = ["estimator", *("LDS" if c == "Spearman" else "s/subset" if c == "s/order" else c for c in shown)]
    spread = number(checked.as_dict()["true_sd"], ".2g")
    return (
        f"{len(result.subsets)} random subsets of {len(result.subsets[0])} items ({result.share:g} of all) left out in place, "
        f"retrained ({checked.retrain_seconds:.2g} s each): {title(checked)} "
        f"{number(sum(checked.true_losses) / len(result.subsets), '.5f')} ± {f'{spread} {checked.unit}'.rstrip()}; "
        f"reference order {checked.reference_loss:.5f}\n"
        f"LDS: Spearman correlation over subsets; MAE in {checked.unit or 'the unit of the read-out'}\n\n"
        + columns([header, *rows])
    )
