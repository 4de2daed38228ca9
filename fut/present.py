"""Results as text and pictures for people; the numbers come from elsewhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from storage import Damage, replacing

from .answers import Endpoint, Estimate, perplexity
from .caching import CachePlan
from .calibration import Calibrated
from .estimation import NAMES
from .planning import Plan
from .questions.datamodel import Datamodel
from .questions.verify import Verification
from .readouts import PROBE, shortened, unit_of

COARSE = 0.03
"""Relative error of a Hessian-vector product from which exact ones are advised."""


def dumps(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False)


def nbytes(count: float) -> str:
    """Bytes in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def loss(value: float) -> str:
    return f"{value:.5f} nats/token (perplexity {perplexity(value):.4f})"


def amount(value: float, unit: str, form: str = ".5f") -> str:
    """A read-out's value with its unit; a user's function has none, and any magnitude."""
    return f"{value:{form}} {unit}" if unit else format(value, form.replace(".5f", ".6g"))


def estimate(found: Estimate) -> str:
    unit, interval = found.unit, found.note
    if found.interval is not None:
        low, high = (amount(v, unit) for v in found.interval)
        interval = f"90 % interval {low.removesuffix(unit).rstrip()} … {high}"
    source = "retrained" if found.source == "retrained" else f"estimated by {found.estimator}"
    value = loss(found.loss) if unit == "nats/token" else amount(found.loss, unit)
    named = "" if found.readout == PROBE else f"{found.readout}: "
    better = " (negative is better)" if unit == "nats/token" else ""
    delta = amount(found.delta, unit, "+.5f")
    return f"{named}{value}, {source}\n{delta} against the reference order{better}\n{interval}"


def calibration(found: Calibrated) -> str:
    fit = found.fit
    named = "" if found.readout == PROBE else f" of {found.readout}"
    return (
        f"{found.estimator}{named}: truth = {fit.offset:+.5f} {fit.slope:+.4f} × estimate, "
        f"residual sd {(format(fit.sd, '.6f') + ' ' + found.unit).rstrip()}, "
        f"fitted on {found.fitted_on} ({fit.freedom} degrees of freedom); kept in the run"
    )


def endpoint(found: Endpoint) -> str:
    lines = [f"wrote {found.path}", f"estimated {loss(found.estimated_loss)} by {found.estimator}"]
    lines.append(f"evaluated {loss(found.evaluated_loss)} at these parameters")
    if found.estimator == "replay-exact":
        lines.append("`fut cache RUN --terms curved` prepares endpoints that cost a fraction of a training run each")
    if found.sketch_error is not None:
        lines.append(
            f"rebuilt from a sketch with relative error {found.sketch_error:.2f} (theory {found.sketch_error_theory:.2f}): "
            "above 1, the sketch's noise outweighs the displacement"
        )
    return "\n".join([*lines, found.as_dict()["note"]])


def plan(found: CachePlan, repaired: int) -> str:
    lines = [f"{repaired} damaged blocks are computed again"] if repaired else []
    if not found.blocks:
        return "\n".join([*lines, "nothing to compute: every term is cached"])
    cost = f"{found.gradients} gradients, about {duration(found.seconds)}, {nbytes(found.nbytes)} before compression"
    return "\n".join([*lines, f"{', '.join(found.terms)}: {found.blocks} blocks, {cost}"])


def costs(found: Plan) -> str:
    """Every stage's cost, a row each."""
    free = f", {nbytes(found.available_memory)} of memory available" if found.available_memory is not None else ""
    header = ["stage", "gradients", "time", "on disk", "scratch", "memory"]
    rows = [
        [s.stage, f"{s.gradients:,}", brief(s.seconds), *map(nbytes, (s.bytes_kept, s.bytes_scratch, s.peak_memory))]
        for s in found.stages
    ]
    return (
        f"{found.parameters:,} parameters, {found.steps} steps over {found.items} items; {found.device}{free}\n\n"
        + columns([header, *rows])
        + "\n\n"
        + "\n".join(found.notes)
    )


