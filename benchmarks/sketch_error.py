"""Error of every sketch kind against its size k, on vectors of a real run, beside the error that theory states.

python benchmarks/sketch_error.py --sizes 256 1024 4096 16384 --seeds 32

A reference run is trained with the demo's settings. Over seeds of the sketch P: the inner product <Px, Py> against <x, y>
and `inner_variance`; the reconstruction P^T P x against x and `reconstruction_error`; and what a rebuilt endpoint is worth,
the probe loss really evaluated at theta_0 + P^T P (theta_T - theta_0).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import began, write_record
from torch import Tensor

import fut
from estimators.sketch import Sketch

KINDS = ("gaussian", "rademacher", "sjlt", "coordinates")
PAIRS = {"displacement, probe gradient": (0, 1), "gradients of two items": (2, 3)}
RESAMPLES = 4000


def real_vectors(run: fut.Run) -> Tensor:
    """[4, D]: theta_T - theta_0, the probe loss's gradient at theta_T, the gradients of items 0 and 1 at theta_0."""
    first, last = run.context.state(0).theta, run.context.state(run.steps).theta
    problem = run.context.problem
    return torch.stack(
        [last - first, problem.probe_gradient(last), problem.gradient(first, 0), problem.gradient(first, 1)]
    )


def measure(run: fut.Run, vectors: Tensor, kind: Any, size: int, seeds: int) -> dict[str, Any]:
    """One row of the record: a kind and a k over sketch seeds 0 .. seeds-1."""
    start, x = run.context.state(0).theta, vectors[0]
    products: dict[str, list[float]] = {name: [] for name in PAIRS}
    reconstructions, losses = [], []
    for seed in range(seeds):
        sketch = Sketch(kind, seed, run.context.parameters, size)
        small = sketch.project(vectors)
        for name, (i, j) in PAIRS.items():
            products[name].append((small[i].double() @ small[j].double()).item())
        rebuilt = sketch.lift(small[0])
        reconstructions.append(((rebuilt - x).double().norm() / x.double().norm()).item())
        losses.append(run.context.problem.probe_loss(start + rebuilt))
    sketch = Sketch(kind, 0, run.context.parameters, size)
    return {
        "kind": kind,
        "size": size,
        "seeds": seeds,
        "inner_products": {
            n: inner_product(sketch, vectors[i], vectors[j], products[n]) for n, (i, j) in PAIRS.items()
        },
        "reconstruction": {
            "theory": sketch.reconstruction_error(),
            "rms": rms(reconstructions),
            "sd": spread(reconstructions),
            "per_seed": reconstructions,
        },
        "rebuilt_endpoint_loss": {
            "mean": float(np.mean(losses)),
            "sd": spread(losses),
            "min": min(losses),
            "max": max(losses),
            "per_seed": losses,
        },
    }


def inner_product(sketch: Sketch, x: Tensor, y: Tensor, found: Sequence[float]) -> dict[str, Any]:
    """Errors relative to |<x, y>|. bias_z: mean error in units of its own theoretical standard deviation."""
    truth = (x.double() @ y.double()).item()
    errors = [(value - truth) / abs(truth) for value in found]
    theory = math.sqrt(sketch.inner_variance(x, y)) / abs(truth)
    return {
        "true": truth,
        "cosine": truth / (x.double().norm() * y.double().norm()).item(),
        "theory_sd": theory,
        "rms": rms(errors),
        "rms_interval_90": interval(errors),
        "bias_z": float(np.mean(errors)) / (theory / math.sqrt(len(errors))) if theory else 0.0,
        "per_seed": errors,
    }


def rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def interval(errors: Sequence[float]) -> list[float]:
    """90 % bootstrap interval of the root mean square."""
    draws = np.random.default_rng(0).choice(np.square(errors), (RESAMPLES, len(errors)))
    return [float(v) for v in np.sqrt(np.quantile(draws.mean(axis=1), (0.05, 0.95)))]


# --- the picture, from the record alone

STYLES = {
    "gaussian": ("#0072B2", "o", "-"),
    "rademacher": ("#D55E00", "s", "--"),
    "sjlt": ("#009E73", "^", ":"),
    "coordinates": ("#CC79A7", "D", "-."),
}
SHIFT = {"gaussian": 0.82, "rademacher": 0.94, "sjlt": 1.07, "coordinates": 1.22}
"""Kinds are drawn beside each other, each with its line, where they would hide one another."""


ERROR_TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
LOSS_TICKS = (2.4, 2.5, 2.6, 2.7, 2.8, 2.9, 3, 3.2, 3.4, 3.6, 3.8, 4, 4.5, 5)


