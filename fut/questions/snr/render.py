"""Signal-to-noise ratios for people: a table of the last point, and a picture over the steps."""

from __future__ import annotations

import math
from pathlib import Path

from estimators.signal_noise import FLOOR, SignalNoise
from fut.display.format import columns, number
from fut.display.picture import save
from fut.questions.snr.result import ModuleSnr

HEAD = (
    *("module", "parameters", "SNR", "90 % interval", "by moments", "its interval"),
    *("damping", "scale", "of the order's variance"),
)


def text(found: ModuleSnr) -> str:
    """The first and the last point, a line for each module, cleanest first."""
    lines = []
    for point in dict.fromkeys((0, len(found.points) - 1)):
        at, scales = found.points[point], found.scales(found.points[point])
        rows: list[tuple[str, ...]] = [HEAD]
        for module, one in sorted(at.gradients.items(), key=lambda pair: -pair[1].ratio):
            share = None if at.floor_shares is None else 100 * at.floor_shares[module]
            rows.append(
                (
                    module,
                    f"{found.sizes[module]:,}",
                    number(one.ratio, ".3g"),
                    _ends(one),
                    *(_by_moments(at.moments[module]) if module in at.moments else ("–", "–")),
                    number(one.damping, ".2f"),
                    number(scales[module], ".2f"),
                    "–" if share is None else f"{share:.0f} %",
                )
            )
        lines += [f"At step {at.step}, from the gradients of {found.gradients} items:", columns(rows), ""]
    lines += [
        "SNR = |E g|² / tr Cov(g) of a step's mean gradient. Damping: Adam's mean step by a noiseless one's. Scale: of the "
        f"module's learning rate, power {found.power:g}; a suggestion, whose direction is not settled.",
        "Ratios by moments are of the steps since the last point. Their intervals are of sampling alone: a signal that turns "
        "within the memory counts as noise there.",
    ]
    return "\n".join(lines)


def _by_moments(one: SignalNoise) -> tuple[str, str]:
    return number(one.ratio, ".3g"), _ends(one)


def _ends(one: SignalNoise) -> str:
    return "none" if one.interval is None else f"{one.interval[0]:.3g} to {one.interval[1]:.3g}"


def draw(found: ModuleSnr, path: Path) -> Path:
    """Ratios by module over the steps, with intervals, as PNG; returns the path. Ratios below the least are drawn there."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.8), dpi=150)
    steps = [point.step for point in found.points]
    for module in found.sizes:
        own = [point.gradients[module] for point in found.points]
        kept = [max(one.ratio, FLOOR) if math.isfinite(one.ratio) else math.nan for one in own]
        ends = [one.interval or (one.ratio, one.ratio) for one in own]
        low = [max(0.0, ratio - max(end[0], FLOOR)) for ratio, end in zip(kept, ends, strict=True)]
        high = [max(0.0, end[1] - ratio) for ratio, end in zip(kept, ends, strict=True)]
        (line,) = axes.plot(steps, kept, "o-", markersize=4, label=module)
        axes.errorbar(steps, kept, [low, high], fmt="none", capsize=3, color=line.get_color(), linewidth=0.8)
        moments = [
            max(point.moments[module].ratio, FLOOR) if module in point.moments else math.nan for point in found.points
        ]
        axes.plot(steps, moments, ":", color=line.get_color(), linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("signal-to-noise ratio of the step's gradient")
    axes.set_title("By items' gradients, with 90 % intervals; dotted: by Adam's moments", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    try:
        return save(figure, path)
    finally:
        plt.close(figure)
