"""Memory at its height of an expansion's stages and of the adjoint's queries: functions of its specification."""

from __future__ import annotations

from fut.methods.adjoint.anchors import HELD, pilot_items
from fut.methods.adjoint.quadratic_directions import BUFFERS, SAMPLES, simulated_together
from fut.methods.adjoint.replay_curvature import products
from fut.methods.adjoint.spec import MOST, ROWS, SUMS, AdjointSpec, sums_of
from fut.methods.batching import batch_size
from fut.methods.expansion.spec import ITEM_BLOCK
from fut.methods.footprint import TEMPORARIES, Footprint
from fut.methods.timings import BLOCK, LEAST
from fut.models.autodiff import GRADIENT_BYTES

GAPS = 0.5
"""Share of a product on the whole batch by which an ensemble's sweep exceeds it: small batches of two sizes leave the heap with
gaps."""


def product(e: AdjointSpec, f: Footprint) -> int:
    """Bytes of the sweep's Hessian-vector products: a gradient of as many items as are pooled, and three vectors; the products
    of all places, which are compared."""
    pool = e.config.pool if e.config.curvature == "pooled" else e.problem.config.data.per_step
    held = e.trajectory.places_count * e.rows * f.vector if e.pools else 0
    return held + _product(e, f, pool)


def _product(e: AdjointSpec, f: Footprint, pool: int) -> int:
    return pool * f.exact_product if e.config.products == "exact" else f.pooled_gradient(pool) + 3 * f.vector


def sweep(e: AdjointSpec, f: Footprint) -> int:
    """The backward sweep of r read-outs: mixture gradients, and for each item a costate pulled back and a sensitivity."""
    mixture, readouts, s = e.config.num_runs, e.rows, f.state
    places = e.trajectory.places_count + 1
    held = f.resident + (s + places + readouts * s + mixture * (readouts * (s + 1) + 2)) * f.vector
    step = readouts * (mixture + 3 * s + TEMPORARIES) * f.vector
    start = f.resident + (s + 2 + readouts) * f.vector + f.probe_gradient + functionals(e, f)
    gaps = round(GAPS * product(e, f)) if e.trajectory.ensemble else 0
    if (
        e.drawn_first
    ):  # what is ahead, whole costates after and before a step and as written, and a step's row of the tables
        held += (4 * e.fine + 3 * readouts * s) * f.vector
        step = max(step, (2 * s + e.fine * (s + 4)) * f.vector + held_items(e, f) * e.controlled)
    return f.planned(max(held + product(e, f), held + step, start, retrained(e, f, readouts * s + s)) + gaps)


def first_sample(e: AdjointSpec, f: Footprint) -> int:
    """Drawing coordinates before the sweep: the costate that it starts from, updates, and scores in double precision; the ends of
    an ensemble's runs."""
    runs, rows, d = e.config.num_runs * f.state if e.trajectory.ensemble else 0, e.rows, f.theta.numel()
    begun = (f.state + 2 + rows) * f.vector + f.probe_gradient + functionals(e, f)
    updates = (e.config.num_runs * (2 * f.state + TEMPORARIES) + 2 * f.state) * f.vector + 40 * d
    scored = (2 * rows * f.state + f.state + runs) * f.vector + 8 * d * (2 * rows + 12)
    tensors = f.resident + max(begun, updates, scored)
    return f.planned(max(tensors, retrained(e, f, 0)))


def retrained(e: AdjointSpec, f: Footprint, vectors: int) -> int:
    """Training a segment of the trajectory again, while so many vectors are held; nothing where it is stored."""
    return f.resident + vectors * f.vector + e.trajectory.tensors(f) if e.retrains else 0


def low_rank(e: AdjointSpec, f: Footprint) -> int:
    """The replay's curvature: where runs stand, a state, Krylov vectors, turned and scaled to Ritz vectors, and a product."""
    rows, places = products(e), e.trajectory.places_count + 1
    held = f.resident + (rows + places + f.state + 4) * f.vector
    gaps = round(GAPS * product(e, f)) if e.trajectory.ensemble else 0
    return f.planned(held + max(product(e, f) + gaps, (3 * rows + TEMPORARIES) * f.vector))


def functionals(e: AdjointSpec, f: Footprint) -> int:
    """Finding functionals: simulated displacements and what their bends are, and simulated orders while they are replayed."""
    m = e.functionals
    if not m:
        return 0
    together = min(SAMPLES * m, simulated_together(f.vector))
    return (2 * SAMPLES * m + 2 * m + BUFFERS * together + e.config.num_runs) * f.vector


def sample(e: AdjointSpec, f: Footprint) -> int:
    """Drawing coordinates: simulated orders, and an evaluation."""
    runs = e.config.num_runs * f.state if e.trajectory.ensemble else 0  # whose ends are evaluated
    drawn = 0 if e.whole else simulated(e, f)
    again = retrained(e, f, 0) - f.resident + (drawn if not e.drawn_first else 0) if e.retrains else 0
    return f.planned(f.resident + (f.state + runs) * f.vector + max(drawn, f.evaluation, again))


