"""Endpoints: the parameters that an order leads to, as a file that loads back into the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save
from torch import Tensor

from estimators.orders.order import Order
from fut.errors import UsageError
from fut.estimation.results import Endpoint
from fut.methods.registry import method_of, open_estimator
from fut.progress import Tick
from fut.training.problem import unit_of_loss
from storage import fingerprint, write_bytes

if TYPE_CHECKING:
    from fut.methods.context import Context


def write_endpoint(run: Context, order: Order, estimator: str, out: Path, **options: str) -> Endpoint:
    """Rebuild the endpoint, evaluate the probe loss there, write the parameters; names as in `module.state_dict()`."""
    if out.is_dir():
        raise UsageError(f"endpoint: expected a file to write, got the directory {out}; name a file in it with --out")
    with run.progress(f"endpoint by {estimator}", len(order)) as tick:
        theta, estimated, error, theory, caution = _rebuild(run, order, estimator, tick, **options)
        evaluated = run.problem.probe_loss(theta)
    metadata = {
        "format": "pt",
        "fut.estimator": estimator,
        "fut.order": order.digest,
        "fut.run": fingerprint(run.manifest.identity),
        "fut.estimated_loss": repr(estimated),
        "fut.evaluated_loss": repr(evaluated),
    }
    parameters = {n: p.cpu().contiguous() for n, p in run.problem.objective.state_dict(theta).items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, save(parameters, metadata))  # `save_file` hides a full disk in an error of its own
    return Endpoint(
        out, estimator, order.digest, estimated, evaluated, error, theory, caution, unit_of_loss(run.problem)
    )


def _rebuild(
    run: Context, order: Order, name: str, tick: Tick, **options: str
) -> tuple[Tensor, float, float | None, float | None, str]:
    """Parameters [D], the estimator's loss, the sketch's measured and theoretical reconstruction errors, and what the estimator
    says against itself."""
    if method_of(name).capabilities.trains:
        truth = run.retrain(order, lambda step, state: tick())
        return truth.theta, truth.loss, None, None, ""
    estimator = open_estimator(run, name, **options)
    positions = estimator.final_states([order], lambda step, state: tick())
    loss = estimator.values(positions, len(order))[0]
    theta = estimator.endpoint(positions[0], len(order))
    measured, expected = estimator.reconstruction() or (None, None)
    return theta, loss, measured, expected, estimator.caution()
