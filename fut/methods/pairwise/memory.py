"""Memory at its height of pairwise terms, and of the queries that read them."""

from __future__ import annotations

from collections.abc import Sequence

from estimators.sketch import Sketch
from fut.methods.footprint import TEMPORARIES, Footprint, hashes
from fut.methods.pairwise.terms import TermLayout

TABLES_KEPT = 4
"""Checkpoints of one term in memory at once: the last three, and the one being read."""


def terms_memory(layout: TermLayout, f: Footprint, names: Sequence[str]) -> int:
    """Gradients, states and updates of a block of items, then products of its updates one by one."""
    rows, s = min(layout.config.item_block, layout.items), f.state
    stored = rows * layout.sample.size * f.theta.element_size() if "gradient" in names else 0
    held = f.resident + (s + rows) * f.vector + stored  # what the block before was written from, or encoded
    phases = [rows * f.vector + f.gradient, rows * f.vector + stored]
    if {"update", "jvp", "second"} & set(names):
        phases += [rows * (2 * s + TEMPORARIES) * f.vector, 3 * rows * f.vector + hashes(layout.sketch)]
    if {"jvp", "second"} & set(names):
        exact = layout.config.products == "exact" and "jvp" in names
        product = f.exact_product if exact else f.gradient + 3 * f.vector
        phases.append((3 * rows + s + TEMPORARIES) * f.vector + product)
    return f.planned(held + max(phases))


def table_bytes(layout: TermLayout, f: Footprint, names: Sequence[str]) -> int:
    """Bytes of the named terms of the checkpoints that are in memory at once."""
    sizes = {s.name: s.shape[1] * s.shape[2] for s in layout.specs()} if names else {}
    return TABLES_KEPT * f.theta.element_size() * sum(sizes[n] for n in names)


def query_memory(layout: TermLayout, f: Footprint, names: Sequence[str], linear: Sketch) -> int:
    """One order: the tables it streams, its own state, and its read-out, linear on a sketch where that is none of identity."""
    tables = table_bytes(layout, f, names)
    return f.query(tables, 0 if linear.kind == "identity" else f.probe_gradient + hashes(linear))
