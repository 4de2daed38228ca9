"""What a run is and what each method costs, ready for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fut.artifacts import dataset as dataset_file
from fut.artifacts import directory as files
from fut.artifacts.directory import directory_bytes
from fut.data.text import detokenize
from fut.errors import FutError, UsageError
from fut.methods.adjoint import identity
from fut.methods.adjoint.difference_check import kept_error
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.pipeline import Expansion
from fut.methods.adjoint.tables import anchor_error
from fut.methods.costs import precompute_gradients, query_gradients, store_bytes
from fut.methods.lowrank.terms import has_base, open_base
from fut.methods.pairwise import store as pairwise_store
from fut.methods.pairwise.store import pairwise_config
from fut.methods.registry import ESTIMATORS, open_estimator
from fut.methods.reweighting.terms import open_sensitivities, stored_config
from fut.orders.parsing import order_of
from fut.readouts.readout import PROBE
from storage import TermStore

if TYPE_CHECKING:
    from fut.methods.context import Context


def info(run: Context) -> dict[str, Any]:
    """Size, cost and state of a run, ready for JSON. Losses in nats/token; costs in gradient evaluations and bytes."""
    names = [*ESTIMATORS, "retrain"]
    terms = run.path / files.TERMS
    expanded = identity.has_expansion(run.path)
    done, total = TermStore.open(terms).progress() if pairwise_store.has_terms(run.path) else (0, None)
    return {
        "path": str(run.path),
        "steps": run.steps,
        "items": run.items,
        "items_per_step": run.config.data.per_step,
        "parameters": run.parameters,
        "rule": run.config.rule.name,
        "schedule": run.config.schedule.model_dump(),
        "text": run.summary["source"],
        "reference_loss": run.reference_loss,
        "start_loss": run.summary["start_loss"],
        "unit": "nats/token",
        "estimators": names,
        "precompute_gradients": {n: precompute_gradients(run, n) for n in names},
        "query_gradients": {n: query_gradients(run, n) for n in names},
        "term_bytes": {n: store_bytes(run, n) for n in names},
        "store_bytes": directory_bytes(run.path),
        "term_blocks": {"done": done, "total": total},
        "cache": pairwise_config(run).model_dump(),
        "adjoint": (identity.read_expansion_config(run.path) if expanded else run.config.adjoint).model_dump(),
        "adjoint_cached": expanded and open_expansion(run).complete(),
        "adjoint_begun": expanded,
        "adjoint_anchor_error": anchor_error(open_expansion(run))
        if expanded and open_expansion(run).complete()
        else None,
        "adjoint_anchor_choice": _choice(open_expansion(run)) if expanded else None,
        "adjoint_difference_error": kept_error(open_expansion(run)) if expanded else None,
        "adjoint_own_error": _own_error(run) if expanded and open_expansion(run).complete() else None,
        "curved": open_base(run).config.model_dump(),
        "curved_cached": has_base(run.path),
        "readouts": open_expansion(run).names,
        "reweighting": open_sensitivities(run).config.model_dump(),
        "reweighting_cached": stored_config(run.path) is not None,
        "retrained_orders": len(list((run.path / files.RETRAINED).glob("*/*.h5"))),
        "environment": run.manifest.environment,
    }


def _choice(expansion: Expansion) -> dict[str, Any] | None:
    """The number of anchors where it was chosen, what each number that was tried would err by, and what was asked."""
    choice = expansion.choice
    if choice is None:
        return None
    errors = [{"anchors": count, "error": error} for count, error in choice.errors.items()]
    return {"anchors": len(choice.anchors), "asked": expansion.config.anchor_error, "tried": errors}


def _own_error(run: Context) -> float | None:
    """What the adjoint errs by on the runs that its own expansion is made of [nats/token]; None where it cannot be asked here."""
    if open_expansion(run).names[0] != PROBE:  # its own runs are judged by the first read-out, in a unit of its own
        return None
    try:
        return open_estimator(run, "adjoint").own_error()
    except FutError:  # tables that do not fit this machine's memory, or of an earlier version
        return None


def show_step(run: Context, step: int, order: Any = "identity") -> list[dict[str, Any]]:
    """Which items, and which text, a step consumed: item number, weight, content hash and the text of every sequence."""
    chosen = order_of(run, order)
    if not 0 <= step < len(chosen):
        raise UsageError(f"show-batch: expected a step 0..{len(chosen) - 1}, got {step}; correct STEP")
    data = dataset_file.read_dataset(run.path)
    hashes = run.manifest.identity["data"]["items"]
    return [
        {"item": i, "weight": w, "hash": hashes[i], "sequences": detokenize(data.items[i], run.config.data)}
        for i, w in chosen.entries[step]
    ]
