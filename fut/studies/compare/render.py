"""A comparison of update rules as text, and as a picture."""

from __future__ import annotations

from pathlib import Path

from fut.display.format import amount, columns, number
from fut.display.picture import save
from fut.display.scale import better, labelled
from fut.studies.compare.result import ALIKE, LARGER, NONE, SMALLER, UNKNOWN, Compared

SAID = {
    LARGER: "larger than shuffling alone",
    SMALLER: "there, but smaller than shuffling alone",
    ALIKE: "there, about as large as shuffling alone",
    NONE: "none found",
    UNKNOWN: "one pair: not known",
}
"""A verdict in words."""


def text(found: Compared) -> str:
    """Every rule, then every difference beside what the order alone gives."""
    lines = [
        f"{len(found.arms)} update rules in the same {found.orders} random orders, from the same parameters "
        f"({found.readout})",
        columns([("rule", "rate", "mean", "sd over orders"), *_arms(found)]),
        "",
        f"Differences, arm minus baseline{_better(found)}, paired by order. Order noise: 95 % of differences of two single runs "
        "of the baseline that differ in their order alone lie within.",
        columns(
            [
                ("rule", "minus", "mean", "95 % t interval", "order noise", "p, sign flips", "difference"),
                *_differences(found),
            ]
        ),
    ]
    edges = [arm.label for arm in found.arms if arm.tried and arm.rate in (arm.tried[0][0], arm.tried[-1][0])]
    if edges:
        lines.append(f"The best rate tried lies at the end of the search: {', '.join(edges)}.")
    if found.differences:
        least = found.differences[0].effect.least_p_value
        lines.append(
            f"The sign-flip test of {found.differences[0].effect.count} pairs cannot go below p = {least:.3g}."
        )
    return "\n".join([*lines, *([found.note] if found.note else [])])


def _better(found: Compared) -> str:
    return f" ({better(found.unit)})" if better(found.unit) else ""


def _arms(found: Compared) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for arm in found.arms:
        known = [value for value in arm.values if value is not None]
        mean = amount(sum(known) / len(known), found.unit) if known else "diverges"
        rows.append((arm.label, f"{arm.rate:.3g}", mean, number(arm.sd, ".2g")))
    return rows


def _differences(found: Compared) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for one in found.differences:
        of = one.effect
        ends = "–" if of.interval is None else f"{of.interval[0]:+.3g} … {of.interval[1]:+.3g}"
        noise = "–" if one.noise is None else f"±{one.noise:.2g}"
        rows.append(
            (one.arm, one.against, f"{of.mean:+.3g}", ends, noise, number(of.p_value, ".3f"), SAID[one.verdict])
        )
    return rows


def draw(found: Compared, path: Path) -> Path:
    """A row a difference: a dot an order, the mean with its interval, and the order's noise as a band."""
    from matplotlib.figure import Figure

    rows = list(found.differences)[::-1]
    figure = Figure(figsize=(8.4, 0.55 * len(rows) + 1.7), dpi=150, layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color="0.6", linewidth=0.8)
    for place, one in enumerate(rows):
        if one.noise is not None:
            axis.barh(place, 2 * one.noise, left=-one.noise, height=0.7, color="tab:orange", alpha=0.18)
        axis.plot(one.differences, [place] * len(one.differences), "o", ms=3.5, color="tab:blue", alpha=0.6)
        of = one.effect
        error = None if of.interval is None else [[of.mean - of.interval[0]], [of.interval[1] - of.mean]]
        axis.errorbar([of.mean], [place], xerr=error, fmt="D", ms=5, color="black", capsize=3)
    axis.set_yticks(range(len(rows)), [f"{one.arm} − {one.against}" for one in rows], fontsize=8)
    axis.set_xlabel(labelled(f"difference of {found.readout}", found.unit))
    axis.set_title("Dots: one order; diamond: mean, 95 % t interval; band: order noise", fontsize=9)
    return save(figure, path)