def brief(seconds: float) -> str:
    """A time of any length, to two digits."""
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def info(found: dict[str, Any]) -> str:
    schedule, terms = found["schedule"], found["term_blocks"]
    lines = [
        f"{found['path']}: {found['parameters']:,} parameters, {found['steps']} steps over {found['items']} items"
        + (f", {found['items_per_step']} per step" if found["items_per_step"] > 1 else ""),
        f"text: {found['text']}",
        f"rule: {found['rule']}, {schedule['kind']} schedule from {schedule['rate']:g}",
        f"probe loss: {loss(found['start_loss'])} before the window",
        f"            {loss(found['reference_loss'])} after it, in the reference order",
        f"on disk: {nbytes(found['store_bytes'])}; terms: "
        + (f"{terms['done']} of {terms['total']} blocks of pairs" if terms["total"] else "none of pairs")
        + f"; adjoint: {_expanded(found)}",
        *_checks(found),
    ]
    rows = [
        [n, f"{found['precompute_gradients'][n]:,}", f"{found['query_gradients'][n]:,}", nbytes(found["term_bytes"][n])]
        for n in found["estimators"]
    ]
    header = ["estimator", "gradients before", "gradients per order", "reads"]
    return "\n".join(lines) + "\n\n" + columns([header, *rows])


def _expanded(found: dict[str, Any]) -> str:
    if found["adjoint_cached"]:
        return f"cached for {shortened(found['readouts'])}"
    return "not finished, repeat `fut cache`" if found["adjoint_begun"] else "not cached, run `fut cache`"


def _checks(found: dict[str, Any]) -> list[str]:
    """What the expansion says of its own approximations."""
    lines = []
    if (error := found["adjoint_own_error"]) is not None:
        lines.append(
            f"adjoint: off by {error:.2g} nats/token (standard deviation) on the {found['adjoint']['mixture']} runs that it is "
            "made of, a common offset aside; `fut calibrate` gives intervals"
        )
    if (choice := found["adjoint_anchor_choice"]) is not None:
        tried = ", ".join(f"{100 * t['error']:.2g} % between {t['anchors']}" for t in choice["tried"])
        lines.append(
            f"anchors: {choice['anchors']} chosen; half-way between two, interpolated gradients err by {tried}, of what items "
            f"differ by; at most {100 * choice['asked']:.2g} % was asked"
        )
    if (error := found["adjoint_anchor_error"]) is not None:
        unit = unit_of(found["readouts"][0]) or f"in the unit of `{found['readouts'][0]}`"
        lines.append(f"anchors: leaving one out would move an order's estimate by about {error:.2g} {unit}")
    if (error := found["adjoint_difference_error"]) is not None:
        coarse = '; too coarse, set adjoint.products = "exact"' if error > COARSE else ""
        lines.append(f"Hessian-vector products: central difference is {100 * error:.2g} % off an exact one{coarse}")
    return lines


def damages(path: Path, found: Sequence[Damage]) -> str:
    if not found:
        return f"{path}: every checksum is right"
    advice = (
        "run `fut cache` to recompute damaged terms; remove a damaged retrained order's directory to train it again; "
        "anything else needs `fut train` into a new directory"
    )
    return "\n".join([f"{path}: {len(found)} damaged", *(f"  {d.path}: {d.reason}" for d in found), advice])


def batch(step: int, found: list[dict[str, Any]]) -> str:
    lines = []
    for entry in found:
        weight = "" if entry["weight"] == 1 else f", weight {entry['weight']:g}"
        lines.append(f"step {step}, item {entry['item']}{weight}, content hash {entry['hash']}")
        lines += [f"  [{i}] {text!r}" for i, text in enumerate(entry["sequences"])]
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns: the first flush left, the others flush right."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None or not math.isfinite(value) else format(value, form)


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Spearman": lambda row: number(row["spearman"]),
    "[90 % interval]": lambda row: interval(row["spearman_interval"]),
    "Pearson": lambda row: number(row["pearson"]),
    "MAE": lambda row: number(row["mae"], ".5f"),
    "skill": lambda row: number(row["skill"], "+.2f"),
    "uncalibrated": lambda row: number(row.get("skill_uncalibrated"), "+.2f"),
    "coverage": lambda row: number(row["coverage"], ".2f"),
    "endpoint error": lambda row: number(row["endpoint_error"], ".2f"),
    "s/order": lambda row: number(row["seconds_per_order"], ".2g"),
    "gradients": lambda row: f"{row['precompute_gradients']:,}",
    "store": lambda row: nbytes(row["store_bytes"]),
}
"""The accuracy table: header, and how a row's cell is made."""


def interval(found: Sequence[float] | None) -> str:
    return "–" if found is None else f"[{found[0]:.2f}, {found[1]:.2f}]"


