"""Memorization and generalization: the loss on an item, and on held-out text near and far, by the step the item stands at.

A map has a row per item i and a column per step j: the loss after training with item i at step j, all others kept in
their order, minus the loss in the reference order, in its unit; negative is better, and 0 at the item's own step exactly.
Four maps: `own` (on the item itself), `near` and `far` (on the groups of held-out samples most and least like it) and
`probe` (on the whole probe set). Beside them, presence against absence: the loss after training without the item, its step
going on with what else it holds (a step left empty has a zero gradient; memory and decay still act), minus the reference
order's: counterfactual memorization on the item itself (Feldman & Zhang 2020, arXiv 2008.03703; for one run, not in
expectation over runs), positive where having the item lowers the loss.

`Memorization.as_dict()`, as it is kept in `RUN/answers/memorization-<key>.json`:

    question         "memorization"
    estimator, unit  who answers; of the loss
    steps, showing   T; which of its showings an item is moved from (-1 the last)
    items, places    [n] item numbers of the rows; their own steps
    reference_losses {kind: [n]} losses in the reference order, kind one of own, near, far, probe
    effects          {kind: [n][T]} the maps
    half_widths      {kind: [n][T]} of 90 % intervals, or null; `note` says why, or on how many retrained cells they rest
    absence          {kind: [n]} loss without the item minus with it
    absence_half_widths  {kind: [n]} or null
    groups           [G][...] probe samples of each group; near, far: [n] group numbers; similarity: [n][G] cosines
    group_absence    [n][G] the same as absence, on every group
    sampling_sd      {kind: number} mean standard deviation of the effects over a sample of coordinates; 0 where all are kept
    fits             {kind: {slope, sd, ...}, "absent " + kind: ...} or null
    checked          {kind: {cells, truth, estimates, measures}, "absent " + kind: ...}; empty without verification
    rates            [T] learning rate of every step, by which curves are also shown; empty in answers of earlier versions
    forgetting       {steps_ago [T], mean [T], low [T], high [T], mean_at_equal_rate [T]}, see `forgetting`
    retention        {step [T], share [T], best_step, at_equal_rate: {share [T], best_step}}, see `retention`
    generalization   see `generalization`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fut.display.notebook import COLOURS, Displayable, labelled
from fut.display.numbers import flat_fields, from_fields, jsonable_fields
from fut.display.scale import NATS
from fut.estimation.ranking import best as best_of
from fut.estimation.ranking import worst as worst_of
from fut.questions.memorization.maps import CellFit, Checked, Floats, ProbeGroups

if TYPE_CHECKING:
    from matplotlib.axes import Axes


BANDS = 5


@dataclass(frozen=True)
class LossMaps:
    """The maps, with their intervals, and what the items' absence changes [nats/token]; fields as in the module's text."""

    effects: dict[str, list[list[float]]]
    absence: dict[str, list[float]]
    group_absence: list[list[float]]
    half_widths: dict[str, list[list[float]]] | None = None
    absence_half_widths: dict[str, list[float]] | None = None
    sampling_sd: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Memorization(Displayable):
    """The maps and what follows from them; fields as in the module's text, where those of both parts stand side by side.

    Args:
        estimator, steps, items, places, reference_losses: who answers, and about what.
        maps: the loss by the step that an item stands at, and without it.
        probe_groups: the held-out samples in groups, and how like every item is to them.
        note: what the intervals rest on.
        fits, checked: by retrained cells.
        rates: the learning rate of every step [T]; empty where it is not known.
        showing, unit, question: as in the module's text.
    """

    estimator: str
    steps: int
    items: list[int]
    places: list[int]
    reference_losses: dict[str, list[float]]
    maps: LossMaps
    probe_groups: ProbeGroups
    note: str
    fits: dict[str, CellFit] | None = None
    checked: dict[str, Checked] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    showing: int = -1
    unit: str = NATS
    question: str = "memorization"

    @property
    def advantage(self) -> Floats:
        """How much lower the loss on item i is with it at step j than without it [n, T]: what is remembered of it."""
        lower: Floats = np.asarray(self.maps.absence["own"])[:, None] - np.asarray(self.maps.effects["own"])
        return lower

    @property
    def _equal_rate(self) -> Floats | None:
        """`advantage` as it would be if every step had the mean learning rate, to first order: divided by the step's rate and
        multiplied by the mean one [n, T]. NaN at a step of rate 0; None where the rates are not known, or all alike.

        A step changes parameters in proportion to its rate. What a schedule that ends near 0 leaves of an item seen at the last
        step says more of the rate than of memory.
        """
        rates = np.asarray(self.rates, dtype=float)
        if not len(rates) or np.ptp(rates) <= 1e-9 * rates.max():
            return None
        factors = np.divide(rates.mean(), rates, out=np.full(len(rates), np.nan), where=rates > 0)
        equal: Floats = self.advantage * factors
        return equal

    @property
    def forgetting(self) -> dict[str, list[float]]:
        """The loss on an item, relative to never having seen it, by how many steps before the last it was seen.

        mean over items; low, high: 10 % and 90 % quantiles over items, a spread and no error bar. Negative: remembered.
        mean_at_equal_rate: the mean of `_equal_rate`; empty where there is none.
        """
        curves = -self.advantage[:, ::-1]
        low, high = np.quantile(curves, [0.1, 0.9], axis=0)
        ago: list[float] = list(range(self.steps))
        equal = [] if self._equal_rate is None else (-self._equal_rate[:, ::-1]).mean(0).tolist()
        return {
            "steps_ago": ago,
            "mean": curves.mean(0).tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
            "mean_at_equal_rate": equal,
        }

    @property
    def retention(self) -> dict[str, Any]:
        """What is remembered at the end of items seen at each step, as a share of the step best remembered.

        share: sum over items of the advantage at the step over that at the best step; None where nothing is remembered.
        at_equal_rate: the same of `_equal_rate`, without the steps' learning rates; None where there is none.
        """
        equal = self._equal_rate
        return {
            "step": list(range(self.steps)),
            **_shares(self.advantage),
            "at_equal_rate": None if equal is None else _shares(equal),
        }

    @property
    def generalization(self) -> dict[str, Any]:
        """What having the items does to text by how like it is to them.

        absence: mean over items of the loss without the item minus with it, kind by kind (positive: the item helps).
        spearman: of similarity with that effect over all pairs of item and group, None where one does not vary.
        bands: pairs in five equal bands of similarity: their mean similarity and mean effect.
        """
        pairs = np.asarray(self.probe_groups.similarity).ravel(), np.asarray(self.maps.group_absence).ravel()
        order = np.argsort(pairs[0], kind="stable")
        bands = [part for part in np.array_split(order, BANDS) if len(part)]
        return {
            "absence": {kind: float(np.mean(values)) for kind, values in self.maps.absence.items()},
            "spearman": rank_correlation(*pairs),
            "bands": {
                "similarity": [float(pairs[0][b].mean()) for b in bands],
                "absence": [float(pairs[1][b].mean()) for b in bands],
            },
        }

    def as_dict(self) -> dict[str, Any]:
        derived = {name: getattr(self, name) for name in ("forgetting", "retention", "generalization")}
        near = {"near": self.probe_groups.near, "far": self.probe_groups.far}
        return jsonable_fields(flat_fields(self) | near | derived)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Memorization:
        """From `as_dict`; an effect that was not finite comes back as NaN."""
        effects = {kind: np.asarray(rows, dtype=float).tolist() for kind, rows in content["effects"].items()}
        checked = {k: from_fields(Checked, v) for k, v in content.get("checked", {}).items()}
        fits = None if content.get("fits") is None else {k: CellFit(**v) for k, v in content["fits"].items()}
        return from_fields(cls, {**content, "effects": effects, "checked": checked, "fits": fits})

    def title(self) -> str:
        return f"loss on {len(self.items)} items by the step they stand at, minus the reference order's"

    def rows(self) -> list[dict[str, Any]]:
        """A row per item: its own step, the loss on it, what its absence changes, and the best and worst step for it.

        absence: loss without it minus with it, on itself (low, high: 90 % interval), near it and far from it.
        """
        half = self.maps.absence_half_widths
        rows = []
        for row, item in enumerate(self.items):
            effects, absence = self.maps.effects["own"][row], self.maps.absence["own"][row]
            spread = (None, None) if half is None else (absence - half["own"][row], absence + half["own"][row])
            best, worst = best_of(effects), worst_of(effects)
            rows.append(
                {"item": item, "step": self.places[row], "loss": self.reference_losses["own"][row], "absence": absence}
                | {"low": spread[0], "high": spread[1]}
                | {f"absence_{kind}": self.maps.absence[kind][row] for kind in ("near", "far", "probe")}
                | {"best_step": best, "best": effects[best], "worst_step": worst, "worst": effects[worst]}
            )
        return rows

    def units(self) -> dict[str, str]:
        return {name: self.unit for name in self.rows()[0] if name not in ("item", "step", "best_step", "worst_step")}

    def notes(self) -> list[str]:
        return ["absence: loss without the item minus with it, positive where it is remembered", self.note]

    def draw(self, axes: Axes) -> None:
        """The map of the loss on the items themselves: blue is better than in the reference order, red worse."""
        values = np.asarray(self.maps.effects["own"], dtype=float)
        limit = float(np.abs(values).max()) or 1.0
        shown = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        axes.plot(self.places, range(len(self.items)), ".", color=COLOURS[-1], markersize=2)
        axes.figure.colorbar(shown, ax=axes, label=labelled("change of the loss", self.unit))
        axes.set(xlabel="step j", ylabel="item i (row)")


def _shares(advantage: Floats) -> dict[str, Any]:
    """By step, the sum over items as a share of that at the best step, and that step; of what is not finite, none is best."""
    total = advantage.sum(0)
    best = best_of(total.tolist(), maximize=True)
    return {"share": (total / total[best]).tolist() if total[best] > 0 else None, "best_step": best}


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's; None where one of both does not vary."""
    if np.ptp(np.asarray(a)) == 0 or np.ptp(np.asarray(b)) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)
