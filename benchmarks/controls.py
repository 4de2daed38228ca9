"""Two controls of order effects: an associative memory, whose gradients are known in closed form, and a convex programme.

python benchmarks/controls.py --work /tmp/controls

`memory`: linear associative memory with power-law frequencies and logistic loss (the setting of "Sharp Capacity Scaling of
Spectral Optimizers in Learning Associative Memory"), trained by SGD and by Muon: associations recovered, the order effect, and
the adjoint's Spearman correlation over retrained orders. `convex`: a two-layer ReLU network as its convex programme (the one
that CRONOS, arXiv 2411.01088, solves), solved to optimality by an existing solver. It has no training order: permuting rows and
gate patterns must change the fitted outputs by the solver's tolerance at most. The same network trained by SGD over random
orders stands beside it. Needs `pip install cvxpy`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import began, resumed, write_record
from torch import Tensor, nn

import fut
from fut.methods.settings import load_config

NAME, KEPT = "controls", ("control", "rule", "rate", "associations")
WIDTH, BATCH, STEPS, EXPONENT, HELD_OUT = 32, 64, 32, 1.2, 4
RATES = {"sgd": (4.0, 16.0, 64.0, 256.0), "muon": (0.1, 0.3, 1.0, 3.0)}
ROWS, INPUTS, DECAY, DIRECTIONS, TOLERANCE = 12, 3, 1e-2, 200_000, 1e-5
NETS, HIDDEN, PASSES, NET_RATE = 16, 64, 400, 0.05
Floats = NDArray[np.float64]


class AssociativeMemory(nn.Module):
    """A matrix that maps key u_i to value v_i: logits of association j are u_i W v_j.

    Args:
        associations: N; keys and values are normal numbers of `width` dimensions, of unit length on average.
        width: d.
        seed: of keys and values.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, associations: int, width: int = WIDTH, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.randn(associations, width, generator=draw) / width**0.5)
        self.weight = nn.Parameter(torch.zeros(width, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [n, N] of keys `ids` [n]."""
        return self.keys[ids] @ self.weight @ self.values.T


def logistic_loss(module: nn.Module, ids: Tensor) -> Tensor:
    """Mean logistic loss of associations `ids` [n], in nats."""
    return nn.functional.cross_entropy(module(ids), ids)


def closed_form_gradient(memory: AssociativeMemory, ids: Tensor) -> Tensor:
    """The gradient of the mean loss, [d, d]: sum of u_i (p_i - e_i) V / n."""
    error = memory(ids).softmax(-1)
    error[torch.arange(len(ids)), ids] -= 1
    gradient: Tensor = memory.keys[ids].T @ error @ memory.values / len(ids)
    return gradient


def drawn(associations: int, batches: int, seed: int) -> list[tuple[Tensor]]:
    """Batches of association numbers, of frequencies proportional to rank^(-EXPONENT)."""
    share = np.arange(1, associations + 1) ** -EXPONENT
    draw = np.random.default_rng(seed)
    numbers = draw.choice(associations, (batches, BATCH), p=share / share.sum())
    return [(torch.from_numpy(row),) for row in numbers]


def recovered(memory: AssociativeMemory) -> float:
    """The share of associations whose own value has the largest logit."""
    ids = torch.arange(len(memory.keys))
    with torch.no_grad():
        return float((memory(ids).argmax(-1) == ids).double().mean())


def memory_row(rule: str, rate: float, associations: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Recovery, order effect and the adjoint's accuracy of one rule at one rate."""
    items, probe = drawn(associations, STEPS, 1), drawn(associations, HELD_OUT, 2)
    sections: dict[str, Any] = {
        "rule": {"name": rule, "options": {"beta": 0.9} if rule == "muon" else {}},
        "schedule": {"kind": "constant", "rate": rate},
    }
    module = AssociativeMemory(associations)
    path = arguments.work / f"{rule}-{rate:g}-{associations}"
    given: dict[str, Any] = {"module": module, "loss": logistic_loss, "data": fut.Dataset(items, probe)}
    run = fut.train(path, load_config(None, (), **sections), exist_ok=True, **given)
    run.cache(["adjoint"])
    run.calibrate(8)
    found = run.verify(arguments.orders, 2000, ["adjoint"])
    trained = AssociativeMemory(associations)
    trained.load_state_dict(run.retrain("identity").state_dict())
    row = found.estimators["adjoint"]
    return {
        "recovered": recovered(trained),
        "loss": run.reference_loss,
        "order_sd": found.as_dict()["true_sd"],
        "orders": arguments.orders,
        "spearman": row["spearman"],
        "spearman_interval": row["spearman_interval"],
        "skill": row["skill"],
    }


def patterns(x: Floats, seed: int = 0) -> Floats:
    """The gate patterns 1[X g >= 0] that random directions g find [P, n]: all there are, where `all_patterns` says so."""
    draws = np.random.default_rng(seed).standard_normal((DIRECTIONS, x.shape[1]))
    return np.unique((draws @ x.T >= 0).astype(float), axis=0)


def all_patterns(rows: int, inputs: int) -> int:
    """How many parts n hyperplanes through the origin, in general position, cut space into (Cover, 1965)."""
    return 2 * sum(comb(rows - 1, k) for k in range(inputs))


def solve(x: Floats, y: Floats, gates: Floats) -> tuple[Floats, float]:
    """Fitted outputs [n] and the optimum of the convex programme of a two-layer ReLU network.

    min ½ ‖Σ D_i X (v_i − w_i) − y‖² + β Σ (‖v_i‖ + ‖w_i‖) with (2 D_i − I) X v_i >= 0, and the same for w_i.
    """
    import cvxpy

    count, inputs = len(gates), x.shape[1]
    v, w = (cvxpy.Variable((count, inputs)) for _ in range(2))
    fitted = sum(cvxpy.multiply(gate, x @ (v[i] - w[i])) for i, gate in enumerate(gates))
    norms = sum(cvxpy.norm(of[i]) for of in (v, w) for i in range(count))
    cones = [cvxpy.multiply(2 * gate - 1, x @ of[i]) >= 0 for of in (v, w) for i, gate in enumerate(gates)]
    problem = cvxpy.Problem(cvxpy.Minimize(0.5 * cvxpy.sum_squares(fitted - y) + DECAY * norms), cones)
    problem.solve(solver=cvxpy.CLARABEL)
    return np.asarray(fitted.value, dtype=float), float(problem.value)


def regression(seed: int = 0) -> tuple[Floats, Floats]:
    """Rows [n, d], the last input constant, and targets of a small teacher."""
    draw = np.random.default_rng(seed)
    x = np.hstack([draw.standard_normal((ROWS, INPUTS - 1)), np.ones((ROWS, 1))])
    y = np.maximum(x @ draw.standard_normal((INPUTS, 4)), 0) @ draw.standard_normal(4) + 0.1 * draw.standard_normal(
        ROWS
    )
    return x, y


def convex_row(arguments: argparse.Namespace) -> dict[str, Any]:
    """The order effect of the programme, which has no order, and of the same network trained by SGD."""
    (x, y), draw = regression(), np.random.default_rng(1)
    gates = patterns(x)
    fitted, optimum = solve(x, y, gates)
    apart, values = [], []
    for _ in range(arguments.permutations):
        rows, order = draw.permutation(ROWS), draw.permutation(len(gates))
        other, value = solve(x[rows], y[rows], gates[order][:, rows])
        apart.append(float(np.abs(other - fitted[rows]).max()))
        values.append(abs(value - optimum) / optimum)
    nets = [network(x, y, seed) for seed in range(NETS)]
    return {
        "patterns": len(gates),
        "all_patterns": all_patterns(ROWS, INPUTS),
        "optimum": optimum,
        "largest_change_of_outputs": max(apart),
        "largest_relative_change_of_optimum": max(values),
        "output_scale": float(np.abs(fitted).max()),
        "tolerance": TOLERANCE,
        "permutations": arguments.permutations,
        "sgd_objectives": [objective for _, objective in nets],
        "sgd_output_sd": float(np.std([outputs for outputs, _ in nets], axis=0, ddof=1).mean()),
        "orders": NETS,
    }


def network(x: Floats, y: Floats, seed: int) -> tuple[Floats, float]:
    """Outputs and objective of the non-convex network, one start for all seeds, rows one by one in an order of the seed.

    ½ ‖f − y‖² + β/2 Σ (‖u_j‖² + a_j²): the objective of which the programme is the convex form.
    """
    start, order = torch.Generator().manual_seed(0), np.random.default_rng(seed)
    inner = (torch.randn(HIDDEN, INPUTS, generator=start, dtype=torch.float64) / INPUTS**0.5).requires_grad_()
    outer = (torch.randn(HIDDEN, generator=start, dtype=torch.float64) / HIDDEN**0.5).requires_grad_()
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)

    def forward(rows: Any) -> Tensor:
        found: Tensor = (inputs[rows] @ inner.T).relu() @ outer
        return found

    def objective(rows: Any, share: float) -> Tensor:
        decay = inner.square().sum() + outer.square().sum()
        found: Tensor = 0.5 * (forward(rows) - targets[rows]).square().sum() + share * DECAY / 2 * decay
        return found

    optimizer = torch.optim.SGD([inner, outer], lr=NET_RATE)
    for epoch in range(PASSES):
        optimizer.param_groups[0]["lr"] = NET_RATE * (1 - epoch / PASSES)
        for row in order.permutation(ROWS):
            optimizer.zero_grad()
            objective([row], 1 / ROWS).backward()
            optimizer.step()
    with torch.no_grad():
        whole = slice(None)
        return forward(whole).numpy(), float(objective(whole, 1.0))


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--associations", type=int, nargs="+", default=[32, 128, 512])
    cli.add_argument("--orders", type=int, default=24)
    cli.add_argument("--permutations", type=int, default=10)
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default=NAME)
    arguments = cli.parse_args(argv)
    started, (rows, done) = began(arguments.name), resumed(arguments.name, KEPT)
    wanted = [("convex", "", 0.0, 0)]
    wanted += [("memory", rule, rate, n) for n in arguments.associations for rule in RATES for rate in RATES[rule]]
    for key in wanted:
        if key in done:
            continue
        _, rule, rate, count = key
        found = memory_row(rule, rate, count, arguments) if rule else convex_row(arguments)
        rows.append(dict(zip(KEPT, key, strict=True)) | found)
        print(rows[-1], file=sys.stderr, flush=True)
        write_record(arguments.name, vars(arguments) | {"threads": torch.get_num_threads()}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