def simulated(e: AdjointSpec, f: Footprint) -> int:
    """Simulated orders, m states and noise, and scores in double precision."""
    config, s, d = e.config, f.state, f.theta.numel()
    m, fine = config.simulated, e.fine
    r = len(e.names) if e.of_all else e.rows
    vectors = m * (3 * s + TEMPORARIES + 2 * r + fine) + s * (2 + fine) + 2 * config.num_runs
    scores = (m * (r + fine) + e.rank) * f.vector + 8 * d * (4 * m * (1 + fine) + r + 8)
    if e.rank:  # one anchor's and the next, and what they answer
        vectors += 2 * e.rank + 3 * m + 2 * r
    held = held_items(e, f) if e.of_all else 8 * d * (2 * config.num_runs + 3)
    return max(vectors * f.vector + held, scores)


def held_items(e: AdjointSpec, f: Footprint) -> int:
    """Item gradients on all coordinates that are kept in memory for reading them again, and a block of them interpolated."""
    items = e.problem.config.data.items
    rows = min(ITEM_BLOCK, items)
    every = len(e.anchors) * items * f.vector
    return min(every, max(2 * rows * f.vector, HELD)) + 3 * rows * f.vector


def anchors(e: AdjointSpec, f: Footprint) -> int:
    """Anchors: gradients of the last block of items and of this one, then stacked, and what is kept of them."""
    rows = min(ITEM_BLOCK, e.problem.config.data.items)
    kept = 0 if e.controlled else 3 * rows * e.expected_coordinates * f.theta.element_size()
    rows = rows if e.controlled else min(rows, max(1, GRADIENT_BYTES // f.vector))  # else taken in chunks
    held = f.resident + (f.state + 2 * rows) * f.vector + kept
    return f.planned(max(held + max(f.gradient, rows * f.vector), choosing(e, f)))


def choosing(e: AdjointSpec, f: Footprint) -> int:
    """Choosing how many anchors: a few items' gradients at three steps, one interpolated, and what surrounds a step."""
    if e.config.num_anchors:
        return 0
    around = 2 * f.state + f.state * e.fine
    return f.resident + (around + 6 * len(pilot_items(e))) * f.vector


def fold(e: AdjointSpec, f: Footprint) -> int:
    """Folding: two states, and a step's weights and costates, each read and sampled; then item gradients on all coordinates,
    as many as are kept in memory, and a block of them interpolated; the samples' weights and sums."""
    items = e.problem.config.data.items
    states = (2 * f.state + 2 * f.state * e.fine + 2) * f.vector
    k, width = e.expected_coordinates, f.theta.element_size()
    sampled = k * items * width * (2 * len(e.anchors) + 4)  # gradients of the sample, and between its anchors
    if e.of_all:
        states += 32 * e.fine * f.theta.numel() + held_items(e, f) * e.controlled
    if e.controlled:
        sampled += 16 * ROWS * k
    drawn = simulated(e, f) if e.whole else 0  # before the table, which is held by what they find
    read = (
        2 * max(e.rows, e.rank) * f.vector
    )  # a step's weights, or a checkpoint's Ritz vectors, before they are sampled
    again = 0 if e.drawn_first else max(states, drawn) + retrained(e, f, 0)
    return f.planned(f.resident + max(read, states + sampled, drawn, again - f.resident))


def few(e: AdjointSpec, f: Footprint) -> int:
    """Drawing few coordinates: simulated orders on all of them, and their squares; the samples' weights and table."""
    most, d, items = round(MOST * f.theta.numel()), f.theta.numel(), e.problem.config.data.items
    squares = 8 * d * len(e.names) * (3 + 2 * e.config.simulated)
    drawn = most * (8 * ROWS + f.theta.element_size() * items * (len(e.anchors) + 4)) + 16 * f.state * e.fine * f.vector
    return f.planned(max(f.resident + max(simulated(e, f) + squares, drawn), retrained(e, f, 0)))


def tables(e: AdjointSpec, f: Footprint) -> int:
    """Bytes of the adjoint's terms in memory, and of the largest of them once more while it is stacked."""
    width, k, items = f.theta.element_size(), e.expected_coordinates, e.problem.config.data.items
    gradient = len(e.anchors) * items * (k + 1)
    row = (e.steps + 1) * k  # of the trajectory, and of the read-out's weights
    row += len(e.curvatures) * e.rank * k + bool(e.rank) * (len(e.anchors) + e.steps) * k
    bend = 2 * e.functionals * sums_of(e) * e.steps * items
    control = 2 * SUMS * (e.steps * items + k) if e.controlled else 0
    return width * (gradient + 2 * row + max(gradient, row)) + 8 * (control + bend)


def query(e: AdjointSpec, f: Footprint, orders: int) -> int:
    """The adjoint: all its tables, and for every order of a batch the states and sums of a block of coordinates, the latter
    in double precision, and a position."""
    width, k = f.theta.element_size(), e.expected_coordinates
    batch = min(orders, batch_size(2 * k))
    coupled = e.problem.rule.clip is not None or e.rank
    block = k if coupled else min(k, max(LEAST, BLOCK[f.theta.device.type] // batch))
    replayed = block * ((2 * f.state + 1 + 5 * bool(e.rank)) * width + 24) + 8 * SUMS * (2 * k // LEAST + 1)
    reference = 2 * k * width + 24 * k
    opened = f.resident + f.state * f.vector
    return f.planned(opened + max(f.evaluation, tables(e, f) + batch * replayed + reference))
