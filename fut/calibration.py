"""Calibration: retrain a few orders, learn an estimator's offset, slope and residual spread on this run, keep them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimators.intervals import LEVEL, Calibration, calibrate
from estimators.order import Order, random_order, random_orders
from storage import FORMAT, Manifest

from .errors import UsageError
from .estimation import base_name, raw_estimates

if TYPE_CHECKING:
    from .run import Run

DIRECTORY = "calibration"
SEED = 1_000_003
"""Default seed of calibration orders, apart from the seeds that anybody verifies with."""
TRIES = 20


@dataclass(frozen=True)
class Calibrated:
    """A fitted calibration and what it was fitted on. variance: mean sampling variance of those estimates [nats²]."""

    fit: Calibration
    estimator: str
    orders: list[Any]
    digests: list[str]
    truths: list[float]
    estimates: list[float]
    variance: float
    seed: int

    def interval(self, estimate: float, variance: float = 0.0) -> tuple[float, float]:
        """90 % interval of the retrained loss, wider where the sample of coordinates is worse than it was here."""
        return self.fit.interval(estimate, max(variance - self.variance, 0.0))

    def as_dict(self) -> dict[str, Any]:
        fit = self.fit
        return {
            "estimator": self.estimator,
            "offset": fit.offset,
            "slope": fit.slope,
            "residual_sd": fit.sd,
            "degrees_of_freedom": fit.freedom,
            "level": LEVEL,
            "unit": "nats/token",
            "orders": self.orders,
            "digests": self.digests,
            "true_losses": self.truths,
            "estimated_losses": self.estimates,
            "sampling_variance": self.variance,
            "seed": self.seed,
        }


def calibrate_run(run: Run, count: int, seed: int, estimator: str) -> Calibrated:
    """Retrain `count` random orders (kept, as every truth is), estimate them, fit, and store the fit in the run."""
    if estimator in ("retrain", "reference"):
        raise UsageError(
            f"calibrate: expected an estimator, got `{estimator}`, which has nothing to calibrate; name another"
        )
    if count < 3:
        raise UsageError(f"calibrate: expected at least 3 orders, got {count}; 8 is a good number")
    orders = random_orders(run.reference, count, seed)
    estimates, variances = raw_estimates(run.estimator(estimator), orders)
    with run.progress("retraining", count * run.steps) as tick:
        truths = [run.retrain(order, lambda step, state: tick()).loss for order in orders]
    content = {
        "estimator": estimator,
        "orders": [o.tolist() for o in orders],
        "digests": [o.digest for o in orders],
        "truths": truths,
        "estimates": estimates,
        "variance": sum(variances) / count,
        "seed": seed,
    }
    calibrate(truths, estimates)  # refuses what cannot be fitted before anything is written
    path = _path(run.path, estimator)
    path.parent.mkdir(exist_ok=True)
    Manifest("calibration", FORMAT, content, {"basis": _basis(run, estimator)}).write(path)
    return _fitted(content)


def read_calibration(run: Run, estimator: str) -> Calibrated | None:
    """The calibration of this estimator on this run, if there is one; None where its terms have been made anew since."""
    path = _path(run.path, estimator)
    if not path.exists():
        return None
    found = Manifest.read(path)
    return _fitted(found.identity) if found.environment.get("basis") == _basis(run, estimator) else None


def _basis(run: Run, estimator: str) -> str:
    """Digest of what the estimates are made from: the run, and the configuration of the terms that they replay."""
    name, config = base_name(estimator), {}
    if name == "adjoint":
        config = run.expansion().config.model_dump(mode="json")
    elif name in ("fut", "fut++", "replay"):
        config = run.cache_config.model_dump(mode="json", exclude={"item_block"})
    content = json.dumps({"run": run.manifest.identity, "terms": config}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def fresh_orders(reference: Order, count: int, seed: int, used: Collection[str]) -> list[Order]:
    """The first `count` random orders of a seed whose digests are not among `used`: none that was calibrated on."""
    drawn = (random_order(reference, seed, i) for i in range(TRIES * count))
    found = list(islice((order for order in drawn if order.digest not in used), count))
    if len(found) < count:
        raise UsageError(
            f"verify: expected {count} random orders that were not calibrated on, got {len(found)} among {TRIES * count}; "
            "ask for fewer --orders, or calibrate on fewer"
        )
    return found


def _fitted(content: dict[str, Any]) -> Calibrated:
    return Calibrated(calibrate(content["truths"], content["estimates"]), **content)


def _path(run_path: Path, estimator: str) -> Path:
    return run_path / DIRECTORY / f"{estimator.replace(':', '+')}.json"
