"""Calibration: retrain a few orders, learn an estimator's offset, slope and residual spread on this run, keep them."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.intervals import LEVEL, Calibration, calibrate, calibrate_anchored, calibrate_curved
from fut.artifacts.directory import CALIBRATION, OWNER, require_owned
from fut.artifacts.kept import keeping
from fut.display.notebook import COLOURS, Displayable, labelled
from fut.display.scale import NATS, shown_unit
from fut.divergence import divergence_note, named, require_trained, trained_apart
from fut.errors import FutError, FutWarning
from fut.estimation.calibration_orders import CHOSEN, calibration_orders
from fut.estimation.plausible import require_whole
from fut.methods.batching import raw_estimates
from fut.methods.elsewhere import train_ahead
from fut.methods.registry import canonical, method_of, open_estimator, require_movable
from fut.readouts.readout import PROBE, Readout, require_same_value, suffix
from storage import FORMAT, DamagedError, Manifest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fut.methods.context import Context


DIRECTORY = CALIBRATION
SEED = 1_000_003
"""Default seed of calibration orders, apart from the seeds that anybody verifies with."""
VALUE = "reference_value"
LEAST = 3
"""Retrained orders that a fit needs."""


def formula(fit: Calibration) -> str:
    """The fit, in a line."""
    bent = f" {fit.curve:+.3g} × (estimate {-fit.mean:+.5f})²" if fit.curve else ""
    return f"{fit.offset:+.5f} {fit.slope:+.4f} × estimate{bent}"


@dataclass(frozen=True)
class Calibrated(Displayable):
    """A fitted calibration of an estimator of one read-out, and what it was fitted on, in the read-out's unit.

    variance: mean sampling variance of those estimates. edit: the kind of edit of the reference order that each of the
    orders is one of, or None for random orders; anchor: then, the reference order's value, which the fit passes through.
    chosen: whether the orders were chosen for their estimates, from the best to the worst, in place of random ones.
    diverged: orders that were drawn too and whose training diverged, in words.
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
    unit: str = NATS
    edit: str | None = None
    anchor: float | None = None
    chosen: bool = False
    diverged: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What its orders are, in a word: `random`, `chosen`, or the kind of edit."""
        return self.edit or (CHOSEN if self.chosen else "random")

    def extrapolates(self, estimate: float) -> bool:
        """Whether an estimate, not calibrated, lies outside the range of those that it was fitted to."""
        return not min(self.estimates) <= estimate <= max(self.estimates)

    @property
    def fitted_on(self) -> str:
        """What it was fitted on, in words."""
        return (
            f"{self.fit.count} retrained orders"
            + (", from the best to the worst by their estimates" if self.chosen else "")
            + (f", each one `{self.edit}` away from the reference" if self.edit else "")
            + (f" ({len(self.diverged)} others diverged and are left out)" if self.diverged else "")
        )

    def nearer(self, reference: float, share: float) -> Calibrated:
        """What it says of orders near to the reference order (`estimators.orders.distance`): as it is for a share of 1,
        and where it was fitted to single edits."""
        if share >= 1 or self.edit is not None:
            return self
        return replace(self, fit=self.fit.nearer(reference, share), variance=min(1.0, 2 * share) * self.variance)

    def interval(self, estimate: float, variance: float = 0.0) -> tuple[float, float]:
        """90 % interval of the retrained loss, wider where the sample of coordinates is worse than it was here."""
        return self.fit.interval(estimate, max(variance - self.variance, 0.0))

    def as_dict(self) -> dict[str, Any]:
        fit = self.fit
        return {
            "estimator": self.estimator,
            "offset": fit.offset,
            "slope": fit.slope,
            "curve": fit.curve,
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
            "edit": self.edit,
            "chosen": self.chosen,
            "diverged": list(self.diverged),
        }

    def title(self) -> str:
        return f"{self.estimator} of {self.readout}: truth = {formula(self.fit)}"

    def rows(self) -> list[dict[str, Any]]:
        """A row per retrained order: its true value, the estimate, and the calibrated one with its interval."""
        rows = []
        for digest, true, guess in zip(self.digests, self.truths, self.estimates, strict=True):
            ends = dict(zip(("low", "high"), self.interval(guess), strict=True))
            rows.append(
                {"order": digest[:12], "true": true, "estimate": guess, "calibrated": self.fit.correct(guess)} | ends
            )
        return rows

    def units(self) -> dict[str, str]:
        return dict.fromkeys(("true", "estimate", "calibrated", "low", "high"), self.unit)

    def notes(self) -> list[str]:
        spread = f"{self.fit.sd:.2g} {self.unit}".rstrip()
        return [
            f"residual sd {spread} on {self.fit.freedom} degrees of freedom; low … high: 90 % interval of a new order",
            *(f"training diverged in the order {order}, which is left out" for order in self.diverged),
        ]

    def draw(self, axes: Axes) -> None:
        """True against estimated values, the fit, and its 90 % intervals."""
        at = np.linspace(min(self.estimates), max(self.estimates), 41)
        low, high = zip(*map(self.interval, at), strict=True)
        axes.plot(at, [self.fit.correct(value) for value in at], color=COLOURS[0], label="fit")
        axes.fill_between(at, low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label="90 % interval")
        axes.scatter(self.estimates, self.truths, s=18, color=COLOURS[1], zorder=3, label="retrained orders")
        axes.set(xlabel=labelled("estimate", self.unit), ylabel=labelled("retrained", self.unit))
        axes.legend(fontsize="small", frameon=False)


def calibrate_run(
    run: Context, count: int, seed: int, estimator: str, readout: str = PROBE, kind: str | None = None
) -> Calibrated:
    """Retrain `count` random orders (kept, as every truth is), estimate them, fit, and store the fit in the run.

    kind: of edit, for orders one random edit of that kind away from the reference in place of random ones; or CHOSEN.
    """
    if kind != "without":
        require_movable("calibrate", [estimator])
    about = run.readouts.get(readout)
    orders, edit = calibration_orders(run, count, seed, kind, about.name), None if kind == CHOSEN else kind
    opened = open_estimator(run, estimator, readout=about.name)
    estimates, variances = raw_estimates(opened, orders)
    require_whole(run, opened, estimates)
    with run.progress("retraining", count * run.steps) as tick:
        train_ahead(run, map(about.seen, orders), tick=tick)
        trained, diverged = trained_apart(
            orders, lambda order: run.retrain(about.seen(order), lambda step, state: tick())
        )
    require_trained("calibrate", len(trained), diverged, LEAST)
    if diverged:
        warnings.warn(f"calibrate: {divergence_note(len(trained), diverged)}", FutWarning, stacklevel=2)
        kept = [i for i, order in enumerate(orders) if order in trained]
        orders, estimates = [orders[i] for i in kept], [estimates[i] for i in kept]
        variances = [variances[i] for i in kept]
    truths = [run.readouts.truth(about, trained[order]) for order in orders]
    content: dict[str, Any] = {
        "estimator": estimator,
        "orders": [o.tolist() for o in orders],
        "digests": [o.digest for o in orders],
        "truths": truths,
        "estimates": estimates,
        "variance": sum(variances) / len(orders),
        "seed": seed,
    } | _asked(about)
    content |= {"diverged": list(map(named, diverged))} if diverged else {}
    content |= {"chosen": True} if kind == CHOSEN else {}
    content |= {} if edit is None else {"edit": edit, "anchor": run.readouts.at_reference(about)}
    calibrated = _fitted(content)  # refuses what cannot be fitted before anything is written
    path = _path(run.path, estimator, about.name, kind)
    environment = {
        "basis": _basis(run, estimator, about.name),
        VALUE: run.readouts.at_reference(about),
        OWNER: run.owner,
    }
    with keeping("the calibration", path):
        path.parent.mkdir(exist_ok=True)
        Manifest("calibration", FORMAT, content, environment).write(path)
    return calibrated


def _asked(readout: Readout) -> dict[str, str]:
    """What a calibration says of its read-out: nothing for the probe loss in nats/token, as in their names."""
    usual = readout.name == PROBE and readout.unit == NATS
    return {} if usual else {"readout": readout.name, "unit": readout.unit}


def read_calibration(run: Context, estimator: str, readout: str = PROBE, edit: str | None = None) -> Calibrated | None:
    """The calibration of this estimator of a read-out on this run, if there is one: on a kind of edit where one is named, else
    on chosen orders, which lie about random ones too, else on random orders.

    None where its terms have been made anew since. ModelError where a user's read-out is another function now.
    """
    kinds = [CHOSEN, None] if edit is None else [edit]
    return next((fit for kind in kinds if (fit := read_kind(run, estimator, readout, kind)) is not None), None)


def read_kind(run: Context, estimator: str, readout: str, kind: str | None) -> Calibrated | None:
    """The calibration on orders of one kind: of edits, CHOSEN, or None for random orders; else as `read_calibration`."""
    path = _path(run.path, estimator, readout, kind)
    if not path.exists():
        return None
    manifest, about = Manifest.read(path), run.readouts.get(readout)
    require_owned(manifest.environment.get(OWNER, ""), run.owner, path)
    if manifest.environment.get("basis") != _basis(run, estimator, readout):
        return None
    if about.pinned:
        require_same_value(readout, manifest.environment[VALUE], run.readouts.at_reference(about), str(path))
    try:
        return _fitted(manifest.identity)
    except (TypeError, KeyError, ValueError) as error:
        raise DamagedError(
            f"{path}: expected a calibration, got one that fails with {error!r}; remove the file"
        ) from error


@dataclass(frozen=True)
class KnownCalibration:
    """A calibration that is kept with a run. kind: `random`, `chosen`, or of edit. holds: whether estimates still use
    it; they do not where terms have been made anew since, or where its read-out cannot be opened here."""

    estimator: str
    readout: str
    kind: str
    orders: int
    residual_sd: float
    unit: str
    holds: bool

    @property
    def words(self) -> str:
        """In a line."""
        of = "" if self.readout == PROBE else f" of {self.readout}"
        kinds = {"random": "random orders", CHOSEN: "orders from the best to the worst by their estimates"}
        kind = kinds.get(self.kind, f"orders one `{self.kind}` away from the reference")
        sd = f"residual sd {self.residual_sd:.2g} {shown_unit(self.unit)}".rstrip()
        again = "" if self.holds else "; of other terms than the run has now: not used, repeat `fut calibrate`"
        return f"{self.estimator}{of}: calibrated on {self.orders} {kind}, {sd}{again}"


def known_calibrations(run: Context) -> list[KnownCalibration]:
    """Every calibration that is kept with the run, by file name."""
    found = []
    for path in sorted((run.path / DIRECTORY).glob("*.json")):
        fit = _fitted(Manifest.read(path).identity)
        try:
            kind = None if fit.kind == "random" else fit.kind
            holds = read_kind(run, fit.estimator, fit.readout, kind) is not None
        except FutError:
            holds = False
        found.append(KnownCalibration(fit.estimator, fit.readout, fit.kind, fit.fit.count, fit.fit.sd, fit.unit, holds))
    return found


def answers_from(run: Context, estimator: str, readout: str) -> str:
    """Digest of what an estimator's answers are made from: its terms, and its calibration where there is one."""
    fit = read_calibration(run, estimator, readout)
    fitted = [] if fit is None else [fit.truths, fit.estimates]
    return hashlib.sha256(json.dumps([_basis(run, estimator, readout), fitted]).encode()).hexdigest()


def _basis(run: Context, estimator: str, readout: str) -> str:
    """Digest of what the estimates are made from: run, read-out, and what the method reads."""
    terms = dict(method_of(estimator).fingerprint(run, readout))
    content = json.dumps({"run": run.manifest.identity, "terms": terms, "readout": readout}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _fitted(content: dict[str, Any]) -> Calibrated:
    true, guess, anchor = content["truths"], content["estimates"], content.get("anchor")
    whole = calibrate_curved if content.get("chosen") else calibrate
    fit = whole(true, guess) if anchor is None else calibrate_anchored(true, guess, anchor)
    return Calibrated(fit, **content | {"diverged": tuple(content.get("diverged", ()))})


def _path(run_path: Path, estimator: str, readout: str, kind: str | None) -> Path:
    near = "" if kind is None else f"-{CHOSEN}" if kind == CHOSEN else f"-edit-{kind}"
    estimator = canonical(estimator)
    return run_path / DIRECTORY / f"{estimator.replace(':', '+')}{suffix(readout)}{near}.json"
