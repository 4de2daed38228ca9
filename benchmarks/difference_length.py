"""How far differences of gradients, and exact products under autocast, are from exact products in full precision, by model size.

python benchmarks/difference_length.py --text wikitext-2

For every size a few steps of warm-up, then Hessian-vector products on a few sequences, along the gradient of the probe loss and
along that gradient as AdamW scales it: by a central difference of a length in proportion to the parameters, by one of the length
that `fut` takes, and exactly under autocast to bfloat16.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from record import began, write_record
from torch import Tensor

from fut.methods.settings import load_config
from fut.models.autodiff import STEP, difference_step, evaluate_gradient, hessian_vector, hessian_vector_difference
from fut.models.objective import Objective
from fut.training.problem import build_problem
from fut.training.trainer import warm_up

SIZES = {"42k": (32, 2, 2), "470k": (96, 4, 4), "3M": (256, 4, 4), "11M": (384, 6, 6)}
"""Width, layers and heads."""


def measure(size: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A row: relative errors of one size."""
    width, layers, heads = SIZES[size]
    config = load_config(
        None,
        (),
        data={"batch": 4, "context": 64, "items": 4, "probe": 16, "text": arguments.text},
        model={"width": width, "layers": layers, "heads": heads},
        warmup={"steps": arguments.warmup, "rate": 1e-3},
    )
    problem = build_problem(config, torch.device("cpu"))
    state = warm_up(problem, Path(tempfile.mkdtemp())).row(0)
    fine, theta, item = problem.objective, state.theta, problem.data.items[0]
    coarse = Objective(fine.module, fine.loss_function, autocast=torch.bfloat16)
    slope = evaluate_gradient(fine, theta, problem.data.probe)
    row: dict[str, Any] = {"size": size, "parameters": fine.size}
    for name, u in {"slope": slope, "scaled slope": slope / (state.memory["v"].sqrt() + 1e-8)}.items():
        exact = hessian_vector(fine, theta, item, u)

        def error(found: Tensor, right: Tensor = exact) -> float:
            return float((found - right).norm() / right.norm())

        row[name] = {
            "constant": error(hessian_vector_difference(fine, theta, item, u, STEP)),
            "taken": error(hessian_vector_difference(fine, theta, item, u, difference_step(fine.size))),
            "autocast": error(hessian_vector(coarse, theta, item, u)),
        }
    return row


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--warmup", type=int, default=30, help="steps")
    parser.add_argument("--text", default="", help="a file or directory; empty for the language reference in CPython")
    parser.add_argument("--name", default="difference-length")
    arguments = parser.parse_args(argv)
    call, rows = began(), list[dict[str, Any]]()
    for size in arguments.sizes:
        rows.append(measure(size, arguments))
        print(rows[-1], file=sys.stderr, flush=True)
        write_record(arguments.name, vars(arguments), rows, call)


if __name__ == "__main__":
    main()
