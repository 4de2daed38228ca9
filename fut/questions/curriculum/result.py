"""What a curriculum search answers: the order that it found, what is expected of it, and the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fut.display.notebook import COLOURS, GREY, MARKERS, Displayable, labelled
from fut.display.numbers import jsonable_fields, perplexity

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Curriculum(Displayable):
    """The best order that a search found, what is expected of it, and what retraining in it gives.

    Losses are values of the read-out in `unit`; lower is better, unless `maximize`. order: item numbers, a list per step
    where steps hold several. estimated_loss, interval: of the order, by `estimator`, with the 90 % interval where it is
    calibrated; `note` says what the figures rest on. reevaluated_loss: by `reevaluated_by`, which had no part in the search.
    retrained_loss: the truth. random_losses: of random orders retrained. heuristics: named orders retrained,
    by name. finalists: good orders that differ, retrained, the first of them the best by estimate; `order` is the
    best of them by retrained loss. history: (evaluations, best estimate so far, as it was searched: not calibrated).
    seconds: of the search alone. retraining_seconds: of all the retraining behind this answer, spent now or kept from
    earlier. retrain_seconds: of one order, on average. precompute_gradients: what the estimator cost before its first order.
    also: other read-outs of the retrained orders, each with its unit: of the found order, the reference, the random ones.
    """

    order: list[Any]
    estimated_loss: float
    interval: tuple[float, float] | None
    note: str
    reevaluated_loss: float | None
    reevaluated_by: str | None
    reevaluated_note: str
    retrained_loss: float | None
    reference_loss: float
    random_losses: list[float]
    heuristics: dict[str, float]
    finalists: list[dict[str, Any]]
    history: list[tuple[int, float]]
    evaluations: int
    seconds: float
    retrain_seconds: float | None
    retraining_seconds: float
    precompute_gradients: int
    precompute_training_runs: float
    method: str
    estimator: str
    seed: int
    start: Any = None
    budget: dict[str, float | None] = field(default_factory=dict)
    constraints: dict[str, list[Any]] = field(default_factory=dict)
    maximize: bool = False
    readout: str = "probe"
    unit: str = "nats/token"
    also: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def best_random_loss(self) -> float | None:
        """The best of the retrained random orders."""
        return self._best(self.random_losses)

    @property
    def mean_random_loss(self) -> float | None:
        return float(np.mean(self.random_losses)) if self.random_losses else None

    @property
    def random_sd(self) -> float | None:
        """The order noise: standard deviation of the retrained random orders."""
        return float(np.std(self.random_losses, ddof=1)) if len(self.random_losses) > 1 else None

    @property
    def best_heuristic(self) -> str | None:
        """The name of the best of the retrained named orders; of several that train the same, the first in the alphabet."""
        best = self._best(list(self.heuristics.values()))
        return min((name for name, loss in self.heuristics.items() if loss == best), default=None)

    @property
    def best_heuristic_loss(self) -> float | None:
        return self._best(list(self.heuristics.values()))

    def _best(self, losses: Sequence[float]) -> float | None:
        return (max(losses) if self.maximize else min(losses)) if losses else None

    @property
    def precompute_seconds(self) -> float | None:
        """What the estimator's terms cost at the speed of the retraining measured here: training runs times seconds of one."""
        return None if self.retrain_seconds is None else self.precompute_training_runs * self.retrain_seconds

    def gain(self, against: float) -> dict[str, float | None]:
        """How much better than another loss the found order retrained is (estimated, where nothing was retrained).

        value: in `unit`, positive is better. perplexity: the same in exp(loss); None for a read-out in another unit.
        """
        value = self.estimated_loss if self.retrained_loss is None else self.retrained_loss
        sign = -1.0 if self.maximize else 1.0
        nats = self.unit == "nats/token"
        return {
            "value": sign * (against - value),
            "perplexity": sign * (perplexity(against) - perplexity(value)) if nats else None,
        }

    @property
    def gains(self) -> dict[str, dict[str, float | None] | None]:
        """Against the reference order, the random orders' mean and best, and the best named order."""
        others = {
            "reference": self.reference_loss,
            "mean_random": self.mean_random_loss,
            "best_random": self.best_random_loss,
            "best_heuristic": self.best_heuristic_loss,
        }
        return {name: None if loss is None else self.gain(loss) for name, loss in others.items()}

    @property
    def rivals(self) -> dict[str, float]:
        """What the found order is compared with, by name: retrained losses."""
        count = len(self.random_losses)
        rivals = {
            "reference order": self.reference_loss,
            f"mean of {count} random orders": self.mean_random_loss,
            f"best of {count} random orders": self.best_random_loss,
            f"{self.best_heuristic}, the best of {len(self.heuristics)} named orders": self.best_heuristic_loss,
        }
        return {name: loss for name, loss in rivals.items() if loss is not None}

    def as_dict(self) -> dict[str, Any]:
        nats = self.unit == "nats/token"
        shown = {n: perplexity(v) if nats and v is not None else None for n, v in self._perplexities()}
        derived = {
            "question": "search",
            "best_random_loss": self.best_random_loss,
            "mean_random_loss": self.mean_random_loss,
            "random_sd": self.random_sd,
            "best_heuristic": self.best_heuristic,
            "best_heuristic_loss": self.best_heuristic_loss,
            "precompute_seconds": self.precompute_seconds,
            "gain": self.gains,
        }
        return jsonable_fields(asdict(self) | shown | derived)

    def _perplexities(self) -> list[tuple[str, float | None]]:
        return [
            ("perplexity", self.estimated_loss),
            ("retrained_perplexity", self.retrained_loss),
            ("reference_perplexity", self.reference_loss),
        ]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Curriculum:
        """From `as_dict`."""
        return cls(**{f.name: content[f.name] for f in fields(cls) if f.name in content})

    def title(self) -> str:
        count = f"{self.evaluations} estimates by {self.estimator}"
        return f"Best order found ({self.method}, {count})"

    def units(self) -> dict[str, str]:
        return {"loss": self.unit, "gain": self.unit} if not self.also else {}

    def rows(self) -> list[dict[str, Any]]:
        """A row per order: the found one, estimated and retrained, then its rivals; `gain` of the found order on each."""
        low, high = self.interval or (None, None)
        rows = [{"order": "found, estimated", "loss": self.estimated_loss, "low": low, "high": high}]
        if self.reevaluated_loss is not None:
            rows.append({"order": f"found, by {self.reevaluated_by}", "loss": self.reevaluated_loss})
        if self.retrained_loss is not None:
            rows.append({"order": "found, retrained", "loss": self.retrained_loss})
        for name, loss in self.rivals.items():
            gain = self.gain(loss)
            rows.append({"order": name, "loss": loss, "gain": gain["value"], "gain_perplexity": gain["perplexity"]})
        for name, other in self.also.items():
            rows.append({"order": "found, retrained", "read-out": name, "loss": other["found"]})
            mean = float(np.mean(other["random"]))
            rows.append(
                {"order": "mean of random orders", "read-out": name, "loss": mean, "gain": mean - other["found"]}
            )
        return rows

    def notes(self) -> list[str]:
        return [self.note, self.reevaluated_note, f"order: {self.order}"]

    def draw(self, axes: Axes) -> None:
        """Retrained losses in rows: the found order with its estimate and interval, named orders, random orders."""
        groups = {"random orders": self.random_losses, "named orders": list(self.heuristics.values())}
        kinds = {name: losses for name, losses in groups.items() if losses}
        for place, (name, losses) in enumerate(kinds.items()):
            axes.plot(
                losses, [place] * len(losses), MARKERS[place + 2], color=COLOURS[place + 2], alpha=0.6, label=name
            )
        place = len(kinds)
        low, high = self.interval or (math.nan, math.nan)
        ends = [[self.estimated_loss - low], [high - self.estimated_loss]]
        axes.errorbar(
            [self.estimated_loss], [place], xerr=ends, fmt=MARKERS[0], color=COLOURS[0], label="estimated", capsize=3
        )
        if self.retrained_loss is not None:
            axes.plot([self.retrained_loss], [place], MARKERS[1], color=COLOURS[1], label="found, retrained")
        axes.axvline(self.reference_loss, color=GREY, linewidth=1, linestyle="--", label="reference")
        axes.set_yticks(range(place + 1), [*kinds, "found order"])
        axes.set(
            ylim=(-0.5, place + 0.5),
            xlabel=labelled(self.readout if self.readout != "probe" else "probe loss", self.unit),
        )
        axes.legend(fontsize="small", frameon=False)
