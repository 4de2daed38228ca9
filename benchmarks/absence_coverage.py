"""Do the intervals of `memorize` for "without the item" hold what they claim? Real retraining, and many calibrations.

python benchmarks/absence_coverage.py --work /tmp/absence

For every setting a small run is trained (text, T steps of one item each), its maps are estimated, and it is retrained without
every item. Then `--draws` calibrations on n orders are drawn from those, and the others are what their intervals are held
against: the mean share that lies inside, what one calibration in ten falls below, and the intervals' width over the standard
deviation of errors. Two constructions: `alike` has Student's quantile and errors of one size, as up to this version; `now` is
`fut.questions.memorization.maps`. The runs of `records/memorization.json`, of 84,288 parameters, are judged in the same way.
Resumes: settings that the record holds are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import RECORDS, began, write_record
from scipy.stats import t as student

import fut
from estimators.intervals import LEVEL
from fut.methods.settings import load_config
from fut.questions.memorization.maps import ABSENT, KINDS, effect_scales, fit_cells

Floats = NDArray[np.float64]
Intervals = Callable[[Floats, Floats, list[int]], tuple[Floats, Floats]]
"""(true, estimated, places fitted to) -> centres and half-widths of all."""
NAME, GROUPS, COUNTS = "absence-coverage", 4, (4, 8, 12)


def measure(setting: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """One small run: what its items' absence changes, estimated and retrained, by kind."""
    config = load_config(
        None,
        (),
        data={"items": setting["steps"], "seed": setting["seed"], "batch": 2, "context": 12, "probe": 8},
        model={"width": 8, "layers": 1, "heads": 2},
        warmup={"steps": 4, "ramp": 2},
        schedule={"rate": setting["rate"]},
        adjoint={"functionals": 0},
    )
    path = work / "-".join(str(v) for v in setting.values())
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config, device="cpu")
    found = run.memorize(groups=GROUPS)
    true: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for row, item in enumerate(found.items):
        end = run.retrain(f"without:{item}").theta
        for kind, name in zip(KINDS, found.probe_groups.readouts(item, row), strict=True):
            readout = run.context.readouts.get(name)
            true[kind].append(readout.value(end) - run.context.readouts.at_reference(readout))
    return {**setting, "parameters": run.context.parameters, "true": true, "estimated": found.maps.absence}


def alike(true: Floats, guess: Floats, at: list[int]) -> tuple[Floats, Floats]:
    """Errors of one size, and normal."""
    fit = fit_cells(true[at], guess[at], np.ones(len(at)))
    assert fit is not None
    leverage = guess**2 / fit.spread if fit.slope != 1 else np.zeros_like(guess)
    half = student.ppf(0.5 + LEVEL / 2, fit.freedom) * fit.sd * np.sqrt(1 + leverage)
    return fit.correct(guess), half


def now(true: Floats, guess: Floats, at: list[int]) -> tuple[Floats, Floats]:
    """As `memorize` has them."""
    scales = effect_scales(guess)
    fit = fit_cells(true[at], guess[at], scales[at])
    assert fit is not None
    return fit.correct(guess), fit.half_widths(guess, scales)


def held(true: Floats, guess: Floats, count: int, intervals: Intervals, draws: int) -> dict[str, float]:
    """What many calibrations on `count` of the orders hold of the others."""
    draw, shares, widths = np.random.default_rng(0), [], []
    spread = float(np.std(true - guess * float(guess @ true / (guess @ guess))))
    for _ in range(draws):
        places = draw.permutation(len(true)).tolist()
        centres, half = intervals(true, guess, places[:count])
        rest = places[count:]
        shares.append(float((np.abs(true - centres) <= half)[rest].mean()))
        widths.append(float(half[rest].mean()) / spread)
    return {
        "coverage": float(np.mean(shares)),
        "tenth": float(np.quantile(shares, 0.1)),
        "width": float(np.mean(widths)),
    }


def judged(rows: Sequence[Mapping[str, Any]], draws: int) -> dict[str, Any]:
    """Means over rows and kinds, by construction and number of orders fitted to; the least over them as `worst`."""
    found: dict[str, Any] = {}
    for (name, intervals), count in itertools.product((("alike", alike), ("now", now)), COUNTS):
        each = [
            held(np.array(row["true"][kind]), np.array(row["estimated"][kind]), count, intervals, draws)
            for row in rows
            for kind in KINDS
        ]
        found[f"{name} {count}"] = {key: float(np.mean([e[key] for e in each])) for key in each[0]} | {
            "worst": min(e["coverage"] for e in each)
        }
    return found


def large() -> list[dict[str, Any]]:
    """The rows of `records/memorization.json`, their estimates before calibration."""
    rows: list[Any] = json.loads((RECORDS / "memorization.json").read_text())["results"]
    return [
        {
            "true": row["true"]["absence"],
            "estimated": {
                kind: (np.array(row["estimated"]["absence"][kind]) / row["fits"][ABSENT + kind]["slope"]).tolist()
                for kind in KINDS
            },
        }
        for row in rows
        if row["true"] is not None
    ]


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[16])
    cli.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    cli.add_argument("--rates", type=float, nargs="+", default=[1e-3, 5e-3])
    cli.add_argument("--draws", type=int, default=200)
    cli.add_argument("--work", type=Path, required=True)
    arguments = cli.parse_args(argv)
    started, keys = began(), ("steps", "seed", "rate")
    kept = _rows()
    done = {tuple(row[k] for k in keys) for row in kept}
    for values in itertools.product(arguments.steps, arguments.seeds, arguments.rates):
        if values not in done:
            kept.append(measure(dict(zip(keys, values, strict=True)), arguments.work))
            write_record(NAME, vars(arguments), {"runs": kept}, started)
    held_by = {"small": judged(kept, arguments.draws), "large": judged(large(), arguments.draws)}
    write_record(NAME, vars(arguments), {**held_by, "runs": kept}, started)
    for size, of_size in held_by.items():
        for name, of in of_size.items():
            print(size, name, {k: round(v, 3) for k, v in of.items()}, file=sys.stderr)
    return 0


def _rows() -> list[Any]:
    """What an interrupted run of this left."""
    path = RECORDS / f"{NAME}.json"
    runs: list[Any] = json.loads(path.read_text())["results"]["runs"] if path.exists() else []
    return runs


if __name__ == "__main__":
    sys.exit(main())
