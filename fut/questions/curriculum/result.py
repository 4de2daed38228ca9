"""What a curriculum search answers: the order that it found, what is expected of it, and the truth."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fut.display.notebook import COLOURS, GREY, MARKERS, Displayable, labelled
from fut.display.numbers import flat_fields, from_fields, jsonable_fields, perplexity
from fut.display.scale import NATS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class OrderEstimate:
    """What is expected of the order that was found.

    Args:
        estimated_loss: by the estimator that searched [the read-out's unit].
        interval: 90 % interval of that, where the estimator is calibrated.
        note: what both rest on.
        reevaluated_loss: by a method that had no part in the search; None where none could be asked.
        reevaluated_by: that method.
        reevaluated_note: what its figure rests on, or why there is none.
    """

    estimated_loss: float
    interval: tuple[float, float] | None
    note: str
    reevaluated_loss: float | None
    reevaluated_by: str | None
    reevaluated_note: str


@dataclass(frozen=True)
class RetrainedOrders:
    """The truth: values of the read-out in its unit, all but the reference order's empty or None where nothing was retrained.

    Args:
        retrained_loss: of the order that was found.
        reference_loss: of the reference order.
        random_losses: of random orders.
        heuristics: of named orders, by name.
        finalists: good orders that differ, the best by estimate first; the best of them retrained is the order found.
        also: other read-outs of the retrained orders, each with its unit: of the found order, the reference, the random ones.
        maximize: the greatest value is the best.
        lost: orders whose training diverged and that are left out, in words.
    """

    retrained_loss: float | None
    reference_loss: float
    random_losses: list[float]
    heuristics: dict[str, float]
    finalists: list[dict[str, Any]]
    also: dict[str, dict[str, Any]] = field(default_factory=dict)
    maximize: bool = False
    lost: str = ""

    @property
    def best_random_loss(self) -> float | None:
        """The best of the random orders."""
        return self._best(self.random_losses)

    @property
    def mean_random_loss(self) -> float | None:
        return float(np.mean(self.random_losses)) if self.random_losses else None

    @property
    def random_sd(self) -> float | None:
        """The order noise: standard deviation of the random orders."""
        return float(np.std(self.random_losses, ddof=1)) if len(self.random_losses) > 1 else None

    @property
    def best_heuristic(self) -> str | None:
        """The name of the best of the named orders; of several that train the same, the first in the alphabet."""
        return min((name for name, loss in self.heuristics.items() if loss == self.best_heuristic_loss), default=None)

    @property
    def best_heuristic_loss(self) -> float | None:
        return self._best(self.heuristics.values())

    def _best(self, losses: Collection[float]) -> float | None:
        return (max(losses) if self.maximize else min(losses)) if losses else None


@dataclass(frozen=True)
class SearchCourse:
    """How the order was searched for: as it was asked, and what came of it.

    Args:
        history: (evaluations, best estimate so far, as it was searched: not calibrated).
        evaluations: orders estimated.
        seconds: of the search alone.
        method: `local`, `genetic` or `assignment`.
        seed: of the search and of the random orders.
        start: where it began, if it was told.
        budget: in evaluations and seconds.
        constraints: what every order kept to.
    """

    history: list[tuple[int, float]]
    evaluations: int
    seconds: float
    method: str
    seed: int
    start: Any = None
    budget: dict[str, float | None] = field(default_factory=dict)
    constraints: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchCost:
    """What the answer cost beside the search itself.

    Args:
        retrain_seconds: of retraining one order, on average; None where none was.
        retraining_seconds: of all the retraining behind the answer, spent now or kept from earlier.
        precompute_gradients: what the estimator cost before its first order.
        precompute_training_runs: the same, in training runs.
    """

    retrain_seconds: float | None
    retraining_seconds: float
    precompute_gradients: int
    precompute_training_runs: float

    @property
    def precompute_seconds(self) -> float | None:
        """What the estimator's terms cost at the speed of the retraining measured here: training runs times seconds of one."""
        return None if self.retrain_seconds is None else self.precompute_training_runs * self.retrain_seconds


@dataclass(frozen=True)
class Curriculum(Displayable):
    """The best order that a search found, what is expected of it, and what retraining in it gives.

    Losses are values of the read-out in `unit`; lower is better, unless the greatest value was sought. The JSON has the fields
    of all parts side by side.

    Args:
        order: item numbers, a list per step where steps hold several.
        estimate: what is expected of it.
        truths: what retraining gives in this order, in the reference order, in random and in named ones.
        search: how it was searched for.
        cost: what the answer cost beside that.
        estimator: the method that was asked.
        readout: what was sought.
        unit: of it.
    """

    order: list[Any]
    estimate: OrderEstimate
    truths: RetrainedOrders
    search: SearchCourse
    cost: SearchCost
    estimator: str
    readout: str = "probe"
    unit: str = NATS

    def gain(self, against: float) -> dict[str, float | None]:
        """How much better than another loss the found order retrained is (estimated, where nothing was retrained).

        value: in `unit`, positive is better. perplexity: the same in exp(loss); None for a read-out in another unit.
        """
        retrained = self.truths.retrained_loss
        value = self.estimate.estimated_loss if retrained is None else retrained
        sign = -1.0 if self.truths.maximize else 1.0
        nats = self.unit == NATS
        return {
            "value": sign * (against - value),
            "perplexity": sign * (perplexity(against) - perplexity(value)) if nats else None,
        }

    @property
    def gains(self) -> dict[str, dict[str, float | None] | None]:
        """Against the reference order, the random orders' mean and best, and the best named order."""
        losses = {
            "reference": self.truths.reference_loss,
            "mean_random": self.truths.mean_random_loss,
            "best_random": self.truths.best_random_loss,
            "best_heuristic": self.truths.best_heuristic_loss,
        }
        return {name: None if loss is None else self.gain(loss) for name, loss in losses.items()}

    @property
    def rivals(self) -> dict[str, float]:
        """What the found order is compared with, by name: retrained losses."""
        truths, count = self.truths, len(self.truths.random_losses)
        rivals = {
            "reference order": truths.reference_loss,
            f"mean of {count} random orders": truths.mean_random_loss,
            f"best of {count} random orders": truths.best_random_loss,
            f"{truths.best_heuristic}, the best of {len(truths.heuristics)} named orders": truths.best_heuristic_loss,
        }
        return {name: loss for name, loss in rivals.items() if loss is not None}

    def as_dict(self) -> dict[str, Any]:
        """The fields of all parts side by side, with what follows from them."""
        truths, nats = self.truths, self.unit == NATS
        content = flat_fields(self)
        for name in ("best_random_loss", "mean_random_loss", "random_sd", "best_heuristic", "best_heuristic_loss"):
            content[name] = getattr(truths, name)
        losses = {
            "perplexity": self.estimate.estimated_loss,
            "retrained_perplexity": truths.retrained_loss,
            "reference_perplexity": truths.reference_loss,
        }
        content |= {name: perplexity(v) if nats and v is not None else None for name, v in losses.items()}
        content |= {"question": "search", "precompute_seconds": self.cost.precompute_seconds, "gain": self.gains}
        return jsonable_fields(content)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Curriculum:
        """From `as_dict`."""
        return from_fields(cls, content)

    def title(self) -> str:
        count = f"{self.search.evaluations} estimates by {self.estimator}"
        return f"Best order found ({self.search.method}, {count})"

    def units(self) -> dict[str, str]:
        return {"loss": self.unit, "gain": self.unit} if not self.truths.also else {}

    def rows(self) -> list[dict[str, Any]]:
        """A row per order: the found one, estimated and retrained, then its rivals; `gain` of the found order on each."""
        estimate, truths = self.estimate, self.truths
        low, high = estimate.interval or (None, None)
        rows = [{"order": "found, estimated", "loss": estimate.estimated_loss, "low": low, "high": high}]
        if estimate.reevaluated_loss is not None:
            rows.append({"order": f"found, by {estimate.reevaluated_by}", "loss": estimate.reevaluated_loss})
        if truths.retrained_loss is not None:
            rows.append({"order": "found, retrained", "loss": truths.retrained_loss})
        for name, loss in self.rivals.items():
            gain = self.gain(loss)
            rows.append({"order": name, "loss": loss, "gain": gain["value"], "gain_perplexity": gain["perplexity"]})
        for name, other in truths.also.items():
            rows.append({"order": "found, retrained", "read-out": name, "loss": other["found"]})
            mean = float(np.mean(other["random"]))
            rows.append(
                {"order": "mean of random orders", "read-out": name, "loss": mean, "gain": mean - other["found"]}
            )
        return rows

    def notes(self) -> list[str]:
        lost = [self.truths.lost] if self.truths.lost else []
        return [self.estimate.note, self.estimate.reevaluated_note, *lost, f"order: {self.order}"]

    def draw(self, axes: Axes) -> None:
        """Retrained losses in rows: the found order with its estimate and interval, named orders, random orders."""
        estimate, truths = self.estimate, self.truths
        groups = {"random orders": truths.random_losses, "named orders": list(truths.heuristics.values())}
        kinds = {name: losses for name, losses in groups.items() if losses}
        for place, (name, losses) in enumerate(kinds.items()):
            axes.plot(
                losses, [place] * len(losses), MARKERS[place + 2], color=COLOURS[place + 2], alpha=0.6, label=name
            )
        place = len(kinds)
        low, high = estimate.interval or (math.nan, math.nan)
        ends = [[estimate.estimated_loss - low], [high - estimate.estimated_loss]]
        axes.errorbar(
            [estimate.estimated_loss],
            [place],
            xerr=ends,
            fmt=MARKERS[0],
            color=COLOURS[0],
            label="estimated",
            capsize=3,
        )
        if truths.retrained_loss is not None:
            axes.plot([truths.retrained_loss], [place], MARKERS[1], color=COLOURS[1], label="found, retrained")
        axes.axvline(truths.reference_loss, color=GREY, linewidth=1, linestyle="--", label="reference")
        axes.set_yticks(range(place + 1), [*kinds, "found order"])
        axes.set(
            ylim=(-0.5, place + 0.5),
            xlabel=labelled(self.readout if self.readout != "probe" else "probe loss", self.unit),
        )
        axes.legend(fontsize="small", frameon=False)
