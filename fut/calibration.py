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
from .estimation import base_name, raw_estimates, require_movable
from .readouts import PROBE, ReadOut, require_same_value, suffix

if TYPE_CHECKING:
    from .run import Run

DIRECTORY = "calibration"
SEED = 1_000_003
"""Default seed of calibration orders, apart from the seeds that anybody verifies with."""
TRIES = 20
VALUE = "reference_value"


@dataclass(frozen=True)
class Calibrated:
    """A fitted calibration of an estimator of one read-out, and what it was fitted on, in the read-out's unit.

    variance: mean sampling variance of those estimates.
    """

    fit: Calibration
    estimator: str
    orders: list[Any]
    digests: list[str]
    truths: list[float]
    estimates: list[float]
    variance: float
    seed: int
    readout: str = PROBE
    unit: str = "nats/token"

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
            "readout": self.readout,
            "unit": self.unit,
            "orders": self.orders,
            "digests": self.digests,
            "true_losses": self.truths,
            "estimated_losses": self.estimates,
            "sampling_variance": self.variance,
            "seed": self.seed,
        }


def calibrate_run(run: Run, count: int, seed: int, estimator: str, readout: str = PROBE) -> Calibrated:
    """Retrain `count` random orders (kept, as every truth is), estimate them, fit, and store the fit in the run."""
    if estimator in ("retrain", "reference"):
        raise UsageError(
            f"calibrate: expected an estimator, got `{estimator}`, which has nothing to calibrate; name another"
        )
    require_movable("calibrate", [estimator])
    if count < 3:
        raise UsageError(f"calibrate: expected at least 3 orders, got {count}; 8 is a good number")
    orders, asked = random_orders(run.reference, count, seed), run.readouts.get(readout)
    estimates, variances = raw_estimates(run.estimator(estimator, readout=asked.name), orders)
    with run.progress("retraining", count * run.steps) as tick:
        truths = [run.readouts.truth(asked, run.retrain(order, lambda step, state: tick())) for order in orders]
    content = {
        "estimator": estimator,
        "orders": [o.tolist() for o in orders],
        "digests": [o.digest for o in orders],
        "truths": truths,
        "estimates": estimates,
        "variance": sum(variances) / count,
        "seed": seed,
    } | _asked(asked)
    calibrate(truths, estimates)  # refuses what cannot be fitted before anything is written
    path = _path(run.path, estimator, asked.name)
    path.parent.mkdir(exist_ok=True)
    environment = {"basis": _basis(run, estimator, asked.name), VALUE: run.readouts.at_reference(asked)}
    Manifest("calibration", FORMAT, content, environment).write(path)
    return _fitted(content)


def _asked(readout: ReadOut) -> dict[str, str]:
    """What a calibration says of its read-out: nothing for the probe loss, as in files of earlier versions."""
    return {} if readout.name == PROBE else {"readout": readout.name, "unit": readout.unit}


def read_calibration(run: Run, estimator: str, readout: str = PROBE) -> Calibrated | None:
    """The calibration of this estimator of a read-out on this run, if there is one.

    None where its terms have been made anew since. ModelError where a user's read-out is another function now.
    """
    path = _path(run.path, estimator, readout)
    if not path.exists():
        return None
    found, asked = Manifest.read(path), run.readouts.get(readout)
    if found.environment.get("basis") != _basis(run, estimator, readout):
        return None
    if asked.pinned:
        require_same_value(readout, found.environment[VALUE], run.readouts.at_reference(asked), str(path))
    return _fitted(found.identity)


def _basis(run: Run, estimator: str, readout: str) -> str:
    """Digest of what the estimates are made from: run, read-out, and the configuration of the terms that they replay."""
    name, config = base_name(estimator), {}
    if name in ("adjoint", "positions"):
        expansion = run.expansion()
        later = set[str]() if expansion.config.fine else {"fine"}  # a field that earlier versions did not have
        config = expansion.config.model_dump(mode="json", exclude={"readouts", *later})
        config |= {} if expansion.names == [PROBE] else {"readouts": expansion.names}
    elif name == "curved":
        config = run.base().settings()
    elif name in ("fut", "fut++", "replay"):
        config = run.cache_config.model_dump(mode="json", exclude={"item_block"})
    asked = {} if readout == PROBE else {"readout": readout}
    content = json.dumps({"run": run.manifest.identity, "terms": config} | asked, sort_keys=True)
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


def _path(run_path: Path, estimator: str, readout: str) -> Path:
    return run_path / DIRECTORY / f"{estimator.replace(':', '+')}{suffix(readout)}.json"