def table(found: Verification) -> str:
    """The accuracy table, the baseline first."""
    names = in_order(found.estimators)
    rows = [[name, *(cell(found.estimators[name]) for cell in COLUMNS.values())] for name in names]
    spread = found.as_dict()["true_sd"]
    return (
        f"{len(found.orders)} random orders, really retrained ({found.retrain_seconds:.2g} s each): "
        f"{title(found)} {number(sum(found.true_losses) / len(found.orders), '.5f')} ± "
        f"{(number(spread, '.5f') + ' ' + found.unit).rstrip()}; reference order {found.reference_loss:.5f}\n"
        f"MAE in {found.unit or 'the unit of the read-out'}; skill = 1 − MAE / MAE of the baseline `reference`, "
        "and before calibration;\n"
        "coverage of 90 % intervals, which calibrated estimators have; gradients and store before the first order\n\n"
        + columns([["estimator", *COLUMNS], *rows])
    )


def datamodel(found: Datamodel) -> str:
    """The table of an LDS, the baseline first; the column Spearman is the score."""
    checked = found.verification
    names = in_order(checked.estimators)
    shown = {n: c for n, c in COLUMNS.items() if n not in ("uncalibrated", "coverage", "endpoint error")}
    rows = [[name, *(cell(checked.estimators[name]) for cell in shown.values())] for name in names]
    header = ["estimator", *("LDS" if c == "Spearman" else "s/subset" if c == "s/order" else c for c in shown)]
    spread = number(checked.as_dict()["true_sd"], ".2g")
    return (
        f"{len(found.subsets)} random subsets of {len(found.subsets[0])} items ({found.share:g} of all) left out in place, "
        f"really retrained ({checked.retrain_seconds:.2g} s each): {title(checked)} "
        f"{number(sum(checked.true_losses) / len(found.subsets), '.5f')} ± {f'{spread} {checked.unit}'.rstrip()}; "
        f"reference order {checked.reference_loss:.5f}\n"
        f"LDS: Spearman correlation over subsets; MAE in {checked.unit or 'the unit of the read-out'}\n\n"
        + columns([header, *rows])
    )


def title(found: Verification) -> str:
    """What was asked, in words."""
    return "probe loss" if found.readout == PROBE else f"read-out {found.readout}"


def in_order(names: Iterable[str]) -> list[str]:
    """Estimator names in their usual order, the baseline first; a JSON file has them in the alphabet's."""
    return sorted(names, key=lambda n: (NAMES.index(n.partition(":")[0]), n))


def scatter(found: Verification, path: Path) -> Path:
    """Estimated against retrained losses, a panel per estimator, written as PNG."""
    from matplotlib.figure import Figure

    names = [n for n in in_order(found.estimators) if n != "reference"]
    figure = Figure(figsize=(3.3 * max(len(names), 1), 3.9), dpi=130, layout="constrained")
    for axis, name in zip(figure.subplots(1, max(len(names), 1), squeeze=False)[0], names, strict=False):
        _panel(axis, found, name)
    figure.suptitle(
        f"{title(found)} of {len(found.orders)} random orders: estimated against really retrained",
        fontsize=11,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, format="png")
    return path


def _panel(axis: Any, found: Verification, name: str) -> None:
    reference, row = found.reference_loss, found.estimators[name]
    unit = f"\n[10⁻³ {found.unit}]" if found.unit else "\n[10⁻³]"
    true = [1e3 * (v - reference) for v in found.true_losses]
    guess = [
        1e3 * (v - reference) if v is not None and math.isfinite(v) else math.nan for v in found.estimated_losses[name]
    ]
    ends = [min(*true, 0), max(*true, 0)]
    axis.plot(ends, ends, color="#888888", linewidth=1, label="exact")
    axis.axhline(0, color="#D55E00", linewidth=1, linestyle="--", label="baseline")
    axis.scatter(true, guess, s=16, color="#0072B2", alpha=0.8, linewidths=0)
    axis.set_title(
        f"{name}\nSpearman {number(row['spearman'], '.3f')}, skill {number(row['skill'], '+.2f')}", fontsize=9
    )
    axis.set_xlabel(f"retrained − reference{unit}", fontsize=8)
    axis.set_ylabel("estimated − reference" + unit.replace("\n", " "), fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=6.5, frameon=False)
