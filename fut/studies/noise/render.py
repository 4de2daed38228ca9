"""The noise of the order for people: the answer first, then what it rests on."""

from __future__ import annotations

from pathlib import Path

from fut.display.format import amount, columns, number
from fut.display.picture import save
from fut.studies.noise.result import OrderNoise

NAMES = {
    "closed form": "impulse weights, closed form",
    "replay": "replay of frozen gradients",
    "positions": "table of positions, closed form",
}
TRUSTED = 0.5
"""Rank correlation with retraining below which an estimate is warned of."""
ENOUGH = 8
"""Orders from which such a correlation says something."""


def text(found: OrderNoise) -> str:
    """How much of a difference between two runs is only the order; then every estimate beside the truth."""
    spread, unit = found.spread, found.unit
    low, high = (2**0.5 * end for end in spread.sd_interval)
    lines = [
        "How much of the difference between two runs is only the order?",
        f"Two runs that differ in nothing but a random order of {_window(found)} differ by "
        f"{amount(found.difference, unit, '.2g')} (standard deviation, 90 % interval {low:.2g} to {high:.2g}); "
        f"one pair in ten by more than {amount(1.645 * found.difference, unit, '.2g')}.",
        "A smaller difference between two single runs says nothing. `fut noise seeds` says how many runs a difference needs.",
        "",
        columns([("", "sd of one run", "90 % interval", "by retrained", "Spearman", "parameters, rms"), *_rows(found)]),
    ]
    if found.local is not None:
        lines += _local(found)
    if found.note:
        lines.append(found.note)
    return "\n".join(lines)


def _window(found: OrderNoise) -> str:
    return "all steps" if found.local is None or not found.local.first else f"the last {found.window} steps"


def _rows(found: OrderNoise) -> list[tuple[str, ...]]:
    spread, local = found.spread, found.local
    trace = None if local is None else local.retrained_trace
    rows = [_row(f"retrained, {spread.count} orders", spread.sd, spread.sd_interval, 1.0, None, trace)]
    for name, own in found.estimates.items():
        rows.append(_row(NAMES[name], own.sd, own.interval, own.ratio, own.spearman, own.trace))
    if local is not None and local.bracket_trace is not None:
        rows.append(_row("without memory (bracket)", None, None, None, None, local.bracket_trace))
    return rows


def _row(
    name: str,
    sd: float | None,
    interval: tuple[float, float] | None,
    ratio: float | None,
    spearman: float | None,
    trace: float | None,
) -> tuple[str, ...]:
    ends = "none" if interval is None else f"{interval[0]:.2g} to {interval[1]:.2g}"
    root = None if trace is None else trace**0.5
    return (name, number(sd, ".3g"), ends, number(ratio, ".2f"), number(spearman, ".2f"), number(root, ".3g"))


def _local(found: OrderNoise) -> list[str]:
    local = found.local
    if local is None:
        return []
    lines = [""]
    for part in local.weights:
        weights, of = part.weights, f"{part.parameters:,} parameters, {100 * part.share:.0f} % of the variance"
        lines.append(
            f"Weight of a batch by its position ({of}): first {weights[0]:.2f}, middle {weights[len(weights) // 2]:.2f}, "
            f"last {weights[-1]:.2f}; the mean is 1."
        )
    if local.error_bar is not None:
        low, high = local.error_bar
        lines.append(
            f"Error bar of the read-out by closed form: {low:+.2g} to {high:+.2g} {found.unit} holds 90 % of orders "
            f"(Berry–Esseen quantity {local.normality or 0:.2f})."
        )
    lines.append(
        "Estimates are first order in the learning rate, with gradients at the parameters before the window (the table's are "
        "along the run). They are too large where the window is long for the rate. Equal spreads do not say that single "
        "orders agree; Spearman does. Closed forms are of all orders and have no interval; `by retrained` is over the same "
        "orders."
    )
    return [*lines, *warnings(found), *(f"Not computed: {note}" for note in local.notes)]


def warnings(found: OrderNoise) -> list[str]:
    """Of estimates that rank single orders otherwise than retraining does; none where there are too few orders to say so."""
    ranked = {name: own.spearman for name, own in found.estimates.items() if own.spearman is not None}
    poor = [NAMES[name] for name, spearman in ranked.items() if spearman < TRUSTED]
    if not poor or len(found.values) < ENOUGH:
        return []
    return [
        f"Do not trust {' and '.join(poor)} here: single orders come out otherwise (Spearman below {TRUSTED}). The rate is "
        "too high for a window of so many steps; take a shorter --window."
    ]


def draw(found: OrderNoise, path: Path) -> Path:
    """Weights by position, and the spreads side by side, as PNG; returns the path."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), dpi=150)
    local = found.local
    for part in local.weights if local is not None else ():
        left.plot(
            range(local.first if local else 0, (local.first if local else 0) + len(part.weights)),
            part.weights,
            drawstyle="steps-mid",
            label=f"{part.parameters:,} parameters",
        )
    left.axhline(1.0, color="grey", linewidth=0.8)
    left.set_xlabel("step")
    left.set_ylabel("weight of the step's gradient, mean 1")
    if local is not None and local.weights:
        left.legend(fontsize=8, frameon=False)
    names, sds = ["retrained"], [found.spread.sd]
    low, high = found.spread.sd_interval
    errors = [[found.spread.sd - low], [high - found.spread.sd]]
    for name, own in found.estimates.items():
        names.append(name)
        sds.append(own.sd)
        errors[0].append(own.sd - own.interval[0] if own.interval else 0.0)
        errors[1].append(own.interval[1] - own.sd if own.interval else 0.0)
    right.bar(names, sds, yerr=errors, capsize=4, color="#4477aa")
    right.set_ylabel(
        f"standard deviation over orders [{found.unit}]" if found.unit else "standard deviation over orders"
    )
    figure.tight_layout()
    try:
        return save(figure, path)
    finally:
        plt.close(figure)
