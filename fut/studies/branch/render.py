"""Branch and hold as text, and as a picture."""

from __future__ import annotations

from pathlib import Path

from fut.display.format import columns
from fut.display.picture import save
from fut.studies.branch.result import BranchEffect

NAMES = {
    "loss": "probe loss",
    "accuracy": "accuracy",
    "calibration_error": "calibration error",
    "disagreement": "disagreement",
    "symmetric_kl": "symmetric KL",
    "logit_rms": "logit distance (RMS)",
}
SAID = {
    "repeatable": "the control trained again has the same bytes",
    "only_its_source": "at the branch nothing but the source was changed",
    "same_items": "both arms train on the same items",
    "null_is_zero": "without a treatment the difference is exactly 0",
}


def text(effect: BranchEffect) -> str:
    """What was done, the effect by metric, distances, checks."""
    plan, count = effect.plan, len(effect.pairs)
    clamped = " before every step of the window" if plan.clamp else ""
    judged = "" if plan.average is None else f", judged by the parameters' average ({plan.average})"
    lines = [
        f"{plan.source}: {plan.treatment}{clamped}, at step {plan.at}, window of {plan.window} steps, up to step "
        f"{plan.horizon}, {count} seeds{judged}",
        "Treated minus control at the end; a negative difference of a loss means that the treatment helps.",
        _effects(effect),
    ]
    if effect.distances:
        apart = ", ".join(f"{NAMES[n]} {v:.3g} {effect.units[n]}".rstrip() for n, v in effect.distances.items())
        lines.append(f"between the arms' predictions (0 for equal arms), mean over seeds: {apart}")
    if effect.half_lives:
        lives = ", ".join(f"{name} {steps:.3g}" for name, steps in effect.half_lives.items())
        lines.append(f"half-lives of the optimizer's memory [steps]: {lives}")
    if effect.estimated is not None:
        method, deltas = effect.estimated
        mean, true = sum(deltas) / count, effect.effects["loss"].mean
        lines.append(
            f"{method}, without training these arms: {mean:+.5f} {effect.unit} on average (trained {true:+.5f}); no interval"
        )
    lines += [_advice(effect), *([effect.note] if effect.note else [])]
    return "\n".join([*lines, *_checks(effect)])


def _small(value: float) -> str:
    """Three significant digits, with its sign."""
    return f"{value:+.3g}"


def _effects(effect: BranchEffect) -> str:
    rows = [["", "unit", "mean", "95 % t interval", "sd of a pair", "p, sign flips", "bootstrap (too narrow)"]]
    for name, of in effect.effects.items():
        ends = ["–" if e is None else f"{_small(e[0])} … {_small(e[1])}" for e in (of.interval, of.bootstrap)]
        sd = "–" if of.sd is None else f"{of.sd:.3g}"
        p = "–" if of.p_value is None else f"{of.p_value:.3f}"
        rows.append([NAMES[name], effect.units[name], _small(of.mean), ends[0], sd, p, ends[1]])
    return columns(rows)


def _advice(effect: BranchEffect) -> str:
    of = effect.effects["loss"]
    if of.interval is None:
        return "one seed: no interval; take 6 or more"
    low, high = of.interval
    least = f"the sign-flip test of {of.count} seeds cannot go below p = {of.least_p_value:.3g}"
    if low <= 0 <= high and of.mean != 0:
        return f"the interval of the loss holds 0: these seeds do not show an effect; {least}"
    return least


def _checks(effect: BranchEffect) -> list[str]:
    said = [("holds" if held else "FAILS", SAID[name]) for name, held in effect.checks.items() if held is not None]
    lines = [f"check {word}: {what}" for word, what in said]
    if effect.checks["same_items"] is None:
        lines.append("not an effect of order alone: the treated arm trains on other items, as the treatment says")
    return lines


def draw(effect: BranchEffect, path: Path) -> Path:
    """Left the difference of every seed at the end, with the mean's interval; right the difference over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.9), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))
    deltas, of, unit = effect.deltas(), effect.effects["loss"], effect.unit
    left.axhline(0, color="0.6", linewidth=0.8)
    left.plot(range(len(deltas)), deltas, "o", color="tab:blue", label="a seed")
    if effect.estimated is not None:
        left.plot(range(len(deltas)), effect.estimated[1], "x", color="tab:orange", label=f"by {effect.estimated[0]}")
    place = len(deltas) + 0.4
    if of.interval is not None:
        error = [[of.mean - of.interval[0]], [of.interval[1] - of.mean]]
        left.errorbar([place], [of.mean], yerr=error, fmt="D", color="black", capsize=4, label="mean, 95 % t interval")
    else:
        left.plot([place], [of.mean], "D", color="black", label="mean, no interval")
    left.set_xlim(-0.6, len(deltas) + 1)
    left.set_xticks([*range(len(deltas)), place], [*map(str, range(len(deltas))), "mean"])
    left.set_xlabel("seed")
    left.set_ylabel(f"treated minus control [{unit or 'loss'}]")
    left.set_title("Probe loss at the end", fontsize=10)
    left.legend(fontsize=7.5, frameon=False)
    steps, course = effect.course()
    right.axvspan(effect.plan.at, effect.plan.at + effect.plan.window, color="tab:green", alpha=0.12, label="window")
    right.axhline(0, color="0.6", linewidth=0.8)
    for line in course:
        right.plot(steps, line, color="tab:blue", linewidth=0.8, alpha=0.5)
    right.plot(steps, [sum(at) / len(at) for at in zip(*course, strict=True)], color="black", marker="o", label="mean")
    right.set_xlabel("steps trained")
    right.set_title(f"Over the steps: {effect.plan.source}, {effect.plan.treatment}, at {effect.plan.at}", fontsize=10)
    right.legend(fontsize=7.5, frameon=False)
    return save(figure, path)