def picture(results: dict[str, Any], path: Path) -> None:
    """Points on theory lines: inner products, reconstruction, and the loss at the rebuilt endpoint, against k."""
    from matplotlib.figure import Figure

    rows = [r for r in results["rows"] if r["kind"] in STYLES]
    figure = Figure(figsize=(13.2, 5.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, 3)
    for kind in STYLES:
        draw_kind(panels, [r for r in rows if r["kind"] == kind], results["parameters"])
    inner, rebuilt, loss = panels
    inner.axhline(1, color="0.45", linewidth=1)
    rebuilt.axhline(1, color="0.45", linewidth=1)
    rebuilt.annotate(
        "as wrong as rebuilding 0", (0.03, 1), (0, 4), ("axes fraction", "data"), "offset points", fontsize=9
    )
    inner.annotate("as wrong as answering 0", (0.97, 1), (0, 4), ("axes fraction", "data"), "offset points",
                   fontsize=9, ha="right")  # fmt: skip
    start, end = results["loss_start"], results["loss_end"]
    loss.axhline(
        start, color="black", linewidth=1, linestyle="--", label=f"before the window, $\\phi(\\theta_0)$ = {start:.3f}"
    )
    loss.axhline(end, color="black", linewidth=1, label=f"true endpoint, $\\phi(\\theta_T)$ = {end:.3f}")
    heads = (
        (inner, "Inner product $\\langle Px, Py\\rangle$", "error / $|\\langle x, y\\rangle|$: RMS with 90 % interval"),
        (rebuilt, "Reconstruction $P^\\top Px$", "$\\|P^\\top Px - x\\|\\, /\\, \\|x\\|$: RMS ± sd"),
        (
            loss,
            "Probe loss at $\\theta_0 + P^\\top P(\\theta_T - \\theta_0)$",
            "nats/token: median, 5 % to 95 % of seeds",
        ),
    )
    sizes = sorted({r["size"] for r in rows})
    for axes, title, label in heads:
        axes.set(xscale="log", yscale="log", title=title, ylabel=label, xlabel="k, numbers kept per vector")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        low, high = axes.get_ylim()
        axes.set_yticks([t for t in (LOSS_TICKS if axes is loss else ERROR_TICKS) if low <= t <= high])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(True, axis="y", color="0.9", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    loss.legend(frameon=False, fontsize=9, loc="upper right")
    figure.legend(*inner.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"Sketches of real vectors, D = {results['parameters']:,}: $x = \\theta_T - \\theta_0$ of the demo's reference run, "
        f"$y = \\nabla\\phi(\\theta_T)$. Points: {rows[0]['seeds']} sketch seeds; lines: theory. "
        "Kinds of the same k are drawn side by side.",
        fontsize=10.5,
    )
    figure.savefig(path)


def draw_kind(panels: Sequence[Any], rows: list[dict[str, Any]], dimension: int) -> None:
    """Points and theory of one kind in the three panels."""
    inner, rebuilt, loss = panels
    kind, sizes = rows[0]["kind"], np.array([r["size"] for r in rows])
    colour, marker, dashes = STYLES[kind]
    dots: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none", "markersize": 6, "capsize": 3}
    dense = np.geomspace(sizes[0] * 0.75, min(sizes[-1] * 1.3, dimension * 0.999), 200)
    curve = decay(kind, dimension, dense) / decay(kind, dimension, sizes[0])
    products = [r["inner_products"]["displacement, probe gradient"] for r in rows]
    errors = [r["reconstruction"] for r in rows]
    losses = [r["rebuilt_endpoint_loss"] for r in rows]
    for axes, first in ((inner, products[0]["theory_sd"]), (rebuilt, errors[0]["theory"])):
        axes.plot(dense * SHIFT[kind], first * curve, color=colour, linestyle=dashes, linewidth=1.3)
    place = sizes * SHIFT[kind]
    middle, ends = [p["rms"] for p in products], np.array([p["rms_interval_90"] for p in products])
    inner.errorbar(place, middle, np.abs(ends.T - middle), label=kind, **dots)
    rebuilt.errorbar(place, [e["rms"] for e in errors], [e["sd"] for e in errors], **dots)
    low, middle, high = np.array([np.quantile(v["per_seed"], (0.05, 0.5, 0.95)) for v in losses]).T
    loss.errorbar(place, middle, (middle - low, high - middle), **dots)


def decay(kind: str, dimension: int, size: Any) -> Any:
    """How both errors fall with k, up to a factor."""
    return np.sqrt(dimension / size - 1) if kind == "coordinates" else np.sqrt(1 / size)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096, 16384], help="k, numbers kept")
    cli.add_argument("--seeds", type=int, default=32, help="sketches per kind and size")
    cli.add_argument("--threads", type=int, default=1)
    cli.add_argument("--name", default="sketch-error", help="name of the record")
    cli.add_argument("--redraw", type=Path, help="only draw the picture of this record again")
    arguments = cli.parse_args(argv)
    if arguments.redraw:
        picture(
            json.loads(arguments.redraw.read_text(encoding="utf-8"))["results"], arguments.redraw.with_suffix(".png")
        )
        return 0
    torch.set_num_threads(arguments.threads)
    started, rows = began(), []
    with tempfile.TemporaryDirectory() as work:
        run = fut.train(Path(work) / "run")
        vectors = real_vectors(run)
        plan = [(kind, size, arguments.seeds) for size in sorted(arguments.sizes) for kind in reversed(KINDS)]
        for kind, size, seeds in [("identity", run.context.parameters, 1), *plan]:
            rows.append(measure(run, vectors, kind, size, seeds))
            row = rows[-1]
            print(f"{kind} {size}: reconstruction {row['reconstruction']['rms']:.3f}", file=sys.stderr, flush=True)
        results = {
            "parameters": run.context.parameters,
            "loss_start": run.context.summary["start_loss"],
            "loss_end": run.reference_loss,
            "norms": dict(
                zip(("displacement", "probe gradient", "item 0", "item 1"), vectors.norm(dim=1).tolist(), strict=True)
            ),
            "rows": rows,
        }
    path = write_record(arguments.name, vars(arguments) | {"config": "defaults (the demo)"}, results, started)
    picture(results, path.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
