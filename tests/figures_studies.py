"""Figures of `docs/studies.md` from their records."""

from __future__ import annotations

from collections.abc import Iterable

from figures import of, results

SLOPES = (
    "sgd",
    "momentum",
    "heavy_ball",
    "adamw",
    "lion",
    "momentum_clock_matched",
    "adamw_clock_matched",
    "heavy_ball_clock_matched",
)


@of("docs/studies.md")
def slopes() -> Iterable[tuple[str, str]]:
    """The table of exponents for twelve steps."""
    own = [row["slopes"] for row in results("noise-slopes") if row["steps"] == 12 and row["precision"] == "float64"]
    for rule in SLOPES:
        small, finite = (sum(row[rule][key] for row in own) / len(own) for key in ("small", "finite"))
        yield "noise-slopes", f"| `{rule}` | {small:.2f} | {finite:.2f} |"
