"""What each method costs on a run: gradients before the first order, gradients per order, bytes on disk."""

from __future__ import annotations

from fut.methods.context import Context
from fut.methods.registry import method_of, options_of


def costs(context: Context, spec: str) -> dict[str, int]:
    """The cost columns of an accuracy table, of a method with its options."""
    method = method_of(spec)
    return {
        "precompute_gradients": method.gradients_before(context),
        "query_gradients": method.gradients_per_order(context, options_of(spec)),
        "store_bytes": method.read_bytes(context),
    }
